"""Steps with a KV cache and without, drawn: each number and bar beside what it shows."""

import numpy as np
import pytest

from llama_viz import cost, figures

SCORES = np.array([[1.0, 9, 9], [-2, 3, 9], [0.5, 0.25, 4]])
TOKENS = ["<s>", "$x$", "can"]


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


# Targets


def test_every_position_stands_below_its_target_with_its_loss():
    losses = [1.0, 0.5, 3.0]
    figure = figures.next_token_targets(TOKENS, [*TOKENS[1:], "</s>"], losses, even=2.0)
    axes = panel(figure, "losses")
    columns = named(axes.collections, "loss").get_segments()
    np.testing.assert_array_equal([top for _, (_, top) in columns], losses)
    assert labels(axes.xaxis) == ["<s>", "$x$", "can"]
    above = panel(figure, "targets")
    assert labels(above.xaxis) == ["$x$", "can", "</s>"]
    assert above.get_xlim() == axes.get_xlim()
    assert named(axes.lines, "even").get_ydata() == [2.0, 2.0]
    assert "mean loss 1.50 nats" in figure.texts[1].get_text()


def test_targets_must_be_as_many_as_tokens():
    with pytest.raises(ValueError, match="equally many, got 3, 2 and 3"):
        figures.next_token_targets(TOKENS, TOKENS[1:], [1, 2, 3], even=1.0)


# Scores by step


@pytest.mark.parametrize("step", range(3))
def test_without_a_cache_the_square_and_with_one_the_row(step):
    figure = figures.scores_by_step(SCORES, TOKENS)
    for way, first in (("without", 0), ("with", step)):
        axes = panel(figure, f"step {step} {way}")
        drawn = np.ma.filled(named(axes.images, "scores").get_array(), np.nan)
        expected = np.full((3, step + 1), np.nan)
        for row in range(first, step + 1):
            expected[row, : row + 1] = SCORES[row, : row + 1]
        np.testing.assert_array_equal(drawn, expected)
        written = [text.get_text() for text in axes.texts]
        assert written.count("−∞") == (step * (step + 1) // 2 if way == "without" else 0)
        frame = named(axes.patches, "new")
        assert (frame.get_y(), frame.get_height(), frame.get_width()) == (step - 0.5, 1, step + 1)
    known = [p for p in panel(figure, f"step {step} without").patches if p.get_gid() == "known"]
    assert [patch.get_height() for patch in known] == ([step] if step else [])


def test_the_scores_are_counted():
    assert "14 without, 6 with" in figures.scores_by_step(SCORES, TOKENS).texts[1].get_text()


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(2, 2\), got \(3, 3\)"):
        figures.scores_by_step(SCORES, TOKENS[:2])
    with pytest.raises(ValueError, match="too many to write numbers in"):
        figures.scores_by_step(np.zeros((7, 7)), ["x"] * 7)


# Work and time


def test_work_is_drawn_in_millions():
    formula = {"without": [3_000_000, 5_000_000], "with": [3_000_000, 1_000_000]}
    counted = {"without": [3_000_000, 5_100_000], "with": [3_000_000, 1_000_000]}
    axes = panel(figures.work_by_step(formula, counted), "work")
    np.testing.assert_array_equal(named(axes.lines, "formula without").get_ydata(), [3, 5])
    np.testing.assert_array_equal(named(axes.lines, "counted without").get_ydata(), [3, 5.1])
    np.testing.assert_array_equal(named(axes.lines, "counted with").get_xdata(), [0, 1])


@pytest.fixture
def taken():
    """Stored ones have lengths as words."""
    return {
        "without": {"16": [1e-3, 2e-3, 3e-3, 4e-3, 9e-3], "64": [6e-3, 7e-3, 8e-3, 9e-3, 1e-2]},
        "with": {"16": [5e-4, 6e-4, 7e-4, 8e-4, 9e-4], "64": [6e-4, 7e-4, 8e-4, 9e-4, 1e-3]},
    }


def test_medians_spread_and_curves_are_those_of_the_runs(taken):
    fit = cost.fit_steps(taken)
    axes = panel(figures.time_by_length(taken, fit), "time")
    np.testing.assert_array_equal(named(axes.lines, "median without").get_xdata(), [16, 64])
    np.testing.assert_allclose(named(axes.lines, "median without").get_ydata(), [3, 8])
    for name, ends in (("all with", [[0.5, 0.9], [0.6, 1.0]]),
                       ("middle half with", [[0.6, 0.8], [0.7, 0.9]])):  # fmt: skip
        segments = named(axes.collections, name).get_segments()
        np.testing.assert_allclose([segment[:, 1] for segment in segments], ends)
    curve = named(axes.lines, "fit with")
    np.testing.assert_allclose(curve.get_ydata(), 1e3 * (fit.c + fit.d * curve.get_xdata()))
    curve = named(axes.lines, "fit without")
    n = curve.get_xdata()
    np.testing.assert_allclose(curve.get_ydata(), 1e3 * (fit.a * n + fit.b * n**2))


def test_the_crossing_is_marked_where_there_is_one(taken):
    taken["with"]["16"] = [6e-3] * 5
    fit = cost.fit_steps(taken)
    axes = panel(figures.time_by_length(taken, fit), "time")
    assert named(axes.lines, "crossing").get_xdata()[0] == pytest.approx(fit.crossing)
    nowhere = cost.StepFit(0.0, 0.0, 1e-3, 0.0, None)
    axes = panel(figures.time_by_length(taken, nowhere), "time")
    assert "crossing" not in [line.get_gid() for line in axes.lines]
