"""Generation: the prompt in one pass (prefill), then one token per step (decode)."""

from __future__ import annotations

import codecs
import time
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llama_viz.errors import warn, whole_number
from llama_viz.kv_cache import KVCache
from llama_viz.language_model import check_weights, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llama_viz.language_model import LanguageModel

SMALLEST = float(torch.finfo(torch.float32).tiny)  # float32 would take less for 0


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    temperature 0 takes the likeliest token. Otherwise logits are divided by it, then top_k keeps
    the k likeliest tokens, then top_p the smallest set of the likeliest with at least that
    probability together, and the seed decides.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Plain numbers from numpy's: a trace says them, and is saved with them.
        for name in ("temperature", "top_p"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Real):
                raise ValueError(f"{name} must be a number, got {number!r}")
            is_tiny = 0 < float(number) < SMALLEST
            object.__setattr__(self, name, SMALLEST if is_tiny else float(number))
        for name in ("top_k", "seed"):
            if name == "seed" or self.top_k is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must be from -2^63 to 2^64 - 1, got {self.seed}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and 0 or more, got {self.temperature!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be None or at least 1, got {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p!r}")

    def distribution(self, logits: Tensor) -> Tensor:
        """The probabilities (vocabulary,) that the next token is drawn from."""
        logits = logits.float()
        if self.temperature == 0:
            only = torch.zeros_like(logits)
            only[logits.argmax()] = 1.0
            return only
        # Subtracting the largest first keeps a tiny temperature from overflowing.
        logits = (logits - logits.max()) / self.temperature
        if self.top_k is not None and self.top_k < len(logits):
            kept = logits.topk(self.top_k).indices
            masked = torch.full_like(logits, float("-inf"))
            logits = masked.index_copy(0, kept, logits[kept])
        probabilities = logits.softmax(dim=-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered
            ordered = torch.where(before < self.top_p, ordered, 0.0)
            probabilities = torch.zeros_like(probabilities).index_copy(0, order, ordered)
            probabilities = probabilities / probabilities.sum()
        return probabilities

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """One token id from the logits (vocabulary,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        # Drawn on the CPU, so that one seed gives one text on every device.
        probabilities = self.distribution(logits).cpu()
        if probabilities.isnan().any():
            raise ValueError(
                "the logits hold NaN, so nothing can be drawn from them: the weights hold NaN, or "
                "what they compute is too large for its type"
            )
        return int(torch.multinomial(probabilities, 1, generator=generator))


@dataclass(frozen=True)
class Step:
    """One step of a generation: what passed through the model and the token that came out.

    index 0 is the prefill. start and end are the positions that passed. text is the part of the
    continuation that this token completes ("" inside a character of several bytes). probability is
    the model's own, before temperature, top_k and top_p. logits are those of the last position,
    (vocabulary,). stop_reason is None until the last step: "eos", "length" or "context".
    """

    index: int
    start: int
    end: int
    id: int
    label: str
    text: str
    probability: float
    seconds: float
    logits: Tensor = field(repr=False)
    stop_reason: str | None = None


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    text is the continuation; ids are prompt and continuation, new_ids the continuation alone, both
    with a final EOS. stop_reason is "eos", "length" (max_new_tokens) or "context".
    """

    text: str
    ids: list[int]
    new_ids: list[int]
    steps: list[Step] = field(repr=False)

    @property
    def stop_reason(self) -> str | None:
        """Why the generation ended."""
        return self.steps[-1].stop_reason


def generate(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    use_cache: bool = True,
    forced: Sequence[int] = (),
) -> Generation:
    """Continue a prompt and return the whole continuation.

    Stops at EOS, after max_new_tokens, or, with a warning, where the context is full. forced are
    the ids that the first steps write, whatever the model would have drawn; the seed's first draw
    comes after them, as in a run whose prompt ends with them.

    Raises ValueError for an empty or too long prompt, unknown ids and impossible settings.
    """
    prompt_ids = lm.prompt_ids(prompt)
    sampling = Sampling(temperature, top_k, top_p, seed)
    steps = _steps(lm, prompt_ids, max_new_tokens, sampling, use_cache, forced)
    return finish(lm, prompt_ids, list(steps))


def stream(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    use_cache: bool = True,
    forced: Sequence[int] = (),
) -> Iterator[Step]:
    """The same as generate, one step at a time."""
    prompt_ids = lm.prompt_ids(prompt)
    sampling = Sampling(temperature, top_k, top_p, seed)
    return _steps(lm, prompt_ids, max_new_tokens, sampling, use_cache, forced)


def finish(lm: LanguageModel, prompt_ids: list[int], steps: list[Step]) -> Generation:
    """Put the steps of a generation together."""
    new_ids = [step.id for step in steps]
    ids = prompt_ids + new_ids
    text = ""
    if lm.tokenizer is not None:
        before = len(lm.tokenizer.decode_bytes(prompt_ids))
        text = lm.tokenizer.decode_bytes(ids)[before:].decode("utf-8", errors="replace")
    return Generation(text, ids, new_ids, steps)


def check_new_tokens(max_new_tokens: int, name: str = "max_new_tokens") -> int:
    """The number as an int; raises ValueError, by its name, unless it is at least one token."""
    max_new_tokens = whole_number(name, max_new_tokens)
    if max_new_tokens < 1:
        raise ValueError(f"{name} must be at least 1, got {max_new_tokens}")
    return max_new_tokens


def forced_ids(lm: LanguageModel, forced: Sequence[int], max_new_tokens: int) -> list[int]:
    """The ids to force, checked; raises ValueError for unknown ids, or more than are written."""
    ids = whole_numbers(forced, "forced=")
    ids = lm.prompt_ids(ids) if ids else []
    if len(ids) > max_new_tokens:
        raise ValueError(
            f"{len(ids)} tokens are forced and max_new_tokens is {max_new_tokens}; raise it"
        )
    return ids


def is_several(prompt: Any) -> bool:
    """Whether a prompt is a list of prompts: of texts, or of lists of ids."""
    if isinstance(prompt, str) or not isinstance(prompt, (list, tuple)):
        return False
    return bool(prompt) and all(isinstance(each, (str, list, tuple)) for each in prompt)


def run_length(lm: LanguageModel, n_prompt: int, max_new_tokens: int) -> int:
    """Most positions that pass through the model: the last new token is never fed back."""
    return min(n_prompt + max_new_tokens - 1, lm.config.max_seq_len)


def _steps(
    lm: LanguageModel,
    prompt_ids: list[int],
    max_new_tokens: int,
    sampling: Sampling,
    use_cache: bool,
    forced: Sequence[int],
) -> Iterator[Step]:
    """Check the request at once, then hand out the steps."""
    check_weights(lm)
    max_new_tokens = check_new_tokens(max_new_tokens)
    forced = forced_ids(lm, forced, max_new_tokens)
    cache = None
    if use_cache:
        cache = KVCache(lm.config, capacity=run_length(lm, len(prompt_ids), max_new_tokens))
    return run_steps(lm, prompt_ids, max_new_tokens, sampling, cache, lm.model, forced)


def run_steps(
    lm: LanguageModel,
    prompt_ids: list[int],
    max_new_tokens: int,
    sampling: Sampling,
    cache: KVCache | None,
    forward: Callable[..., Tensor],
    forced: Sequence[int] = (),
) -> Iterator[Step]:
    """The loop under every generation: pass the new ids, draw a token, feed it back.

    forward(ids, cache) passes ids (1, position) through the model; the recorder gives its own.
    Without a cache all ids pass in every step; a cache that holds the first of them is continued.
    The first tokens are those that are forced.
    """
    writer = Writer(lm, prompt_ids, max_new_tokens, sampling, forced)
    start = 0 if cache is None else cache.length
    while not writer.done:
        began = time.perf_counter()
        with torch.inference_mode():
            new = torch.tensor([writer.ids[start:]], device=lm.device)
            logits = forward(new, cache)[0, -1]
        end = len(writer.ids)
        yield writer.write(logits, start, began)
        start = end if cache is not None else 0


class Writer:
    """One text while it is written: its ids so far, and what every next token is drawn with."""

    def __init__(
        self,
        lm: LanguageModel,
        prompt_ids: list[int],
        max_new_tokens: int,
        sampling: Sampling,
        forced: Sequence[int] = (),
    ) -> None:
        self.ids = list(prompt_ids)
        self.done = False
        self._lm, self._sampling, self._forced = lm, sampling, forced
        self._max_new_tokens = max_new_tokens
        self._n_written = 0
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._eos_id = None if lm.tokenizer is None else lm.tokenizer.eos_id
        self._is_empty = lm.tokenizer is None or not lm.tokenizer.decode_bytes(prompt_ids)

    def write(self, logits: Tensor, start: int, began: float) -> Step:
        """Draw a token from the logits (vocabulary,) of the last position and append it.

        start is the first position of the pass that gave them, began the time when it began.
        """
        index, end = self._n_written, len(self.ids)
        with torch.inference_mode():
            is_forced = index < len(self._forced)
            token_id = (
                self._forced[index] if is_forced else self._sampling.draw(logits, self._generator)
            )
            probability = float(logits.float().softmax(dim=-1)[token_id])
        is_last = index + 1 == self._max_new_tokens
        reason = _stop_reason(self._lm, token_id, self._eos_id, end, is_last)
        text = self._text(token_id, reason is not None)
        self.ids.append(token_id)
        self._n_written += 1
        self.done = reason is not None
        seconds = time.perf_counter() - began
        return Step(
            index, start, end, token_id, self._lm.label(token_id), text, probability, seconds,
            logits, reason,
        )  # fmt: skip

    def _text(self, token_id: int, is_last: bool) -> str:
        """The text that a token completes."""
        tokenizer = self._lm.tokenizer
        if tokenizer is None:
            return ""
        # The very first piece of a text loses its leading space, so it is decoded with BOS.
        new = tokenizer.decode_bytes([*self.ids, token_id] if self._is_empty else [token_id])
        self._is_empty = self._is_empty and not new
        return self._decoder.decode(new, final=is_last)


def _stop_reason(
    lm: LanguageModel, token_id: int, eos_id: int | None, n_positions: int, is_last: bool
) -> str | None:
    if token_id == eos_id:
        return "eos"
    if is_last:
        return "length"
    if n_positions >= lm.config.max_seq_len:
        warn(
            f"the context of {lm.config.max_seq_len} positions is full: generation stops here",
            stacklevel=5,
        )
        return "context"
    return None
