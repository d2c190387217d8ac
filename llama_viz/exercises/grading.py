"""How an answer is graded: right or not, with a reply that helps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# How near a list of numbers must come to a common slip: written with two decimals, or computed from
# numbers that were rounded.
SLIP_DECIMALS = 0.005
SLIP_SHARE = 0.005


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what to say to the reader."""

    right: bool
    reply: str

    def __repr__(self) -> str:
        return self.reply


NOT_YET = Verdict(
    False, "Not answered yet: put your answer in place of None and run the cell again."
)


def grade_number(
    answer: Any,
    truth: float,
    *,
    tolerance: float = 0.0,
    right: str,
    hint: str,
    slips: Mapping[float, str] | None = None,
    write: Callable[[float], str] = "{:,.6g}".format,
) -> Verdict:
    """Grade one number: right within `tolerance` of the truth.

    `right` is what to say then. slips are wrong results of common mistakes, each with a reply of
    its own; any other number gets the hint. What is no number is told so.
    """
    if answer is None:
        return NOT_YET
    value = as_number(answer)
    if value is None:
        return Verdict(False, f"Answer with one number, not {type(answer).__name__}.")
    if abs(value - truth) <= tolerance:
        return Verdict(True, f"Right: {right}")
    for wrong, reply in (slips or {}).items():
        if abs(value - wrong) <= tolerance:
            return Verdict(False, f"Not {write(value)}. {reply}")
    return Verdict(False, f"Not {write(value)}. {hint}")


def grade_numbers(
    answer: Any,
    truth: Sequence[float],
    *,
    tolerance: float,
    right: str,
    hint: str,
    slips: Sequence[tuple[Sequence[float], str]] = (),
) -> Verdict:
    """Grade several numbers in order; the reply to a wrong list says which one is wrong first.

    slips are whole wrong lists of common mistakes, each with a reply of its own. They are known
    from two decimals or from half a percent; of several that come near, the nearest is meant.
    """
    if answer is None:
        return NOT_YET
    try:
        values = [as_number(value) for value in answer]
    except TypeError:
        values = [None]
    if len(values) != len(truth) or None in values:
        return Verdict(False, f"Answer with a list of {len(truth)} numbers.")
    numbers = [value for value in values if value is not None]
    if _close(numbers, truth, tolerance):
        return Verdict(True, f"Right: {right}")
    near = {
        max(abs(number - other) for number, other in zip(numbers, wrong, strict=True)): reply
        for wrong, reply in slips
        if _close(numbers, wrong, SLIP_DECIMALS, SLIP_SHARE)
    }
    if near:
        return Verdict(False, f"Not yet. {near[min(near)]}")
    first = next(
        index
        for index, (value, wanted) in enumerate(zip(numbers, truth, strict=True))
        if abs(value - wanted) > tolerance
    )
    return Verdict(False, f"Not yet: number {first} is not {numbers[first]:,.6g}. {hint}")


def grade_choice(
    answer: Any, truth: str, choices: Sequence[str], *, right: str, hints: Mapping[str, str]
) -> Verdict:
    """Grade one of several words; each wrong one has its own hint."""
    if answer is None:
        return NOT_YET
    if answer not in choices:
        return Verdict(False, f"Answer with one of: {', '.join(map(repr, choices))}.")
    if answer == truth:
        return Verdict(True, f"Right: {right}")
    return Verdict(False, f"Not {answer!r}. {hints[answer]}")


def as_number(answer: Any) -> float | None:
    """A finite number as float, also from numpy or torch; None for anything else."""
    if isinstance(answer, (bool, str)):
        return None
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError):
        return None
    return value if math.isfinite(value) else None


def every_digit(value: float) -> str:
    """A count with all its digits, and what is no whole number as short as others are written."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def as_whole(answer: Any, choices: Sequence[int]) -> int | None:
    """One of several whole numbers, also as 3.0; None for anything else."""
    value = as_number(answer)
    return int(value) if value is not None and value in choices else None


def as_head(answer: Any, layers: Sequence[int], heads: Sequence[int]) -> tuple[int, int] | Verdict:
    """A (layer, head) of those that there are, or the reply that asks for one."""
    try:
        first, second = answer
    except (TypeError, ValueError, RuntimeError):
        first = second = None
    layer, head = as_whole(first, layers), as_whole(second, heads)
    if layer is None or head is None:
        return Verdict(
            False,
            f"Answer with two numbers, (layer, head): layers {layers[0]} to {layers[-1]}, "
            f"heads {heads[0]} to {heads[-1]}.",
        )
    return layer, head


def _close(
    numbers: Sequence[float], others: Sequence[float], tolerance: float, share: float = 0.0
) -> bool:
    return all(
        abs(number - other) <= tolerance + share * abs(other)
        for number, other in zip(numbers, others, strict=True)
    )
