"""Figures: what is drawn is what the trace holds, hostile text included, and checks can fail."""

import html
import os
import re
import shutil
import subprocess
import sys
import warnings
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

import llama_viz as lv
from llama_viz import analysis, figures
from llama_viz.figures import style
from llama_viz.figures.check import load, read
from llama_viz.figures.next_token import escaped
from llama_viz.tokenizer import visible
from tests.reference import random_ids, random_model


def last_position(trace):
    return getattr(trace, "sizes", {"position": 1})["position"] - 1


# Every figure with arguments that suit the random models.
FIGURES = {
    "attention_map": lambda trace: figures.attention_map(trace, layer=1, head=3),
    "attention_scores": lambda trace: figures.attention_map(trace, layer=0, head=2, stage="scores"),
    "attention_masked": lambda trace: figures.attention_map(trace, layer=2, head=7, stage="masked"),
    "attention_stages": lambda trace: figures.attention_stages(trace, layer=1, head=3),
    "attention_heads": lambda trace: figures.attention_heads(trace, layer=2),
    "attention_overview": figures.attention_overview,
    "attention_row": lambda trace: figures.attention_row(
        trace, layer=1, head=3, query_position=last_position(trace)
    ),
    "head_kinds": figures.head_kinds,
    "rms": figures.rms,
    "vector_through_norm": lambda trace: figures.vector_through_norm(
        trace, layer=1, position=last_position(trace), residual="residual_middle"
    ),
    "rotation_angles": lambda trace: figures.rotation_angles(trace, layer=1, head=6),
    "score_by_pair": lambda trace: figures.score_by_pair(
        trace, layer=1, head=6, query_position=last_position(trace), key_position=0
    ),
    "cache_growth": figures.cache_growth,
    "with_and_without_cache": lambda trace: figures.with_and_without_cache(trace, layer=1, head=6),
    "token_probabilities": figures.token_probabilities,
    "neurons": lambda trace: figures.neurons(trace, layer=1, neuron=5, position=0),
    "candidates": figures.candidates,
}
PICTURES = [name for name in FIGURES if name != "candidates"]

HOSTILE = [
    "<script>alert(1)</script>", "$x$", "$\\frac{", "<s>", "<b>", "&amp;", "\U0001f999", "漢",
    "שלום", "مرحبا", "\x00",
    "\n", " leading", "▁word", "_under", "%{x}", "é", "\u202e", "a" * 300, "", 'say "it\'s"',
]  # fmt: skip

every_figure = pytest.mark.parametrize("name", FIGURES)
every_picture = pytest.mark.parametrize("name", PICTURES)


@pytest.fixture(scope="module")
def lm():
    return random_model("gqa")


@pytest.fixture(scope="module")
def trace(lm):
    """A prompt of 9 tokens and 12 new ones: 20 positions."""
    return recorded(lm)


def recorded(lm, seed=0, **options):
    prompt = random_ids(lm, 9)[0].tolist()
    return lv.record(lm, prompt, max_new_tokens=12, temperature=1.0, seed=seed, **options)


def relabelled(trace, tokens=HOSTILE):
    """The trace with other texts for its tokens, over and over."""
    changed = {}
    for name in ("token", "query_token", "key_token", "sampled_token", "candidate_token"):
        old = trace[name]
        texts = [tokens[index % len(tokens)] for index in range(old.size)]
        changed[name] = (old.dims, np.array(texts, dtype=object).reshape(old.shape))
    return trace.assign_coords(changed)


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


def png(figure):
    return figure._repr_png_()


# What is drawn is what was recorded


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("stage", ["scores", "masked", "weights"])
def test_an_attention_map_draws_the_recorded_head(kind, stage):
    trace = recorded(random_model(kind))
    figure = figures.attention_map(trace, layer=2, head=5, stage=stage)
    (image,) = panel(figure, stage).images
    variable = "attention_weights" if stage == "weights" else "attention_scores"
    recorded_head = trace[variable].sel(layer=2, head=5).values
    drawn = np.ma.filled(image.get_array(), np.nan)
    below = np.tril(np.ones((20, 20), dtype=bool))
    np.testing.assert_array_equal(drawn[below], recorded_head[below])
    assert np.isnan(drawn[~below]).all()  # the panel shows there, grey where masked
    grey = panel(figure, stage).get_facecolor() == matplotlib.colors.to_rgba(style.MASKED)
    assert grey == (stage != "scores")
    low, high = image.get_clim()
    assert (low, high) == (0, 1) if stage == "weights" else low == -high


def test_the_overview_draws_every_head_of_every_layer(trace):
    figure = figures.attention_overview(trace)
    for layer in range(3):
        for head in range(8):
            (image,) = panel(figure, f"layer {layer}, head {head}").images
            np.testing.assert_array_equal(
                np.ma.filled(image.get_array(), 0), trace.attention_weights[layer, head].values
            )
            assert image.get_clim() == (0, 1)


def test_a_row_of_attention_has_a_bar_for_each_key_that_is_seen(trace):
    figure = figures.attention_row(trace, layer=2, head=5, query_position=11)
    columns = named(panel(figure, "row").collections, "weight").get_segments()
    heights = trace.attention_weights[2, 5, 11, :12].values
    np.testing.assert_allclose(columns, [[[x, 0], [x, y]] for x, y in enumerate(heights)])
    said = named(figure.texts, "detail (measured)").get_text()
    assert said == "one row of the map: 12 weights that add up to 1.000"
    with pytest.raises(ValueError, match="unknown query_position 20"):
        figures.attention_row(trace, layer=2, head=5, query_position=20)


