"""Wiring, roofline, ratios, memory and results: each mark beside the computation that it shows."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import cost, figures

P = lv.PRESETS
CARD = cost.DEVICES["a100-80gb-pcie"]


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


def heading(figure):
    return [text.get_text() for text in figure.texts]


# Wiring


@pytest.mark.parametrize("name", ["llama2-7b", "llama2-70b", "smollm2-135m", "tinyllama-1.1b"])
def test_every_query_head_has_one_line_to_the_head_that_it_reads(name):
    config = P[name]
    axes = panel(figures.head_wiring(P, model=name), f"wiring of {name}")
    lines = [line for line in axes.lines if "heads" not in str(line.get_gid())]
    assert len(lines) == config.n_heads
    query = named(axes.lines, "query heads").get_xdata()
    shared = named(axes.lines, "key/value heads").get_xdata()
    assert (len(query), len(shared)) == (config.n_heads, config.n_kv_heads)
    for head, line in enumerate(lines):
        start, end = line.get_xdata()
        assert start == query[head]
        assert end == shared[head * config.n_kv_heads // config.n_heads]


def test_wiring_has_a_row_for_each_model_and_numbers_where_they_can_be_read():
    figure = figures.head_wiring({"<b>": P["tinyllama-1.1b"], "70B": P["llama2-70b"]})
    assert "70B: GQA, 64 query heads, 8 key/value heads" in heading(figure)
    numbers = [text.get_text() for text in panel(figure, "wiring of <b>").texts]
    assert numbers == [str(n) for n in (*range(32), *range(4))]
    assert not panel(figure, "wiring of 70B").texts
    with pytest.raises(ValueError, match="model 'gpt'"):
        figures.head_wiring(P, model="gpt")
    with pytest.raises(ValueError, match="no models"):
        figures.head_wiring({})


# Roofline


def test_every_operation_stands_on_the_roof_at_its_intensity():
    passes = {
        "prefill": cost.forward(P["llama2-7b"], 512, dtype="float16"),
        "decode": cost.forward(P["llama2-7b"], 1, 511, dtype="float16"),
    }
    figure = figures.roofline(passes, device=CARD)
    top, below = panel(figure, "roof"), panel(figure, "operations")
    rows = [label.get_text() for label in below.get_yticklabels()]
    assert len(rows) == len(cost.PARTS) - 4  # three are one kernel, two compute nothing
    for name, costs in passes.items():
        x, y = named(top.lines, name).get_data()
        np.testing.assert_allclose(named(below.lines, name).get_xdata(), x)
        np.testing.assert_allclose(y, np.minimum(312e12, x * 1.935e12))
        at = dict(zip(rows, x, strict=True))
        assert at["gate"] == costs["gate"].operations / costs["gate"].bytes
        attention = [costs[each] for each in ("scores", "softmax", "weighted_values")]
        assert at["attention itself"] == pytest.approx(
            sum(row.operations for row in attention) / sum(row.bytes for row in attention)
        )
        ridge = named(top.lines, "ridge point").get_xdata()[0]
        assert ridge == pytest.approx(312 / 1.935)


def test_roofline_refuses_what_cannot_be_drawn():
    one = cost.forward(P["llama2-7b"], 1, 9)
    with pytest.raises(ValueError, match="one to four passes can be drawn, got 0"):
        figures.roofline({}, device=CARD)
    with pytest.raises(ValueError, match="no operations per second of Apple"):
        figures.roofline({"one": one}, device=cost.DEVICES["m4-max"])


# Ratios


def test_ratios_are_the_formulas_and_what_was_counted():
    figure = figures.memory_ratios((16, 64, 256, 4096), n=100, d=1024, h=8, b=4)
    left = panel(figure, "orders of growth (Shazeer 2019)")
    right = panel(figure, "counted: numbers per multiply-add")
    n = np.array([16, 64, 100, 256])  # not beyond d
    formulas = {
        "batched MHA": 8 / 1024 + 1 / (4 * n),
        "incremental MHA": n / 1024 + 1 / 4,
        "incremental MQA": 1 / 1024 + n / (1024 * 8) + 1 / 4,
    }
    for name, values in formulas.items():
        x, y = named(left.lines, name).get_data()
        np.testing.assert_array_equal(x, n)
        np.testing.assert_allclose(y, values)
        marked = cost.counted_memory_per_arithmetic(
            100, 1024, 8, 4, 1 if "MQA" in name else 8, incremental="incremental" in name
        )
        np.testing.assert_allclose(named(right.lines, f"{name} at n").get_data(), [[100], [marked]])


# Memory


def test_caches_grow_and_weights_do_not():
    figure = figures.cache_over_context({"7B": P["llama2-7b"], "70B": P["llama2-70b"]})
    axes = panel(figure, "bytes")
    contexts, sizes = named(axes.lines, "cache of 7B").get_data()
    np.testing.assert_allclose(sizes, 2 * 32 * 32 * 128 * 2 * np.array(contexts) / 1e9)
    np.testing.assert_allclose(named(axes.lines, "weights of 7B").get_ydata(), 13.476831232)
    names = [text.get_text() for text in axes.texts]
    assert names == ["70B: 1.34 GB at 4,096", "7B: 2.15 GB at 4,096"]  # from the lowest
    many = panel(figures.cache_over_context({"7B": P["llama2-7b"]}, batch_size=4), "bytes")
    np.testing.assert_allclose(named(many.lines, "cache of 7B").get_ydata(), 4 * np.array(sizes))


def test_what_fits_is_what_is_left_by_the_weights():
    large = {"7B": P["llama2-7b"], "70B": P["llama2-70b"], "plain": cost.ungrouped(P["llama2-70b"])}
    figure = figures.what_fits(large)
    texts = [text.get_text() for text in panel(figure, "texts").texts]
    by_hand = []
    for config in large.values():
        per_text = config.kv_cache_bytes(4096, itemsize=2)
        for size in (24, 40, 80, 160, 320):
            left = size * 10**9 - 2 * config.n_parameters
            by_hand.append("–" if left < 0 else f"{left // per_text:,}")
    assert texts == by_hand
    assert "0" in texts  # the weights alone fit
    for draw in (figures.what_fits, figures.cache_over_context):
        with pytest.raises(ValueError, match="no models"):
            draw({})


# Results


def test_seeds_are_dots_with_their_range_and_mean():
    losses = {"mha": [0.6, 0.62, 0.61], "gqa": [0.58, 0.61, 0.6]}
    figure = figures.over_seeds(
        {"loss": losses, "recall": {"mha": [0.9]}}, lower_is_better=["loss"]
    )
    axes = panel(figure, "loss")
    for row, (name, values) in enumerate(losses.items()):
        x, y = named(axes.lines, name).get_data()
        np.testing.assert_array_equal(x, values)
        np.testing.assert_array_equal(y, row)
        np.testing.assert_array_equal(
            named(axes.lines, f"range of {name}").get_xdata(), [min(values), max(values)]
        )
        np.testing.assert_allclose(
            named(axes.lines, f"mean of {name}").get_xdata(), [np.mean(values)] * 2
        )
    joined = [line.get_xdata() for line in axes.lines if line.get_gid() == "one seed"]
    np.testing.assert_array_equal(joined, np.transpose(list(losses.values())))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["mha", "gqa (3 seeds)"]  # mha has one in the other panel
    assert axes.get_xlabel() == "← better"
    assert panel(figure, "recall").get_xlabel() == "better →"


def test_one_seed_has_no_spread():
    figure = figures.over_seeds({"loss": {"mha": [0.6]}})
    assert [line.get_gid() for line in panel(figure, "loss").lines] == ["mha"]
    assert "a dot for each seed; one seed has no spread to show" in heading(figure)
    assert "mha (1 seed)" in [t.get_text() for t in panel(figure, "loss").get_yticklabels()]
    with pytest.raises(ValueError, match="no runs"):
        figures.over_seeds({})


def test_recall_is_a_line_of_means_and_a_band():
    curves = {"place": {"mha": {1: [0.9, 0.8], 2: [0.7, 0.5]}, "gqa": {1: [0.9], 2: [0.6]}}}
    axes = panel(figures.recall_curves(curves), "place")
    np.testing.assert_allclose(named(axes.lines, "mha").get_ydata(), [0.85, 0.6])
    np.testing.assert_allclose(named(axes.lines, "gqa").get_ydata(), [0.9, 0.6])
    (band,) = axes.collections
    assert band.get_gid() == "range of mha"
    corners = band.get_paths()[0].vertices
    assert {(1, 0.8), (1, 0.9), (2, 0.5), (2, 0.7)} <= {tuple(corner) for corner in corners}
    with pytest.raises(ValueError, match="no curves"):
        figures.recall_curves({})


def test_uptraining_is_columns_before_and_curves_after():
    pooled = {"2 heads, mean": {0: 5.0}, "2 heads, first": {0: 4.0}}
    axes = panel(figures.uptraining(pooled, source=0.6), "loss")
    assert [bar.get_height() for bar in axes.patches] == [5.0, 4.0]
    assert named(axes.lines, "source").get_ydata()[0] == 0.6
    trained = {name: {**course, 100: 1.0, 200: 0.7} for name, course in pooled.items()}
    axes = panel(figures.uptraining(trained, source=0.6), "loss")
    for name, course in trained.items():
        x, y = named(axes.lines, name).get_data()
        assert dict(zip(x, y, strict=True)) == course
    assert not axes.patches
    low, high = axes.get_ylim()
    assert low < 0.6 < 5.0 < high
    with pytest.raises(ValueError, match="no courses"):
        figures.uptraining({}, source=0.6)
