"""What explorers read off a trace at every position: candidates, losses, places in the text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llama_viz.analysis import token_probability
from llama_viz.tokenizer import SPACE
from llama_viz.widgets.messages import characters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr


class Candidates(NamedTuple):
    """The likeliest next tokens at every position, each (position, rank); id -1 where unknown."""

    ids: np.ndarray
    probabilities: np.ndarray
    labels: list[list[str]]


def candidates(trace: xr.Dataset, count: int) -> Candidates | None:
    """The `count` likeliest next tokens at every position; None where nothing tells them.

    From the logits; without them, those that were recorded at the end of each step, and NaN for the
    positions between.
    """
    n_positions = trace.sizes["position"]
    if "logits" in trace:
        logits = trace["logits"].values.astype(np.float64)
        count = min(count, logits.shape[-1])
        # The few largest first, then those in order: a whole vocabulary need not be sorted.
        some = np.argpartition(-logits, count - 1, axis=-1)[:, :count]
        order = np.argsort(-np.take_along_axis(logits, some, -1), axis=-1, kind="stable")
        ids = np.take_along_axis(some, order, -1)
        highest = logits.max(axis=-1, keepdims=True)
        total = np.exp(logits - highest).sum(axis=-1, keepdims=True)
        probabilities = np.exp(np.take_along_axis(logits, ids, -1) - highest) / total
        table = trace["vocabulary_token"].values
        return Candidates(ids, probabilities, [[str(table[i]) for i in row] for row in ids])
    if "candidate_probability" not in trace or "candidate_token" not in trace.coords:
        return None
    count = min(count, trace.sizes["rank"])
    ids = np.full((n_positions, count), -1)
    probabilities = np.full((n_positions, count), np.nan)
    labels = [[""] * count for _ in range(n_positions)]
    last = np.searchsorted(trace["step_of_position"], trace["step"], side="right") - 1
    for step, position in enumerate(last):
        ids[position] = trace["candidate_id"].values[step, :count]
        probabilities[position] = trace["candidate_probability"].values[step, :count]
        labels[position] = [str(label) for label in trace["candidate_token"].values[step, :count]]
    return Candidates(ids, probabilities, labels)


def prompt_loss(trace: xr.Dataset) -> dict[str, Any] | None:
    """The loss on the prompt in nats; None where no logits were recorded, or nothing to predict.

    "nats" is the mean of -log p(token | those before it) over the `tokens` that something came
    before; "per_character" shares the same sum among the characters of the text, so that models
    with other tokenizers can be compared (None for a prompt of ids alone).
    """
    n_prompt = len(trace.attrs["prompt_ids"])
    if "logits" not in trace or n_prompt < 2:
        return None
    nats = -np.log(token_probability(trace).values[1:n_prompt])
    text = trace.attrs.get("prompt")
    return {
        "nats": float(nats.mean()),
        "tokens": n_prompt - 1,
        "per_character": float(nats.sum() / len(text)) if text else None,
    }


def all_tokens(trace: xr.Dataset) -> list[dict[str, Any]]:
    """All tokens as a page shows them, the last written one too, which no pass has read."""
    labels = [str(label) for label in trace["token"].values]
    ids = trace["token_id"].values.tolist()
    if "sampled_token" in trace.coords:
        labels.append(str(trace["sampled_token"].values[-1]))
        ids.append(int(trace["sampled_id"].values[-1]) if "sampled_id" in trace else None)
    return described(ids, labels)


def described(ids: Sequence[int | None], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens as a page shows them: id, label, and the character that a byte completes."""
    return [
        {"id": token_id, "label": label, "character": character}
        for token_id, label, character in zip(ids, labels, characters(labels), strict=True)
    ]


def text_ends(tokens: Sequence[dict[str, Any]], text: str) -> list[int]:
    """For each token, how many whole characters of the text are written once it is read.

    Control tokens write none, and of a character in several byte tokens the last one completes it.
    A leading space that the text does not have (SentencePiece puts one there) counts nothing.
    """
    written = text.encode("utf-8", errors="replace")
    labels = [str(token["label"]) for token in tokens]
    # A text may spell what BOS is called: of two ways to read it, the one that gets further.
    with_first, without = _places(labels, written), [0, *_places(labels[1:], written)]
    places = with_first if with_first[-1:] > without[-1:] else without
    return [len(written[:place].decode("utf-8", errors="ignore")) for place in places]


def _places(labels: Sequence[str], written: bytes) -> list[int]:
    """How far into the bytes of a text each token reaches; what does not fit writes nothing."""
    place, places = 0, []
    for label in labels:
        own = _bytes_of(label)
        for piece in (own, own.removeprefix(b" "), label.encode("utf-8", errors="replace")):
            if written.startswith(piece, place):
                place += len(piece)
                break
        places.append(place)
    return places


def _bytes_of(label: str) -> bytes:
    """What a token writes, by its label: bytes, spaces and what is invisible were spelled out."""
    parts = re.split("(<0x[0-9A-F]{2}>|<U[+][0-9A-F]{4,6}>)", label)
    written = b""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            part = part.replace(SPACE, " ").replace("\u23ce", "\n")
            written += part.encode("utf-8", errors="replace")
        elif part.startswith("<0x"):
            written += bytes.fromhex(part[3:-1])
        else:
            written += chr(int(part[3:-1], 16)).encode("utf-8", errors="replace")
    return written
