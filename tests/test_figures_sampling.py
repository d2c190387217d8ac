"""Distributions, entropy and what is kept: each bar and point beside its computation."""

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import figures
from llama_viz.generation import Sampling
from tests.reference import random_ids, random_model

TOKENS = ["ice", "$x$", "<s>", "rain"]
SMALL = torch.tensor([2.0, 8.0, 2.0, 4.0]).log()


@pytest.fixture(scope="module")
def trace():
    lm = random_model("gqa")
    return lv.record_forward(lm, random_ids(lm, 40)[0].tolist())


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def named(artists, name):
    return [artist for artist in artists if artist.get_gid() == name]


def probabilities(trace):
    return torch.tensor(trace.logits.values, dtype=torch.float64).softmax(dim=-1)


# One distribution


def test_columns_are_in_the_order_of_the_model():
    drawn = Sampling(temperature=1.0, top_k=2).distribution(SMALL)
    figure = figures.sampling_distribution(SMALL.softmax(-1), drawn, TOKENS, detail="after x")
    axes = panel(figure, "probabilities")
    heights = {
        name: [top for (_, _), (_, top) in named(axes.collections, name)[0].get_segments()]
        for name in ("the model", "drawn from")
    }
    np.testing.assert_allclose(heights["the model"], [1 / 2, 1 / 4, 1 / 8, 1 / 8], atol=1e-6)
    np.testing.assert_allclose(heights["drawn from"], [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == ["$x$", "rain", "ice", "<s>"]
    inks = [label.get_color() for label in labels]
    assert inks[0] == inks[1] != inks[2] == inks[3]
    assert "2 of 4 tokens are kept" in [text.get_text() for text in figure.texts]
    assert axes.get_ylim() == (0, 1)


def test_those_without_a_column_are_summed_up():
    model = torch.arange(20, 0, -1).double() / 210
    drawn = Sampling(temperature=1.0, top_k=18).distribution(model.log())
    figure = figures.sampling_distribution(model, drawn, [str(i) for i in range(20)])
    axes = panel(figure, "probabilities")
    assert len(named(axes.collections, "drawn from")[0].get_segments()) == 16
    (others,) = named(axes.texts, "others (measured)")
    before, after = (4 + 3 + 2 + 1) / 210, (4 + 3) / 207
    assert others.get_text() == f"the 4 others together:\n{before:.3f}, drawn {after:.3f}"
    assert axes.get_ylim() == (0, 0.1)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="as many probabilities as tokens are needed, got 4, 4 "):
        figures.sampling_distribution(SMALL.softmax(-1), SMALL.softmax(-1), TOKENS[:3])


# Along a text


def test_entropy_and_surprise_stand_on_the_token_that_came(trace):
    figure = figures.entropy_along(trace, first=5, count=8)
    p = probabilities(trace)[4:12]
    axes = panel(figure, "bits")
    (columns,) = named(axes.collections, "entropy")
    heights = [top for (_, _), (_, top) in columns.get_segments()]
    np.testing.assert_allclose(heights, -(p * p.log2()).sum(dim=-1), rtol=1e-6)
    (dots,) = named(axes.lines, "surprise")
    chosen = p[torch.arange(8), torch.tensor(trace.token_id.values[5:13])]
    np.testing.assert_allclose(dots.get_ydata(), -chosen.log2(), rtol=1e-6)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [str(token) for token in trace.token.values[5:13]]
    choices = panel(figure, "choices")
    assert choices.get_ylim() == axes.get_ylim()
    for bits, label in zip(choices.get_yticks(), choices.get_yticklabels(), strict=True):
        assert float(label.get_text().replace(",", "")) == 2**bits


def test_a_run_ends_with_the_token_that_was_written_last():
    run = lv.record(random_model("gqa"), [5, 6, 7], 4)
    figure = figures.entropy_along(run, first=4, count=30)
    labels = [label.get_text() for label in panel(figure, "bits").get_xticklabels()]
    assert labels == [str(token) for token in run.sampled_token.values[1:]]


@pytest.mark.parametrize("top_p", [0.2, 0.9, 1.0])
def test_what_is_kept_is_what_the_sampler_keeps(trace, top_p):
    figure = figures.kept_along(trace, top_k=10, top_p=top_p, first=1, count=39)
    counts, shares = (panel(figure, name) for name in ("tokens kept", "their probability"))
    kept, share = (named(axes.lines, f"top-p {top_p:g}")[0].get_ydata()
                   for axes in (counts, shares))  # fmt: skip
    (ten,) = named(shares.lines, "top-k 10")
    p = probabilities(trace)
    for place, logits in enumerate(torch.tensor(trace.logits.values[:39])):
        by_p = Sampling(temperature=1.0, top_p=top_p).distribution(logits) > 0
        # Sums in float32 and float64 may differ by the one token that tips them.
        assert abs(int(by_p.sum()) - kept[place]) <= (0 if top_p < 1 else 1)
        assert share[place] >= top_p - 1e-6
        assert share[place] == pytest.approx(float(p[place][by_p].sum()), abs=1e-6)
        assert ten.get_ydata()[place] == pytest.approx(float(p[place].topk(10).values.sum()))
    (line,) = named(counts.lines, "top-k 10")
    assert set(line.get_ydata()) == {10}


def test_what_is_not_there_is_refused(trace):
    for draw in (figures.entropy_along, lambda *a, **b: figures.kept_along(*a, **b, **CUTS)):
        for first in (0, 40):
            with pytest.raises(ValueError, match="first must be from 1 to 39"):
                draw(trace, first=first)
    with pytest.raises(ValueError, match="top_k must be from 1 to 120, got 0"):
        figures.kept_along(trace, top_k=0, top_p=0.9)
    with pytest.raises(ValueError, match="top_p must be above 0 and at most 1, got 0"):
        figures.kept_along(trace, top_k=5, top_p=0)


CUTS = {"top_k": 5, "top_p": 0.9}