def test_kinds_of_heads_are_drawn_as_they_were_measured(trace):
    kinds = analysis.head_kinds(trace)
    figure = figures.head_kinds(trace)
    for kind in analysis.HEAD_KINDS:
        axes = panel(figure, kind)
        drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
        np.testing.assert_array_equal(drawn, kinds.sel(kind=kind).values)
        said = [float(text.get_text()) for text in axes.texts]
        if said:
            np.testing.assert_allclose(said, 100 * drawn.ravel(), atol=0.5)
    assert len(panel(figure, "previous").texts) == 24


def test_an_attention_map_names_rows_and_columns(trace):
    figure = figures.attention_map(relabelled(trace, ["▁a", "▁b", "c"]), layer=0, head=0)
    axes = panel(figure, "weights")
    expected = ["▁a", "▁b", "c"] * 6 + ["▁a", "▁b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == expected
    assert [label.get_text() for label in axes.get_yticklabels()] == expected
    assert "reads key/value head 0, as 3 other heads do" in [t.get_text() for t in figure.texts]


def test_labels_of_a_long_text_are_thinned_and_keep_their_positions():
    lm = random_model("gqa", max_seq_len=256)
    trace = lv.record(lm, random_ids(lm, 200)[0].tolist(), max_new_tokens=1)
    axes = panel(figures.attention_map(trace, layer=0, head=0), "weights")
    ticks, labels = axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()]
    assert 10 <= len(labels) <= 40
    for tick, label in zip(ticks, labels, strict=True):
        assert label == f"{trace.token.values[int(tick)]} {int(tick)}"


def test_the_stages_share_one_scale_of_scores(trace):
    figure = figures.attention_stages(trace, layer=1, head=3)
    images = {stage: panel(figure, stage).images[0] for stage in ("scores", "masked", "weights")}
    assert images["scores"].get_clim() == images["masked"].get_clim()
    np.testing.assert_array_equal(
        np.nan_to_num(images["weights"].get_array()),
        np.where(np.tri(20, dtype=bool), trace.attention_weights[1, 3].values, 0.0),
    )


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"n_kv_heads": 8}, "each of the 8 heads reads a key/value head of its own"),
        ({"n_kv_heads": 2}, "8 heads read 2 key/value heads, 4 heads each"),
        ({"n_kv_heads": 1}, "all 8 heads read one key/value head"),
        ({"n_heads": 9, "n_kv_heads": 3, "dim": 72}, "9 heads read 3 key/value heads"),
        ({"n_heads": 32, "n_kv_heads": 8, "dim": 64}, "32 heads read 8 key/value heads"),
        ({"n_heads": 32, "n_kv_heads": 2, "dim": 64}, "32 heads read 2 key/value heads"),
        ({"n_heads": 2, "n_kv_heads": 2, "dim": 64}, "each of the 2 heads"),
        ({"n_heads": 1, "n_kv_heads": 1, "dim": 64}, "each of the 1 heads"),
    ],
)
def test_all_heads_stand_under_the_key_value_head_that_they_read(sizes, says):
    lm = random_model("gqa", **sizes)
    trace = lv.record(lm, [1, 2, 3, 4], max_new_tokens=3)
    figure = figures.attention_heads(trace, layer=1)
    assert any(says in text.get_text() for text in figure.texts)
    config, places = lm.config, []
    for head in range(config.n_heads):
        axes = panel(figure, f"head {head}")
        np.testing.assert_array_equal(
            np.nan_to_num(axes.images[0].get_array()), trace.attention_weights[1, head].values
        )
        assert axes.images[0].get_clim() == (0, 1)
        places.append(axes.get_position())
    boxes = [(box.x0, box.y0, box.x1, box.y1) for box in places]
    for i, a in enumerate(boxes):
        assert min(a) >= 0
        assert max(a) <= 1
        for b in boxes[:i]:  # no panel covers another
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    if config.heads_per_kv_head > 1:
        for kv_head in range(config.n_kv_heads):
            line = named(figure.artists, f"key/value head {kv_head}")
            for head in range(config.n_heads):
                if config.kv_head_of_head[head] == kv_head:
                    assert line.get_xdata()[0] <= places[head].x0 + 1e-9
                    assert line.get_xdata()[1] >= places[head].x1 - 1e-9
                    assert line.get_ydata()[0] > places[head].y1


def test_rms_draws_every_norm_at_every_position(trace):
    figure = figures.rms(trace)
    axes = panel(figure, "norms and positions")
    np.testing.assert_array_equal(axes.images[0].get_array(), trace.rms.values)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        "layer 0 attention", "layer 0 feed-forward", "layer 1 attention", "layer 1 feed-forward",
        "layer 2 attention", "layer 2 feed-forward", "final",
    ]  # fmt: skip
    growth = panel(figure, "growth with depth")
    first = named(growth.lines, "first position")
    np.testing.assert_array_equal(first.get_xdata(), trace.rms.values[:, 0])
    np.testing.assert_array_equal(first.get_ydata(), range(7))
    median = named(growth.lines, "median of others").get_xdata()
    np.testing.assert_allclose(median, np.median(trace.rms.values[:, 1:], axis=1), rtol=1e-6)


def test_rms_says_which_position_stands_out(trace):
    values = trace.rms.copy(deep=True)
    values[3, 7] = 40 * values[3].median()
    said = named(figures.rms(trace.assign(rms=values)).texts, "detail (measured)").get_text()
    assert f"position 7, {trace.token.values[7]}, 40 times the median at layer 1 feed-for" in said


@pytest.mark.parametrize(("residual", "norm"), [("residual_in", 4), ("residual_out", 6)])
def test_a_vector_is_drawn_before_and_after_its_norm(trace, residual, norm):
    figure = figures.vector_through_norm(trace, layer=2, position=7, residual=residual)
    heights = {
        axes.get_label(): np.array([line[1, 1] for line in axes.collections[0].get_segments()])
        for axes in figure.axes
    }
    vector = trace[residual].sel(layer=2, position=7).values
    gain = trace.norm_gain.sel(norm=norm).values
    np.testing.assert_allclose(heights[residual], vector)
    np.testing.assert_allclose(heights["gain"], gain)
    np.testing.assert_allclose(
        heights["scaled, times gain"], vector / float(trace.rms[norm, 7]) * gain, rtol=1e-5
    )


