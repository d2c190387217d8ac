"""The exercises of notebook 07: right answers, slips that get their own hint, and nonsense."""

import pytest

import llama_viz as lv
from llama_viz import cost, exercises
from tests.reference import random_model

TINYLLAMA, LLAMA = lv.PRESETS["tinyllama-1.1b"], lv.PRESETS["llama2-7b"]


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 12)


def test_open_answers_are_asked_for(trace):
    for verdict in (
        exercises.shared_head(TINYLLAMA, None, head=21),
        exercises.ungrouped_cache(trace, None),
        exercises.texts_that_fit(LLAMA, None, context=2048, card_bytes=40 * cost.GB),
    ):
        assert verdict is exercises.NOT_YET


@pytest.mark.parametrize(("head", "truth"), [(0, 0), (7, 0), (8, 1), (21, 2), (31, 3)])
def test_the_shared_head(head, truth):
    verdict = exercises.shared_head(TINYLLAMA, truth, head=head)
    assert verdict.right
    assert f"{head} // 8 is {truth}" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (1, "not dealt in turns"),  # 21 % 4
        (5, "its place within its group"),  # 21 % 8
        (3, "counted from 0"),
        (21, "That would be MHA"),
        (17, "8 neighbours share each of the 4 key/value heads"),
        ("two", "Answer with one number"),
    ],
)
def test_slips_in_the_shared_head(answer, hint):
    verdict = exercises.shared_head(TINYLLAMA, answer, head=21)
    assert not verdict.right
    assert hint in verdict.reply


def bytes_of(trace):
    """By the formula, with a key/value head for each of the eight query heads."""
    config = lv.ModelConfig(**{**trace.attrs["config"], "n_kv_heads": 8})
    return config.kv_cache_bytes(trace.sizes["position"])


def test_the_cache_without_groups(trace):
    verdict = exercises.ungrouped_cache(trace, bytes_of(trace))
    assert verdict.right
    assert f"{bytes_of(trace):,}" in verdict.reply


def test_slips_in_the_cache_without_groups(trace):
    held = int(trace.cache_bytes_used[-1].sum())
    times = 8 // trace.sizes["key_value_head"]
    assert bytes_of(trace) == times * held
    for answer, hint in (
        (held, "with its groups"),
        (8 * held, "more than one key/value head already"),
        (times * held / 3, "That is one layer"),
        (times * held / 2, "Keys and values are both kept"),
        (times * int(trace.cache_bytes_used.sum()), "Only the last step counts"),
        (131.072, "Not 131.072. Add up"),
        (1, "How many times as many"),
    ):
        verdict = exercises.ungrouped_cache(trace, answer)
        assert not verdict.right
        assert hint in verdict.reply


def test_an_mha_run_has_no_slips_that_are_right():
    trace = lv.record(random_model("mha"), [5, 6, 7], 4)
    assert exercises.ungrouped_cache(trace, int(trace.cache_bytes_used[-1].sum())).right


def fit(answer):
    return exercises.texts_that_fit(LLAMA, answer, context=2048, card_bytes=40 * cost.GB)


def test_the_texts_that_fit():
    left = 40e9 - 2 * 6_738_415_616
    per_text = 2 * 32 * 32 * 128 * 2048 * 2
    assert fit(left // per_text).right
    assert "26.52 GB are left beside the weights, and each text takes 1.07 GB" in fit(24).reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (40e9 // (2 * 32 * 32 * 128 * 2048 * 2), "The weights must be there, too"),
        (25, "does not fit as a whole"),
        (2, "once, for all texts together"),
        (49, "Keys and values are both kept"),
        (12, "twice the positions"),
        (7, "divide what is left"),
        (True, "Answer with one number"),
    ],
)
def test_slips_in_the_texts_that_fit(answer, hint):
    verdict = fit(answer)
    assert not verdict.right
    assert hint in verdict.reply
