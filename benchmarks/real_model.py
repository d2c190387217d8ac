"""SmolLM2-135M, whose weights nobody here trained: fetched, recorded, compared with transformers.

    python benchmarks/real_model.py

Writes data/traces/smollm2-135m.nc, a recorded run that opens without the model, and
data/measurements/smollm2-135m.json: what the checkpoint is, and lv.verify's table. Notebook 10
draws both.
"""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

import llama_viz as lv
from llama_viz import fetching
from llama_viz.files import data_folder, store_measurement
from llama_viz.inspection import inspect

NAME = "smollm2-135m"
PROMPT = "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is"
N_NEW = 16
# Queries and keys of 30 layers would be most of the file, and are left out.
TAPS = (
    "rms", "rotation_angle", "attention_weights",
    "cache_length", "cache_bytes_used", "cache_bytes_reserved",
)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    path = fetching.fetch(NAME)
    trace = lv.record(lv.load(NAME), PROMPT, N_NEW, taps=TAPS)
    place = data_folder() / "traces" / f"{NAME}.nc"
    place.parent.mkdir(exist_ok=True)
    lv.save_trace(trace, place)
    print(f"{place}: {place.stat().st_size:,} bytes\n{PROMPT}{trace.attrs['text']}")

    told, proof = inspect(path), lv.verify(path)
    print(told, proof, sep="\n\n")
    store_measurement(
        NAME,
        command="python benchmarks/real_model.py",
        package=fetching.PACKAGES[NAME].requirement,
        about=fetching.PACKAGES[NAME].about,
        sha256=fetching.PACKAGES[NAME].sha256,
        machine=platform.machine(),
        torch=torch.__version__,
        transformers=version("transformers"),
        sizes={theirs: value for theirs, _, value in told.sizes},
        facts=dict(told.facts),
        weights_read_by=proof.weights_read_by,
        n_agreed=proof.n_agreed,
        n_tokens=proof.n_tokens,
        by_layer={
            kind: [float(f"{share:.3g}") for share in shares]
            for kind, shares in proof.by_layer().items()
        },
        differences={
            one.quantity: [float(f"{one.difference:.3g}"), float(f"{one.tolerance:.3g}")]
            for one in proof.comparisons
        },
    )


if __name__ == "__main__":
    main()
