"""The feed-forward explorer in Python: what it sends agrees with the trace, whole or in part."""

import json
import re

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import analysis
from llama_viz.widgets import FeedForwardExplorer, feed_forward
from llama_viz.widgets.feed_forward import EXPORT_BYTES, THRESHOLDS
from tests.reference import random_ids, random_model

TAPS = ["gate", "up", "neuron_activation", "feed_forward_output"]
NAMES = {"gate": "gate", "up": "up", "product": "neuron_activation"}


@pytest.fixture(scope="module")
def lm():
    return random_model("gqa")


@pytest.fixture(scope="module")
def trace(lm):
    return recorded(lm, 1)


def recorded(lm, seed, taps=TAPS, **options):
    ids = random_ids(lm, 9, seed=seed)[0].tolist()
    return lv.record(lm, ids, max_new_tokens=12, taps=taps, **options)


def content(explorer, whole=False):
    header, arrays = explorer.content(whole=whole)
    json.dumps(header, allow_nan=False)
    return header, arrays


def product_of(arrays):
    """As the page computes it where it was not sent."""
    if "product" in arrays:
        return arrays["product"].values()
    gate, up = (arrays[name].values().astype(np.float64) for name in ("gate", "up"))
    return gate / (1 + np.exp(-gate)) * up


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_a_layer_is_what_was_recorded(kind):
    trace = recorded(random_model(kind), 3)
    explorer = FeedForwardExplorer(trace)
    for layer in range(3):
        header, arrays = explorer.answer_layer(layer)
        assert header == {}
        for name in ("gate", "up"):
            expected = trace[name].values[layer]
            np.testing.assert_allclose(arrays[name].values(), expected, rtol=2**-11, atol=1e-7)
        # Each factor is rounded to 11 bits; the slope of SiLU is at most 1.1.
        expected = trace.neuron_activation.values[layer]
        largest = np.abs(expected).max()
        np.testing.assert_allclose(product_of(arrays), expected, rtol=0.003, atol=1e-4 * largest)
    with pytest.raises(ValueError, match="unknown layer 3"):
        explorer.answer_layer(3)


def test_the_header_and_the_counts(trace):
    header, arrays = content(FeedForwardExplorer(trace))
    assert header["layers"] == [0, 1, 2]
    assert header["n_neurons"] == header["n_held"] == 96
    assert [token["id"] for token in header["tokens"]] == trace.token_id.values.tolist()
    assert header["missing"] == ""
    assert header["quantities"] == ("gate", "silu", "up", "product")
    counts = arrays["near_zero"]
    for layer, position, place in ((0, 0, 0), (1, 7, 12), (2, 19, 24)):
        row = trace.neuron_activation.values[layer, position].tolist()
        expected = sum(abs(value) < THRESHOLDS[place] for value in row)
        assert counts[layer, position, place] == expected
    written = trace.feed_forward_output.values.astype(np.float64)
    np.testing.assert_allclose(arrays["written"], np.sqrt((written**2).mean(-1)), rtol=1e-6)
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS))
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (0.001, 10)


@pytest.mark.parametrize(
    ("taps", "quantities", "lacks"),
    [
        (["gate", "up"], ("gate", "silu", "up", "product"), "feed_forward_output"),
        (["neuron_activation", "feed_forward_output"], ("product",), "gate and no up"),
        (["neuron_activation", "gate"], ("gate", "silu", "product"), "up and no feed_forward_out"),
        (["neuron_activation", "up", "feed_forward_output"], ("up", "product"), "no gate"),
    ],
)
def test_what_was_not_recorded_is_said_and_the_rest_is_shown(lm, trace, taps, quantities, lacks):
    part = recorded(lm, 1, taps)
    explorer = FeedForwardExplorer(part)
    header, _ = content(explorer)
    assert header["quantities"] == quantities
    assert lacks in header["missing"]
    assert "record it with lv.record(lm, prompt, taps=[" in header["missing"]
    _, arrays = explorer.answer_layer(1)
    expected = trace.neuron_activation.values[1]
    np.testing.assert_allclose(product_of(arrays), expected, rtol=0.003, atol=1e-3)
    assert explorer.still().startswith(b"\x89PNG")
    if "gate" not in quantities:
        with pytest.raises(ValueError, match="unknown quantity 'gate'"):
            explorer.show(quantity="gate")


def test_nothing_to_show_says_how_to_record_it(lm):
    for taps in (["rms"], ["gate"], ["up", "feed_forward_output"]):
        with pytest.raises(ValueError, match='no neuron_activation; record it with .*taps=\\["neu'):
            FeedForwardExplorer(recorded(lm, 1, taps))
    with pytest.raises(TypeError, match="expected a trace"):
        FeedForwardExplorer(7)
    with pytest.raises(ValueError, match="a model needs a prompt"):
        FeedForwardExplorer(lm)


