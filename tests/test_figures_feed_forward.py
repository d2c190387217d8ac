"""Activations and neurons drawn: each curve, column and dot beside its computation."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba_array

import llama_viz as lv
from llama_viz import analysis, figures, foundations
from llama_viz.figures.feed_forward import NEGATIVE, POSITIVE
from tests.reference import random_ids, random_model


@pytest.fixture(scope="module")
def trace():
    lm = random_model("gqa")
    return lv.record(lm, random_ids(lm, 9)[0].tolist(), max_new_tokens=6)


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


# Activations


def drawn_activations(beta=1.0):
    x = torch.linspace(-6, 6, 1201)
    functions = {"ReLU": foundations.relu, "Swish": lambda x: foundations.swish(x, beta)}
    curves = {name: function(x) for name, function in functions.items()}
    slopes = {name: foundations.slope(function, x) for name, function in functions.items()}
    return figures.activations(x, curves, slopes)


def test_curves_and_slopes_are_what_was_given():
    figure = drawn_activations()
    x = np.linspace(-6, 6, 1201)
    open_by = 1 / (1 + np.exp(-x))
    for name, values in (
        ("activation", x * open_by),
        ("the negative tail", x * open_by),
        ("slope", open_by + x * open_by * (1 - open_by)),
    ):
        line = named(panel(figure, name).lines, "Swish")
        np.testing.assert_allclose(line.get_xdata(), x, atol=1e-6)
        np.testing.assert_allclose(line.get_ydata(), values, atol=1e-6)


def test_the_lowest_point_is_marked_where_a_curve_has_one():
    tail = panel(drawn_activations(), "the negative tail")
    lowest = named(tail.lines, "lowest of Swish")
    assert lowest.get_xdata()[0] == pytest.approx(-1.2785, abs=0.006)
    assert lowest.get_ydata()[0] == pytest.approx(-0.27846, abs=1e-5)
    assert [line for line in tail.lines if line.get_gid() == "lowest of ReLU"] == []
    straight = panel(drawn_activations(beta=0.0), "the negative tail")
    assert [line for line in straight.lines if line.get_gid().startswith("lowest")] == []


def test_activations_need_the_slope_of_each():
    with pytest.raises(ValueError, match="the same names"):
        figures.activations([0, 1], {"a": [0, 1]}, {"b": [0, 1]})
    with pytest.raises(ValueError, match="the same names"):
        figures.activations([0, 1], {}, {})


# One neuron along the text


def test_a_gate_along_the_text(trace):
    n_open = (trace.gate.values[2] > 0).sum(axis=0)
    neuron = int(abs(n_open - trace.sizes["position"] / 2).argmin())  # one that does both
    figure = figures.gate_along(trace, layer=2, neuron=neuron)
    gate, up = (trace[name].values[2, :, neuron].astype(float) for name in ("gate", "up"))
    silu = gate / (1 + np.exp(-gate))
    for name, values in (("gate", gate), ("up", up), ("SiLU(gate) × up", silu * up)):
        columns = named(panel(figure, name).collections, name)
        ends = [end for _, (_, end) in columns.get_segments()]
        np.testing.assert_allclose(ends, values, rtol=1e-5, atol=1e-7)
        colours = to_rgba_array([POSITIVE if number > 0 else NEGATIVE for number in gate])
        np.testing.assert_array_equal(columns.get_colors(), colours)
    marks = named(panel(figure, "gate").lines, "SiLU(gate)")
    np.testing.assert_allclose(marks.get_ydata(), silu, rtol=1e-6)
    assert 0 < n_open[neuron] < len(gate)
    told = named(figure.texts, "detail").get_text()
    assert f"at {n_open[neuron]} of {len(gate)} positions" in told


@pytest.mark.parametrize("neuron", [-1, 10_000, True])
def test_a_neuron_that_is_not_there_is_told(trace, neuron):
    with pytest.raises(ValueError, match="neuron"):
        figures.gate_along(trace, layer=0, neuron=neuron)


def test_a_gate_along_the_text_needs_the_gate():
    short = lv.record_forward(random_model("gqa"), [5, 6, 7], taps=["neuron_activation"])
    with pytest.raises(ValueError, match="gate"):
        figures.gate_along(short, layer=0, neuron=0)


# Near zero


def test_shares_near_zero_are_counted(trace):
    figure = figures.near_zero(trace, threshold=0.02)
    sizes = abs(trace.neuron_activation.values)
    for layer in range(trace.sizes["layer"]):
        curve = named(panel(figure, "thresholds").lines, f"layer {layer}")
        shares = [(sizes[layer] < limit).mean() for limit in curve.get_xdata()]
        np.testing.assert_allclose(curve.get_ydata(), shares, rtol=1e-12)
        along = named(panel(figure, "positions").lines, f"layer {layer}")
        np.testing.assert_allclose(along.get_ydata(), (sizes[layer] < 0.02).mean(axis=-1))
    assert set(named(panel(figure, "thresholds").lines, "threshold").get_xdata()) == {0.02}


# Favourite tokens


def test_columns_are_means_and_lines_reach_over_the_occurrences(trace):
    others = [lv.record_forward(random_model("gqa"), [5, 6, 5, 6, 8]) for _ in range(2)]
    found = analysis.favourite_tokens([trace, *others], layer=1, neuron=3, at_least=2)
    figure = figures.favourite_tokens(found, count=3)
    axes = panel(figure, "means")
    bars = [patch for patch in axes.patches if patch.get_gid() == "mean"]
    rows = found.isel(rank=slice(0, 3))
    assert [bar.get_height() for bar in bars] == pytest.approx(rows["mean"].values.tolist())
    ends = [(low, high) for (_, low), (_, high) in
            named(axes.collections, "lowest to highest").get_segments()]  # fmt: skip
    assert ends == [
        pytest.approx(pair) for pair in zip(rows.lowest.values, rows.highest.values, strict=True)
    ]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == [
        f"{token}  {n}×" for token, n in zip(rows.token.values, rows.occurrences.values,
                                             strict=True)]  # fmt: skip
    with pytest.raises(ValueError, match="no tokens"):
        figures.favourite_tokens(found.isel(rank=slice(0, 0)))
