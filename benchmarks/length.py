"""How long a token takes as the text grows, beside the bytes of the cache that it must read.

    python benchmarks/length.py [--shapes S M L] [--rounds 9]

Writes data/measurements/length.json, which benchmarks/report.py puts into the README. One token
passes an optimized model after 63 to 2,047 others, float32, batch 1. Of every round a straight line
is fitted, seconds = a + b x length; what is kept are the quartiles of a and b, and beside b what
llama_viz.cost says is read of the cache for every position.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from interleaved import SHAPES, machine, random_model, rounded

from llama_viz.cost import forward
from llama_viz.files import store_measurement
from llama_viz.kv_cache import KVCache

if TYPE_CHECKING:
    import llama_viz as lv

LENGTHS = (64, 128, 256, 512, 1024, 1536, 2048)
STEPS = 7  # at each length of a round; their median counts


def one_round(lm: lv.LanguageModel) -> list[float]:
    """Seconds of a pass over one token that ends at each of the lengths."""
    ids = torch.arange(LENGTHS[-1])[None] % lm.config.vocab_size
    cache = KVCache(lm.config)
    lm.model(ids, cache=cache)
    seconds = []
    for length in reversed(LENGTHS):  # a full cache is cut back, never grown
        taken = []
        for _ in range(STEPS):
            cache.truncate(length - 1)
            began = time.perf_counter()
            lm.model(ids[:, :1], cache=cache)
            taken.append(time.perf_counter() - began)
        seconds.append(float(np.median(taken)))
    return seconds[::-1]


def fitted(rounds: list[list[float]]) -> dict[str, Any]:
    """Quartiles of a and b over the rounds, each with a line of its own, and the median seconds."""
    lines = np.array([np.polyfit(LENGTHS, seconds, 1)[::-1] for seconds in rounds])
    a, b = ([rounded(number) for number in of] for of in np.percentile(lines, (25, 50, 75), 0).T)
    medians = [rounded(number) for number in np.median(rounds, axis=0)]
    return {"seconds": dict(zip(LENGTHS, medians, strict=True)), "a": a, "b": b}


def bytes_per_position(lm: lv.LanguageModel) -> int:
    """Bytes of the cache that a pass over one token reads for every position held."""
    longer, shorter = (forward(lm.config, 1, n_held).total.cache_read for n_held in (2, 1))
    return longer - shorter


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    measured = {}
    for shape in arguments.shapes:
        lm = random_model(shape, LENGTHS[-1]).optimize()
        with torch.inference_mode():
            one_round(lm)  # does not count
            measured[shape] = fitted([one_round(lm) for _ in range(arguments.rounds)])
        measured[shape]["bytes_per_position"] = bytes_per_position(lm)
        print(shape, measured[shape])
    store_measurement("length", **machine(), rounds=arguments.rounds, shapes=measured)


if __name__ == "__main__":
    main()
