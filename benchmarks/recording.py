"""What it costs to record a pass over 256 tokens, beside transformers and TransformerLens.

    python benchmarks/recording.py [--shapes S M L] [--rounds 7]

Writes data/measurements/recording.json, which benchmarks/report.py puts into the README. Each way
to record stands beside the plain pass of the same program, in turns; bytes are those that are kept
when the pass is over.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

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
    from collections.abc import Callable

N_TOKENS = 256
# Values of the pass itself: without what is computed from them afterwards (the logit lens and the
# heads' contributions), as the others do.
PASSING = [name for name in VARIABLES
           if name not in ("lens_id", "lens_probability", "head_contribution_norm",
                           "sampled_id", "sampled_probability")]  # fmt: skip


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

    def record(taps: Any) -> Any:
        return lv.record_forward(lm, ids[0].tolist(), taps=taps, memory_limit=None)

    def with_cache() -> Any:
        with torch.inference_mode():
            return lens.run_with_cache(ids)[1]

    def kept_by_transformers() -> int:
        out = pass_once(eager, output_attentions=True, output_hidden_states=True)
        return sum(value.nbytes for value in (*out.attentions, *out.hidden_states))

    timed: dict[str, Callable[[], object]] = {
        "llama_viz": lambda: pass_once(lm.model),
        "llama_viz, taps taken out": without_taps,
        "llama_viz, four signals recorded": lambda: record(lv.SIGNALS),
        "llama_viz, every tap recorded": lambda: record(PASSING),
        "transformers": lambda: pass_once(plain),
        "transformers, attentions and hidden states": lambda: pass_once(
            eager, output_attentions=True, output_hidden_states=True
        ),
    }
    counted = {
        "llama_viz, four signals recorded": lambda: record(lv.SIGNALS).nbytes,
        "llama_viz, every tap recorded": lambda: record(PASSING).nbytes,
        "transformers, attentions and hidden states": kept_by_transformers,
    }
    if lens is not None:
        timed["TransformerLens"] = lambda: pass_once(lens)
        timed["TransformerLens, run_with_cache"] = with_cache
        counted["TransformerLens, run_with_cache"] = lambda: sum(
            value.nbytes for value in with_cache().values()
        )
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
