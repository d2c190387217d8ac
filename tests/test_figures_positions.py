"""Figures of positions: what is drawn is what was given, and by how much a head's score falls."""

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import analysis, figures
from llama_viz import foundations as f
from llama_viz.figures import style
from llama_viz.figures.check import read
from llama_viz.figures.positions import FALLS, RISES
from llama_viz.widgets import FigureBrowser
from tests.reference import random_ids, random_model

PAIR = ((1.0, 2.0), (3.0, 1.0))


@pytest.fixture(scope="module")
def trace():
    lm = random_model("gqa")
    return lv.record_forward(lm, random_ids(lm, 41)[0].tolist())


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def line(figure, place, name):
    (found,) = [line for line in panel(figure, place).lines if line.get_gid() == name]
    return np.array(found.get_xdata(), dtype=float), np.array(found.get_ydata(), dtype=float)


def drawn_without_overlap(figure):
    """Every text lies within the page, and no two texts of a panel or of the page overlap."""
    figure.canvas.draw()
    page = figure.bbox
    for texts in (figure.texts, *(axes.texts for axes in figure.axes)):
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        for number, box in enumerate(boxes):
            assert page.x0 <= box.x0
            assert box.x1 <= page.x1 + 1
            assert not any(box.overlaps(other) for other in boxes[:number])
    for axes in figure.axes:
        tight = axes.get_tightbbox()
        assert tight.x0 >= page.x0 - 1
        assert tight.y0 >= page.y0 - 1
    return True


# The tables and the plane


def test_a_table_is_drawn_row_by_row():
    table = f.sinusoidal_positions(20, 64)
    figure = figures.position_table(table)
    for number, name in enumerate(("even", "odd")):
        (image,) = panel(figure, f"{name} features").images
        np.testing.assert_array_equal(image.get_array(), table[:, number::2].numpy().astype(float))
        assert image.get_clim() == (-1, 1)
        # Column j is feature 2j in the one panel, 2j + 1 in the other: centres lie on their number.
        left, right = image.get_extent()[:2]
        centres = left + (np.arange(32) + 0.5) * (right - left) / 32
        np.testing.assert_array_equal(centres, np.arange(number, 64, 2))
    assert drawn_without_overlap(figure)


@pytest.mark.parametrize("offset", [-6, 0, 1, 5])
def test_a_pair_slides_and_keeps_its_product(offset):
    titles = set()
    for key_position in (6, 7, 30):
        figure = figures.turned_pair(PAIR, key_position=key_position, offset=offset)
        angle = np.deg2rad(30) * (key_position + offset)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        x, y = line(figure, "plane", f"query at {key_position + offset}, after")
        np.testing.assert_allclose([x[1], y[1]], turn @ PAIR[0], atol=1e-9)
        query = torch.tensor(turn @ PAIR[0])
        x, y = line(figure, "plane", f"key at {key_position}, after")
        product = float(query @ torch.tensor([x[1], y[1]]))
        place, height = line(figure, "product", "in view")
        assert place.tolist() == [offset]
        np.testing.assert_allclose(height, [product], atol=1e-9)
        titles.add(figure.texts[0].get_text().partition("key = ")[2])
        dense, curve = line(figure, "product", "product over the offset")
        np.testing.assert_allclose(np.interp(offset, dense, curve), product, atol=1e-9)
        assert drawn_without_overlap(figure)
    assert len(titles) == 1


def test_quarter_turns_by_hand():
    for key_position, offset, product in ((0, 1, "-5.00"), (1, 1, "-5.00"), (1, -1, "+5.00")):
        figure = figures.turned_pair(PAIR, key_position=key_position, offset=offset, degrees=90)
        assert figure.texts[0].get_text().endswith(product)


def test_a_pair_has_two_features():
    with pytest.raises(ValueError, match="2 features, got shape"):
        figures.turned_pair(((1, 2, 3), (1, 2)), key_position=0, offset=0)


def test_a_browser_takes_plain_numbers():
    browser = FigureBrowser(
        figures.turned_pair, PAIR, key_position=range(6, 9), offset=range(-6, 7)
    )
    before = browser.png
    browser._controls["key_position"].value = 7
    assert browser.png != before
    assert browser.chosen == {"key_position": 7, "offset": -6}


def test_a_matrix_shows_its_zeros():
    matrix = f.rotation_matrix(f.rotation_angles(6, 16)[5])
    figure = figures.rotation_matrix(matrix)
    assert figure.texts[0].get_text() == "224 of 256 numbers are 0"
    (image,) = panel(figure, "matrix").images
    values = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_array_equal(np.isnan(values), matrix.numpy() == 0)
    np.testing.assert_array_equal(np.nan_to_num(values), matrix.numpy().astype(float))
    assert drawn_without_overlap(figure)


