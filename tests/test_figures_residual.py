"""The residual stream drawn: every row is the row below it plus what comes in; and depth."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import figures
from llama_viz import foundations as f
from tests.reference import random_model


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 6)


@pytest.fixture(scope="module")
def runs():
    return {
        f"{n} layers, {'with' if residual else 'without'}": f.train_stack(
            n, residual=residual, n_steps=6
        )
        for n in (2, 4)
        for residual in (True, False)
    }


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def strips(figure):
    return {image.get_gid(): image for image in panel(figure, "stream").images}


@pytest.mark.parametrize("position", [0, 7])
def test_each_row_is_the_one_below_plus_what_comes_in(trace, position):
    drawn = strips(figures.residual_stream(trace, position=position, n_features=8))
    rows = {name: np.asarray(image.get_array())[0] for name, image in drawn.items()}
    np.testing.assert_array_equal(rows["stream 0"], trace.embedding.values[position, :8])
    writers = [f"{kind} {layer}" for layer in range(3) for kind in ("attention", "feed-forward")]
    assert list(rows) == [f"stream {row}" for row in range(7)] + writers
    for number, writer in enumerate(writers):
        summed = rows[f"stream {number}"] + rows[writer]
        np.testing.assert_allclose(rows[f"stream {number + 1}"], summed, atol=1e-5)


def test_one_scale_for_all_rows_and_rows_in_order(trace):
    drawn = strips(figures.residual_stream(trace, position=3))
    assert len({image.get_clim() for image in drawn.values()}) == 1
    heights = [np.mean(drawn[f"stream {row}"].get_extent()[2:]) for row in range(7)]
    between = np.mean(drawn["attention 1"].get_extent()[2:])
    assert heights == sorted(heights)
    assert heights[2] < between < heights[3]


def test_sizes_are_those_of_all_features(trace):
    figure = figures.residual_stream(trace, position=3, n_features=4)
    said = {text.get_gid(): text.get_text() for text in panel(figure, "stream").texts}
    after = trace.residual_out.values[2, 3].astype(np.float64)
    assert said["RMS of stream 6 (measured)"] == f"{np.sqrt((after**2).mean()):.2f}"
    wrote = trace.feed_forward_output.values[1, 3].astype(np.float64)
    assert said["RMS of feed-forward 1 (measured)"] == f"{np.sqrt((wrote**2).mean()):.2f}"


def test_what_is_not_there_is_refused(trace):
    with pytest.raises(ValueError, match="unknown position 99"):
        figures.residual_stream(trace, position=99)
    for n_features in (0, 65):
        with pytest.raises(ValueError, match="n_features must be from 1 to 64"):
            figures.residual_stream(trace, position=1, n_features=n_features)
    with pytest.raises(ValueError, match="attention_output"):
        figures.residual_stream(trace.drop_vars("attention_output"), position=1)
    with pytest.raises(ValueError, match="no runs"):
        figures.depth({})


def test_depth_draws_the_runs(runs):
    figure = figures.depth(runs)
    lines = {
        title: {line.get_gid(): line for line in panel(figure, title).lines}
        for title in ("loss, nats", "mean cosine of two items", "gradient of each layer")
    }
    assert set(lines["loss, nats"]) == set(runs)
    for title, name in (("mean cosine of two items", "alikeness"),
                        ("gradient of each layer", "gradient")):  # fmt: skip
        assert set(lines[title]) == {"4 layers, with", "4 layers, without"}
        for run, line in lines[title].items():
            np.testing.assert_array_equal(line.get_ydata(), runs[run][name])
    for run, line in lines["loss, nats"].items():
        np.testing.assert_array_equal(line.get_ydata(), runs[run].loss)
        assert line.is_dashed() == run.endswith("without")


def test_nothing_leaves_the_page(trace, runs):
    for figure in (
        figures.residual_stream(trace, position=0, n_features=64),
        figures.depth(runs),
    ):
        figure.draw_without_rendering()
        for part in (*figure.axes, *figure.texts, *figure.legends):
            box = part.get_tightbbox()
            assert box.x0 >= 0, part
            assert box.x1 <= figure.bbox.width, part
            assert box.y0 >= 0, part
            assert box.y1 <= figure.bbox.height, part