def test_a_model_reads_the_prompt_once(lm):
    explorer = FeedForwardExplorer(lm, [3, 4, 5])
    assert explorer.trace.token_id.values.tolist() == [3, 4, 5]
    assert content(explorer)[0]["missing"] == ""


def test_some_layers_alone(lm, trace):
    part = recorded(lm, 1, layers=[2, 0])
    explorer = FeedForwardExplorer(part)
    header, arrays = content(explorer)
    assert header["layers"] == [0, 2]
    assert explorer.state["layer"] == 0
    assert arrays["near_zero"].shape == (2, 20, 25)
    explorer.show(layer=2)
    _, arrays = explorer.answer_layer(2)
    expected = trace.neuron_activation.values[2]
    np.testing.assert_allclose(product_of(arrays), expected, rtol=0.003, atol=1e-3)
    with pytest.raises(ValueError, match="unknown layer 1"):
        explorer.show(layer=1)


def test_a_run_that_was_changed_sends_its_own_product(lm):
    with lv.intervene(lm, {"blocks.1.feed_forward.neuron_activation": lambda value, _: 0 * value}):
        changed = recorded(lm, 1)
    explorer = FeedForwardExplorer(changed)
    _, arrays = explorer.answer_layer(1)
    assert set(arrays) == {"gate", "up", "product"}
    assert (arrays["product"].values() == 0).all()
    assert content(explorer)[0]["edited"]


def test_large_and_missing_numbers_can_be_sent(trace):
    gate = trace.gate.copy(deep=True)
    gate[0, 3, 5], gate[0, 4, 6] = 1e9, np.nan
    _, arrays = FeedForwardExplorer(trace.assign(gate=gate)).answer_layer(0)
    values = arrays["gate"].values()
    assert values[3, 5] == 65504
    assert np.isnan(values[4, 6])
    assert np.isfinite(np.delete(values.ravel(), 4 * 96 + 6)).all()


# State


