"""Exercises of notebook 03: RMSNorm by hand, what a sublayer reads, who adds most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.analysis import added_size, norm_input, pick, require
from llama_viz.exercises.grading import NOT_YET, Verdict, as_whole, grade_number, grade_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr


def rms_norm_by_hand(row: Sequence[float], answer: Any) -> Verdict:
    """Grade the RMSNorm of a row, with epsilon 0 and without a gain."""
    x = np.asarray(row, dtype=np.float64)
    mean_square = (x**2).mean()
    centred = x - x.mean()
    return grade_numbers(
        answer,
        (x / np.sqrt(mean_square)).tolist(),
        tolerance=5e-4,
        right=f"the root mean square is {np.sqrt(mean_square):g}.",
        hint="Square each number, take the mean, take the root; divide the row by it.",
        slips=[
            ((centred / centred.std()).tolist(), "That is LayerNorm: RMSNorm subtracts nothing."),
            (
                (x / np.sqrt((x**2).sum())).tolist(),
                "That divides by the length of the row: take the mean of the squares, not the sum.",
            ),
            ((x / mean_square).tolist(), "That divides by the mean square: take its root first."),
            (
                (x / np.abs(x).mean()).tolist(),
                "That divides by the mean size: square the numbers before the mean.",
            ),
        ],
    )


def what_attention_reads(
    trace: xr.Dataset, answer: Any, *, norm: int, position: int, feature: int
) -> Verdict:
    """Grade one number that a norm of the run gives out: x / rms * gain."""
    require(trace, "rms", "norm_gain")
    norm, position = pick(trace, "norm", norm), pick(trace, "position", position)
    place = {"norm": norm, "position": position}
    x = float(norm_input(trace).sel(place).values[feature])
    rms = float(trace["rms"].sel(place))
    gain = float(trace["norm_gain"].sel(norm=norm).values[feature])
    truth = x / rms * gain
    streams, sizes, gains = norm_input(trace), trace["rms"], trace["norm_gain"]
    slips: dict[float, str] = {
        x / rms: "That is the scale alone: multiply by the gain of the feature, too.",
        x * gain: "That is the gain alone: divide by the root mean square first.",
        x * rms * gain: "The norm divides by the root mean square.",
        x / rms**2 * gain: "rms is the root already: divide by it once.",
    }
    for other in trace["norm"].values.tolist():
        if other == norm:
            continue
        there = {"norm": other, "position": position}
        its_x = float(streams.sel(there).values[feature])
        its_rms, its_gain = float(sizes.sel(there)), float(gains.sel(norm=other).values[feature])
        slips.setdefault(its_x / its_rms * its_gain, f"That is what norm {other} gives out.")
        slips.setdefault(
            its_x / rms * gain, f"That divides the stream that norm {other} reads, not this one's."
        )
        slips.setdefault(x / its_rms * gain, f"That divides by the rms of norm {other}.")
        slips.setdefault(x / rms * its_gain, f"That multiplies by the gain of norm {other}.")
    return grade_number(
        answer,
        truth,
        tolerance=1e-3 * abs(truth),
        right=f"{x:.4g} / {rms:.4g} x {gain:.4g} = {truth:.4g}.",
        hint="Divide the number of the residual stream by the recorded rms of that norm and "
        "position, then multiply by the gain of that norm and feature.",
        slips=slips,
    )


def largest_addition(trace: xr.Dataset, answer: Any) -> Verdict:
    """Grade which (layer, sublayer) adds most beside the residual stream that it is added to."""
    if answer is None:
        return NOT_YET
    ratios = added_size(trace)
    layers, sublayers = ratios["layer"].values.tolist(), ratios["sublayer"].values.tolist()
    try:
        first, sublayer = answer
        layer = layers[layers.index(as_whole(first, layers))]
        mine = float(ratios.values[layers.index(layer), sublayers.index(sublayer)])
    except (TypeError, ValueError, RuntimeError):
        return Verdict(
            False,
            f"Answer with a layer, {layers[0]} to {layers[-1]}, and a sublayer, "
            f'"attention" or "feed_forward": for example ({layers[-1]}, "attention").',
        )
    said = f"{sublayer} of layer {layer} adds {mine:.2g} times the size of the stream before it"
    if mine == float(ratios.max()):
        return Verdict(True, f"Right: {said}.")
    return Verdict(
        False,
        f"Not quite: {said}, and another sublayer adds more. Compare the sizes of "
        "attention_output with residual_in, and of feed_forward_output with residual_middle.",
    )
