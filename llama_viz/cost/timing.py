"""How long a step takes with a KV cache and without, measured over length; a curve for each."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llama_viz.cost.operations import check_counts
from llama_viz.kv_cache import KVCache
from llama_viz.model import Llama, initialize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llama_viz.config import ModelConfig

WITHOUT, WITH = "without", "with"


def step_times(
    config: ModelConfig,
    lengths: Sequence[int],
    *,
    runs: int = 9,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[int, list[float]]]:
    """Seconds of a step that ends at each length: {"without": {n: [...]}, "with": {n: [...]}}.

    Without a cache all n positions pass through the model, with one the newest alone, after n - 1
    that are held. The model has the sizes of config, a context as long as needed and random
    weights (no weight makes a product slower), float32 on the CPU. All steps are run in turn, so
    that what else the machine does meets all alike; a first round does not count.

    Raises ValueError for no lengths, lengths below 2 and no runs.
    """
    check_counts(2, **{f"length {number}": n for number, n in enumerate(lengths)})
    check_counts(lengths=len(lengths), runs=runs)
    longest = max(lengths)
    model = initialize(Llama(replace(config, max_seq_len=longest, rope_scaling=None))).eval()
    cache = KVCache(model.config)
    ids = torch.arange(longest)[None] % config.vocab_size
    taken: dict[str, dict[int, list[float]]] = {
        way: {n: [] for n in sorted(lengths)} for way in (WITHOUT, WITH)
    }
    with torch.inference_mode():
        for counts in [False] + runs * [True]:
            cache.truncate(0)
            model(ids, cache=cache)
            for n in sorted(lengths, reverse=True):  # a full cache is cut back, never grown
                cache.truncate(n - 1)
                for way, new, held in (
                    (WITHOUT, ids[:, :n], None),
                    (WITH, ids[:, n - 1 : n], cache),
                ):
                    began = clock()
                    model(new, cache=held)
                    seconds = clock() - began
                    if counts:
                        taken[way][n].append(seconds)
    return taken


@dataclass(frozen=True)
class StepFit:
    """Seconds of a step that ends at n positions: a n + b n^2 without a cache, c + d n with one.

    apart is the shortest measured length from which on the times no longer overlap: the quickest
    quarter without a cache ends above the slowest quarter with one. None where they always do.
    """

    a: float
    b: float
    c: float
    d: float
    apart: int | None

    def __str__(self) -> str:
        apart = "nowhere" if self.apart is None else f"from n = {self.apart} on"
        return (
            f"without a cache: {1e6 * self.a:.1f} µs n + {1e9 * self.b:.1f} ns n²\n"
            f"with a cache: {1e3 * self.c:.2f} ms + {1e6 * self.d:.2f} µs n\n"
            f"the curves cross at n = {self.crossing:.0f}; the measured times lie apart {apart}"
        )

    def without(self, n: np.ndarray | float) -> np.ndarray | float:
        """The fitted seconds without a cache."""
        return self.a * n + self.b * n**2

    def with_cache(self, n: np.ndarray | float) -> np.ndarray | float:
        """The fitted seconds with one."""
        return self.c + self.d * n

    @property
    def crossing(self) -> float:
        """The length from which on the curve without a cache lies above; infinite if nowhere."""
        slope = self.a - self.d
        if self.b == 0:
            return self.c / slope if slope > 0 else np.inf
        return float((np.sqrt(slope**2 + 4 * self.b * self.c) - slope) / (2 * self.b))


def fit_steps(taken: Mapping[str, Mapping[Any, Sequence[float]]]) -> StepFit:
    """Fit both curves to the medians of step_times, by least squares with no number below 0.

    The curve without a cache has no constant, as the work has none: at short lengths, where
    starting the operations is most of the time, measured times lie above it.
    """
    factors = {}
    for way, powers in ((WITHOUT, (1, 2)), (WITH, (0, 1))):
        n = np.array([int(length) for length in taken[way]], dtype=np.float64)
        medians = np.array([np.median(times) for times in taken[way].values()])
        factors[way] = _least_squares(n[:, None] ** np.array(powers), medians)
    apart = None
    for length in sorted(taken[WITH], key=int, reverse=True):
        if np.percentile(taken[WITHOUT][length], 25) <= np.percentile(taken[WITH][length], 75):
            break
        apart = int(length)
    return StepFit(*factors[WITHOUT], *factors[WITH], apart)


def _least_squares(columns: np.ndarray, heights: np.ndarray) -> tuple[float, float]:
    """Two factors of 0 or more: where the best of both would be negative, the better one alone."""
    both = np.linalg.lstsq(columns, heights, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = np.maximum((columns * heights[:, None]).sum(axis=0) / (columns**2).sum(axis=0), 0)
    misses = ((columns * alone - heights[:, None]) ** 2).sum(axis=0)
    return (float(alone[0]), 0.0) if misses[0] <= misses[1] else (0.0, float(alone[1]))