def test_rotation_angles_draw_what_was_applied_and_what_was_measured(trace):
    figure = figures.rotation_angles(trace, layer=1, head=6)
    measured = analysis.measured_rotation_angle(trace).sel(layer=1, head=6).values
    for pair in range(4):
        line = named(panel(figure, "applied angles").lines, f"pair {pair}")
        np.testing.assert_allclose(line.get_ydata()[1:], trace.rotation_angle.values[1:, pair])
        lane = panel(figure, f"pair {pair}")
        dots = named(lane.lines, "measured")
        np.testing.assert_array_equal(dots.get_ydata(), measured[:, pair])
        x, y = named(lane.lines, "applied").get_data()
        on_positions = np.isclose(x % 1, 0)
        np.testing.assert_allclose(x[on_positions], range(20))
        difference = analysis.wrapped(y[on_positions] - measured[:, pair])
        assert np.nanmax(np.abs(difference)) < 1e-5
    assert "differ by less than 0.00001 rad" in named(figure.texts, "title").get_text()


def test_rotation_angles_say_it_when_they_do_not_agree(trace):
    turned = trace.query_rotated.copy(deep=True)
    turned[1, 5, 6, 2:4] *= -1  # half a turn
    figure = figures.rotation_angles(trace.assign(query_rotated=turned), layer=1, head=6)
    assert "differ by up to 3.1 rad" in named(figure.texts, "title").get_text()
    other = figures.rotation_angles(trace.assign(query_rotated=turned), layer=1, head=5)
    assert "less than 0.00001 rad" in named(other.texts, "title").get_text()


def test_rotation_angles_of_many_pairs_choose_some():
    lm = random_model("gqa", n_heads=2, n_kv_heads=1, dim=128, head_dim=64)
    figure = figures.rotation_angles(lv.record(lm, [1, 2], max_new_tokens=3), layer=0, head=1)
    lanes = [axes.get_label() for axes in figure.axes[1:]]
    assert lanes == [f"pair {pair}" for pair in (0, 4, 9, 13, 18, 22, 27, 31)]


def test_a_score_is_drawn_pair_by_pair_under_the_hands(trace):
    figure = figures.score_by_pair(trace, layer=2, head=5, query_position=17, key_position=4)
    heights = [bar.get_height() for bar in panel(figure, "pairs").patches]
    recorded = float(trace.attention_scores.sel(
        layer=2, head=5, query_position=17, key_position=4))  # fmt: skip
    assert sum(heights) == pytest.approx(recorded, abs=1e-5 * max(1, abs(recorded)))
    assert any(f"the score {sum(heights):.4g}" in text.get_text() for text in figure.texts)
    hand = named(panel(figure, "hands").lines, "key_rotated 3")
    across, up = (np.diff(ends)[0] for ends in hand.get_data())
    key = trace.key_rotated.sel(layer=2, key_value_head=1, position=4).values
    assert (across, up) == pytest.approx(tuple(key[6:8] / np.hypot(*key[6:8])), abs=1e-6)
    with pytest.raises(ValueError, match="unknown key_position 20"):
        figures.score_by_pair(trace, layer=2, head=5, query_position=17, key_position=20)


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_cache_growth_stacks_the_recorded_bytes_under_the_formula(kind):
    trace = recorded(random_model(kind))
    figure = figures.cache_growth(trace)
    axes = panel(figure, "bytes")
    base = np.zeros(12)
    for layer in range(3):
        values, edges, baseline = named(axes.patches, f"layer {layer}").get_data()
        np.testing.assert_array_equal(values - baseline, trace.cache_bytes_used.values[:, layer])
        np.testing.assert_array_equal(baseline, base)
        np.testing.assert_array_equal(edges, np.arange(13) - 0.5)
        base = values
    formula = named(axes.patches, "formula").get_data().values
    config = lv.ModelConfig(**trace.attrs["config"])
    assert formula.tolist() == [config.kv_cache_bytes(9 + step) for step in range(12)]
    reserved = named(axes.patches, "reserved").get_data().values
    assert (reserved == config.kv_cache_bytes(20)).all()
    said = [text.get_text() for text in figure.texts]
    assert any("equal at every step" in text for text in said)
    assert "prefill: 9 positions" in said


def test_cache_growth_says_it_when_the_formula_does_not_hold(trace):
    wrong = trace.cache_bytes_used.copy(deep=True)
    wrong[3:5] += 1
    figure = figures.cache_growth(trace.assign(cache_bytes_used=wrong))
    assert "not equal at 2 steps" in named(figure.texts, "detail").get_text()


def side_by_side(count=3, relabel=False):
    """Runs of several kinds, of which the last has no attention and no logits."""
    kinds = ("mha", "gqa", "mqa", "gqa")[:count]
    runs = {f"{kind} {number}": recorded(random_model(kind)) for number, kind in enumerate(kinds)}
    if relabel:
        runs = {name: relabelled(trace) for name, trace in runs.items()}
    return runs


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_comparison_draws_every_run_on_one_scale(count):
    runs = side_by_side(count)
    figure = figures.comparison(runs, [(1, 3)] * count)
    for name, trace in runs.items():
        (image,) = panel(figure, f"weights of {name}").images
        assert image.get_clim() == (0, 1)
        drawn = np.ma.filled(image.get_array(), 0)
        np.testing.assert_array_equal(drawn, trace.attention_weights.values[1, 3])
        line = named(panel(figure, "cache").lines, f"cache of {name}")
        np.testing.assert_array_equal(line.get_ydata(), trace.cache_bytes_used.sum("layer"))
        wires = panel(figure, f"wiring of {name}")
        n_kv_heads = trace.attrs["config"]["n_kv_heads"]
        assert len(named(wires.lines, "key/value heads").get_xdata()) == n_kv_heads
    bars = panel(figure, "loss").patches
    for bar, trace in zip(bars, runs.values(), strict=True):
        nats = -np.log(analysis.token_probability(trace).values[1:9]).mean()
        assert bar.get_width() == pytest.approx(nats)


