"""Figures of learning draw what they are given: gradients, steps, courses, what emerges when."""

from __future__ import annotations

import numpy as np
import pytest

from llama_viz import figures, foundations

TOKENS = ["ice", "$x$", "<b>snow</b>", "a very long token indeed"]


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_gid() == name)


def line(axes, name):
    return next(one for one in axes.lines if one.get_gid() == name)


def heights(axes, name):
    """What columns of this name reach from and to."""
    found = next(one for one in axes.collections if one.get_gid() == name)
    return [tuple(segment[:, 1]) for segment in found.get_segments()]


def check_nothing_is_cut(figure):
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    for part in [*texts, *legends]:
        box = part.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= width + 1, part
        assert box.y0 >= 0
        assert box.y1 <= height + 1


# One step


def test_the_gradient_is_drawn_beside_what_it_comes_from():
    figure = figures.next_token_gradient(TOKENS, [0.4, 0.3, 0.2, 0.1], [0, 1, 0, 0])
    shares, gradient = panel(figure, "probabilities"), panel(figure, "gradient")
    assert heights(shares, "expected") == [(0, 0.4), (0, 0.3), (0, 0.2), (0, 0.1)]
    assert heights(shares, "follows") == [(0, 0), (0, 1), (0, 0), (0, 0)]
    assert heights(gradient, "falls") == [(0, 0.4), (0, 0.2), (0, 0.1)]
    assert heights(gradient, "rises") == [(0, pytest.approx(-0.7))]
    labels = [label.get_text() for label in gradient.get_xticklabels()]
    assert labels == ["ice", "$x$", "<b>snow</b>", "a▁very▁long▁t…"]
    check_nothing_is_cut(figure)


@pytest.mark.parametrize(("expected", "follows"), [([1, 0], [1, 0]), ([0.25] * 4, [1, 0, 0])])
def test_as_many_numbers_as_tokens_are_needed(expected, follows):
    with pytest.raises(ValueError, match="4 tokens need as many numbers"):
        figures.next_token_gradient(TOKENS, expected, follows)


def test_the_loss_along_a_step_and_its_promise():
    sizes, losses = [0.0, 0.5, 1.0], [2.0, 1.2, 1.5]
    figure = figures.loss_along_step(sizes, losses, slope=-2.0, floor=1.0, taken=0.5)
    axes = panel(figure, "loss")
    np.testing.assert_array_equal(line(axes, "loss").get_xydata(), np.c_[sizes, losses])
    np.testing.assert_allclose(line(axes, "promise").get_ydata(), [2, 1, 0])
    assert line(axes, "floor").get_ydata()[0] == 1.0
    assert line(axes, "taken").get_xdata()[0] == 0.5
    check_nothing_is_cut(figure)


@pytest.mark.parametrize(("sizes", "losses"), [([0], [1]), ([1, 2], [1, 2]), ([0, 1], [1, 2, 3])])
def test_steps_begin_at_zero(sizes, losses):
    with pytest.raises(ValueError, match="a loss for each size, from 0 on"):
        figures.loss_along_step(sizes, losses, slope=-1.0)


# The formulas behind them


