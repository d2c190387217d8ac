"""The exercises of notebook 05: right answers, slips that get their own hint, and nonsense."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import exercises
from tests.reference import random_model

HERE = {"layer": 1, "head": 3, "query_position": 2}


@pytest.fixture(scope="module")
def trace():
    """The random model's scores are small; wide ones tell right answers from slips."""
    trace = lv.record(random_model("gqa"), [5, 6, 7], 12)
    scores = trace.attention_scores.copy(deep=True)
    weights = trace.attention_weights.copy(deep=True)
    scores[1, 3, 2, :3] = [1.5, -0.5, 0.25]
    weights[1, 3, 2, :3] = np.exp([1.5, -0.5, 0.25]) / np.exp([1.5, -0.5, 0.25]).sum()
    return trace.assign(attention_scores=scores, attention_weights=weights)


SCORES = np.array([1.5, -0.5, 0.25])


def test_open_answers_are_asked_for(trace):
    for verdict in (
        exercises.attention_row(trace, None, **HERE),
        exercises.farthest_head(trace, None),
        exercises.score_bytes(lv.PRESETS["llama2-7b"], None, length=4096),
    ):
        assert verdict is exercises.NOT_YET


def test_a_row_of_weights(trace):
    right = np.exp(SCORES) / np.exp(SCORES).sum()
    assert exercises.attention_row(trace, right, **HERE).right
    assert exercises.attention_row(trace, right.round(3).tolist(), **HERE).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (np.exp(SCORES), "divide each by their sum"),
        (np.exp(SCORES).round(2), "divide each by their sum"),
        (SCORES / SCORES.sum(), "Take e to each score before"),
        (np.exp(SCORES / 8**0.5) / np.exp(SCORES / 8**0.5).sum(), "root of the head's size alre"),
        ([0.7, 0.1, 0.2], "Take e to each score, and divide"),
        ([0.7, 0.3], "a list of 3 numbers"),
        ("abc", "a list of 3 numbers"),
        (3, "a list of 3 numbers"),
    ],
)
def test_slips_in_a_row(trace, answer, hint):
    verdict = exercises.attention_row(trace, answer, **HERE)
    assert not verdict.right
    assert hint in verdict.reply


def test_a_slip_from_the_printed_scores_is_known(trace):
    """e to 5.3084 is known to four digits only where the score is printed with four decimals."""
    scores = trace.attention_scores.copy(deep=True)
    scores[1, 3, 2, :3] = [5.30841, 5.09034, 5.04986]
    slip = np.exp([5.3084, 5.0903, 5.0499])
    verdict = exercises.attention_row(trace.assign(attention_scores=scores), slip, **HERE)
    assert "divide each by their sum" in verdict.reply


def distances(trace):
    back = trace.query_position - trace.key_position
    return (trace.attention_weights * back).sum("key_position").mean("query_position").values


def test_the_head_that_looks_farthest_back(trace):
    far = np.unravel_index(distances(trace).argmax(), (3, 8))
    near = np.unravel_index(distances(trace).argmin(), (3, 8))
    assert exercises.farthest_head(trace, far).right
    assert "which is the least" in exercises.farthest_head(trace, near).reply
    other = next(place for place in np.ndindex(3, 8) if place not in (tuple(far), tuple(near)))
    assert "another head looks farther" in exercises.farthest_head(trace, other).reply


@pytest.mark.parametrize("answer", [(3, 0), (0, 8), (-1, 0), 5, (1,), ("a", "b"), (0.5, 1), "12"])
def test_what_is_no_head_is_refused(trace, answer):
    verdict = exercises.farthest_head(trace, answer)
    assert not verdict.right
    assert "layers 0 to 2, heads 0 to 7" in verdict.reply


def test_the_bytes_of_all_scores():
    verdict = exercises.score_bytes(lv.PRESETS["llama2-7b"], 32 * 4096 * 4096 * 4, length=4096)
    assert verdict.right
    assert "2,147,483,648" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (32 * 4096**2, "a float32 takes 4 bytes"),
        (4096**2 * 4, "Every head has scores of its own"),
        (32 * 4096 * 4, "each of the queries meets each"),
        (32 * 4096 * 4097 // 2 * 4, "the masked half is computed"),
        (32 * 32 * 4096**2 * 4, "That is all layers"),
        (17, "Multiply heads"),
    ],
)
def test_slips_in_the_bytes(answer, hint):
    verdict = exercises.score_bytes(lv.PRESETS["llama2-7b"], answer, length=4096)
    assert not verdict.right
    assert hint.lower() in verdict.reply.lower()
