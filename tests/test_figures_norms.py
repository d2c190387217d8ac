"""Figures of norms: what is drawn are the numbers that were given, and nothing covers another."""

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import analysis, figures
from llama_viz import foundations as f
from tests.reference import random_model

ROWS = torch.arange(1, 17).reshape(4, 4).double() / 10


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 6)


@pytest.fixture(scope="module")
def runs():
    return {name: f.train_deep_network(name, n_steps=10) for name in ("no norm", "RMSNorm")}


def layer():
    numbers = np.random.default_rng(0)
    return (numbers.normal(size=shape).round(1) for shape in ((10, 3), (5, 3), 5))


def every_figure(trace, runs):
    x, weight, bias = layer()
    outputs = {"RMSNorm": (ROWS[0], ROWS[1]), "LayerNorm": (ROWS[1], ROWS[0])}
    times = {"128": {"written out": {"LayerNorm": 2e-5, "RMSNorm": 1e-5}}}
    return [
        figures.linear_layer(x, weight, bias, item=9, neuron=4),
        figures.number_tables({"rows": ROWS, "again": ROWS}, "Title", together={"again": "row"}),
        figures.losses_by_norm(runs),
        figures.layer_inputs(runs),
        figures.before_and_after(outputs, "Title"),
        figures.histograms({"skewed": ROWS**2, "not": ROWS, "more": ROWS**3}, "Title"),
        figures.norm_times(times, "detail"),
        figures.gains(trace, norm=2),
    ]


def test_no_text_covers_another_or_leaves_the_page(trace, runs):
    for figure in every_figure(trace, runs):
        figure.canvas.draw()
        texts = [
            (text.get_text(), text.get_window_extent())
            for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
            if text.get_visible() and text.get_text().strip()
        ]
        ticks = {
            label.get_text()
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for label in axis.get_ticklabels()
        }
        for index, (text, box) in enumerate(texts):
            if text in ticks:
                continue  # some of them lie outside of the axes and are not drawn
            assert box.x0 >= 0, text
            assert box.x1 <= figure.bbox.width, text
            assert box.y0 >= 0, text
            assert box.y1 <= figure.bbox.height, text
            for other, beside in texts[:index]:
                wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
                high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
                assert other in ticks or wide <= 2 or high <= 3.5, f"{text!r} covers {other!r}"


def test_a_linear_layer_is_the_sum_that_it_says():
    x, weight, bias = layer()
    figure = figures.linear_layer(x, weight, bias, item=2, neuron=1)
    truth = torch.nn.functional.linear(*(torch.tensor(array) for array in (x, weight, bias)))
    (image,) = panel(figure, "y").images
    np.testing.assert_allclose(image.get_array(), truth)
    said = named(figure.texts, "detail (measured)").get_text()
    assert said.startswith("item 2, neuron 1: ")
    assert said.endswith(f"= {truth[2, 1]:.2f}")
    for name, shape in (
        ("x", "10 × 3"),
        ("W transposed", "3 × 5"),
        ("b", "1 × 5"),
        ("y", "10 × 5"),
    ):
        assert panel(figure, name).get_title(loc="left") == f"{name} {shape}"
    with pytest.raises(ValueError, match="neuron must be from 0 to 4, got 5"):
        figures.linear_layer(x, weight, bias, neuron=5)


def test_tables_write_their_numbers_and_outline_what_is_normalized_together():
    tables = {"LayerNorm": f.layer_norm(ROWS, 0.0), "BatchNorm": f.batch_norm(ROWS * 0, 0.0)}
    figure = figures.number_tables(tables, "Title", together={"LayerNorm": "row"})
    written = [text.get_text() for text in panel(figure, "LayerNorm").texts]
    assert written == ["-1.3416", "-0.4472", "0.4472", "1.3416"] * 4
    assert {text.get_text() for text in panel(figure, "BatchNorm").texts} == {"none"}
    box = named(panel(figure, "LayerNorm").patches, "outline")
    assert (box.get_width(), box.get_height()) == (4, 1)
    assert not panel(figure, "BatchNorm").patches
    with pytest.raises(ValueError, match="no tables"):
        figures.number_tables({}, "Title")


