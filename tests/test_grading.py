"""Grading: what is right, what is a common slip, and what is no answer at all."""

import numpy as np
import pytest
import torch

from llama_viz.exercises.grading import (
    NOT_YET,
    as_head,
    as_number,
    grade_choice,
    grade_number,
    grade_numbers,
)

NUMBER = {"right": "a quarter.", "hint": "Divide by four.", "slips": {0.5: "That is a half."}}


@pytest.mark.parametrize("answer", [0.25, 0.2504, np.float32(0.25), torch.tensor(0.25)])
def test_a_number_within_the_tolerance_is_right(answer):
    verdict = grade_number(answer, 0.25, tolerance=0.0005, **NUMBER)
    assert verdict.right
    assert repr(verdict) == "Right: a quarter."


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (0.26, "Not 0.26. Divide by four."),
        (0.5, "Not 0.5. That is a half."),
        ("0.25", "Answer with one number, not str."),
        (True, "Answer with one number, not bool."),
        (float("nan"), "Answer with one number, not float."),
        ([0.25, 0.25], "Answer with one number, not list."),
    ],
)
def test_a_wrong_number_gets_a_reply_that_helps(answer, reply):
    verdict = grade_number(answer, 0.25, tolerance=0.0005, **NUMBER)
    assert not verdict.right
    assert verdict.reply == reply


def test_none_is_no_answer_yet():
    assert grade_number(None, 1, right="", hint="") is NOT_YET
    assert grade_numbers(None, [1], tolerance=0, right="", hint="") is NOT_YET
    assert grade_choice(None, "a", ["a"], right="", hints={}) is NOT_YET


@pytest.mark.parametrize(
    ("answer", "right", "reply"),
    [
        ([1, 2, 3], True, "Right: in order."),
        (torch.tensor([1.0, 2.0, 3.0]), True, "Right: in order."),
        ([1, 5, 3], False, "Not yet: number 1 is not 5. Count."),
        ([3, 2, 1], False, "Not yet. That is backwards."),
        ([1, 2], False, "Answer with a list of 3 numbers."),
        ([1, 2, "3"], False, "Answer with a list of 3 numbers."),
        (1, False, "Answer with a list of 3 numbers."),
    ],
)
def test_several_numbers(answer, right, reply):
    verdict = grade_numbers(
        answer, [1, 2, 3], tolerance=0.01, right="in order.", hint="Count.",
        slips=[([3, 2, 1], "That is backwards.")],
    )  # fmt: skip
    assert (verdict.right, verdict.reply) == (right, reply)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ([0.35, 0.33], "Not yet. The first slip."),  # both are within a hundredth: the nearest
        ([0.37, 0.33], "Not yet: number 0 is not 0.37. Think."),
        ([201.0, 0.17], "Not yet. The large slip."),  # half a percent of 200 is 1
        ([202.0, 0.17], "Not yet: number 0 is not 202. Think."),
    ],
)
def test_a_slip_is_known_from_two_decimals_and_the_nearest_is_meant(answer, reply):
    slips = [
        ([0.356, 0.328], "A slip near by."),
        ([0.351, 0.331], "The first slip."),
        ([200.0, 0.17], "The large slip."),
    ]
    verdict = grade_numbers(
        answer, [1.0, 0.5], tolerance=0.0005, right="", hint="Think.", slips=slips
    )
    assert (verdict.right, verdict.reply) == (False, reply)


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ((1, 2), (1, 2)),
        ([1.0, np.int64(2)], (1, 2)),
        (np.array([1, 2]), (1, 2)),
        (torch.tensor([1, 2]), (1, 2)),
        *[(bad, None) for bad in (3, "12", (1, 2, 3), (1, "2"), (1.5, 2), (-1, 0), (1, 8), {})],
        (torch.tensor(3), None),
        ((np.array([1, 2]), 2), None),
    ],
)
def test_a_head_is_two_whole_numbers(answer, place):
    found = as_head(answer, range(2), range(8))
    if place is None:
        assert not found.right
        assert "layers 0 to 1, heads 0 to 7" in found.reply
    else:
        assert found == place


@pytest.mark.parametrize(
    ("answer", "right", "reply"),
    [
        ("keys", True, "Right: they are kept."),
        ("queries", False, "Not 'queries'. Nobody asks twice."),
        ("cats", False, "Answer with one of: 'keys', 'queries'."),
        (3, False, "Answer with one of: 'keys', 'queries'."),
    ],
)
def test_a_choice(answer, right, reply):
    verdict = grade_choice(
        answer, "keys", ["keys", "queries"], right="they are kept.",
        hints={"queries": "Nobody asks twice."},
    )  # fmt: skip
    assert (verdict.right, verdict.reply) == (right, reply)


def test_what_a_number_is():
    assert as_number(np.int64(3)) == 3.0
    assert [as_number(value) for value in ("3", None, float("inf"), {}, torch.ones(2))] == [
        None
    ] * 5
