"""How long a step takes with a KV cache and without, as the text grows.

    python benchmarks/cache_time.py

Writes data/measurements/cache_time.json, which notebook 06 draws. A model of the embedded models'
sizes with a longer context, float32, one thread of the CPU. Of the runs of each step five numbers
are kept, in seconds of the processor's time: what else the machine does hardly counts.
"""

from __future__ import annotations

import time

import numpy as np
import torch

import llama_viz as lv
from llama_viz.cost import fit_steps, step_times
from llama_viz.files import store_measurement

MODEL = "mha"
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
RUNS = 25


def five_numbers(seconds: list[float]) -> list[float]:
    """Least, lower quartile, median, upper quartile, most (Tukey 1977): the spread of the runs."""
    return [float(f"{value:.3g}") for value in np.percentile(seconds, (0, 25, 50, 75, 100))]


def main() -> None:
    torch.set_num_threads(1)
    config = lv.load(MODEL).config
    taken = step_times(config, LENGTHS, runs=RUNS, clock=time.process_time)
    for way, by_length in taken.items():
        medians = {n: f"{1000 * np.median(times):.2f} ms" for n, times in by_length.items()}
        print(f"{way:7}", medians)
    print(fit_steps(taken))
    store_measurement(
        "cache_time",
        threads=1,
        torch=torch.__version__,
        sizes={name: config.to_dict()[name] for name in ("n_layers", "n_heads", "dim")},
        runs=RUNS,
        seconds={
            way: {n: five_numbers(times) for n, times in by_length.items()}
            for way, by_length in taken.items()
        },
    )


if __name__ == "__main__":
    main()
