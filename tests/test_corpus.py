"""The reader's own text: read or refused in one line, cut, held out, drawn row by row."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llama_viz.training.corpus import (
    LEAST_CHARACTERS,
    all_alike,
    example_text,
    frequency_loss,
    read_corpus,
)
from llama_viz.training.live import LIVE
from llama_viz.training.variants import build

RECIPE = replace(LIVE, vocab_size=400, rows=3, row_length=24)


@pytest.fixture(scope="module")
def text():
    return example_text(20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("corpus") / "my_text.txt"
    path.write_text(text, encoding="utf-8")
    return read_corpus(path, vocab_size=400)


def test_both_parts_together_are_the_text(corpus, text):
    parts = [corpus.tokenizer.decode([1, *part.tolist()])
             for part in (corpus.training, corpus.held_out)]  # fmt: skip
    assert "".join(parts) == text
    assert len(parts[1]) / len(text) == pytest.approx(0.1, abs=0.02)
    assert corpus.characters_per_token == pytest.approx(len(parts[1]) / len(corpus.held_out))


def test_the_tokenizer_has_not_seen_what_is_held_out(tmp_path):
    story = example_text(20)
    cut = int(0.9 * len(story))
    path = tmp_path / "text.txt"
    # A word that stands in the held-out part alone, often enough to become a piece.
    path.write_text(story[:cut] + " " + "zzyzzyx " * ((len(story) - cut) // 8), encoding="utf-8")
    pieces = {read_corpus(path, vocab_size=400).tokenizer.label(i) for i in range(400)}
    assert not any("zz" in piece for piece in pieces)


def test_rows_begin_with_bos_and_are_windows_of_the_training_part(corpus):
    rows, is_answer = corpus.batch(RECIPE, 7)
    assert rows.shape == is_answer.shape == (3, 25)
    assert not is_answer.any()
    windows = corpus.training.unfold(0, 24, 1)
    for row in rows:
        assert row[0] == corpus.tokenizer.bos_id
        assert (windows == row[1:]).all(dim=1).any()


def test_rows_depend_on_seed_and_step_alone(corpus):
    assert torch.equal(corpus.batch(RECIPE, 3).ids, corpus.batch(RECIPE, 3).ids)
    assert not torch.equal(corpus.batch(RECIPE, 3).ids, corpus.batch(RECIPE, 4).ids)
    other = replace(RECIPE, seed=1)
    assert not torch.equal(corpus.batch(RECIPE, 3).ids, corpus.batch(other, 3).ids)


def test_every_window_can_be_drawn(corpus):
    short = replace(RECIPE, rows=1, row_length=len(corpus.training) - 1, max_seq_len=10**6)
    starts = Counter(int(corpus.batch(short, step).ids[0, 1]) for step in range(40))
    assert set(starts) == {int(token) for token in corpus.training[:2]}


def test_the_held_out_loss_is_the_mean_over_its_rows(corpus):
    model = build(RECIPE)
    n_rows = len(corpus.held_out) // 24
    losses = []
    for row in range(n_rows):
        ids = torch.tensor([[1, *corpus.held_out[24 * row : 24 * (row + 1)].tolist()]])
        with torch.no_grad():
            losses.append(F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:]).item())
    assert n_rows > 24  # more than are measured: those are spread over the whole part
    chosen = [losses[n_rows * row // 24] for row in range(24)]
    assert corpus.held_out_loss(model, 24) == pytest.approx(sum(chosen) / 24, rel=1e-5)


def test_frequencies_by_hand():
    training, held_out = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2])
    # Counts 3, 1, 0, 0, each one higher: 4, 2, 1, 1 of 8.
    expected = (math.log(8 / 4) + math.log(8 / 1)) / 2
    assert frequency_loss(training, held_out, 4) == pytest.approx(expected, rel=1e-12)
    assert all_alike(4) == math.log(4)


def test_any_letters_come_back(tmp_path):
    path = tmp_path / "dante.txt"
    line = "Amor, ch'al cor gentil ratto s'apprende 🙂 愛\tend\r\n"
    path.write_bytes("\ufeff".encode() + (line * 200).encode())
    corpus = read_corpus(path, vocab_size=300)
    shown = corpus.tokenizer.decode([1, *corpus.training.tolist()])
    assert shown.startswith("Amor, ch'al cor gentil ratto s'apprende 🙂 愛\tend\nAmor")


def test_one_endless_line_is_learned_from(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text(example_text(20).replace("\n", " "), encoding="utf-8")
    corpus = read_corpus(path, vocab_size=400)
    assert corpus.characters_per_token > 1.5  # pieces were learned, not bytes alone


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; give the path of a text file"),
        (b"Too short.", f"has 10 characters, expected at least {LEAST_CHARACTERS:,}"),
        (b" " * 20_000, "has 0 characters, expected at least"),
        (b"\xff\xd8\xff\xe0" * 4000, "is not a text in UTF-8 .byte 0 cannot be read"),
        ("text ".encode("utf-16-le") * 4000, "is not a text in UTF-8 .it holds bytes that are 0"),
        (b"a" * 20_000, "no tokenizer of 512 tokens: .* Give a longer or more varied text"),
        (b"word " * 3_000_000, "has 15,000,000 bytes, expected at most 10,000,000"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path, content, message):
    path = tmp_path / "some.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"some.txt: .*{message}") as refusal:
        read_corpus(path)
    assert "\n" not in str(refusal.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a file; give the path of a text file"):
        read_corpus(tmp_path)


def test_a_part_shorter_than_a_row_is_refused(corpus):
    corpus.check_rows(24)
    with pytest.raises(ValueError, match=r"my_text.txt: the held-out part has \d+ tokens"):
        corpus.check_rows(len(corpus.held_out) + 1)