def test_the_state_begins_and_refuses(trace):
    explorer = FeedForwardExplorer(trace)
    assert explorer.state == {
        "layer": 0, "position": 19, "neuron": None, "quantity": "product", "order": "mean",
        "rows": 32, "first": 0, "threshold": 0.05,
    }  # fmt: skip
    for state, words in (
        ({"neuron": 96}, "neuron must be a whole number from 0 to 95, or None, got 96"),
        ({"quantity": "prodct"}, "Did you mean 'product'?"),
        ({"order": "sum"}, "unknown order 'sum'"),
        ({"rows": 33}, "unknown rows 33"),
        ({"threshold": 0.06}, "unknown threshold 0.06"),
        ({"position": 20}, "from 0 to 19"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            explorer.show(**state)


def test_the_neuron_in_view_is_the_picked_or_the_largest(trace):
    explorer = FeedForwardExplorer(trace, layer=1)
    mean = np.abs(trace.neuron_activation.values[1]).astype(np.float64).mean(axis=0)
    assert explorer.neuron == int(mean.argmax())
    explorer.show(neuron=17)
    assert explorer.neuron == 17


# Favourites


def test_favourites_of_the_neuron_in_view(lm, trace):
    other = recorded(lm, 8)
    explorer = FeedForwardExplorer(trace, others=[other], layer=2, neuron=11)
    found = explorer.favourites()
    assert found.equals(analysis.favourite_positions([trace, other], layer=2, neuron=11))
    assert set(found.trace.values.tolist()) == {0, 1}
    assert explorer.favourites(other, count=3).sizes["rank"] == 3
    header, arrays = explorer.answer_favourites(layer=2, neuron=11)
    json.dumps(header, allow_nan=False)
    assert arrays == {}
    sources = (trace, other)
    for row, expected in zip(header["favourites"], found.position.values.tolist(), strict=True):
        source = sources[row["trace"]]
        assert row["position"] == expected
        assert row["tokens"][row["at"]]["id"] == source.token_id.values[expected]
        start = max(expected - 3, 0)
        ids = source.token_id.values[start : expected + 4].tolist()
        assert [token["id"] for token in row["tokens"]] == ids
        assert row["value"] == float(source.neuron_activation.values[2, expected, 11])


def test_traces_of_another_model_are_refused_at_once(trace):
    small = random_model("gqa", hidden_dim=32)
    with pytest.raises(ValueError, match="different sizes"):
        FeedForwardExplorer(trace, others=[recorded(small, 1)])
    with pytest.raises(ValueError, match="no neuron_activation"):
        FeedForwardExplorer(trace, others=[trace.drop_vars(["neuron_activation", "gate"])])


# Without a kernel


def test_a_small_trace_is_saved_whole(trace):
    header, arrays = content(FeedForwardExplorer(trace), whole=True)
    assert header["n_held"] == 96
    for layer in range(3):
        assert arrays[f"neurons {layer}"].tolist() == list(range(96))
        np.testing.assert_allclose(
            arrays[f"gate {layer}"].values(), trace.gate.values[layer], rtol=2**-11, atol=1e-7
        )
        assert f"product {layer}" not in arrays


def test_of_a_large_trace_the_largest_neurons_are_saved(trace, monkeypatch):
    near_zero_and_written = 3 * 20 * 25 * 2 + 3 * 20 * 4
    monkeypatch.setattr(feed_forward, "EXPORT_BYTES", near_zero_and_written + 3 * 20 * 4 * 10)
    size = np.abs(trace.neuron_activation.values[1]).max(axis=0)
    smallest = int(size.argmin())
    explorer = FeedForwardExplorer(trace, layer=1, neuron=smallest)
    header, arrays = content(explorer, whole=True)
    assert header["n_held"] == 10
    held = arrays["neurons 1"].tolist()
    expected = {*np.argsort(-size, kind="stable")[:9].tolist(), smallest}
    mean = int(np.abs(trace.neuron_activation.values[1]).astype(np.float64).mean(axis=0).argmax())
    assert len(held) == 10
    assert held == sorted(held)
    assert {smallest} <= set(held) <= expected | {mean}
    np.testing.assert_allclose(
        arrays["up 1"].values(), trace.up.values[1][:, held], rtol=2**-11, atol=1e-7
    )
    total = sum(feed_forward._bytes(array) for array in arrays.values())
    assert total < feed_forward.EXPORT_BYTES + 3 * 10 * 4 + 1


def test_a_saved_page_of_smollm2s_size_stays_small():
    """By arithmetic: 30 layers, 400 positions, 1,536 neurons."""
    counts = 30 * 400 * (len(THRESHOLDS) * 2 + 4)
    for_one = 2 * 2 * 400 * 30
    assert (EXPORT_BYTES - counts) // for_one >= 64
    assert EXPORT_BYTES * 4 / 3 < 7e6


def test_the_still_and_the_words_follow_the_state(trace):
    explorer = FeedForwardExplorer(trace)
    first, words = explorer.still(), explorer.describe()
    assert words.startswith("Feed-forward explorer: 96 neurons in each of 3 layers of random gqa")
    explorer.show(layer=1, neuron=7, position=4, threshold=1)
    assert explorer.still() != first
    row = np.abs(trace.neuron_activation.values[1])
    share, here = (row < 1).mean(), (row[4] < 1).mean()
    assert f"below 1 in {share:.0%} of the neurons" in explorer.describe()
    assert f"in {here:.0%} at this position" in explorer.describe()
    assert "Layer 1, neuron 7, position 4." in explorer.describe()


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg"])
def test_it_can_be_saved(tmp_path, trace, suffix):
    hostile = np.array(["<img src=x onerror=alert(1)>", "$x$"] * 10, dtype=object)
    marked = trace.assign_coords(token=("position", hostile))
    path = tmp_path / f"page{suffix}"
    FeedForwardExplorer(marked).save(path)
    assert "<img src=x" not in path.read_bytes().decode("utf-8", errors="ignore")


def test_the_figure_draws_what_was_recorded(trace):
    from llama_viz import figures

    figure = figures.neurons(trace, layer=1, neuron=5, position=3)
    panels = {axes.get_label(): axes for axes in figure.axes}
    (image,) = panels["neurons"].images
    size = np.abs(trace.neuron_activation.values[1]).max(axis=0)
    rows = np.argsort(-size, kind="stable")[:32]
    if 5 not in rows:
        rows = np.append(rows[:-1], 5)
    np.testing.assert_array_equal(image.get_array(), trace.neuron_activation.values[1][:, rows].T)
    low, high = image.get_clim()
    assert low == -high
    (dots,) = [one for one in panels["curve"].collections if one.get_gid() == "positions"]
    x, y = np.asarray(dots.get_offsets()).T
    np.testing.assert_allclose(x, trace.gate.values[1][:, 5], rtol=1e-6)
    np.testing.assert_allclose(y, x / (1 + np.exp(-x)), rtol=1e-6)
    with pytest.raises(ValueError, match="unknown neuron 96"):
        figures.neurons(trace, layer=1, neuron=96)
    without_gate = figures.neurons(trace.drop_vars("gate"), layer=1)
    assert "curve" not in [axes.get_label() for axes in without_gate.axes]