def test_a_comparison_is_legible():
    for count in (2, 3, 4):
        runs = side_by_side(count, relabel=True)
        hostile = dict(zip(HOSTILE[:count], runs.values(), strict=True))
        for named_runs in (runs, hostile):
            figure = figures.comparison(named_runs, [(0, 7)] * count)
            texts = texts_in_view(figure)
            for index, (text, box) in enumerate(texts):
                assert box.x0 >= 0, text
                assert box.x1 <= figure.bbox.width, text
                for other, beside in texts[:index]:
                    wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
                    high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
                    assert wide <= 2 or high <= 3.5, f"{text!r} covers {other!r}"


def test_a_comparison_leaves_out_what_is_not_there(lm):
    trace = recorded(lm)
    bare = trace.drop_vars(["attention_weights", "logits"])
    figure = figures.comparison({"whole": trace, "bare": bare}, [(0, 0), None])
    assert "weights of bare" not in [axes.get_label() for axes in figure.axes]
    assert "no logits" in [text.get_text() for text in panel(figure, "loss").texts]
    with pytest.raises(ValueError, match="the trace has no attention_weights"):
        figures.comparison({"bare": bare}, [(0, 0)])
    with pytest.raises(ValueError, match="unknown layer 3"):
        figures.comparison({"whole": trace}, [(3, 0)])
    with pytest.raises(ValueError, match="one to 4 runs can be compared in a figure, got 0"):
        figures.comparison({}, [])


def a_training_run(n_steps=7):
    """Losses, scores of one kind, and texts of some snapshots."""
    steps = [0, 10, 30, 100, 300, 1000, 3000][:n_steps]
    scores = xr.DataArray(
        np.random.default_rng(0).random((n_steps, 2, 4)), {"step": steps, "kind": "induction"},
        ("step", "layer", "head"),
    )  # fmt: skip
    losses = {"step": [1.0, 50.0, 3000.0], "train_loss": [5.0, 3.0, 1.0],
              "held_out_loss": [None, 3.5, 1.5]}  # fmt: skip
    texts = (HOSTILE * 2)[:n_steps]
    return losses, scores, texts


def test_a_training_run_draws_losses_scores_and_texts():
    losses, scores, texts = a_training_run()
    figure = figures.training_run(losses, scores, texts, step=300, head=(1, 2))
    held_out = named(panel(figure, "losses").lines, "held_out_loss")
    assert held_out.get_xydata().tolist() == [[50, 3.5], [3000, 1.5]]
    for layer in range(2):
        for head in range(4):
            line = named(panel(figure, "scores").lines, f"layer {layer}, head {head}")
            np.testing.assert_array_equal(line.get_ydata(), scores.values[:, layer, head])
            is_chosen = (layer, head) == (1, 2)
            assert (line.get_color() == style.QUALITATIVE[1]) == is_chosen
    assert named(figure.texts, "step 300").get_weight() == "bold"
    for axes in ("losses", "scores"):
        assert named(panel(figure, axes).lines, "step").get_xdata() == [300, 300]


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_a_training_run_is_legible(n_steps):
    losses, scores, texts = a_training_run(n_steps)
    for table in (losses, {}):
        step = int(scores["step"].values[-1])
        figure = figures.training_run(table, scores, texts, step=step, head=(0, 0))
        boxes = texts_in_view(figure)
        for index, (text, box) in enumerate(boxes):
            assert box.x0 >= 0, text
            assert box.x1 <= figure.bbox.width, text
            for other, beside in boxes[:index]:
                wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
                high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
                assert wide <= 2 or high <= 3.5, f"{text!r} covers {other!r}"
    with pytest.raises(ValueError, match="texts cannot belong to"):
        figures.training_run({}, scores, [*texts, "more"], step=0, head=(0, 0))


def test_token_probabilities_draw_every_token_once_and_in_order(trace):
    figure = figures.token_probabilities(trace)
    expected = analysis.token_probability(trace).values
    drawn, said = [], []
    for name in ("prompt", "written by the model"):
        axes = panel(figure, name)
        boxes = named(axes.collections, "probability of each token")
        assert boxes.get_clim() == (0, 1)
        drawn += np.ma.filled(boxes.get_array(), np.nan).tolist()
        said += [text.get_text() for text in axes.texts if text.get_gid() == "token"]
    np.testing.assert_array_equal(drawn, expected)
    assert said == [*trace.token.values, trace.sampled_token.values[-1]]
    assert len(said) == 21


def test_token_boxes_stay_in_the_picture_and_apart():
    lm = random_model("gqa")
    trace = relabelled(lv.record(lm, random_ids(lm, 60)[0].tolist(), max_new_tokens=30))
    figure = figures.token_probabilities(trace)
    for axes in figure.axes[:2]:
        (boxes,) = axes.collections
        corners = np.array([path.vertices[:4] for path in boxes.get_paths()])
        low, high = corners.min(axis=1), corners.max(axis=1)
        assert low.min() >= 0
        assert high[:, 0].max() <= axes.get_xlim()[1]
        assert high[:, 1].max() <= axes.get_ylim()[1]
        for i in range(len(low)):
            others = np.arange(len(low)) != i
            apart = (low[others] >= high[i]) | (high[others] <= low[i])
            assert apart.any(axis=1).all()


