"""The exercises: right answers, wrong answers that get help, and answers of the wrong kind."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import exercises
from tests.reference import random_model


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 12)


def test_an_open_answer_is_asked_for(trace):
    for verdict in (
        exercises.cache_bytes(trace, None, step=5),
        exercises.head_that_looks(trace, None, query_position=9, key_position=4),
        exercises.surprise(trace, None),
    ):
        assert not verdict.right
        assert "in place of None" in repr(verdict)


def test_cache_bytes_by_the_formula_is_right(trace):
    by_formula = 2 * 3 * 2 * 8 * (3 + 5) * 4
    verdict = exercises.cache_bytes(trace, by_formula, step=5)
    assert verdict.right
    assert repr(verdict) == "Right: 8 positions take 3,072 bytes."


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (3072 // 2, "Keys and values are both kept"),
        (3072 // 3, "Every layer has a cache of its own"),
        (3072 // 4, "a float32 takes 4 bytes"),
        (3072 * 4, "Only key/value heads are cached"),
        (3072 * 5 // 8, "The tokens of the prompt are in the cache too"),
        (3072 * 9 // 8, "it passes through the model in the next step"),
        (17, "Multiply 2"),
    ],
)
def test_each_slip_gets_its_own_hint(trace, answer, hint):
    verdict = exercises.cache_bytes(trace, answer, step=5)
    assert not verdict.right
    assert hint in verdict.reply


@pytest.mark.parametrize("answer", ["3072", [3072], {}, float("nan"), True])
def test_what_is_no_number_of_bytes_is_said_in_words(trace, answer):
    assert "one number" in exercises.cache_bytes(trace, answer, step=5).reply


def test_the_head_that_looks_there_is_found(trace):
    weights = trace.attention_weights.values[:, :, 9, 4]
    best, worst = (
        tuple(int(number) for number in np.unravel_index(index, weights.shape))
        for index in (weights.argmax(), weights.argmin())
    )
    there = {"query_position": 9, "key_position": 4}
    assert exercises.head_that_looks(trace, best, **there).right
    wrong = exercises.head_that_looks(trace, worst, **there)
    assert not wrong.right
    assert "follow row 9 to column 4" in wrong.reply


@pytest.mark.parametrize("answer", [3, (9, 0), (0, 8), "no", (1, 2, 3), (-1, 0)])
def test_an_answer_that_names_no_head_is_told_how(trace, answer):
    verdict = exercises.head_that_looks(trace, answer, query_position=9, key_position=4)
    assert not verdict.right
    assert "layers 0 to 2, heads 0 to 7" in verdict.reply


def test_the_least_likely_token_is_found(trace):
    probabilities = trace.sampled_probability.values
    assert exercises.surprise(trace, int(probabilities.argmin())).right
    wrong = exercises.surprise(trace, int(probabilities.argmax()))
    assert not wrong.right
    assert "less sure" in wrong.reply
    for answer in (99, "3", [3], 2.5, np.array([1, 2]), True):
        assert "0 to 11" in exercises.surprise(trace, answer).reply
