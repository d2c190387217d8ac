"""The exercises of notebook 02: right answers, and slips that get a reply of their own."""

import pytest

import llama_viz as lv
from llama_viz import exercises
from llama_viz.config import PRESETS
from llama_viz.tokenizers.step_by_step import marked, merge_steps, piece_scores

WORD = "understanding"


@pytest.fixture(scope="module")
def tokenizer():
    return lv.load("gqa").tokenizer


def test_an_open_answer_is_asked_for(tokenizer):
    for verdict in (
        exercises.first_merge(tokenizer, None, word=WORD),
        exercises.token_count(tokenizer, None, text="🙂"),
        exercises.table_parameters(PRESETS["llama2-7b"], None),
    ):
        assert not verdict.right
        assert "in place of None" in repr(verdict)


def test_the_first_merge_is_found_and_others_are_told_why_not(tokenizer):
    scores = piece_scores(tokenizer)
    start = merge_steps(marked(WORD), scores)[0]
    pairs = {place: start.pieces[place] + start.pieces[place + 1] for place in range(13)}
    for place, pair in pairs.items():
        verdict = exercises.first_merge(tokenizer, pair, word=WORD)
        if pair == pairs[start.chosen]:
            assert verdict.right
        elif place in start.possible:
            assert f"its score is {scores[pair]:g}" in verdict.reply
        else:
            assert "the vocabulary has no such piece" in verdict.reply
    assert "two single letters" in exercises.first_merge(tokenizer, "under", word=WORD).reply
    assert "side by side" in exercises.first_merge(tokenizer, "gu", word=WORD).reply
    assert "in quotation marks" in exercises.first_merge(tokenizer, 7, word=WORD).reply


def test_a_leading_space_counts_as_its_mark(tokenizer):
    (best,) = {
        word[0] for word in ("the",)
        if merge_steps(marked(word), piece_scores(tokenizer))[0].chosen is not None
    }  # fmt: skip
    with_space = exercises.first_merge(tokenizer, f" {best}", word="the")
    with_mark = exercises.first_merge(tokenizer, f"▁{best}", word="the")
    assert with_space.right == with_mark.right
    assert "side by side" not in with_space.reply


def test_a_word_without_merges_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no two letters"):
        exercises.first_merge(tokenizer, "a", word="🙂")


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (10, "Right: 10 tokens, <s> ▁ <0xF0>"), (9, "begins every text"),
        (8, "two things in front"), (2, "counts characters"),
        (77, "8 bytes"), ("ten", "one number"),
    ],
)  # fmt: skip
def test_the_tokens_of_two_faces(tokenizer, answer, reply):
    verdict = exercises.token_count(tokenizer, answer, text="🙂🙂")
    assert verdict.right == (answer == 10)
    assert reply in verdict.reply


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (32000 * 8192, "Right: 32,000 rows of 8,192 numbers are 262,144,000 parameters, 0.4%"),
        (2 * 32000 * 8192, "output head"), (4 * 32000 * 8192, "bytes"),
        (80 * 32000 * 8192, "below all layers"), (32000 + 8192, "Multiply"),
        (32000**2, "one-hot"), (5, "One row for each token"),
    ],
)  # fmt: skip
def test_the_parameters_of_a_table(answer, reply):
    verdict = exercises.table_parameters(PRESETS["llama2-70b"], answer)
    assert verdict.right == (answer == 32000 * 8192)
    assert reply in verdict.reply
