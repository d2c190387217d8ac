"""Notebook 08: how wide a feed-forward is, one neuron by hand, how many neurons are near zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.analysis import neuron_activation, pick, require, silu
from llama_viz.checkpoints.meta import hidden_dim
from llama_viz.exercises.grading import Verdict, grade_number

if TYPE_CHECKING:
    import xarray as xr


def feed_forward_width(dim: int, answer: Any) -> Verdict:
    """Grade the width by the release's rule: two thirds of 4 dim, up to a multiple of 256."""
    truth = hidden_dim(dim, 256)
    exact = 8 * dim / 3
    slips = {
        exact: "That is two thirds, not yet rounded.",
        float(int(exact)): "That is two thirds, not yet rounded up to a multiple of 256.",
        float(truth - 256): "Round up, not down.",
        float(4 * dim): "That is the width with two matrices. Three of that width are half as many "
        "parameters again.",
        float(hidden_dim(dim, 4096)): "That rounds to a multiple of 4096; here it is 256.",
        float(hidden_dim(dim // 4, 256)): "Two thirds of 4 times the width, not of the width.",
    }
    slips.pop(float(truth), None)
    return grade_number(
        answer,
        float(truth),
        right=f"two thirds of {4 * dim:,} are {exact:,.0f}, and {truth // 256} times 256 are "
        f"{truth:,}.",
        hint="Take two thirds of 4 times the width, then the next multiple of 256.",
        slips=slips,
    )


def gated_product(
    trace: xr.Dataset, answer: Any, *, layer: int, position: int, neuron: int
) -> Verdict:
    """Grade SiLU(gate) x up of one neuron at one position."""
    require(trace, "gate", "up")
    place = {
        "layer": pick(trace, "layer", layer),
        "position": pick(trace, "position", position),
        "neuron": pick(trace, "neuron", neuron),
    }
    gate, up = (float(trace[name].sel(place)) for name in ("gate", "up"))
    open_by = 1 / (1 + np.exp(-gate))
    truth = gate * open_by * up
    tolerance = max(2e-3 * abs(truth), 1e-6)
    slips = {
        gate * up: "That is the bilinear kind: the gate goes through SiLU first.",
        open_by * up: "That is GLU, with the sigmoid alone: SiLU is x times its sigmoid.",
        max(gate, 0.0) * up: "That is ReGLU, with ReLU for SiLU.",
        gate * float(silu(np.asarray(up))): "The gate goes through SiLU, and up stays as it is.",
        gate * open_by: "That is SiLU(gate). How much may pass? Multiply by up.",
        gate * open_by + up: "Gate and up are multiplied, not added.",
    }
    slips = {wrong: reply for wrong, reply in slips.items() if abs(wrong - truth) > 2 * tolerance}
    return grade_number(
        answer,
        truth,
        tolerance=tolerance,
        right=f"SiLU({gate:.4g}) is {gate * open_by:.4g}, times {up:.4g} is {truth:.4g}.",
        hint="SiLU(x) is x / (1 + e^-x). Take it of the gate, and multiply by up.",
        slips=slips,
        write="{:.4g}".format,
    )


def neurons_below(
    trace: xr.Dataset, answer: Any, *, layer: int, position: int, threshold: float
) -> Verdict:
    """Grade how many neurons of a layer have |SiLU(gate) x up| below a threshold at a position."""
    product = neuron_activation(trace, layer)
    size = np.abs(product.values)
    here = product.values[product["position"].values.tolist().index(
        pick(trace, "position", position)
    )]  # fmt: skip
    truth = int((np.abs(here) < threshold).sum())
    n = len(here)
    slips = {
        float((here < threshold).sum()): "Large negative numbers are far from zero, too: take the "
        "size.",
        float(n - truth): "Those are the others, at or above the threshold.",
        truth / n: "That is their share. How many are they?",
        100 * truth / n: "That is their share in percent. How many are they?",
        float((size < threshold).sum()): "Those are of all positions together: take one row.",
    }
    slips.pop(float(truth), None)
    return grade_number(
        answer,
        float(truth),
        right=f"{truth} of {n} neurons, {truth / n:.0%}.",
        hint="Take trace.neuron_activation of the layer and the position, and count the neurons "
        f"whose size is below {threshold:g}.",
        slips=slips,
    )
