"""How long a decode step takes with 8, 2 and 1 key/value heads, and one tensor against many.

    python benchmarks/grouped_queries.py

Writes data/measurements/grouped_queries.json, which notebook 07 prints. float32, one thread of the
CPU, seconds of the processor's time, the fastest of several runs. The embedded models fit in the
processor's own memory; the larger ones, with random weights, are made so that their caches do not.
"""

from __future__ import annotations

import torch

import llama_viz as lv
from llama_viz.cost import decode_seconds, one_or_many
from llama_viz.files import store_measurement
from llama_viz.model import Llama

EMBEDDED = ("mha", "gqa", "mqa")
HELD = 200  # of a context of 256
LARGER = {"MHA": 32, "GQA": 4, "MQA": 1}  # key/value heads for 32 query heads
SIZES = {"n_layers": 2, "n_heads": 32, "dim": 1024, "hidden_dim": 2816, "vocab_size": 1408}
BATCH, LARGER_HELD = 4, 4096


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{taken:.3g}") for name, taken in seconds.items()}


def main() -> None:
    torch.set_num_threads(1)
    embedded = decode_seconds({name: lv.load(name).model for name in EMBEDDED}, HELD, runs=200)
    print("embedded", rounded(embedded))
    models = {
        name: Llama(lv.ModelConfig(**SIZES, n_kv_heads=number, max_seq_len=LARGER_HELD + 1)).eval()
        for name, number in LARGER.items()
    }
    larger = decode_seconds(models, LARGER_HELD, batch_size=BATCH)
    print("larger", rounded(larger))
    n_tensors, kilobytes = 256, 1024
    sums = one_or_many(n_tensors, kilobytes=kilobytes)._asdict()
    print("sums", rounded(sums))
    store_measurement(
        "grouped_queries",
        threads=1,
        torch=torch.__version__,
        embedded={"held": HELD, "seconds": rounded(embedded)},
        larger={
            "sizes": SIZES,
            "batch_size": BATCH,
            "held": LARGER_HELD,
            "cache_bytes": {
                name: model.config.kv_cache_bytes(LARGER_HELD, batch_size=BATCH)
                for name, model in models.items()
            },
            "seconds": rounded(larger),
        },
        one_or_many={"tensors": n_tensors, "kilobytes": kilobytes, "seconds": rounded(sums)},
    )


if __name__ == "__main__":
    main()
