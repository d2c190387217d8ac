"""How long attention takes as its text grows: written out, row by row, by blocks, fused.

    python benchmarks/attention_length.py

Writes data/measurements/attention_length.json, which notebook 05 draws. One head of 64 features,
causal, float32, one thread of the CPU. Each number is the fastest of several runs, in seconds of
the processor's time: what else the machine does hardly counts.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_viz.cost import processor
from llama_viz.files import data_folder, written_whole
from llama_viz.foundations import attend, attention_by_blocks, attention_by_rows
from llama_viz.model import causal_mask

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
HEAD_DIM = 64
RUNS = 9


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attend(query, key, value, causal_mask(len(query), len(key))).output


def row_by_row(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attention_by_rows(query, key, value, causal=True)


def by_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attention_by_blocks(query, key, value, causal=True)


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    whole = F.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True)
    return whole[0]


WAYS = {
    "written out": written_out,
    "row by row": row_by_row,
    "by blocks": by_blocks,
    "PyTorch's kernel": fused,
}


def fastest(run: Callable[[], Tensor]) -> float:
    """The processor's seconds of the fastest run, after one that does not count."""
    run()
    taken = []
    for _ in range(RUNS):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, dict[int, float]] = {name: {} for name in WAYS}
    for length in LENGTHS:
        query, key, value = torch.randn(3, length, HEAD_DIM, generator=generator)
        truth = written_out(query, key, value)
        for name, way in WAYS.items():
            assert torch.allclose(way(query, key, value), truth, atol=1e-5), name
            with torch.no_grad():
                seconds[name][length] = fastest(lambda: way(query, key, value))  # noqa: B023
        print(length, {name: f"{1000 * taken[length]:.3f} ms" for name, taken in seconds.items()})
    made = {
        "command": "python benchmarks/attention_length.py",
        "processor": processor(),
        "threads": 1,
        "torch": torch.__version__,
        "head_dim": HEAD_DIM,
        "seconds": {
            name: {length: float(f"{value:.3g}") for length, value in taken.items()}
            for name, taken in seconds.items()
        },
    }
    path = data_folder() / "measurements" / "attention_length.json"
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
