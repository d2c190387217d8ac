"""The exercises of notebook 01: right answers, slips that get their own hint, and nonsense."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import exercises
from llama_viz.config import PRESETS
from tests.reference import random_model

AT = {"layer": 1, "position": 4, "feature": 3}


@pytest.fixture(scope="module")
def trace():
    """The random model writes little; chosen numbers tell right answers from slips."""
    trace = lv.record(random_model("gqa"), [5, 6, 7], 6).copy(deep=True)
    trace["embedding"][4, 3] = 0.5
    trace["attention_output"][:, 4, 3] = [1.0, -0.25, 9.0]
    trace["feed_forward_output"][:, 4, 3] = [0.125, 3.0, 9.0]
    trace["residual_out"][:, 4, 3] = np.cumsum([0.5 + 1.125, 2.75, 18.0])
    return trace


def test_open_answers_are_asked_for(trace):
    for verdict in (
        exercises.stream_after_block(trace, None, **AT),
        exercises.block_parameters(PRESETS["llama2-70b"], None),
        exercises.cross_attention_scores(None, n_source=7, n_target=5, n_heads=8),
    ):
        assert verdict is exercises.NOT_YET


def test_the_stream_is_a_sum(trace):
    verdict = exercises.stream_after_block(trace, 0.5 + 1.0 + 0.125 - 0.25 + 3.0, **AT)
    assert verdict.right
    assert "0.5000 from the embedding, +3.8750 written by 4 sublayers" in verdict.reply


def test_the_stream_of_a_recorded_run():
    trace = lv.record(random_model("gqa"), [5, 6, 7], 6)
    for layer in range(3):
        here = {"position": 6, "feature": 1}
        written = trace.attention_output + trace.feed_forward_output
        summed = trace.embedding + written[: layer + 1].sum("layer")
        assert exercises.stream_after_block(trace, summed.isel(here), layer=layer, **here).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (3.875, "the stream began as the embedding"),
        (1.25, "The feed-forward of each block writes, too"),
        (3.625, "The attention of each block writes, too"),
        (1.375, "the middle of the block"),
        (2.75, "this block alone"),
        (3.25, "The blocks before it have written"),
        (17, "nothing is multiplied"),
        ("four", "Answer with one number"),
    ],
)
def test_slips_in_the_stream(trace, answer, hint):
    verdict = exercises.stream_after_block(trace, answer, **AT)
    assert not verdict.right
    assert hint in verdict.reply


def test_what_the_trace_does_not_have(trace):
    with pytest.raises(ValueError, match="unknown layer 3"):
        exercises.stream_after_block(trace, 1.0, layer=3, position=0, feature=0)


@pytest.mark.parametrize("name", PRESETS)
def test_blocks_and_what_is_outside_make_the_model(name):
    config = PRESETS[name]
    embeddings = config.vocab_size * config.dim * (1 if config.tied_embeddings else 2)
    block = (config.n_parameters - embeddings - config.dim) // config.n_layers
    assert exercises.block_parameters(config, block).right


def test_the_block_of_the_70b():
    verdict = exercises.block_parameters(PRESETS["llama2-70b"], 855_654_400)
    assert verdict.right
    assert "80 such blocks are 68,452,352,000" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (855_654_400 - 2 * 8192, "Two norms have 8,192 gains each"),
        (855_654_400 - 8192, "A block has two norms"),
        (855_654_400 + 8192, "The final norm belongs to the model"),
        (855_654_400 - 8192 * 28672, "SwiGLU has three matrices"),
        (855_654_400 + 8192 + 2 * 1024 + 8192 + 2 * 28672 + 8192, "LLaMA has no biases"),
        (855_654_400 + 2 * 8192 * (8192 - 1024), "Keys and values have 8 heads, not 64"),
        (855_654_400 * 80, "That is all blocks"),
        (68_976_648_192, "That is the whole model"),
        (17, "Each matrix has as many numbers"),
    ],
)
def test_slips_in_a_block(answer, hint):
    verdict = exercises.block_parameters(PRESETS["llama2-70b"], answer)
    assert not verdict.right
    assert hint in verdict.reply


def test_scores_of_cross_attention():
    verdict = exercises.cross_attention_scores(280, n_source=7, n_target=5, n_heads=8)
    assert verdict.right
    assert "8 heads × 5 queries × 7 keys" in verdict.reply


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (35, "Every head has scores"),
        (8 * 25, "target with target"),
        (8 * 49, "source with source"),
        (8 * 144, "reads both as one text"),
        (8 * 12, "multiply the lengths"),
        (17, "Queries come from the target"),
    ],
)
def test_slips_in_the_scores(answer, hint):
    verdict = exercises.cross_attention_scores(answer, n_source=7, n_target=5, n_heads=8)
    assert not verdict.right
    assert hint in verdict.reply
