"""Merges and longest matches written out: beside the libraries, and by hand."""

from itertools import pairwise

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models

from llama_viz.tokenizer import Tokenizer
from llama_viz.tokenizers.step_by_step import (
    Learned,
    learn_merges,
    longest_match,
    marked,
    merge_steps,
    piece_scores,
    pieces_of,
    with_bytes,
)
from llama_viz.training.stories import tell_story
from llama_viz.training.tokenizer import train_tokenizer
from tests.vocabularies import SAMPLES, byte_level_json, sentence_piece_model

STRANGE = [
    "", " ", "  two  spaces ", "🙂", "naïve 漢字 🙂", "<s> </s> <unk>", "a\nb\tc\0", "<0x41>",
    "\u2581\u2581", "$x$ &amp; <img src=x>", "aaaaaaa", "שלום", "e\u0301",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(512, n_stories=60)


def test_the_merges_end_at_the_tokens_of_the_library(tokenizer):
    scores = piece_scores(tokenizer)
    stories = [tell_story(number).text for number in range(5)]
    words = [word for number in range(60) for word in tell_story(number).text.split()]
    for text in (*stories, *set(words), *STRANGE):
        ids = tokenizer.encode(text)[1:]
        assert pieces_of(text, scores) == [tokenizer.piece(token_id) for token_id in ids], text


def test_they_do_so_for_a_tokenizer_made_as_that_of_llama_2():
    tokenizer = Tokenizer.from_bytes(sentence_piece_model())
    scores = piece_scores(tokenizer)
    for text in (*STRANGE, *SAMPLES):
        ids = tokenizer.encode(text)[1:]
        assert pieces_of(text, scores) == [tokenizer.piece(token_id) for token_id in ids], text


def test_every_step_joins_the_best_pair(tokenizer):
    scores = piece_scores(tokenizer)
    steps = merge_steps(marked("Lily wanted breakfast"), scores)
    assert steps[0].pieces == list("▁Lily▁wanted▁breakfast")
    for before, after in pairwise(steps):
        place = before.chosen
        assert before.possible[place] == max(before.possible.values())
        joined = before.pieces[place] + before.pieces[place + 1]
        assert after.pieces == [*before.pieces[:place], joined, *before.pieces[place + 2 :]]
        assert scores[joined] == before.possible[place]
    assert steps[-1].possible == {}
    assert steps[-1].chosen is None


def test_of_equal_scores_the_leftmost_is_joined():
    steps = merge_steps("aaaa", {"aa": -1.0})
    assert [step.pieces for step in steps] == [list("aaaa"), ["aa", "a", "a"], ["aa", "aa"]]


def test_control_tokens_and_bytes_are_no_pieces(tokenizer):
    scores = piece_scores(tokenizer)
    assert not {"<s>", "</s>", "<unk>", "<0x41>"} & set(scores)
    assert len(scores) == tokenizer.vocab_size - 3 - 256


def test_a_tokenizer_without_scores_is_refused():
    tokenizer = Tokenizer.from_bytes(byte_level_json())
    with pytest.raises(ValueError, match="has no scores to merge by; give a SentencePiece model"):
        piece_scores(tokenizer)


def test_what_is_not_known_is_spelled_in_bytes():
    assert with_bytes(["ab", "é", "🙂"], {"ab"}) == [
        "ab", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>",
    ]  # fmt: skip


def test_merges_are_learned_as_in_the_paper():
    counted = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    learned = learn_merges(counted, 5)
    assert learned == [
        Learned("es", 9), Learned("est", 9), Learned("▁l", 7), Learned("▁lo", 7), Learned("▁low", 7)
    ]  # fmt: skip
    assert learn_merges({"ab": 1}, 9) == [Learned("▁a", 1), Learned("▁ab", 1)]
    assert learn_merges({}, 3) == []
    assert learn_merges({"aaaa": 1}, 1) == [Learned("aa", 3)]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("icecream", ["ice", "##cream"]), ("ice", ["ice"]), ("", []),
        ("ices", ["[UNK]"]), ("ball", ["[UNK]"]), ("icei", ["[UNK]"]),
    ],
)  # fmt: skip
def test_the_longest_match_by_hand(word, found):
    assert longest_match(word, {"i", "ice", "##c", "##cream"}) == found


def test_the_longest_match_is_that_of_a_library():
    words = sorted({word for number in range(20) for word in tell_story(number).text.split()})
    letters = {letter for word in words for letter in word}
    pieces = ["[UNK]", *letters, "he", "wa", "the", "Lil", *(f"##{x}" for x in letters - {"y"}),
              "##er", "##ere", "##ed", "##ing"]  # fmt: skip
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    library = Library(models.WordPiece(vocabulary, unk_token="[UNK]"))
    found = {word: longest_match(word, vocabulary) for word in words}
    assert found == {word: library.encode(word).tokens for word in words}
    assert ["[UNK]"] in found.values()
    assert any(len(cut) > 2 for cut in found.values())
