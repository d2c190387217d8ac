"""The memory wall, timed on this machine: one tensor or many, and a step with a long cache."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from llama_viz.cost.operations import check_counts
from llama_viz.kv_cache import KVCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_viz.model import Llama


class OneOrMany(NamedTuple):
    """Seconds of the same sums: of one tensor again and again, and of as many tensors once each."""

    one: float
    many: float


def one_or_many(n_tensors: int = 256, *, kilobytes: int = 1024, runs: int = 5) -> OneOrMany:
    """Add up one tensor n_tensors times, then n_tensors tensors of that size once each.

    The arithmetic is the same; one tensor stays in the processor's own cache, many have to come
    from memory. Seconds of the processor's time on a CPU, the fastest of several runs in turns.
    """
    check_counts(n_tensors=n_tensors, kilobytes=kilobytes, runs=runs)
    many = [torch.ones(256 * kilobytes) for _ in range(n_tensors)]
    one = [many[0]] * n_tensors

    def add_up(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.sum()

    return OneOrMany(*_fastest([lambda: add_up(one), lambda: add_up(many)], runs))


def decode_seconds(
    models: dict[str, Llama], n_held: int, *, batch_size: int = 1, runs: int = 20
) -> dict[str, float]:
    """Seconds of one decode step of each model after n_held positions that are in its cache.

    The cache is filled with random keys and values: time does not depend on what they hold. The
    processor's time, the fastest of several runs; the models take turns.
    """
    check_counts(n_held=n_held, batch_size=batch_size, runs=runs)
    ids = torch.zeros(batch_size, 1, dtype=torch.long)
    steps: list[Callable[[], None]] = []
    for model in models.values():
        config = model.config
        cache = KVCache(config, batch_size, n_held + 1)
        for layer in cache.layers:
            held = torch.randn(2, batch_size, config.n_kv_heads, n_held, config.head_dim)
            layer.append(held[0], held[1])

        def step(model: Llama = model, cache: KVCache = cache) -> None:
            model(ids, cache=cache)
            cache.truncate(n_held)

        steps.append(step)
    with torch.inference_mode():
        return dict(zip(models, _fastest(steps, runs), strict=True))


def _fastest(works: list[Callable[[], None]], runs: int) -> list[float]:
    """The fewest seconds of the processor that each work took, after one run that warms up."""
    taken: list[list[float]] = [[] for _ in works]
    for run in range(runs + 1):
        for work, seconds in zip(works, taken, strict=True):
            began = time.process_time()
            work()
            if run:
                seconds.append(time.process_time() - began)
    return [min(seconds) for seconds in taken]
