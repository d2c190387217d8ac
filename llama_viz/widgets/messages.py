"""What an explorer sends to its page: a trace, step by step, as small headers and binary buffers.

Texts and single numbers travel as JSON. Attention travels as bytes, in steps of 1/255; RMS values
and angles as float32, little-endian. The page keeps what it has, so that no step is sent twice.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llama_viz.analysis import ITEMSIZE, config_of
from llama_viz.tokenizer import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

# What the panels show, in the names of the trace.
PANEL_VARIABLES = (
    "attention_weights",
    "rms",
    "rotation_angle",
    "cache_length",
    "cache_bytes_used",
    "cache_bytes_reserved",
    "candidate_id",
    "candidate_probability",
    "sampled_id",
    "sampled_probability",
    "entropy",
    "step_seconds",
    "step_positions",
)

# Of a long prompt only the newest rows of attention are sent, so many that they fit in here.
ATTENTION_BYTES = 4_000_000
# A page that asks for many steps gets them in messages of about this size.
MESSAGE_BYTES = 1_000_000

BYTE_LABEL = re.compile(r"<0x([0-9A-F]{2})>")


class PackedStep(NamedTuple):
    """One step on its way to the page: attention, RMS and angles are its buffers."""

    header: dict[str, Any]
    buffers: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of the buffers."""
        return sum(len(buffer) for buffer in self.buffers)


def describe(trace: xr.Dataset) -> dict[str, Any]:
    """What the page must know of a run before its steps: sizes, wiring, norms and limits."""
    config = config_of(trace)
    n_prompt = len(trace.attrs["prompt_ids"])
    n_new = trace.attrs["max_new_tokens"]
    n_positions = min(n_prompt + max(n_new, 1) - 1, config.max_seq_len)
    has_norms = "norm_kind" in trace.coords
    return {
        "model": trace.attrs["model"],
        "kind": config.attention_kind,
        "layers": trace["layer"].values.tolist(),
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "kv_head_of_head": config.kv_head_of_head,
        "head_dim": config.head_dim,
        "norm_layer": trace["norm_layer"].values.tolist() if has_norms else [],
        "norm_kind": trace["norm_kind"].values.tolist() if has_norms else [],
        "item_bytes": ITEMSIZE.get(trace.attrs["dtype"]),
        "n_prompt": n_prompt,
        "max_new_tokens": n_new,
        "n_positions": n_positions,
        "n_steps": n_positions - n_prompt + 1,
        "bytes_planned": trace.attrs["bytes_planned"],
        "temperature": trace.attrs["temperature"],
        "edited": trace.attrs["edited"],
    }


def pack_step(trace: xr.Dataset, step: int) -> PackedStep:
    """The header and the buffers of one step; what the trace lacks is None or empty."""
    start, end = _bounds(trace, step)
    first_row, attention = _attention(trace, start, end)
    labels = trace["token"].values[:end].tolist()
    ids = trace["token_id"].values[:end].tolist()
    has_written = "sampled_token" in trace.coords
    if has_written:
        labels.append(str(trace["sampled_token"].values[step]))
        # The id of the written token is the next position's, where there is one.
        ids.append(_number(trace, "sampled_id", step))
    tokens = [
        {"id": token_id, "label": label, "character": character}
        for token_id, label, character in zip(ids, labels, characters(labels), strict=True)
    ]
    header = {
        "start": start,
        "end": end,
        "first_row": first_row,
        "tokens": tokens[start:end],
        "written": tokens[end] if has_written else None,
        "probability": _number(trace, "sampled_probability", step),
        "candidates": _candidates(trace, step),
        "entropy": _number(trace, "entropy", step),
        "seconds": _number(trace, "step_seconds", step),
        "cache_used": _row(trace, "cache_bytes_used", step),
        "cache_reserved": _row(trace, "cache_bytes_reserved", step),
    }
    buffers = [
        attention,
        _floats(trace["rms"].values[:, start:end]) if "rms" in trace else b"",
        _floats(trace["rotation_angle"].values[start:end]) if "rotation_angle" in trace else b"",
    ]
    return PackedStep(header, buffers)


def pack_steps(trace: xr.Dataset, first: int) -> list[PackedStep]:
    """The steps from `first` on, as many as make one message."""
    packed: list[PackedStep] = []
    size = 0
    for step in range(first, trace.sizes["step"]):
        packed.append(pack_step(trace, step))
        size += packed[-1].size
        if size > MESSAGE_BYTES:
            break
    return packed


def tokens_of(trace: xr.Dataset) -> list[dict[str, Any]]:
    """The tokens along position as a page shows them: id, label, and character (see there)."""
    labels = [str(label) for label in trace["token"].values]
    ids = trace["token_id"].values.tolist()
    return [
        {"id": token_id, "label": label, "character": character}
        for token_id, label, character in zip(ids, labels, characters(labels), strict=True)
    ]


def characters(labels: Sequence[str]) -> list[str | None]:
    """For each token the character that it completes, where its label shows only a byte.

    An emoji may take four tokens, <0xF0> to <0x99>: the last of them completes it. None for
    tokens whose label is the text itself, and for bytes that complete nothing that can be seen.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    completed: list[str | None] = []
    for label in labels:
        byte = BYTE_LABEL.fullmatch(label)
        if byte is None:
            decoder.reset()
            completed.append(None)
            continue
        character = decoder.decode(bytes.fromhex(byte[1]))
        can_be_seen = character == "\n" or (character != " " and visible(character) == character)
        completed.append(visible(character) if character and can_be_seen else None)
    return completed


def _bounds(trace: xr.Dataset, step: int) -> tuple[int, int]:
    """The positions that passed through the model in a step, from start to end."""
    start, end = np.searchsorted(trace["step_of_position"].values, (step, step + 1))
    return int(start), int(end)


def _attention(trace: xr.Dataset, start: int, end: int) -> tuple[int, bytes]:
    """The first row that is sent, and each from it on: (layer, head, key) up to its position."""
    if "attention_weights" not in trace:
        return end, b""
    weights = trace["attention_weights"].values
    bytes_per_row = weights.shape[0] * weights.shape[1] * end
    n_rows = max(1, min(end - start, ATTENTION_BYTES // bytes_per_row))
    first_row = end - n_rows
    rows = [weights[:, :, row, : row + 1] for row in range(first_row, end)]
    return first_row, b"".join(_quantized(row) for row in rows)


def _quantized(weights: np.ndarray) -> bytes:
    """Weights from 0 to 1 in steps of 1/255; a row that was dropped (NaN) is 0."""
    return np.rint(np.nan_to_num(weights) * 255).astype(np.uint8).tobytes()


def _floats(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def _candidates(trace: xr.Dataset, step: int) -> list[dict[str, Any]] | None:
    if "candidate_probability" not in trace or "candidate_token" not in trace.coords:
        return None
    rows = zip(
        _row(trace, "candidate_id", step) or [],
        trace["candidate_token"].values[step].tolist(),
        _row(trace, "candidate_probability", step) or [],
        strict=True,
    )
    return [{"id": i, "label": label, "probability": p} for i, label, p in rows]


def _number(trace: xr.Dataset, name: str, step: int) -> Any:
    return trace[name].values[step].item() if name in trace else None


def _row(trace: xr.Dataset, name: str, step: int) -> list | None:
    return trace[name].values[step].tolist() if name in trace else None
