"""The exercises of notebook 04: right answers, and slips that get their own reply."""

import math

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import analysis, exercises
from tests.reference import random_model

PLACE = {"layer": 1, "head": 5, "query_position": 20, "key_position": 3}
HEAD_DIM, DIM, POSITION, PAIR = 8, 64, 20, 1


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 30)


def angle(trace, answer):
    return exercises.angle_applied(trace, answer, position=POSITION, pair=PAIR)


def test_an_open_answer_is_asked_for(trace):
    for verdict in (
        exercises.wavelength(None, head_dim=128, pair=63),
        angle(trace, None),
        exercises.strongest_pair(trace, None, **PLACE),
    ):
        assert not verdict.right
        assert "in place of None" in repr(verdict)


def test_the_wavelength_by_the_formula_is_right():
    verdict = exercises.wavelength(2 * math.pi * 10000 ** (126 / 128), head_dim=128, pair=63)
    assert verdict.right
    assert repr(verdict) == "Right: pair 63 of 64 takes 54,410 positions for one turn."
    assert exercises.wavelength(54410, head_dim=128, pair=63).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (10000 ** (126 / 128), "turned by one radian"),
        (360 * 10000 ** (126 / 128), "a whole turn is 2 pi, not 360"),
        (2 * math.pi * 10000 ** (-126 / 128), "divide a whole turn"),
        (2 * math.pi * 10000, "Pairs are counted from 0"),
        (2 * math.pi * 100 ** (126 / 128), "The exponent has a 2"),
        (17, "divide a whole turn"),
        ("long", "one number"),
    ],
)
def test_each_slip_of_the_wavelength_gets_its_hint(answer, hint):
    verdict = exercises.wavelength(answer, head_dim=128, pair=63)
    assert not verdict.right
    assert hint in verdict.reply


def test_the_angle_is_right_up_to_whole_turns(trace):
    truth = POSITION * 10000 ** (-2 * PAIR / HEAD_DIM)
    for turns in (0, 1, -3):
        verdict = angle(trace, truth + turns * 2 * math.pi)
        assert verdict.right
        assert verdict.reply == "Right: 2.000 radians, or 0.32 turns."
    assert not angle(trace, truth + math.pi).right
    assert float(trace.rotation_angle.sel(position=POSITION, pair=PAIR)) == pytest.approx(truth)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (POSITION, "if the angle were the position"),
        (math.degrees(2.0), "in degrees"),
        (POSITION * 10000 ** (-PAIR / HEAD_DIM), "The exponent has a 2"),
        (POSITION * 10000 ** (-2 * PAIR / DIM), "the size of one head"),
        (POSITION * 10000 ** (2 * PAIR / HEAD_DIM), "the exponent is negative"),
        (0.5, "position x theta"),
        ([1, 2], "one number"),
    ],
)
def test_each_slip_of_the_angle_gets_its_hint(trace, answer, hint):
    verdict = angle(trace, answer)
    assert not verdict.right
    assert hint in verdict.reply


def test_the_strongest_pair_is_found_by_size(trace):
    split = analysis.score_by_pair(trace, layer=1, head=5, query_position=20).sel(key_position=3)
    added = split.values
    best, least = int(np.abs(added).argmax()), int(np.abs(added).argmin())
    assert exercises.strongest_pair(trace, best, **PLACE).right
    assert exercises.strongest_pair(trace, np.int64(best), **PLACE).right
    verdict = exercises.strongest_pair(trace, least, **PLACE)
    assert not verdict.right
    assert "the longest bar" in verdict.reply


def test_a_pair_that_takes_away_more_counts(trace):
    for key_position in range(20):  # somewhere the longest bar points down
        place = {**PLACE, "key_position": key_position}
        split = analysis.score_by_pair(trace, layer=1, head=5, query_position=20)
        added = split.sel(key_position=key_position).values
        if -added.min() > added.max() > 0:
            break
    verdict = exercises.strongest_pair(trace, int(added.argmax()), **place)
    assert not verdict.right
    assert "takes away more" in verdict.reply
    assert exercises.strongest_pair(trace, int(added.argmin()), **place).right


@pytest.mark.parametrize("answer", [4, -1, "fast", True, 1.5])
def test_what_is_no_pair_is_told_so(trace, answer):
    verdict = exercises.strongest_pair(trace, answer, **PLACE)
    assert not verdict.right
    assert "0 to 3" in verdict.reply
