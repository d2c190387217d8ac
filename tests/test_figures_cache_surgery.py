"""Surgery on the KV cache, drawn: the bars are the probabilities, the lines the losses."""

import numpy as np
import pytest
import torch

from llama_viz import figures

BEFORE = torch.tensor([0.7, 0.2, 0.05, 0.045, 0.005])
DROPPED = torch.tensor([0.1, 0.0, 0.0, 0.88, 0.02])
NAMES = ["▁red", "$blue$", "<s>", "▁truck", "⏎"]


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    (found,) = [artist for artist in artists if artist.get_gid() == name]
    return found


def test_each_column_has_the_probabilities_of_the_same_tokens():
    after = {"drop": (BEFORE, DROPPED), "nothing": (BEFORE, BEFORE)}
    figure = figures.next_token_after(after, NAMES.__getitem__)
    first = panel(figure, "as it was")
    rows = [text.get_text() for text in first.get_yticklabels()]
    assert rows == ["▁red", "$blue$", "▁truck"]  # the two likeliest of each, likeliest first
    for name, values in (("as it was", BEFORE), ("drop", DROPPED), ("nothing", BEFORE)):
        bars = named(panel(figure, name).collections, "probability").get_segments()
        np.testing.assert_allclose([end for _, (end, _) in bars], values[[0, 1, 3]], rtol=1e-6)
        assert panel(figure, name).get_xlim() == (0, 1)


def test_what_could_not_be_seen_is_left_out():
    sure = torch.tensor([0.995, 0.003, 0.002, 0.0, 0.0])
    figure = figures.next_token_after({"drop": (sure, sure)}, NAMES.__getitem__)
    assert [text.get_text() for text in panel(figure, "as it was").get_yticklabels()] == ["▁red"]


def test_without_an_operation_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no operation"):
        figures.next_token_after({}, str)


def test_losses_over_the_rows_kept():
    losses = {"last": {4: 2.5, 8: 1.5}, "first": {4: 2.0, 16: 1.0}}
    axes = panel(figures.loss_by_rows_kept(losses, 0.5), "loss")
    for name, by_rows in losses.items():
        line = named(axes.lines, name)
        assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == by_rows
    assert named(axes.lines, "every row").get_ydata() == [0.5, 0.5]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["4", "8", "16"]
