"""Small matrices: numbers in cells, colours that can be compared, masked cells."""

import numpy as np
import pytest

from llama_viz import figures
from llama_viz.figures import style
from llama_viz.figures.matrices import written

TOKENS = ["Dan", "loves", "ice"]
SCORES = np.array([[0.5, -np.inf, -np.inf], [-3.0, 2.0, -np.inf], [0.25, 0, 1]])
WEIGHTS = np.tril(np.full((3, 3), 0.25))
FEATURES = np.array([[1.0, 2], [3, 4], [5, 6]])


@pytest.fixture
def figure():
    arrays = {"scores": SCORES, "weights": WEIGHTS, "features": FEATURES}
    return figures.matrices(
        arrays, TOKENS, title="title", weights=["weights"], features=["features"]
    )


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def test_each_cell_has_its_number(figure):
    said = [text.get_text() for text in panel(figure, "scores").texts]
    assert said == ["0.5", "−∞", "−∞", "−3", "2", "−∞", "0.25", "0", "1"]
    drawn = np.ma.filled(panel(figure, "scores").images[0].get_array(), -np.inf)
    np.testing.assert_array_equal(drawn, SCORES)


def test_one_scale_for_all_but_the_weights(figure):
    limits = {name: panel(figure, name).images[0].get_clim()
              for name in ("scores", "weights", "features")}  # fmt: skip
    assert limits == {"scores": (-6, 6), "weights": (0, 1), "features": (-6, 6)}


def test_columns_are_tokens_or_features(figure):
    labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert labels == [TOKENS, TOKENS, ["0", "1"]]
    assert [label.get_text() for label in panel(figure, "scores").get_yticklabels()] == TOKENS


def test_numbers_can_be_read_on_their_cells(figure):
    for axes in figure.axes:
        (image,) = axes.images
        for text in axes.texts:
            column, row = text.get_position()
            value = image.get_array()[int(row), int(column)]
            colour = image.cmap(image.norm(value))[:3] if np.ma.is_masked(value) is False else None
            if colour is None or not np.isfinite(value):
                assert text.get_color() == style.INK
            else:
                light = np.dot(colour, (0.3, 0.6, 0.1))
                assert (text.get_color() == "white") == (light < 0.5)


def test_nothing_leaves_the_picture():
    figure = figures.matrices(
        {f"head {head}": np.eye(4) for head in range(4)}, ["<s>", "a" * 50, "$x$", "\n"], title="t"
    )
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"short": np.eye(2)}, "'short' must have 3 rows"),
        ({"flat": np.ones(3)}, "'flat' must have 3 rows"),
        ({"wide": np.ones((3, 40))}, "40 columns are too many"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arrays, says):
    with pytest.raises(ValueError, match=says):
        figures.matrices(arrays, TOKENS, title="t")


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(0.5, 2, "0.5"), (-0.001, 2, "0"), (2.0, 2, "2"), (10.0, 0, "10"), (-1.25, 2, "−1.25")],
)
def test_numbers_are_written_short(number, digits, text):
    assert written(number, digits) == text


def test_columns_may_be_other_tokens():
    source = ["Dan", "älskar"]
    figure = figures.matrices(
        {"weights": np.full((3, 2), 0.5), "square": np.eye(3)}, TOKENS, title="t",
        weights=["weights"], columns={"weights": source},
    )  # fmt: skip
    labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert labels == [source, TOKENS]


@pytest.mark.parametrize("columns", [{"weights": ["a"]}, {"other": ["a", "b"]}])
def test_columns_must_fit(columns):
    with pytest.raises(ValueError, match="there must be a panel with so many"):
        figures.matrices({"weights": np.full((3, 2), 0.5)}, TOKENS, title="t", columns=columns)