def test_the_loss_and_its_gradient_are_those_of_autograd():
    import torch

    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(3, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    follows = torch.rand(5, generator=generator, dtype=torch.float64)
    follows /= follows.sum()
    logits = weights @ stream
    logits.retain_grad()
    loss = foundations.next_token_loss(logits, follows)
    by_torch = torch.nn.functional.cross_entropy(logits[None], follows[None])
    torch.testing.assert_close(loss, by_torch, rtol=1e-12, atol=0)
    loss.backward()
    torch.testing.assert_close(
        foundations.next_token_gradient(logits.detach(), follows), logits.grad,
        rtol=1e-12, atol=1e-15,
    )  # fmt: skip
    torch.testing.assert_close(
        foundations.weight_gradient(logits.detach(), follows, stream), weights.grad,
        rtol=1e-12, atol=1e-15,
    )  # fmt: skip


# A run


COURSE = {
    "train": {20: 5.0, 40: 3.0},
    "held_out": {0: 7.0, 20: 5.5, 40: 3.2},
    "heads": {"previous": {0: 0.05, 20: 0.1, 40: 0.4}, "answer": {0: 0.02, 20: 0.02, 40: 0.3}},
    "texts": {0: "<img src=x>\n$y$", 20: "", 40: "a girl " * 40},
}


def test_a_course_is_drawn_as_it_was_measured():
    figure = figures.training_course(
        **COURSE, steps=600, references={"all alike": 7.2, "floor": 0.6}, prompt="Once <b>"
    )
    losses, heads = panel(figure, "losses"), panel(figure, "heads")
    np.testing.assert_array_equal(line(losses, "train_loss").get_xydata(), [[20, 5], [40, 3]])
    np.testing.assert_array_equal(line(losses, "held_out_loss").get_ydata(), [7, 5.5, 3.2])
    assert line(losses, "reference floor").get_ydata()[0] == 0.6
    np.testing.assert_array_equal(line(heads, "previous").get_ydata(), [0.05, 0.1, 0.4])
    np.testing.assert_array_equal(line(heads, "answer").get_ydata(), [0.02, 0.02, 0.3])
    assert losses.get_xlim() == heads.get_xlim() == (0, 600)
    texts = {text.get_gid(): text.get_text() for text in figure.texts}
    assert texts["title"] == "Step 40 of 600"
    assert texts["texts"] == "what it writes after “Once <b>”"
    assert texts["text of step 0"] == "<img src=x>⏎$y$"
    assert texts["text of step 20"] == "(nothing)"
    assert texts["text of step 40"].endswith("…")
    check_nothing_is_cut(figure)


def test_of_many_texts_some_are_shown_the_first_and_the_newest_among_them():
    steps = range(0, 601, 20)
    figure = figures.training_course(
        {}, dict.fromkeys(steps, 1.0), {}, {step: f"text {step}" for step in steps},
        steps=600, references={}, prompt="Once",
    )  # fmt: skip
    shown = [text.get_gid() for text in figure.texts if text.get_gid().startswith("text of")]
    assert len(shown) == 6
    assert (shown[0], shown[-1]) == ("text of step 0", "text of step 600")


def test_a_run_that_was_not_measured_cannot_be_drawn():
    with pytest.raises(ValueError, match="nothing was measured yet"):
        figures.training_course({}, {}, {}, {}, steps=5, references={}, prompt="")


def test_what_emerges_stands_panel_over_panel_on_one_axis():
    curves = {0: 7.0, 100: 3.0, 4000: 0.6}
    panels = {
        "loss": {"gqa": curves},
        "heads": {"previous": {0: 0.02, 100: 0.1, 4000: 0.3}, "answer": {0: 0, 100: 0.2, 4000: 1}},
    }
    figure = figures.emergence(panels, {"loss": {"floor": 0.5}}, {"stories begin": 700})
    loss, heads = panel(figure, "loss"), panel(figure, "heads")
    np.testing.assert_array_equal(line(loss, "gqa").get_xydata(), [*curves.items()])
    np.testing.assert_array_equal(line(heads, "answer").get_ydata(), [0, 0.2, 1])
    assert line(loss, "reference floor").get_ydata()[0] == 0.5
    assert [line(each, "mark stories begin").get_xdata()[0] for each in (loss, heads)] == [700] * 2
    names = [[text.get_text() for text in each.get_legend().get_texts()] for each in (loss, heads)]
    assert names == [["gqa", "floor", "stories begin"], ["previous", "answer"]]  # named once
    assert loss.get_xlim() == heads.get_xlim() == (0, 4000)
    assert [label.get_text() for label in heads.get_xticklabels()] == ["0", "100", "4,000"]
    assert loss.get_position().y0 > heads.get_position().y1
    check_nothing_is_cut(figure)


def test_nothing_emerges_from_nothing():
    with pytest.raises(ValueError, match="no snapshots to draw"):
        figures.emergence({"loss": {}})
