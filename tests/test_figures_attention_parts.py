"""The parts of attention drawn: each point and bar beside the computation that it shows."""

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import figures, foundations
from llama_viz.widgets import FigureBrowser
from tests.reference import random_model

PARTS = {
    "query": torch.tensor([[-1.0, -3], [2, 1], [0, 2]]),
    "key": torch.tensor([[1.0, -2], [-1, 2], [0, 1]]),
    "value": torch.tensor([[2.0, 1], [-2, 0], [1, -2]]),
    "token": ["Dan", "$x$", "<s>"],
}


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


def heading(figure):
    return [text.get_text() for text in figure.texts]


# Saturation


def test_the_variance_of_a_dot_product_is_the_size_of_the_head():
    for size in (1, 16, 256):
        assert foundations.saturation(size, divide=False).variance == pytest.approx(size, rel=0.05)
        assert foundations.saturation(size, divide=True).variance == pytest.approx(1, rel=0.05)


def test_an_undivided_softmax_saturates():
    before, after = (foundations.saturation(256, divide=divide) for divide in (False, True))
    assert before.largest_weight > 0.9 > 0.3 > after.largest_weight
    assert before.slope < 0.06 < 0.15 < after.slope
    assert before == foundations.saturation(256, divide=False)


def test_saturation_draws_what_was_measured():
    undivided = {1: (1.0, 0.2, 0.15), 16: (16.0, 0.7, 0.17)}
    divided = {1: (1.0, 0.2, 0.15), 16: (1.0, 0.25, 0.18)}
    figure = figures.saturation(undivided, divided)
    for column, axes in enumerate(figure.axes):
        for name, measured in (("not divided", undivided), ("divided by √head_dim", divided)):
            line = named(axes.lines, name)
            np.testing.assert_array_equal(line.get_xdata(), [1, 16])
            np.testing.assert_array_equal(line.get_ydata(), [measured[1][column],
                                                             measured[16][column]])  # fmt: skip
    theory = named(panel(figure, "variance of the scores").lines, "theory")
    np.testing.assert_array_equal(theory.get_ydata(), [1, 16])


# Vectors in the plane


@pytest.mark.parametrize("query", [0, 1, 2])
def test_the_output_is_attention_and_the_feet_are_the_scores(query):
    figure = figures.vectors(PARTS, query=query)
    steps = foundations.attend(*(PARTS[name] for name in ("query", "key", "value")))
    axes = panel(figure, "values and output")
    output = np.ravel(named(axes.lines, "output").get_data())
    np.testing.assert_allclose(output, steps.output[query], atol=1e-6)
    sizes = named(axes.collections, "values, sized by weight").get_sizes()
    np.testing.assert_allclose((sizes - 30) / 900, steps.weights[query], atol=1e-6)

    one = PARTS["query"][query].numpy()
    feet = np.stack(named(panel(figure, "queries and keys").lines, "feet").get_data(), axis=-1)
    np.testing.assert_allclose(feet @ one / np.sqrt(2), steps.scores[query], atol=1e-6)
    assert f"The query of {PARTS['token'][query]}:" in heading(figure)[0]


def test_vectors_keep_everything_in_view():
    figure = figures.vectors(PARTS, query=0)
    axes = panel(figure, "queries and keys")
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    assert x1 - x0 == pytest.approx(y1 - y0)
    for points in (PARTS["query"], PARTS["key"]):
        assert ((points[:, 0] > x0) & (points[:, 0] < x1)).all()
        assert ((points[:, 1] > y0) & (points[:, 1] < y1)).all()


@pytest.mark.parametrize("query", [3, -1])
def test_an_unknown_query_is_refused(query):
    with pytest.raises(ValueError, match="query must be from 0 to 2"):
        figures.vectors(PARTS, query=query)


def test_a_figure_browser_asks_token_after_token():
    browser = FigureBrowser(figures.vectors, PARTS, query=range(3))
    before = browser.png
    browser._controls["query"].value = 2
    assert browser.png != before


# Online softmax


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_online_softmax_draws_what_is_known_so_far(step):
    scores = [0.1, 2.3, 0.9, 4.0]
    online = foundations.online_softmax(torch.tensor(scores, dtype=torch.float64))
    figure = figures.online_softmax(scores, step=step)
    seen = slice(0, step + 1)
    axes = panel(figure, "score and running maximum")
    np.testing.assert_array_equal(named(axes.lines, "read").get_ydata(), scores[seen])
    np.testing.assert_array_equal(named(axes.lines, "not read").get_ydata(), scores[step + 1 :])
    maximum = named(axes.lines, "running maximum").get_ydata()
    np.testing.assert_allclose(maximum, online.running_maximum[seen])
    total = named(panel(figure, "running sum").lines, "running sum").get_ydata()
    np.testing.assert_allclose(total, online.running_sum[seen])
    columns = named(panel(figure, "weights so far").collections, "weight").get_segments()
    heights = [top for (_, _), (_, top) in columns]
    np.testing.assert_allclose(heights[seen], torch.tensor(scores[seen]).softmax(-1), atol=1e-6)
    assert not any(heights[step + 1 :])


def test_online_softmax_says_what_a_new_maximum_does():
    scores = [0.1, 2.3, 0.9]
    first, grown, stays = (heading(figures.online_softmax(scores, step=step)) for step in range(3))
    assert "the first score" in first[0]
    assert "a new maximum, the old sum is shrunk" in grown[0]
    assert "maximum 2.300, sum 1.111 (the old sum was multiplied by 0.111)" in grown
    assert "the maximum stays" in stays[0]


def test_online_softmax_of_a_recorded_row_has_its_tokens_and_no_masked_ones():
    trace = lv.record(random_model("gqa"), [5, 6, 7], 6)
    row = trace.attention_scores.sel(layer=1, head=3, query_position=4)
    figure = figures.online_softmax(row, step=4)
    labels = [label.get_text() for label in panel(figure, "weights so far").get_xticklabels()]
    assert labels == [str(token) for token in trace.token.values[:5]]
    with pytest.raises(ValueError, match="step must be from 0 to 4"):
        figures.online_softmax(row, step=5)


# Over length


def test_time_and_memory_are_drawn_in_their_units():
    seconds = {"written out": {"64": 0.001, "128": 0.004}, "fused": {"64": 0.002, "128": 0.003}}
    held = {"written out": {64: 32_000, 128: 128_000}}
    figure = figures.attention_over_length(seconds, held)
    time, memory = panel(figure, "time"), panel(figure, "memory held at once")
    np.testing.assert_allclose(named(time.lines, "written out").get_ydata(), [1, 4])
    np.testing.assert_allclose(named(time.lines, "fused").get_ydata(), [2, 3])
    np.testing.assert_allclose(named(memory.lines, "written out").get_ydata(), [32, 128])
    for axes in (time, memory):
        for name, times in (("N", 2), ("N × N", 4)):
            low, high = named(axes.lines, name).get_ydata()
            assert high / low == pytest.approx(times)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["written out", "fused"]
