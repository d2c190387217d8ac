"""What a LLaMA costs: arithmetic, bytes and arithmetic intensity, as formulas and counted.

`forward` is one pass by formula and `count` the same pass of a real model, counted while it runs;
`generation` is all steps of a text. `most_held` is the memory that any computation needs at once,
`step_times` how long a step takes with a KV cache and without, `fit_steps` a curve for each.
`memory` and its companions say what fits where, `DEVICES` and `measure_device` how fast it can go
there, `memory_per_arithmetic` what Shazeer (2019) derived. `one_or_many` and
`decode_seconds` time the memory wall on this machine.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from llama_viz.cost.devices import DEVICES, Device, measure_device
from llama_viz.cost.memory import (
    GB,
    GIB,
    Grouping,
    Memory,
    fits,
    grouping_saves,
    largest_batch,
    largest_context,
    memory,
    ungrouped,
)
from llama_viz.cost.operations import (
    PARTS,
    Cost,
    Costs,
    forward,
    generation,
    parameters,
    step_coefficients,
)
from llama_viz.cost.ratios import (
    PUBLISHED,
    PUBLISHED_LOCAL,
    Published,
    counted_memory_per_arithmetic,
    memory_per_arithmetic,
)

__all__ = [
    "DEVICES", "GB", "GIB", "PARTS", "PUBLISHED", "PUBLISHED_LOCAL", "Cost", "Costs", "Device",
    "Grouping", "Memory", "Published", "StepFit", "count", "counted_memory_per_arithmetic",
    "counted_ratio", "decode_seconds", "fit_steps", "fits", "forward", "generation",
    "grouping_saves", "largest_batch", "largest_context", "measure_device", "memory",
    "memory_per_arithmetic", "most_held", "one_or_many", "parameters", "step_coefficients",
    "step_times", "ungrouped",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Counting and timing need torch, the formulas do not: they are loaded at first use."""
    modules = {
        "count": "counting", "counted_ratio": "counting", "decode_seconds": "measured",
        "fit_steps": "timing", "most_held": "held", "one_or_many": "measured",
        "step_times": "timing", "StepFit": "timing",
    }  # fmt: skip
    if name not in modules:
        raise AttributeError(f"module 'llama_viz.cost' has no attribute {name!r}")
    return getattr(import_module(f"llama_viz.cost.{modules[name]}"), name)
