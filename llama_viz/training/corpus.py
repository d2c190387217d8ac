"""The reader's own text as what a model learns from: read, cut into tokens, a part held out."""

from __future__ import annotations

import math
import random
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from llama_viz.training.batches import Batch
from llama_viz.training.stories import tell_story
from llama_viz.training.tokenizer import tokenizer_of

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.model import Llama
    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.recipes import Recipe

LEAST_CHARACTERS = 5_000  # about two printed pages
MOST_BYTES = 10_000_000
HELD_OUT_SHARE = 0.1
MOST_ROWS = 24  # that the held-out loss is measured on
EXAMPLE_STORIES = 80
LEARNED_CHARACTERS = (
    1_000  # in one piece of text: a tokenizer drops what is longer than 4,192 bytes
)


@dataclass(frozen=True)
class Corpus:
    """A text as tokens: the first part to learn from, the last part held out.

    name is what to call it, training and held_out are ids (position,), without BOS and EOS.
    characters_per_token is that of the held-out part.
    """

    name: str
    tokenizer: Tokenizer
    training: Tensor
    held_out: Tensor
    characters_per_token: float

    def batch(self, recipe: Recipe, step: int) -> Batch:
        """The rows of one step: BOS, and the text from a place that seed, step and row decide."""
        last = len(self.training) - recipe.row_length
        rows = []
        for row in range(recipe.rows):
            chance = random.Random(f"row {row} of step {step} of seed {recipe.seed}")
            start = chance.randint(0, last)
            rows.append(self._row(self.training[start : start + recipe.row_length]))
        ids = torch.stack(rows)
        return Batch(ids, torch.zeros_like(ids, dtype=torch.bool))

    @torch.no_grad()
    def held_out_loss(self, model: Llama, row_length: int) -> float:
        """The mean loss on rows of the held-out part, in nats per token."""
        return self._loss(model, self.held_out, row_length)

    @torch.no_grad()
    def training_loss(self, model: Llama, row_length: int) -> float:
        """The same on as many rows of the training part: far below, the text is known by heart."""
        return self._loss(model, self.training, row_length)

    def by_frequency(self) -> float:
        """The held-out loss of a reader who knows only how frequent each token is."""
        return frequency_loss(self.training, self.held_out, self.tokenizer.vocab_size)

    def check_rows(self, row_length: int) -> None:
        """Raise ValueError where a part of the text is too short for a row."""
        shortest = min(len(self.training), len(self.held_out))
        if shortest < row_length:
            raise ValueError(
                f"{self.name}: the held-out part has {len(self.held_out)} tokens, and a row takes "
                f"{row_length}: give a longer text, or a recipe with a smaller row_length"
            )

    def _row(self, ids: Tensor) -> Tensor:
        assert self.tokenizer.bos_id is not None
        return torch.cat([torch.tensor([self.tokenizer.bos_id]), ids])

    def _loss(self, model: Llama, part: Tensor, row_length: int) -> float:
        count = max(len(part) // row_length, 1)
        chosen = [count * row // min(count, MOST_ROWS) for row in range(min(count, MOST_ROWS))]
        ids = torch.stack([self._row(part[row * row_length :][:row_length]) for row in chosen])
        logits = model(ids[:, :-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()


def read_corpus(path: str | Path, *, vocab_size: int = 512) -> Corpus:
    """Read a text file (UTF-8), learn a tokenizer from it, and hold out its last tenth.

    The tokenizer sees the training part alone. vocab_size counts 3 special tokens and 256 bytes,
    in which everything is spelled that has no piece of its own, line breaks for one.

    Raises ValueError, with the name of the file, where there is none, where it is no text, and
    where it is too short, too long or too uniform to learn from.
    """
    path = Path(path).expanduser()
    text = _read(path)
    cut = _place_to_cut(text)
    training, held_out = text[:cut], text[cut:]
    try:
        tokenizer = tokenizer_of(_pieces(training), vocab_size)
    except ValueError as error:
        raise ValueError(
            f"{path.name}: {error}. Give a longer or more varied text, or another vocab_size"
        ) from error
    # Without BOS: a row gets its own.
    ids = [torch.tensor(tokenizer.encode(part)[1:]) for part in (training, held_out)]
    return Corpus(path.name, tokenizer, ids[0], ids[1], len(held_out) / len(ids[1]))


def example_text(n_stories: int = EXAMPLE_STORIES) -> str:
    """A text of the project's own, to try this with: stories, each on a line."""
    return "\n".join(tell_story(number).text for number in range(n_stories)) + "\n"


def frequency_loss(training: Tensor, held_out: Tensor, vocab_size: int) -> float:
    """The loss of a reader who knows how frequent each token is and nothing of what came before.

    Frequencies are those of the training ids, each count one higher, so that no token is impossible
    (Laplace 1814). In nats per token of the held-out ids.
    """
    counts = torch.bincount(training, minlength=vocab_size).double() + 1
    return -float((counts / counts.sum()).log()[held_out].mean())


def all_alike(vocab_size: int) -> float:
    """The loss of a reader to whom all tokens are equally likely: ln of their number."""
    return math.log(vocab_size)


def _read(path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; give the path of a text file (.txt)")
    if not path.is_file():
        raise ValueError(f"{path}: is not a file; give the path of a text file (.txt)")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"{path.name}: has {size:,} bytes, expected at most {MOST_BYTES:,}: give a part of it"
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(_no_text(path, f"byte {error.start} cannot be read")) from None
    if "\0" in text:
        raise ValueError(_no_text(path, "it holds bytes that are 0"))
    if len(text.strip()) < LEAST_CHARACTERS:
        raise ValueError(
            f"{path.name}: has {len(text.strip()):,} characters, expected at least "
            f"{LEAST_CHARACTERS:,}: there is too little to learn from"
        )
    return text


def _no_text(path: Path, why: str) -> str:
    return f"{path.name}: is not a text in UTF-8 ({why}); save it as plain text (.txt, UTF-8)"


def _place_to_cut(text: str) -> int:
    """Where the held-out part begins: after a space or a line break, if one is near."""
    place = int(len(text) * (1 - HELD_OUT_SHARE))
    found = re.compile(r"\s").search(text, place, place + LEARNED_CHARACTERS)
    return found.end() if found else place


def _pieces(text: str) -> list[str]:
    """The lines of a text, long ones cut, to learn a tokenizer from."""
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(
            line, LEARNED_CHARACTERS, drop_whitespace=False, replace_whitespace=False,
            expand_tabs=False, break_on_hyphens=False,
        )
    ]  # fmt: skip
