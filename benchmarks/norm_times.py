"""How long LayerNorm and RMSNorm take: both written out, both as PyTorch's one call.

    python benchmarks/norm_times.py

Writes data/measurements/norm_times.json, which notebook 03 draws. 8 items of 128 features (our
models) and of 4,096 (Llama 2 7B), float32, one thread of the CPU; each number is the fastest run,
in seconds. Beside it stands what each of PyTorch's calls consists of.
"""

from __future__ import annotations

import json

import torch
from torch.profiler import profile

from llama_viz.cost import processor
from llama_viz.files import data_folder, written_whole
from llama_viz.foundations.norm_times import norm_times, ways

FEATURES = (128, 4096)
ITEMS = 8
SECONDS = 3.0
# The operation that does the work of each call, and what only makes room or looks at types there.
WORK = {"aten::native_layer_norm", "aten::_fused_rms_norm"}
BOOKKEEPING = {"empty", "empty_like", "result_type", "to", "type_as", "contiguous", "view"}


def operations(dim: int = 4096) -> dict[str, list[str]]:
    """What PyTorch's call of each norm is made of, one operation after another."""
    x = torch.randn(ITEMS, dim)
    found = {}
    for name, norm in ways(dim)["PyTorch's call"].items():
        with torch.inference_mode(), profile() as run:
            norm(x)
        (work,) = (event for event in run.events() if event.name in WORK)
        inside = [event.name.removeprefix("aten::") for event in work.cpu_children]
        found[name] = [part for part in inside if part not in BOOKKEEPING] or ["one kernel"]
    return found


def main() -> None:
    torch.set_num_threads(1)
    times = {str(dim): norm_times(dim, ITEMS, seconds=SECONDS) for dim in FEATURES}
    for dim, taken in times.items():
        print(dim, taken)
    made = {
        "command": "python benchmarks/norm_times.py",
        "processor": processor(),
        "threads": 1,
        "torch": torch.__version__,
        "items": ITEMS,
        "operations": operations(),
        "seconds": {
            dim: {
                way: {name: float(f"{value:.3g}") for name, value in norms.items()}
                for way, norms in taken.items()
            }
            for dim, taken in times.items()
        },
    }
    path = data_folder() / "measurements" / "norm_times.json"
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