def test_wavelengths_stand_at_their_exponents():
    waves = {"large": f.wavelengths(128), "small": f.wavelengths(16)}
    figure = figures.wavelengths(waves, {"context": 256})
    for name, values in waves.items():
        x, y = line(figure, "wavelengths", name)
        np.testing.assert_allclose(y, 2 * np.pi * 10000**x, rtol=1e-5)
        assert len(x) == len(values)
    assert line(figure, "wavelengths", "context")[1].tolist() == [256, 256]
    assert drawn_without_overlap(figure)


# Distance


def test_the_bound_and_scores_are_drawn_as_given():
    bound = f.long_term_decay(torch.arange(50))
    scores = {"a": torch.linspace(1, 0, 20), "b": torch.linspace(0, 1, 20)}
    figure = figures.long_term_decay(bound, scores)
    np.testing.assert_array_equal(line(figure, "bound", "bound")[1], bound)
    for name, values in scores.items():
        np.testing.assert_array_equal(line(figure, "scores", name)[1], values.numpy())
    assert drawn_without_overlap(figure)


def test_the_mean_score_at_each_distance_by_loops(trace):
    means = analysis.score_by_distance(trace)
    scores = trace.attention_scores.values
    assert means.dims == ("layer", "head", "distance")
    assert means.sizes["distance"] == 21
    for distance in (0, 1, 8, 20):
        pairs = [(query, query - distance) for query in range(41) if query - distance >= 1]
        expected = np.mean([scores[:, :, query, key] for query, key in pairs], axis=0)
        np.testing.assert_allclose(means.sel(distance=distance), expected, atol=1e-5)


def test_a_fall_is_near_less_far(trace):
    means = analysis.score_by_distance(trace).values
    expected = means[..., 1:9].mean(-1) - means[..., 10:].mean(-1)
    np.testing.assert_allclose(analysis.fall_with_distance(trace), expected)


def test_each_head_has_its_panel_and_its_colour(trace):
    distance = trace["query_position"] - trace["key_position"]
    slopes = np.zeros((3, 8))
    slopes[0, 1], slopes[2, 7] = -0.2, 0.2
    sloped = trace.copy()
    scores = slopes[:, :, None, None] * distance.values
    sloped["attention_scores"] = trace["attention_scores"].copy(data=scores)
    figure = figures.score_by_distance(sloped)
    colours = {}
    for layer in range(3):
        for head in range(8):
            name = f"layer {layer}, head {head}"
            (drawn,) = [part for part in panel(figure, name).lines if part.get_gid() == name]
            colours[layer, head] = drawn.get_color()
            near = slopes[layer, head] * np.arange(1, 9).mean()
            np.testing.assert_allclose(
                drawn.get_ydata(), slopes[layer, head] * np.arange(21) - near, atol=1e-6
            )
    assert colours.pop((0, 1)) == FALLS
    assert colours.pop((2, 7)) == RISES
    assert set(colours.values()) == {style.QUIET}
    assert drawn_without_overlap(figure)


def test_a_trace_without_scores_is_told_how(trace):
    with pytest.raises(ValueError, match="the trace has no attention_scores; record it with"):
        figures.score_by_distance(trace.drop_vars("attention_scores"))


# Length


def test_losses_are_means_over_windows():
    losses = {"first": torch.arange(100.0), "second": torch.full((100,), 2.0)}
    figure = figures.loss_by_position(losses, trained_length=50, window=30)
    x, y = line(figure, "loss", "first")
    assert x.tolist() == [15, 45, 75]
    assert y.tolist() == [14.5, 44.5, 74.5]
    assert line(figure, "loss", "second")[1].tolist() == [2, 2, 2]
    assert line(figure, "loss", "trained length")[0].tolist() == [50, 50]


def test_names_are_pushed_apart():
    losses = {f"way {number} of turning": np.full(64, 1 + 0.001 * number) for number in range(5)}
    assert drawn_without_overlap(figures.loss_by_position(losses, trained_length=50, window=16))


@pytest.mark.parametrize("window", [0, 101])
def test_a_window_that_does_not_fit_is_refused(window):
    with pytest.raises(ValueError, match="window must be from 1 to the 100 positions"):
        figures.loss_by_position({"a": np.ones(100)}, trained_length=50, window=window)


def test_every_figure_can_be_checked(trace):
    for figure in (
        figures.position_table(f.sinusoidal_positions(4)),
        figures.turned_pair(PAIR, key_position=1, offset=1),
        figures.score_by_distance(trace),
        figures.loss_by_position({"a": np.ones(100)}, trained_length=50),
    ):
        contents = read(figure)
        assert contents.arrays
        assert not any("without a name" in name for name in contents.artists)
