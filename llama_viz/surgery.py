"""Surgery on the KV cache in mid-run: blank, drop or round what attention remembers.

An operation changes rows of one layer's cache. `operate` applies it to a cache, `operating` to
every run inside a block when its cache has come to a length, and `compare` runs a text on with the
cache as it was and as operated on. Whatever is done, every row keeps its position: the angles by
which keys were rotated are those of the run, and the positions to come are not renumbered.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llama_viz.errors import unknown_name
from llama_viz.generation import (
    Generation,
    Sampling,
    check_new_tokens,
    finish,
    run_length,
    run_steps,
)
from llama_viz.kv_cache import KVCache, LayerCache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llama_viz.generation import Step
    from llama_viz.language_model import LanguageModel

# operation(layer_cache, kv_heads, positions): the last two are LongTensors of rows that it has.
Operation = Callable[[LayerCache, Tensor, Tensor], None]

MOST_BITS = 16


# Operations


def blank(cache: LayerCache, kv_heads: Tensor, positions: Tensor) -> None:
    """Set keys and values to 0: such a row still takes its share of attention, and adds nothing."""
    for rows in _rows(cache):
        rows[:, kv_heads[:, None], positions] = 0


def drop(cache: LayerCache, kv_heads: Tensor, positions: Tensor) -> None:
    """Let attention no longer see the rows: their share goes to the others."""
    cache.drop(kv_heads, positions)


def rounded(bits: int) -> Operation:
    """Round each key and each value to 2^bits levels, evenly from its least to its largest number.

    One key is head_dim numbers: those of one key/value head at one position.
    """
    _check_whole("bits", bits, 1, MOST_BITS)

    def round_rows(cache: LayerCache, kv_heads: Tensor, positions: Tensor) -> None:
        for rows in _rows(cache):
            exact = rows[:, kv_heads[:, None], positions].float()
            low, high = exact.aminmax(dim=-1, keepdim=True)
            step = (high - low) / (2**bits - 1)
            level = ((exact - low) / step.where(step > 0, 1.0)).round()
            rows[:, kv_heads[:, None], positions] = (low + level * step).to(rows.dtype)

    return _named(round_rows, f"rounded({bits})")


def window(size: int) -> Operation:
    """Drop all but the last `size` positions held."""
    return _named(first_and_window(0, size), f"window({size})")


def first_and_window(first: int, size: int) -> Operation:
    """Drop all but the first `first` positions and the last `size` (attention sinks, Xiao 2023).

    Unlike there, positions are not numbered anew inside the window.
    """
    _check_whole("first", first, 0)
    _check_whole("size", size, 0 if first else 1)

    def keep_ends(cache: LayerCache, kv_heads: Tensor, positions: Tensor) -> None:
        between = (positions >= first) & (positions < cache.length - size)
        cache.drop(kv_heads, positions[between])

    return _named(keep_ends, f"first_and_window({first}, {size})")


# Applying them


def operate(
    cache: KVCache,
    operation: Operation,
    *,
    layers: Iterable[int] | None = None,
    kv_heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
) -> None:
    """Apply an operation to a cache, in place: to these layers, key/value heads and positions.

    None is all of them. Recordings say what was done to their cache in attrs["edited"].

    Raises ValueError, before anything is changed, for what the cache does not hold, and where texts
    of unequal length share it: a position is another row for each of them.
    """
    if not callable(operation):
        raise TypeError(f"operation must be a function such as surgery.drop, got {operation!r}")
    if not cache.length:
        raise ValueError("the cache is empty: pass some positions through the model first")
    if cache.padding is not None and cache.padding.any():
        raise ValueError(
            "the texts in the cache are of unequal length, and a position is another row for each "
            "of them: run them one by one"
        )
    config = cache.config
    chosen_layers = _chosen("layer", layers, config.n_layers)
    device = _rows(cache.layers[0])[0].device
    chosen_heads, chosen_positions = (
        torch.tensor(_chosen(kind, names, count), device=device, dtype=torch.long)
        for kind, names, count in (
            ("kv_head", kv_heads, config.n_kv_heads),
            ("position", positions, cache.length),
        )
    )
    with torch.inference_mode():
        for layer in chosen_layers:
            operation(cache.layers[layer], chosen_heads, chosen_positions)
    name = f"cache.{getattr(operation, '__name__', 'operation')}"
    if name not in cache.operations:
        cache.operations.append(name)


@contextmanager
def operating(
    lm: LanguageModel,
    operation: Operation,
    *,
    at: int,
    repeat: bool = False,
    layers: Iterable[int] | None = None,
    kv_heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
) -> Iterator[LanguageModel]:
    """Operate on the cache of every run inside the block, once it holds `at` positions.

    The next position is the first that sees the change. repeat: again before each later pass, so
    that a window moves along. Dropped rows are NaN in recordings.

    Raises ValueError for a run without a cache, where `at` lies inside a pass, and as operate().
    """
    _check_whole("at", at, 1)
    rows = {"layers": layers, "kv_heads": kv_heads, "positions": positions}
    rows = {name: None if chosen is None else list(chosen) for name, chosen in rows.items()}

    def before_pass(module: Any, args: tuple, kwargs: dict | None = None) -> None:
        if kwargs is None:  # a pass of another thread that meets this hook as it comes off
            return
        ids = args[0] if args else kwargs["ids"]
        cache = args[1] if len(args) > 1 else kwargs.get("cache")
        if cache is None:
            raise ValueError("surgery needs a cache to operate on: generate with use_cache=True")
        end = cache.length + ids.shape[1]
        if cache.length < at < end:
            raise ValueError(
                f"at={at} lies inside a pass, that of positions {cache.length} to {end - 1}; "
                f"choose at={end} or more"
            )
        if cache.length == at or (repeat and cache.length > at):
            operate(cache, operation, **rows)

    handle = lm.model.register_forward_pre_hook(before_pass, with_kwargs=True)
    try:
        yield lm
    finally:
        handle.remove()


# Before and after


@dataclass(frozen=True)
class Comparison:
    """A text run on with the cache as it was (before) and as operated on (after)."""

    before: Generation
    after: Generation

    @property
    def probabilities(self) -> tuple[Tensor, Tensor]:
        """Of the next token, before and after, each (vocabulary,) in float64."""
        before, after = (
            run.steps[0].logits.double().softmax(dim=-1) for run in (self.before, self.after)
        )
        return before, after

    @property
    def kl_divergence(self) -> float:
        """Sum of p log(p / q), p before and q after, in nats (Kullback and Leibler 1951)."""
        before, after = (
            run.steps[0].logits.double().log_softmax(dim=-1) for run in (self.before, self.after)
        )
        return max(0.0, float((before.exp() * (before - after)).sum()))

    @property
    def first_difference(self) -> int | None:
        """The number of the first new token that is another one; None where none is."""
        pairs = zip(self.before.new_ids, self.after.new_ids, strict=False)
        differing = [number for number, (own, other) in enumerate(pairs) if own != other]
        if differing:
            return differing[0]
        lengths = len(self.before.new_ids), len(self.after.new_ids)
        return None if lengths[0] == lengths[1] else min(lengths)


def compare(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    operation: Operation,
    *,
    layers: Iterable[int] | None = None,
    kv_heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    repeat: bool = False,
    max_new_tokens: int = 16,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Comparison:
    """Run a text on twice: with its cache as it is, and operated on before its last token passes.

    Everything but the last token is in the cache by then, so positions are 0 to length - 2. repeat:
    operate again before each further token. The model is left as it was.

    Raises ValueError for a text of one token, rows that are not there and impossible settings.
    """
    ids = lm.prompt_ids(prompt)
    steps = compare_steps(
        lm, ids, operation, layers=layers, kv_heads=kv_heads, positions=positions, repeat=repeat,
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )  # fmt: skip
    return compared(lm, ids, list(steps))


def compare_steps(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    operation: Operation,
    *,
    layers: Iterable[int] | None = None,
    kv_heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    repeat: bool = False,
    max_new_tokens: int = 16,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[tuple[bool, Step]]:
    """The same one step at a time, as pairs (operated on, step); `compared` puts them together.

    Only this run's own cache is operated on, so others can run the model meanwhile: JupyterLab
    answers its widgets in a thread beside the cells. Raises ValueError as compare() does.
    """
    ids = lm.prompt_ids(prompt)
    max_new_tokens = check_new_tokens(max_new_tokens)
    if len(ids) < 2:
        raise ValueError("the text needs at least two tokens: all but the last are in the cache")
    sampling = Sampling(temperature, top_k, top_p, seed)
    capacity = run_length(lm, len(ids), max_new_tokens)
    n_held = len(ids) - 1
    rows = {"layers": layers, "kv_heads": kv_heads, "positions": positions}
    rows = {name: None if chosen is None else list(chosen) for name, chosen in rows.items()}

    def operated(new_ids: Tensor, cache: KVCache) -> Tensor:
        if repeat or cache.length == n_held:
            operate(cache, operation, **rows)
        return lm.model(new_ids, cache)

    def steps() -> Iterator[tuple[bool, Step]]:
        cache = KVCache(lm.config, capacity=capacity)
        with torch.inference_mode():
            lm.model(torch.tensor([ids[:-1]], device=lm.device), cache=cache)
        for is_operated, forward in ((False, lm.model), (True, operated)):
            cache.truncate(n_held)
            for step in run_steps(lm, ids, max_new_tokens, sampling, cache, forward):
                yield is_operated, step

    return steps()


def compared(
    lm: LanguageModel, prompt: str | Sequence[int], steps: Iterable[tuple[bool, Step]]
) -> Comparison:
    """The comparison of all steps that `compare_steps` gave for a prompt."""
    ids = lm.prompt_ids(prompt)
    runs: tuple[list[Step], list[Step]] = ([], [])
    for is_operated, step in steps:
        runs[is_operated].append(step)
    return Comparison(*(finish(lm, ids, run) for run in runs))


def _rows(cache: LayerCache) -> tuple[Tensor, Tensor]:
    """Keys and values held, each (batch, key_value_head, position, head_feature)."""
    if cache.keys is None or cache.values is None:
        raise ValueError("the cache is empty: pass some positions through the model first")
    return cache.keys, cache.values


def _chosen(kind: str, names: Iterable[int] | None, count: int) -> list[int]:
    """The numbers that were named, in order and once each; all for None."""
    if names is None:
        return list(range(count))
    asked = list(names)
    for number in asked:
        if isinstance(number, bool) or number not in range(count):
            if kind == "position":
                raise ValueError(
                    f"position {number!r} is not in the cache: it holds 0 to {count - 1}"
                )
            raise unknown_name(kind, number, range(count))
    return sorted({int(number) for number in asked})


def _check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {bounds}, got {value!r}")


def _named(operation: Operation, name: str) -> Operation:
    """The operation under the name that a recording writes into attrs["edited"]."""
    operation.__name__ = name
    return operation
