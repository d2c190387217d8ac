"""Exercises of notebook 03: right answers, and a hint for each common slip."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import exercises
from llama_viz.analysis import added_size
from tests.reference import random_model

ROW = (1, 2, 2, 4)
PLACE = {"norm": 3, "position": 4, "feature": 5}


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 6)


def test_an_open_answer_is_asked_for(trace):
    for verdict in (
        exercises.rms_norm_by_hand(ROW, None),
        exercises.what_attention_reads(trace, None, **PLACE),
        exercises.largest_addition(trace, None),
    ):
        assert "in place of None" in verdict.reply


def test_rms_norm_by_hand():
    verdict = exercises.rms_norm_by_hand(ROW, [0.4, 0.8, 0.8, 1.6])
    assert verdict.right
    assert verdict.reply == "Right: the root mean square is 2.5."


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ([-1.147, -0.2294, -0.2294, 1.6059], "RMSNorm subtracts nothing"),
        ([-1.15, -0.23, -0.23, 1.61], "RMSNorm subtracts nothing"),
        ([0.2, 0.4, 0.4, 0.8], "the mean of the squares, not the sum"),
        ([0.16, 0.32, 0.32, 0.64], "take its root first"),
        ([0.4444, 0.8889, 0.8889, 1.7778], "square the numbers before the mean"),
        ([0.4, 0.8, 0.8, 1.5], "number 3 is not 1.5"),
        ([0.4, 0.8], "a list of 4 numbers"),
    ],
)
def test_each_slip_by_hand_gets_its_own_hint(answer, hint):
    verdict = exercises.rms_norm_by_hand(ROW, answer)
    assert not verdict.right
    assert hint in verdict.reply


def test_what_a_sublayer_reads(trace):
    x = float(trace.residual_middle[1, 4, 5])
    rms, gain = float(trace.rms[3, 4]), float(trace.norm_gain[3, 5])

    def grade(answer):
        return exercises.what_attention_reads(trace, answer, **PLACE)

    # The feed-forward of layer 1 reads it: what the run had there gives the gate.
    assert grade(x / rms * gain).right
    assert not grade(2 * x / rms * gain).right
    for wrong, hint in (
        (x / rms, "That is the scale alone"),
        (x * gain, "That is the gain alone"),
        (x * rms * gain, "The norm divides"),
        (x / rms**2 * gain, "divide by it once"),
        (17, "Divide the number of the residual stream"),
    ):
        verdict = grade(wrong)
        assert not verdict.right
        assert hint in verdict.reply


def test_another_norms_numbers_are_known(trace):
    """Norm 2 reads residual_in of layer 1, norm 3 residual_middle: easily taken for one another."""
    x, its_x = float(trace.residual_middle[1, 4, 5]), float(trace.residual_in[1, 4, 5])
    rms, its_rms = float(trace.rms[3, 4]), float(trace.rms[2, 4])
    gain, its_gain = float(trace.norm_gain[3, 5]), float(trace.norm_gain[2, 5])
    assert its_gain != gain
    for wrong, hint in (
        (its_x / its_rms * its_gain, "what norm 2 gives out"),
        (its_x / rms * gain, "the stream that norm 2 reads"),
        (x / its_rms * gain, "the rms of norm 2"),
        (x / rms * its_gain, "the gain of norm 2"),
    ):
        verdict = exercises.what_attention_reads(trace, wrong, **PLACE)
        assert not verdict.right
        assert hint in verdict.reply


def test_the_largest_addition_is_found(trace):
    ratios = added_size(trace)
    place = np.unravel_index(ratios.values.argmax(), ratios.shape)
    name = ("attention", "feed_forward")
    assert exercises.largest_addition(trace, (int(place[0]), name[place[1]])).right
    place = np.unravel_index(ratios.values.argmin(), ratios.shape)
    wrong = exercises.largest_addition(trace, (int(place[0]), name[place[1]]))
    assert not wrong.right
    assert "another sublayer adds more" in wrong.reply


@pytest.mark.parametrize(
    "answer",
    [
        3,
        (9, "attention"),
        (0, "norm"),
        "no",
        (0, "attention", 1),
        ("0", "attention"),
        (np.array([0, 1]), "attention"),
    ],
)
def test_an_answer_that_names_no_sublayer_is_told_how(trace, answer):
    verdict = exercises.largest_addition(trace, answer)
    assert not verdict.right
    assert 'layer, 0 to 2, and a sublayer, "attention" or "feed_forward"' in verdict.reply