def test_losses_and_inputs_are_those_of_the_runs(runs):
    figure = figures.losses_by_norm(runs)
    for name, run in runs.items():
        np.testing.assert_array_equal(
            named(panel(figure, "loss").lines, name).get_ydata(), run.loss
        )
    figure = figures.layer_inputs(runs, neuron=7)
    for name, run in runs.items():
        for number in range(6):
            lines = panel(figure, f"{name}, layer {number}").lines
            drawn = named(lines, "median").get_ydata()
            taken_in = run.layer_input.values[::3, number, :, 7]
            np.testing.assert_allclose(drawn, np.median(taken_in, axis=1), atol=1e-6)
    with pytest.raises(ValueError, match="neuron must be from 0 to 23, got 24"):
        figures.layer_inputs(runs, neuron=24)
    for draw in (figures.losses_by_norm, figures.layer_inputs):
        with pytest.raises(ValueError, match="no runs"):
            draw({})


def test_bars_before_and_after():
    figure = figures.before_and_after({"RMSNorm": (ROWS[0], ROWS[0] + 0.25)}, "Title")
    bars = panel(figure, "RMSNorm").patches
    heights = {gid: [bar.get_height() for bar in bars if bar.get_gid() == gid]
               for gid in ("before", "after")}  # fmt: skip
    np.testing.assert_allclose(heights["before"], ROWS[0])
    np.testing.assert_allclose(heights["after"], ROWS[0] + 0.25)
    said = named(figure.texts, "change of RMSNorm (measured)").get_text()
    assert said == "RMSNorm: moves by up to 0.25"
    figure = figures.before_and_after({"RMSNorm": (ROWS[0], ROWS[0])}, "Title")
    assert "does not move" in named(figure.texts, "change of RMSNorm (measured)").get_text()
    with pytest.raises(ValueError, match="no outputs"):
        figures.before_and_after({}, "Title")


def test_histograms_say_mean_deviation_and_skewness():
    sample = np.array([0.0, 0.0, 0.0, 4.0])  # mean 1, deviation sqrt(3), skewness 6 / 3^1.5
    figure = figures.histograms({"few": sample}, "Title")
    said = named(figure.texts, "numbers of few (measured)").get_text()
    assert said == "mean 1.00, deviation 1.73\nskewness 1.15"
    (counts,) = panel(figure, "few").patches
    assert counts.get_data().values.sum() == 4
    with pytest.raises(ValueError, match="no samples"):
        figures.histograms({}, "Title")


def test_times_are_drawn_in_microseconds():
    times = {"128": {"written out": {"LayerNorm": 2e-5, "RMSNorm": 1e-5}}}
    bars = panel(figures.norm_times(times, ""), "128 features").patches
    assert [bar.get_height() for bar in bars] == pytest.approx([20, 10])
    with pytest.raises(ValueError, match="no times"):
        figures.norm_times({}, "")


def test_gains_are_those_of_the_trace_beside_the_sizes_that_arrive(trace):
    figure = figures.gains(trace, norm=3)
    (image,) = panel(figure, "gains").images
    np.testing.assert_allclose(image.get_array(), trace.norm_gain.values)
    dots = named(panel(figure, "one norm").lines, "features")
    scaled = analysis.normalized(trace, "residual_middle").sel(layer=1).values
    np.testing.assert_allclose(dots.get_xdata(), np.sqrt((scaled**2).mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(dots.get_ydata(), np.abs(trace.norm_gain.values[3]))
    with pytest.raises(ValueError, match="unknown norm 99"):
        figures.gains(trace, norm=99)


def test_every_norm_reads_its_own_place_of_the_residual_stream(trace):
    stream = analysis.norm_input(trace)
    assert stream.dims == ("norm", "position", "feature")
    np.testing.assert_array_equal(stream[0], trace.residual_in[0])
    np.testing.assert_array_equal(stream[5], trace.residual_middle[2])
    np.testing.assert_array_equal(stream[6], trace.residual_out[2])


def test_what_is_added_is_measured_beside_what_it_is_added_to(trace):
    ratios = analysis.added_size(trace)
    lengths = [
        np.linalg.norm(trace[name].values[1], axis=-1)
        for name in ("feed_forward_output", "residual_middle")
    ]
    found = float(ratios.sel(layer=1, sublayer="feed_forward"))
    assert found == pytest.approx(np.median(lengths[0] / lengths[1]), rel=1e-6)
    with pytest.raises(ValueError, match="no attention_output"):
        analysis.added_size(trace.drop_vars("attention_output"))
