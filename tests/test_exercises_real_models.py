"""The exercises of notebook 10: right answers, and slips that get their own reply."""

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import analysis, exercises
from llama_viz.checkpoints.rope_layout import half_split_from_interleaved
from tests.reference import random_model

ROW = {"head_dim": 16, "head": 3, "feature": 5}
LLAMA = lv.PRESETS["llama2-7b"]


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa", n_layers=6), [5, 6, 7], 20)


def test_an_open_answer_is_asked_for(trace):
    for verdict in (
        exercises.half_split_row(None, **ROW),
        exercises.weight_bytes(LLAMA, None, kind="Q4_0"),
        exercises.layer_that_looks_first(trace, None),
    ):
        assert not verdict.right
        assert "in place of None" in repr(verdict)


@pytest.mark.parametrize("feature", range(16))
def test_the_row_is_the_one_where_the_loader_finds_it(feature):
    numbered = torch.arange(4 * 16)[:, None]
    stored = half_split_from_interleaved(numbered, 16)[:, 0].tolist()
    row = stored.index(3 * 16 + feature)
    assert exercises.half_split_row(row, head_dim=16, head=3, feature=feature).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (53, "interleaved layout"),
        (10, "inside the head"),
        (50, "Even features are the first"),
        (61, "not the feature: 5 // 2"),
        (7, "Find its pair"),
        ("row", "one number"),
    ],
)
def test_each_slip_of_the_row_gets_its_hint(answer, hint):
    verdict = exercises.half_split_row(answer, **ROW)
    assert not verdict.right
    assert hint in verdict.reply
    assert exercises.half_split_row(58, **ROW).right


def test_the_bytes_by_the_blocks_are_right():
    verdict = exercises.weight_bytes(LLAMA, LLAMA.n_parameters / 32 * 18, kind="Q4_0")
    assert verdict.right
    assert "4.5 bits each" in verdict.reply
    assert exercises.weight_bytes(LLAMA, LLAMA.n_parameters * 34 / 32, kind="Q8_0").right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (LLAMA.n_parameters * 18, "32 of them share one"),
        (LLAMA.n_parameters / 2, "The scale of each block"),
        (LLAMA.n_parameters * 4.5, "in bits"),
        (LLAMA.n_parameters * 4, "float32"),
        (3.79, "not in gigabytes"),
        (1e9, "share a block of 18 bytes"),
        (1234567890, "Not 1,234,567,890."),
    ],
)
def test_each_slip_of_the_bytes_gets_its_hint(answer, hint):
    verdict = exercises.weight_bytes(LLAMA, answer, kind="Q4_0")
    assert not verdict.right
    assert hint in verdict.reply


def test_the_layer_is_found_by_the_mean_of_its_heads(trace):
    share = analysis.head_kinds(trace).sel(kind="first").mean("head").values
    for layer in range(6):
        verdict = exercises.layer_that_looks_first(trace, layer)
        assert verdict.right == (layer == share.argmax())
        assert f"layer {layer} gives {share[layer]:.0%}" in verdict.reply
    least = exercises.layer_that_looks_first(trace, np.int64(share.argmin()))
    assert "the least of all" in least.reply


def test_the_layer_of_one_strong_head_is_told_apart(trace):
    strong = trace.copy(deep=True)
    first = strong.attention_weights[:, :, 2:, 0]
    first[:] = 0.05
    first[1] = 0.5  # the most in the mean
    first[4], first[4, 0] = 0.1, 0.99  # the head with the most
    assert exercises.layer_that_looks_first(strong, 1).right
    assert "but take the mean" in exercises.layer_that_looks_first(strong, 4).reply


@pytest.mark.parametrize("answer", [6, -1, "last", True, 1.5])
def test_what_is_no_layer_is_told_so(trace, answer):
    verdict = exercises.layer_that_looks_first(trace, answer)
    assert not verdict.right
    assert "0 to 5" in verdict.reply
