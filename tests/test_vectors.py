"""Rows that stand for tokens: cosines, neighbours, classes and the flat map, against formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import vectors
from llama_viz.training.word_classes import tokens_by_class, words_by_class
from tests.reference import random_model

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(40, 12))


def test_the_cosine_is_that_of_torch():
    torched = torch.nn.functional.cosine_similarity(
        torch.tensor(ROWS)[:, None], torch.tensor(ROWS)[None], dim=-1
    )
    np.testing.assert_allclose(vectors.cosine(ROWS), torched, atol=1e-12)
    assert vectors.cosine(ROWS[:3], ROWS).shape == (3, 40)
    assert np.isnan(vectors.cosine([[0.0, 0.0]], [[1.0, 0.0]])).all()


def test_the_nearest_rows_come_in_order_without_the_row_itself():
    rows = np.array([[1, 0], [2, 0.1], [0, 1], [-1, 0], [1, 1]])
    found = vectors.nearest(rows, 0, count=3)
    assert [row for row, _ in found] == [1, 4, 2]
    assert found[1][1] == pytest.approx(2**-0.5)
    assert len(vectors.nearest(rows, 0, count=99)) == 4


def test_rows_agree_with_their_class_or_with_chance():
    classes = ["a"] * 10 + ["b"] * 20
    rows = np.eye(12)[[0] * 10 + [1] * 20] + 0.01 * ROWS[:30]
    found = vectors.agreement(rows, classes)
    assert found.share == 1
    assert found.by_chance == pytest.approx((10 * 9 + 20 * 19) / 30 / 29)
    shuffled = [vectors.agreement(RNG.normal(size=(30, 12)), classes).share for _ in range(100)]
    assert np.mean(shuffled) == pytest.approx(found.by_chance, abs=0.05)
    with pytest.raises(
        ValueError, match="a class for each of at least two rows, got 30 rows and 2"
    ):
        vectors.agreement(rows, ["a", "b"])


def test_the_projection_is_onto_the_principal_components():
    rows = ROWS * np.linspace(3, 0.1, 12)
    found = vectors.project(rows)
    values, axes = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(found.shares, values[::-1][:2] / values.sum(), rtol=1e-10)
    along = (rows - rows.mean(axis=0)) @ axes[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found.points), np.abs(along), atol=1e-10)
    with pytest.raises(ValueError, match="2 axes need as many rows and features"):
        vectors.project(rows[:1])


def test_the_projection_keeps_its_sign():
    found = vectors.project(ROWS)
    again = vectors.project(-np.flip(-ROWS, axis=0))
    np.testing.assert_allclose(np.flip(again.points, axis=0), found.points, atol=1e-10)
    axes = np.linalg.lstsq(ROWS - ROWS.mean(axis=0), found.points, rcond=None)[0].T
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)


def test_the_tables_are_those_of_the_model():
    lm = lv.load("gqa")
    classes = tokens_by_class(lm.tokenizer)
    tables = vectors.token_tables(lm, classes)
    np.testing.assert_array_equal(tables["embedding"], lm.model.embedding.weight.detach())
    np.testing.assert_array_equal(tables["output_head"], lm.model.output.weight.detach())
    for name, ids in classes.items():
        assert set(tables["word_class"].values[ids]) == {name}
    n_named = sum(map(len, classes.values()))
    assert (tables["word_class"].values != "").sum() == n_named
    assert str(tables["token"].values[lm.tokenizer.bos_id]) == "<s>"
    before = tables["embedding"].values.copy()
    tables["embedding"].values[:] = 0
    np.testing.assert_array_equal(lm.model.embedding.weight.detach(), before)


def test_a_model_without_a_tokenizer_has_no_names_for_its_rows():
    nameless = SimpleNamespace(tokenizer=None, model=random_model("gqa").model)
    with pytest.raises(ValueError, match="load it with tokenizer="):
        vectors.token_tables(nameless)


def test_words_stand_in_one_class_and_their_tokens_are_the_whole_word():
    tokenizer = lv.load("gqa").tokenizer
    words = words_by_class()
    every = [word for of_class in words.values() for word in of_class]
    assert len(every) == len(set(every)) > 100
    assert "Lily" in words["girls"]
    assert "Tom" in words["boys"]
    classes = tokens_by_class(tokenizer)
    assert {"girls", "boys", "colours"} <= set(classes) <= set(words)
    for name, ids in classes.items():
        for token_id in ids:
            word = tokenizer.piece(token_id).removeprefix("\u2581")
            assert word in words[name]
            assert tokenizer.encode(word)[1:] == [token_id]
