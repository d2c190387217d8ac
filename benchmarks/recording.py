"""What it costs to record a pass over 256 tokens, beside transformers and TransformerLens.

    python benchmarks/recording.py [--shapes S M L] [--rounds 7]

Writes data/measurements/recording.json, which benchmarks/report.py puts into the README. Each way
to record stands beside the plain pass of the same program, in turns; bytes are those of the memory
that is kept when the pass is over, where several values share it once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from interleaved import (
    SHAPES,
    in_transformer_lens,
    in_transformers,
    in_turns,
    machine,
    random_model,
    summary,
)

import llama_viz as lv
from llama_viz.files import store_measurement
from llama_viz.taps import Tap
from llama_viz.trace import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

N_TOKENS = 256
# Values of the pass itself: without what is computed from them afterwards (the logit lens and the
# heads' contributions), as the others do.
PASSING = [name for name in VARIABLES
           if name not in ("lens_id", "lens_probability", "head_contribution_norm",
                           "sampled_id", "sampled_probability")]  # fmt: skip


def kept_bytes(values: Iterable[np.ndarray | torch.Tensor]) -> int:
    """Bytes of the memory that values keep: all of it, and what several of them share once."""
    memory: dict[int, int] = {}
    for value in values:
        owner = value
        while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray | torch.Tensor):
            owner = owner.base
        if isinstance(owner, torch.Tensor):
            storage = owner.untyped_storage()
            memory[storage.data_ptr()] = storage.nbytes()
        else:
            memory[owner.ctypes.data] = owner.nbytes
    return sum(memory.values())


def runs_of(shape: str) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], int]]]:
    """What is timed, and how to count what each keeps."""
    lm, plain, eager = random_model(shape), in_transformers(shape), in_transformers(shape, "eager")
    lens = in_transformer_lens(shape)
    ids = torch.randint(3, 2000, (1, N_TOKENS), generator=torch.manual_seed(1))

    def pass_once(model: Any, **options: Any) -> Any:
        with torch.inference_mode():
            return model(ids, **options)

    def without_taps() -> None:
        with patch.object(Tap, "__call__", lambda tap, value: value):
            pass_once(lm.model)

    def record(taps: Any, **options: Any) -> Any:
        return lv.record_forward(lm, ids[0].tolist(), taps=taps, memory_limit=None, **options)

    def kept_by_us(taps: Any, **options: Any) -> int:
        trace = record(taps, **options)
        return kept_bytes(variable.values for variable in trace.variables.values())

    def with_cache() -> Any:
        with torch.inference_mode():
            return lens.run_with_cache(ids)[1]

    def kept_by_transformers() -> int:
        out = pass_once(eager, output_attentions=True, output_hidden_states=True)
        return kept_bytes((*out.attentions, *out.hidden_states))

    timed: dict[str, Callable[[], object]] = {
        "llama_viz": lambda: pass_once(lm.model),
        "llama_viz, taps taken out": without_taps,
        "llama_viz, four signals recorded": lambda: record(lv.SIGNALS),
        "llama_viz, every tap recorded": lambda: record(PASSING),
        "llama_viz, every tap recorded, half precision": lambda: record(
            PASSING, half_precision=True
        ),
        "transformers": lambda: pass_once(plain),
        "transformers, attentions and hidden states": lambda: pass_once(
            eager, output_attentions=True, output_hidden_states=True
        ),
    }
    counted = {
        "llama_viz, four signals recorded": lambda: kept_by_us(lv.SIGNALS),
        "llama_viz, every tap recorded": lambda: kept_by_us(PASSING),
        "llama_viz, every tap recorded, half precision": lambda: kept_by_us(
            PASSING, half_precision=True
        ),
        "transformers, attentions and hidden states": kept_by_transformers,
    }
    if lens is not None:
        timed["TransformerLens"] = lambda: pass_once(lens)
        timed["TransformerLens, run_with_cache"] = with_cache
        counted["TransformerLens, run_with_cache"] = lambda: kept_bytes(with_cache().values())
    return timed, counted


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    for shape in arguments.shapes:
        timed, counted = runs_of(shape)
        seconds = in_turns(timed, arguments.rounds)
        rows: dict[str, dict[str, Any]] = {}
        for name in timed:
            own = name.split(",")[0]
            rows[name] = summary({own: seconds[own], name: seconds[name]}, own)[name]
            if name in counted:
                rows[name]["bytes"] = counted[name]()
            more = f"  {rows[name]['bytes'] / 1e6:.0f} MB kept" if name in counted else ""
            print(f"{shape} {name:45} {1000 * rows[name]['seconds']:7.1f} ms  "
                  f"x{rows[name]['times']}{more}")  # fmt: skip
        measured[shape] = rows
    store_measurement(
        "recording", **machine(), rounds=arguments.rounds, tokens=N_TOKENS, shapes=measured
    )


if __name__ == "__main__":
    main()