def test_candidates_draw_probabilities_frames_and_steps(trace):
    figure = figures.candidates(trace)
    (heatmap,) = figure.data
    np.testing.assert_array_equal(heatmap.z, trace.candidate_probability.values.T)
    assert (heatmap.zmin, heatmap.zmax) == (0, 1)
    assert list(heatmap.x) == list(range(12))
    assert list(heatmap.y) == list(range(10))
    for step in range(12):
        for rank in range(10):
            told = heatmap.customdata[rank][step]
            assert tuple(told) == (step, rank, trace.candidate_token.values[step, rank])
    written = {(shape.x0 + 0.5, shape.y0 + 0.5) for shape in figure.layout.shapes}
    expected = np.argwhere((trace.candidate_id == trace.sampled_id).values)
    assert written == {tuple(place) for place in expected.tolist()}


# Text of tokens is data


@every_figure
def test_hostile_tokens_are_drawn_without_a_warning(trace, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name](relabelled(trace))
        if isinstance(figure, Figure):
            assert png(figure).startswith(b"\x89PNG")
        else:
            assert figure._repr_mimebundle_()["image/jpeg"].startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("<script>", "<script>"), ("$x$", "$x$"), ("<s>", "<s>"), ("<b>", "<b>"),
        ("\U0001f999", "<U+1F999>"), ("漢", "<U+6F22>"), ("שלום", "שלום"), ("\x00", "<U+0000>"),
        ("\n", "⏎"), (" word", "▁word"), ("▁word", "▁word"), ("\u202e", "<U+202E>"),
        ("a\nb", "a⏎b"), ("_under", "_under"), ("\\$", "\\$"),
    ],
)  # fmt: skip
def test_a_token_shows_as_itself(trace, token, label):
    hostile = relabelled(trace, [token])
    axes = panel(figures.attention_map(hostile, layer=0, head=0), "weights")
    assert {text.get_text() for text in axes.get_xticklabels()} == {label}
    (boxes,) = {
        text.get_text()
        for text in panel(figures.token_probabilities(hostile), "prompt").texts
        if text.get_gid() == "token"
    }
    assert boxes == label
    for text in axes.get_xticklabels() + axes.get_yticklabels():
        assert not text.get_parse_math()


def test_a_formula_is_drawn_as_its_letters(trace):
    """What mathtext would make of $x$ is another picture than its three characters."""
    letters = png(figures.token_probabilities(relabelled(trace, ["$x$"])))
    for other in ("x", "$y$"):
        assert png(figures.token_probabilities(relabelled(trace, [other]))) != letters


@pytest.mark.parametrize("token", HOSTILE)
def test_plotly_gets_no_markup(token):
    text = escaped(token)
    assert not set("<>$\n\x00") & set(text)
    assert html.unescape(text) == visible(token)
    # Of the names of characters Plotly knows these, and numbers.
    assert set(re.findall(r"&(.*?);", text)) <= {"amp", "lt", "gt", "#36"}


def test_long_tokens_are_cut(trace):
    axes = panel(figures.attention_map(relabelled(trace, ["a" * 300]), layer=0, head=0), "weights")
    (label,) = {text.get_text() for text in axes.get_xticklabels()}
    assert label == "a" * 13 + "…"


# Drawing leaves nothing behind and depends on nothing


@every_picture
def test_two_drawings_are_the_same_bytes(trace, name):
    assert png(FIGURES[name](trace)) == png(FIGURES[name](trace))


def test_the_readers_settings_change_nothing_and_stay(trace):
    plain = png(figures.rms(trace))
    mine = {"font.size": 30, "axes.facecolor": "black", "xtick.labelsize": 3, "axes.grid": True,
            "savefig.dpi": 10, "text.parse_math": True}  # fmt: skip
    with matplotlib.rc_context(mine):
        before = dict(matplotlib.rcParams)
        figure = figures.rms(trace)
        assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({**mine, "savefig.dpi": "figure"}):
        assert png(figure) == plain


def test_figures_need_neither_pyplot_nor_torch_nor_weights(trace, tmp_path):
    lv.save_trace(trace, tmp_path / "run.nc")
    code = f"""if True:
        import sys
        import llama_viz as lv
        from llama_viz import figures
        trace = lv.load_trace({str(tmp_path / "run.nc")!r})
        for figure in (
            figures.attention_map(trace, layer=1, head=3), figures.rms(trace),
            figures.attention_stages(trace, layer=1, head=3), figures.cache_growth(trace),
            figures.attention_heads(trace, layer=2), figures.token_probabilities(trace),
            figures.rotation_angles(trace, layer=1, head=6), figures.neurons(trace, layer=1),
            figures.architecture(lv.ModelConfig(**trace.attrs["config"])),
        ):
            figure._repr_png_()
        figures.candidates(trace)
        print(sorted({{"torch", "matplotlib.pyplot"}} & set(sys.modules)))
    """
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_a_trace_from_a_file_gives_the_same_figures(trace, tmp_path):
    lv.save_trace(trace, tmp_path / "run.nc")
    loaded = lv.load_trace(tmp_path / "run.nc")
    for draw in FIGURES.values():
        assert read(draw(loaded)).digest == read(draw(trace)).digest


@every_picture
def test_a_figure_shows_itself_once_and_says_what_it_is(trace, name):
    from IPython.core.formatters import DisplayFormatter

    figure = FIGURES[name](trace)
    shown, _ = DisplayFormatter().format(figure)
    assert set(shown) == {"text/plain", "image/png"}
    assert re.fullmatch(r"<Figure: [^<>]+, \d+ x \d+ pixels>", shown["text/plain"])
    width, height = (int(n) for n in re.findall(r"(\d+) x (\d+) pixels", shown["text/plain"])[0])
    assert 600 <= width <= 1000
    assert height <= 1000
    assert len(shown["image/png"]) < 150_000


