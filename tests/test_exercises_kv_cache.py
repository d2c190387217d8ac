"""The exercises of notebook 06: right answers, slips that get their own hint, and nonsense."""

import pytest

import llama_viz as lv
from llama_viz import exercises, surgery
from tests.reference import random_model

LLAMA = lv.PRESETS["llama2-7b"]
BATCH = {"positions": 1000, "batch_size": 3}
BYTES = 2 * 32 * 32 * 128 * 1000 * 3 * 2
IDS = [1, 7, 3, 9, 4, 7]


@pytest.fixture(scope="module")
def lm():
    return random_model("gqa")


@pytest.fixture(scope="module")
def missed(lm):
    """The KL divergence of each position that can be dropped."""
    return [
        surgery.compare(lm, IDS, surgery.drop, positions=[held], max_new_tokens=1).kl_divergence
        for held in range(len(IDS) - 1)
    ]


def test_open_answers_are_asked_for(lm):
    for verdict in (
        exercises.scores_computed(None, n_prompt=5, n_steps=4),
        exercises.batch_cache_bytes(LLAMA, None, **BATCH),
        exercises.most_missed_position(lm, IDS, None),
    ):
        assert verdict is exercises.NOT_YET


def test_the_scores_of_one_head():
    verdict = exercises.scores_computed(25 + 6 + 7 + 8, n_prompt=5, n_steps=4)
    assert verdict.right
    assert "5 × 5 in the prefill, then 6 + 7 + 8: 46" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (25 + 36 + 49 + 64, "without a cache"),
        (5 + 6 + 7 + 8, "a query for each token"),
        (25 + 5 + 6 + 7, "looks at itself"),
        (15 + 6 + 7 + 8, "it is a square"),
        (25 + 6 + 7 + 8 + 9, "does not pass through"),
        (17, "The prefill is a square;"),
        ("many", "one number"),
    ],
)
def test_slips_in_the_scores(answer, hint):
    verdict = exercises.scores_computed(answer, n_prompt=5, n_steps=4)
    assert not verdict.right
    assert hint in verdict.reply


def test_the_bytes_of_a_batch():
    verdict = exercises.batch_cache_bytes(LLAMA, BYTES, **BATCH)
    assert verdict.right
    assert "1,572,864,000 bytes: 1.57 GB" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (BYTES // 2, "both kept. Or: Each number takes 2 bytes."),
        (BYTES // 3, "Each text of the batch"),
        (BYTES // 32, "cache of its own. Or: Every key/value head"),
        (BYTES * 2, "2 bytes here, not 4"),
        (1.572864, "Not 1.57286. Answer in bytes, not in gigabytes."),
        (1.57e9, "Not 1,570,000,000. Nearly: it is a count"),
        (17, "Multiply 2 × layers"),
    ],
)
def test_slips_in_the_bytes(answer, hint):
    verdict = exercises.batch_cache_bytes(LLAMA, answer, **BATCH)
    assert not verdict.right
    assert hint in verdict.reply


def test_half_of_the_bytes_is_told_from_numbers_where_the_two_differ():
    four = {**BATCH, "itemsize": 4}
    halved = exercises.batch_cache_bytes(LLAMA, BYTES, **four)
    assert halved.reply == "Not 1,572,864,000. Keys and values are both kept."
    counted = exercises.batch_cache_bytes(LLAMA, BYTES // 2, **four)
    assert "Not 786,432,000. Each number takes 4 bytes." in counted.reply


def test_the_position_that_is_missed_most(lm, missed):
    best = max(range(len(missed)), key=missed.__getitem__)
    verdict = exercises.most_missed_position(lm, IDS, best)
    assert verdict.right
    assert f"position {best}" in verdict.reply


def test_another_position_hears_how_many_are_missed_more(lm, missed):
    order = sorted(range(len(missed)), key=lambda held: -missed[held])
    second = exercises.most_missed_position(lm, IDS, order[1])
    assert not second.right
    assert "and 1 row would be missed more" in second.reply
    last = exercises.most_missed_position(lm, IDS, order[-1])
    assert f"and {len(missed) - 1} rows would be missed more" in last.reply


@pytest.mark.parametrize("answer", [5, -1, 0.5, "0", [1], True])
def test_what_is_no_position_is_refused(lm, answer):
    verdict = exercises.most_missed_position(lm, IDS, answer)
    assert not verdict.right
    assert "0 to 4" in verdict.reply
