"""How long `import llama_viz` takes beyond PyTorch's own import.

    python benchmarks/startup.py [--rounds 11]

Writes data/measurements/startup.json. Fresh processes, in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np
from interleaved import in_turns, rounded

from llama_viz.files import store_measurement

IMPORTS = {
    "torch": "import torch",
    "torch and llama_viz": "import torch, llama_viz",
    "llama_viz and a model": "import torch, llama_viz; llama_viz.load('gqa')",
    "torch and transformers' Llama": "import torch; from transformers import LlamaForCausalLM",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    runs = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)
        for name, code in IMPORTS.items()
    }
    taken = in_turns(runs, arguments.rounds)
    seconds = {
        name: [rounded(value) for value in np.percentile(times, (25, 50, 75))]
        for name, times in taken.items()
    }
    for name, (low, median, high) in seconds.items():
        print(f"{name:35} {median:.2f} s ({low:.2f} to {high:.2f})")
    store_measurement("startup", rounds=arguments.rounds, seconds=seconds)


if __name__ == "__main__":
    main()