def test_the_interactive_figure_brings_a_still(trace):
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(figures.candidates(trace))
    # No PNG: Plotly's renderer in JupyterLab would show that, until it is pointed at.
    assert set(shown) == {"text/plain", "image/jpeg", "application/vnd.plotly.v1+json"}
    assert shown["text/plain"] == str(shown["text/plain"])
    width, height = (int(n) for n in re.findall(r"(\d+) x (\d+) pixels", shown["text/plain"])[0])
    with Image.open(BytesIO(shown["image/jpeg"])) as still:
        assert (still.format, still.size) == ("JPEG", (width, height))
    assert len(shown["image/jpeg"]) < 150_000


@every_picture
def test_nothing_is_cut_off_at_the_edge(trace, name, tmp_path):
    (tmp_path / "figure.png").write_bytes(png(FIGURES[name](relabelled(trace))))
    pixels = imread(tmp_path / "figure.png")[..., :3]
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert (edge == 1).all()


def texts_in_view(figure):
    """Every text that is drawn, with its box in pixels."""
    figure.canvas.draw()
    found = list(figure.texts)
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes._left_title, axes._right_title]
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [
                    axis.label,
                    *(text for tick in ticks for text in (tick.label1, tick.label2)),
                ]
    renderer = figure.canvas.get_renderer()
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


@every_figure
def test_no_text_covers_another_or_leaves_the_picture(trace, name):
    for drawn in (trace, relabelled(trace)):
        figure = FIGURES[name](drawn)
        figure = figure if isinstance(figure, Figure) else figure._still
        texts = texts_in_view(figure)
        assert len(texts) >= 5
        for index, (text, box) in enumerate(texts):
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= figure.bbox.width, text
            assert box.y1 <= figure.bbox.height, text
            for other, beside in texts[:index]:
                wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
                high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
                # Boxes hold room for letters that reach lower and higher than most.
                assert wide <= 2 or high <= 3.5, f"{text!r} covers {other!r}"


def test_many_lines_can_be_told_apart():
    looks = style.distinct(64)
    assert len(set(map(str, looks))) == 64
    assert len({look.colour for look in looks[:7]}) == 7
    with pytest.raises(ValueError, match="at most 140 lines"):
        style.distinct(141)


@pytest.mark.parametrize("ends", [(0.04, 19.0), (0.95, 1.05), (1.0, 1.0), (1e-6, 1e6), (3.0, 4.0)])
def test_round_values_lie_between_the_ends(ends):
    for most in (3, 5, 8):
        ticks = style.round_values(*ends, most=most)
        assert 1 <= len(ticks) <= most
        assert all(ends[0] <= tick <= ends[1] for tick in ticks)
        assert ticks == sorted(set(ticks))


# Odd traces


@every_figure
def test_a_single_pass_and_a_single_position_can_be_drawn(lm, name):
    for ids in ([5], [5, 6], [5, 6, 7, 8]):
        figure = FIGURES[name](lv.record_forward(lm, ids))
        if isinstance(figure, Figure):
            assert png(figure)


@every_figure
def test_some_layers_can_be_drawn(lm, name):
    for layers in ([1], [0, 2], [1, 2]):
        trace = recorded(lm, layers=layers)
        asks = re.search(r"\(trace, layer=(\d)", str(SOURCE[name]))
        if asks and int(asks[1]) not in layers:
            message = f"unknown layer {asks[1]}.*Choose from: {', '.join(map(str, layers))}"
            with pytest.raises(ValueError, match=message):
                FIGURES[name](trace)
        else:
            read(FIGURES[name](trace))


SOURCE = {
    "attention_map": "(trace, layer=1", "attention_scores": "(trace, layer=0",
    "with_and_without_cache": "(trace, layer=1",
    "attention_masked": "(trace, layer=2", "attention_stages": "(trace, layer=1",
    "attention_heads": "(trace, layer=2", "attention_row": "(trace, layer=1",
    "attention_overview": "", "head_kinds": "", "rotation_angles": "(trace, layer=1",
    "score_by_pair": "(trace, layer=1",
    "vector_through_norm": "(trace, layer=1",
    "neurons": "(trace, layer=1", "rms": "", "cache_growth": "", "token_probabilities": "",
    "candidates": "",
}  # fmt: skip


def test_a_part_of_a_trace_keeps_its_positions(trace):
    some = trace.isel(key_position=slice(3, 9), query_position=slice(5, 20), position=slice(5, 20))
    figure = figures.attention_map(some, layer=1, head=3)
    axes = panel(figure, "weights")
    np.testing.assert_array_equal(
        np.nan_to_num(axes.images[0].get_array()), trace.attention_weights[1, 3, 5:20, 3:9].values
    )
    assert [t.get_text() for t in axes.get_xticklabels()] == list(trace.token.values[3:9])
    assert axes.get_yticklabels()[0].get_text().startswith(trace.token.values[5])
    assert any("key position 3 to 8, down: query position 5 to 19" in text.get_text()
               for text in figures.attention_heads(some, layer=0).texts)  # fmt: skip
    texts = [text.get_text() for text in figures.rms(some).texts]
    assert f"position 5: {trace.token.values[5]}" in texts


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("attention_map", ["attention_weights"]),
        ("attention_scores", ["attention_scores"]),
        ("attention_stages", ["attention_scores"]),
        ("attention_heads", ["attention_weights"]),
        ("rms", ["rms"]),
        ("vector_through_norm", ["norm_gain"]),
        ("rotation_angles", ["query_rotated"]),
        ("score_by_pair", ["key"]),
        ("cache_growth", ["cache_bytes_reserved"]),
        ("neurons", ["gate", "neuron_activation"]),
        ("token_probabilities", ["logits", "sampled_probability"]),
        ("candidates", ["candidate_probability"]),
    ],
)
def test_what_was_not_recorded_is_one_clear_error(trace, name, variables):
    with pytest.raises(ValueError, match=f"the trace has no {variables[-1]}; "):
        FIGURES[name](trace.drop_vars(variables))


