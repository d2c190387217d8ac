"""The logit lens drawn: each cell beside what the lens read there."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import analysis, figures
from tests.reference import random_model


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 12)


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def test_cells_hold_the_likeliest_token_and_its_probability(trace):
    figure = figures.logit_lens(trace, first=2, count=5)
    axes = panel(figure, "lens")
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), trace.lens_probability[:, 2:7, 0])
    tokens = [text.get_text() for text in axes.texts]
    assert tokens == [str(token) for token in trace.lens_token.values[:, 2:7, 0].ravel()]
    assert image.origin == "lower"  # the last layer on top
    assert axes.get_yticklabels()[0].get_text() == "after layer 0"


def test_frames_mark_what_came_next(trace):
    figure = figures.logit_lens(trace, first=2, count=5)
    (drawn,) = panel(figure, "lens").collections
    centres = [path.vertices[:4].mean(axis=0) for path in drawn.get_paths()]
    frames = {(int(layer), int(position)) for position, layer in centres}
    hits = np.argwhere(analysis.rank_in_lens(trace).values[:, 2:7] == 0)
    assert frames == {tuple(hit) for hit in hits.tolist()}
    assert {(2, column) for column in range(5)} <= frames  # greedy writes the last layer's best


def test_what_came_stands_above_each_column_up_to_the_last_written_one(trace):
    figure = figures.logit_lens(trace, first=11, count=9)
    came = [text.get_text() for text in figure.texts if text.get_gid() == "what came"]
    assert came == [str(token) for token in trace.sampled_token.values[-3:]]
    forward = lv.record_forward(random_model("gqa"), [5, 6, 7])
    figure = figures.logit_lens(forward)
    came = [text.get_text() for text in figure.texts if text.get_gid() == "what came"]
    assert came == [str(token) for token in forward.token.values[1:]]


@pytest.mark.parametrize("first", [14, -1])
def test_an_unknown_position_is_refused(trace, first):
    with pytest.raises(ValueError, match="first must be from 0 to 13"):
        figures.logit_lens(trace, first=first)
