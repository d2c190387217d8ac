"""The exercises of notebook 09: right answers, slips that get their own hint, and nonsense."""

import math

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import exercises
from llama_viz.generation import Sampling
from tests.reference import random_model

POSITION = 4
LOGITS = torch.tensor([3.0, 1.0, 2.2, 1.5, 0.0])  # the others are far below


@pytest.fixture(scope="module")
def trace():
    trace = lv.record(random_model("gqa"), [5, 6, 7], 6)
    logits = trace.logits.copy(deep=True)
    logits[POSITION] = -40.0
    logits[POSITION, 10:15] = LOGITS.numpy()
    return trace.assign(logits=logits)


def test_open_answers_are_asked_for(trace):
    for verdict in (
        exercises.times_as_likely(trace, None, position=POSITION, temperature=2.0),
        exercises.effective_choices(trace, None, position=POSITION),
        exercises.tokens_kept(trace, None, position=POSITION, top_p=0.8),
    ):
        assert verdict is exercises.NOT_YET


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_times_as_likely_is_what_the_sampler_draws_from(trace, temperature):
    drawn = Sampling(temperature).distribution(torch.tensor(trace.logits.values[POSITION]))
    answer = float(drawn[10] / drawn[12])
    settings = {"position": POSITION, "temperature": temperature}
    assert exercises.times_as_likely(trace, answer, **settings).right
    assert exercises.times_as_likely(trace, float(f"{answer:.3g}"), **settings).right
    assert not exercises.times_as_likely(trace, 1.02 * answer, **settings).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (math.exp(0.8), "That is at temperature 1"),
        (math.exp(1.6), "divided by the temperature, not multiplied"),
        (0.4, "Now take e to it"),
        (math.exp(0.8) / 2, "before you take e"),
        (math.exp(-0.4), "the second beside the first"),
        (17, "the same sum below them"),
        ("1.49", "Answer with one number"),
    ],
)
def test_slips_in_times_as_likely(trace, answer, hint):
    verdict = exercises.times_as_likely(trace, answer, position=POSITION, temperature=2.0)
    assert not verdict.right
    assert hint in verdict.reply


def test_two_digits_are_nearly_enough(trace):
    at_one = {"position": POSITION, "temperature": 1.0}  # e^0.8 = 2.2255
    verdict = exercises.times_as_likely(trace, 2.2, **at_one)
    assert not verdict.right
    assert "three digits" in verdict.reply
    assert exercises.times_as_likely(trace, 2.23, **at_one).right
    likely = trace.assign(logits=trace.logits * 1.7)  # perplexity 2.2750
    verdict = exercises.effective_choices(likely, 2.3, position=POSITION)
    assert "three digits" in verdict.reply


ENTROPY = float(torch.distributions.Categorical(logits=LOGITS.double()).entropy())


def test_effective_choices_are_the_perplexity(trace):
    verdict = exercises.effective_choices(trace, math.exp(ENTROPY), position=POSITION)
    assert verdict.right
    assert f"{ENTROPY / math.log(2):.3f} bits" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (ENTROPY, "entropy in nats; take e to it"),
        (ENTROPY / math.log(2), "entropy in bits; take 2 to it"),
        (2**ENTROPY, "To nats belongs e"),
        (math.exp(ENTROPY / math.log(2)), "To bits belongs 2"),
        (math.exp(-ENTROPY), "a minus before it"),
        (120, "Add up -p ln p"),
    ],
)
def test_slips_in_effective_choices(trace, answer, hint):
    verdict = exercises.effective_choices(trace, answer, position=POSITION)
    assert not verdict.right
    assert hint in verdict.reply


@pytest.mark.parametrize("top_p", [0.3, 0.8, 0.95])
def test_tokens_kept_are_what_the_sampler_keeps(trace, top_p):
    logits = torch.tensor(trace.logits.values[POSITION])
    kept = int((Sampling(1.0, top_p=top_p).distribution(logits) > 0).sum())
    assert exercises.tokens_kept(trace, kept, position=POSITION, top_p=top_p).right
    assert exercises.tokens_kept(trace, np.int64(kept), position=POSITION, top_p=top_p).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (2, "the token that crosses it is kept, too"),
        (120, "That is the whole vocabulary"),
        (117, "how many are cut off"),
        (5, "count until the sum reaches 0.8"),
    ],
)
def test_slips_in_tokens_kept(trace, answer, hint):
    verdict = exercises.tokens_kept(trace, answer, position=POSITION, top_p=0.8)
    assert not verdict.right
    assert hint in verdict.reply


def test_an_unknown_position_lists_the_choices(trace):
    with pytest.raises(ValueError, match="position"):
        exercises.tokens_kept(trace, 3, position=99, top_p=0.8)