@every_figure
def test_what_is_no_trace_is_one_clear_error(name):
    with pytest.raises(TypeError, match="expected a trace"):
        FIGURES[name]({"rms": 1})


def test_unknown_choices_are_listed(trace):
    with pytest.raises(ValueError, match=r"unknown layer 3\. Choose from: 0, 1, 2"):
        figures.attention_heads(trace, layer=3)
    with pytest.raises(ValueError, match=r"unknown head 8\. Choose from: 0, 1, 2, 3, 4, 5, 6, 7"):
        figures.rotation_angles(trace, layer=0, head=8)
    with pytest.raises(ValueError, match="unknown stage 'weight'. Did you mean 'weights'"):
        figures.attention_map(trace, layer=0, head=0, stage="weight")


NEED_MORE = (
    "token_probabilities", "candidates", "neurons", "vector_through_norm", "with_and_without_cache",
)  # fmt: skip


def test_the_four_signals_are_enough_for_their_figures(lm):
    trace = recorded(lm, taps=lv.SIGNALS)
    for name in FIGURES:
        if name not in NEED_MORE:
            FIGURES[name](trace)


# figures.check


@pytest.fixture(scope="module")
def written_once(trace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_VIZ_WRITE_FIGURES", "1")
        for name, draw in FIGURES.items():
            figures.check(draw(trace), name, folder=folder)
    return folder


@pytest.fixture
def written(written_once, tmp_path):
    """A folder with a reference of every figure, to do with as a test likes."""
    return shutil.copytree(written_once, tmp_path / "references")


def test_a_second_drawing_passes_and_prints_the_same(trace, written, capsys):
    for name, draw in FIGURES.items():
        figures.check(draw(trace), name, folder=written)
        first = capsys.readouterr().out
        figures.check(draw(trace), name, folder=written)
        assert capsys.readouterr().out == first
        assert first.startswith(f"{name}: draws its reference ")
        assert load(written / f"{name}.npz").digest in first


def test_the_structure_is_printed_without_measured_numbers(trace, written, capsys):
    figures.check(FIGURES["rms"](trace), "rms", folder=written)
    printed = capsys.readouterr().out
    assert "panel 'norms and positions': image 'rms' 7 x 20" in printed
    assert "the median goes from # to #" in printed
    figures.check(FIGURES["attention_map"](trace), "attention_map", folder=written)
    printed = capsys.readouterr().out
    assert "image 'attention weights of layer 1, head 3' 20 x 20" in printed
    assert "x axis 'key position: what is looked at' '" in printed


@pytest.fixture(scope="module")
def on_two_threads(lm):
    """The same run with another order of sums."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        return recorded(lm)
    finally:
        torch.set_num_threads(threads)


@every_figure
def test_another_number_of_threads_passes(on_two_threads, written_once, name):
    figures.check(FIGURES[name](on_two_threads), name, folder=written_once)


@every_figure
def test_rounding_of_another_machine_passes(trace, written_once, name):
    random = np.random.default_rng(0)
    noisy = trace.copy(deep=True)
    for variable in noisy.data_vars.values():
        # The angle is no sum: it is the same everywhere, or wrong.
        if variable.dtype.kind == "f" and variable.name != "rotation_angle":
            variable.values *= 1 + 1e-6 * random.standard_normal(variable.shape)
    figures.check(FIGURES[name](noisy), name, folder=written_once)


@pytest.fixture(scope="module")
def of_another_seed(lm):
    return recorded(lm, seed=3)


@every_figure
def test_the_run_of_another_seed_fails(lm, of_another_seed, written_once, name):
    other = of_another_seed
    if name == "cache_growth":  # depends on lengths alone
        other = lv.record(lm, random_ids(lm, 8)[0].tolist(), max_new_tokens=12)
    if name == "rotation_angles":  # the same for every text
        other = lv.record(lm, random_ids(lm, 9)[0].tolist(), max_new_tokens=13)
    with pytest.raises(figures.FigureMismatch, match=f"figure '{name}'"):
        figures.check(FIGURES[name](other), name, folder=written_once)


@pytest.mark.parametrize("name", ["attention_map", "attention_stages", "rms", "candidates"])
def test_a_swapped_label_fails(trace, written, name):
    tokens = [f"token{index}" for index in range(20)]
    swapped = [*tokens[:5], tokens[6], tokens[5], *tokens[7:]]
    os.environ["LLAMA_VIZ_WRITE_FIGURES"] = "1"
    try:
        figures.check(FIGURES[name](relabelled(trace, tokens)), name, folder=written)
    finally:
        del os.environ["LLAMA_VIZ_WRITE_FIGURES"]
    with pytest.raises(figures.FigureMismatch, match="token[56].*reference.*token[56]"):
        figures.check(FIGURES[name](relabelled(trace, swapped)), name, folder=written)


def changed(trace, variable, change):
    values = trace[variable].copy(deep=True)
    change(values.values)
    return trace.assign({variable: values})


def shift_a_row(values):
    values[1, 3, 12] = np.roll(values[1, 3, 12], 1)


def change_a_head(values):
    values[2, 5] = values[2, 4]


def swap_layers(values):
    values[[1, 2]] = values[[2, 1]]


def test_a_shifted_row_fails(trace, written):
    broken = changed(trace, "attention_weights", shift_a_row)
    message = (
        r"figure 'attention_map', values of image 'attention weights of layer 1, head 3' in panel "
        r"'weights': \d+ of 400 numbers are off, farthest at \[12, \d+\]: draws .* reference "
    )
    with pytest.raises(figures.FigureMismatch, match=message):
        figures.check(FIGURES["attention_map"](broken), "attention_map", folder=written)


def test_one_changed_head_fails(trace, written):
    broken = changed(trace, "attention_weights", change_a_head)
    with pytest.raises(figures.FigureMismatch, match="attention weights of layer 2, head 5"):
        figures.check(FIGURES["attention_heads"](broken), "attention_heads", folder=written)


def test_swapped_layers_fail(trace, written):
    for name in ("attention_map", "attention_heads", "attention_stages"):
        broken = changed(trace, "attention_weights", swap_layers)
        with pytest.raises(figures.FigureMismatch):
            figures.check(FIGURES[name](broken), name, folder=written)


def test_one_probability_off_by_a_hundredth_fails(trace, written):
    broken = changed(trace, "sampled_probability", lambda values: values.__setitem__(4, 0.9))
    with pytest.raises(figures.FigureMismatch, match="probability of each token"):
        figures.check(FIGURES["token_probabilities"](broken), "token_probabilities", folder=written)


@every_picture
def test_every_missing_artist_fails(trace, written, name):
    reference = read(FIGURES[name](trace))
    figure = FIGURES[name](trace)
    artists = [*figure.texts, *figure.artists]
    for axes in figure.axes:
        artists += [*axes.lines, *axes.images, *axes.patches, *axes.collections, *axes.texts]
    assert len(artists) >= (3 if name == "attention_row" else 4)  # its columns are one artist
    for artist in artists:
        artist.set_visible(False)
        assert read(figure) != reference
        with pytest.raises(figures.FigureMismatch):
            figures.check(figure, name, folder=written)
        artist.set_visible(True)
    figures.check(figure, name, folder=written)


def test_an_extra_artist_fails(trace, written):
    figure = FIGURES["rms"](trace)
    figure.axes[0].axhline(2, gid="a line nobody asked for")
    message = "draws, but its reference has no, line 'a line nobody asked for'"
    with pytest.raises(figures.FigureMismatch, match=message):
        figures.check(figure, "rms", folder=written)


@pytest.mark.parametrize(
    "change",
    [
        lambda axes: axes.set_title("another title"),
        lambda axes: axes.set_xlabel("another label"),
        lambda axes: axes.set_xscale("log"),
        lambda axes: axes.set_xlim(0, 7),
        lambda axes: axes.images[0].set_clim(0.1, 1),
        lambda axes: axes.images[0].set_cmap("viridis"),
        lambda axes: axes.images[0].set_extent((0, 1, 0, 1)),
        lambda axes: axes.set_facecolor("red"),
    ],
)
def test_another_look_of_a_panel_fails(trace, written, change):
    figure = FIGURES["rms"](trace)
    change(panel(figure, "norms and positions"))
    with pytest.raises(figures.FigureMismatch, match="figure 'rms'.* panel '"):
        figures.check(figure, "rms", folder=written)


def test_a_changed_plotly_figure_fails(trace, written):
    for change in (
        lambda figure: figure.data[0].update(zmax=2),
        lambda figure: figure.layout.update(title_text="another title"),
        lambda figure: figure.layout.xaxis.update(ticktext=["0"] * 12),
        lambda figure: figure.layout.update(shapes=figure.layout.shapes[1:]),
        lambda figure: figure.data[0].update(z=figure.data[0].z[::-1]),
    ):
        figure = FIGURES["candidates"](trace)
        change(figure)
        with pytest.raises(figures.FigureMismatch):
            figures.check(figure, "candidates", folder=written)


def test_a_missing_reference_names_the_command(trace, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reference for this figure.*make figures"):
        figures.check(FIGURES["rms"](trace), "rms", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_references_are_written_the_same_and_only_when_asked(
    trace, of_another_seed, written, monkeypatch
):
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    assert max(map(len, before.values())) < 40_000
    with pytest.raises(figures.FigureMismatch):
        figures.check(FIGURES["rms"](of_another_seed), "rms", folder=written)
    monkeypatch.setenv("LLAMA_VIZ_WRITE_FIGURES", "1")
    for path in list(written.iterdir()):
        path.unlink()
        figures.check(FIGURES[path.stem](trace), path.stem, folder=written)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before
    # One that no longer holds is written anew.
    figures.check(FIGURES["rms"](of_another_seed), "rms", folder=written)
    assert (written / "rms.npz").read_bytes() != before["rms.npz"]


def test_a_damaged_reference_says_so_and_can_be_written_anew(trace, written, monkeypatch):
    whole = (written / "rms.npz").read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"no archive at all"):
        (written / "rms.npz").write_bytes(damage)
        with pytest.raises(ValueError, match=r"rms\.npz: cannot be read.*make figures"):
            figures.check(FIGURES["rms"](trace), "rms", folder=written)
        monkeypatch.setenv("LLAMA_VIZ_WRITE_FIGURES", "1")
        figures.check(FIGURES["rms"](trace), "rms", folder=written)
        monkeypatch.delenv("LLAMA_VIZ_WRITE_FIGURES")
        assert (written / "rms.npz").read_bytes() == whole


def test_what_cannot_be_checked_is_refused(trace, tmp_path):
    with pytest.raises(ValueError, match="a figure's name is letters"):
        figures.check(FIGURES["rms"](trace), "../rms", folder=tmp_path)
    with pytest.raises(TypeError, match="expected a matplotlib or Plotly figure, got dict"):
        figures.check({}, "rms", folder=tmp_path)
    figure = FIGURES["rms"](trace)
    figure.axes[0].table([["1"]])
    with pytest.raises(TypeError, match="cannot read a Table yet"):
        figures.check(figure, "rms", folder=tmp_path)
