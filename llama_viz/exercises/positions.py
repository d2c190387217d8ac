"""Exercises of notebook 04: a wavelength, an angle of the run, a score's strongest pair."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.analysis import applied_rotation_angle, config_of, score_by_pair, wrapped
from llama_viz.exercises.grading import NOT_YET, Verdict, as_number, as_whole, grade_number

if TYPE_CHECKING:
    import xarray as xr

CLOSE = 0.01  # radians


def wavelength(answer: Any, *, head_dim: int, pair: int, theta: float = 10000.0) -> Verdict:
    """Grade after how many positions a pair has turned once, to a thousandth."""
    exponent = 2 * pair / head_dim
    truth = 2 * math.pi * theta**exponent
    return grade_number(
        answer,
        truth,
        tolerance=1e-3 * truth,
        right=f"pair {pair} of {head_dim // 2} takes {truth:,.0f} positions for one turn.",
        hint="One position turns it by theta^(-2i / head_dim) radians: divide a whole turn, 2 pi, "
        "by that.",
        slips={
            theta**exponent: "After so many positions it has turned by one radian, not by 2 pi.",
            360 * theta**exponent: "The angle is in radians: a whole turn is 2 pi, not 360.",
            2 * math.pi * theta ** (2 * (pair + 1) / head_dim): "Pairs are counted from 0, so the "
            "last one is pair head_dim / 2 - 1.",
            2 * math.pi * theta ** (pair / head_dim): "The exponent has a 2: 2i / head_dim.",
        },
    )


def angle_applied(trace: xr.Dataset, answer: Any, *, position: int, pair: int) -> Verdict:
    """Grade the angle in radians, up to whole turns, by which a pair was turned in the run."""
    if answer is None:
        return NOT_YET
    value = as_number(answer)
    if value is None:
        return Verdict(False, f"Answer with one number, not {type(answer).__name__}.")
    config = config_of(trace)
    truth = float(applied_rotation_angle(trace).sel(position=position, pair=pair))
    if _is_same_direction(value, truth):
        turns = truth / (2 * math.pi)
        return Verdict(True, f"Right: {truth:.3f} radians, or {turns:.2f} turns.")
    by_another = {
        "That would be the angle if the angle were the position: multiply by the pair's "
        "frequency.": float(position),
        "That is in degrees: the model turns by radians.": math.degrees(truth),
        "The exponent has a 2: -2i / head_dim.": (
            position * config.rope_theta ** (-pair / config.head_dim)
        ),
        "d is the size of one head, not that of the model.": (
            position * config.rope_theta ** (-2 * pair / config.dim)
        ),
        "A larger pair number turns more slowly: the exponent is negative.": (
            position * config.rope_theta ** (2 * pair / config.head_dim)
        ),
    }
    for reply, wrong in by_another.items():
        if abs(value - wrong) <= CLOSE:
            return Verdict(False, f"Not {value:,.6g}. {reply}")
    return Verdict(
        False, f"Not {value:,.6g}. The angle is position x theta^(-2i / head_dim), in radians."
    )


def strongest_pair(
    trace: xr.Dataset,
    answer: Any,
    *,
    layer: int,
    head: int,
    query_position: int,
    key_position: int,
) -> Verdict:
    """Grade which pair of features adds most, by size, to one score of the run."""
    if answer is None:
        return NOT_YET
    split = score_by_pair(trace, layer=layer, head=head, query_position=query_position)
    added = split.sel(key_position=key_position).values
    pair = as_whole(answer, range(len(added)))
    if pair is None:
        return Verdict(False, f"Answer with the number of a pair: 0 to {len(added) - 1}.")
    mine = float(added[pair])
    said = f"pair {pair} adds {mine:+.2f} to the score {added.sum():+.2f}"
    if abs(mine) == np.abs(added).max():
        return Verdict(True, f"Right: {said}.")
    if mine == added.max():
        return Verdict(False, f"Not quite: {said}; a pair that takes away more than that counts.")
    return Verdict(False, f"Not quite: {said}, and another pair moves it more: the longest bar.")


def _is_same_direction(angle: float, other: float) -> bool:
    return bool(abs(wrapped(angle - other)) <= CLOSE)
