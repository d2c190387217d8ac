"""The exercises of notebook 08: right answers, slips that get their own hint, and nonsense."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import exercises
from tests.reference import random_model

PLACE = {"layer": 1, "position": 5, "neuron": 7}
ROW = {"layer": 0, "position": 7, "threshold": 0.1}


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 12)


def test_open_answers_are_asked_for(trace):
    for verdict in (
        exercises.feed_forward_width(6656, None),
        exercises.gated_product(trace, None, **PLACE),
        exercises.neurons_below(trace, None, **ROW),
    ):
        assert verdict is exercises.NOT_YET


@pytest.mark.parametrize("name", ["llama-7b", "llama-13b", "llama-33b", "llama-65b"])
def test_the_width_is_that_of_the_published_models(name):
    config = lv.PRESETS[name]
    assert exercises.feed_forward_width(config.dim, config.hidden_dim).right


def test_the_width_says_how_it_comes():
    reply = exercises.feed_forward_width(6656, 17920).reply
    assert reply == "Right: two thirds of 26,624 are 17,749, and 70 times 256 are 17,920."


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (4 * 6656 * 2 / 3, "not yet rounded"),
        (17749, "rounded up to a multiple of 256"),
        (17664, "Round up"),
        (26624, "the width with two matrices"),
        (20480, "a multiple of 4096"),
        (4608, "not of the width"),
        (18000, "Take two thirds of 4 times the width"),
        ("many", "Answer with one number"),
    ],
)
def test_slips_in_the_width(answer, hint):
    verdict = exercises.feed_forward_width(6656, answer)
    assert not verdict.right
    assert hint in verdict.reply


def test_a_width_that_needs_no_rounding_has_no_slips_that_are_right():
    assert exercises.feed_forward_width(576, 1536).right


def numbers(trace):
    gate, up = (float(trace[name].values[1, 5, 7]) for name in ("gate", "up"))
    return gate, up, 1 / (1 + np.exp(-gate))


def test_the_gated_product_is_the_recorded_one(trace):
    assert exercises.gated_product(trace, float(trace.neuron_activation[1, 5, 7]), **PLACE).right
    gate, up, open_by = numbers(trace)
    assert exercises.gated_product(trace, gate * open_by * up, **PLACE).right


def test_slips_in_the_gated_product(trace):
    gate, up, open_by = numbers(trace)
    for answer, hint in (
        (gate * up, "the bilinear kind"),
        (open_by * up, "That is GLU"),
        (max(gate, 0) * up, "That is ReGLU"),
        (gate * up / (1 + np.exp(-up)), "up stays as it is"),
        (gate * open_by, "That is SiLU(gate)"),
        (gate * open_by + up, "multiplied, not added"),
        (17, "x / (1 + e^-x)"),
        ([1, 2], "Answer with one number"),
    ):
        verdict = exercises.gated_product(trace, answer, **PLACE)
        assert not verdict.right
        assert hint in verdict.reply


def test_a_neuron_that_is_not_there_is_told(trace):
    with pytest.raises(ValueError, match="neuron"):
        exercises.gated_product(trace, 1, layer=1, position=5, neuron=10_000)


def test_the_neurons_below_a_threshold(trace):
    row = trace.neuron_activation.values[0, 7]
    truth = sum(1 for value in row.tolist() if -0.1 < value < 0.1)
    assert 0 < truth < len(row)
    verdict = exercises.neurons_below(trace, truth, **ROW)
    assert verdict.right
    assert f"{truth} of {len(row)} neurons" in verdict.reply
    for answer, hint in (
        (int((row < 0.1).sum()), "Large negative numbers"),
        (len(row) - truth, "at or above the threshold"),
        (truth / len(row), "their share"),
        (100 * truth / len(row), "in percent"),
        (int((abs(trace.neuron_activation.values[0]) < 0.1).sum()), "of all positions together"),
        (truth + 0.5, "size is below 0.1"),
        (None, "Not answered yet"),
    ):
        verdict = exercises.neurons_below(trace, answer, **ROW)
        assert not verdict.right
        assert hint in verdict.reply
