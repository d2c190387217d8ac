"""A run and its branches drawn: boxes from the fork on, and sums of logarithms."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import figures
from llama_viz.figures.branches import parting
from tests.reference import random_model

PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def runs():
    """A run of eight steps and two branches: from step 3, and from step 0, shorter."""
    lm = random_model("gqa")
    run = lv.record(lm, PROMPT, 8)
    written = run.sampled_id.values.tolist()
    rivals = run.candidate_id.values[:, 1].tolist()
    return {
        "the run": run,
        "later": lv.record(lm, PROMPT, 8, forced=[*written[:3], rivals[3]]),
        "at once": lv.record(lm, PROMPT, 5, forced=rivals[:1]),
    }


def panel(figure, name):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def test_a_branch_has_boxes_from_the_step_at_which_it_parts(runs):
    figure = figures.branches(runs)
    axes = panel(figure, "tokens")
    (image,) = axes.images
    drawn = np.ma.filled(image.get_array(), np.nan)
    truth = np.full((3, 8), np.nan)
    tokens = []
    for row, (run, start) in enumerate(zip(runs.values(), (0, 3, 0), strict=True)):
        steps = run.sizes["step"]
        truth[row, start:steps] = run.sampled_probability.values[start:]
        tokens += [str(token) for token in run.sampled_token.values[start:]]
    np.testing.assert_array_equal(drawn, truth)
    assert [text.get_text() for text in axes.texts] == tokens
    assert [label.get_text() for label in axes.get_yticklabels()] == list(runs)


def test_lines_are_sums_of_logarithms_and_leave_where_the_branch_parts(runs):
    figure = figures.branches(runs)
    axes = panel(figure, "log probability")
    for (name, run), first in zip(runs.items(), (0, 2, 0), strict=True):
        (line,) = [line for line in axes.lines if line.get_gid() == name]
        steps = np.arange(first, run.sizes["step"])
        np.testing.assert_array_equal(line.get_xdata(), steps)
        truth = [np.log(run.sampled_probability.values[: step + 1]).sum() for step in steps]
        np.testing.assert_allclose(line.get_ydata(), truth, rtol=1e-5)
        (end,) = [text for text in axes.texts if text.get_gid() == f"end of {name} (measured)"]
        assert float(end.get_text().replace("−", "-")) == pytest.approx(truth[-1], abs=0.006)
    places = sorted(text.xy[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert min(np.diff(places)) >= 0.09 * (high - low)  # numbers that can be read apart


def test_two_runs_part_at_their_first_different_token(runs):
    run = runs["the run"]
    assert parting(run, runs["later"]) == 3
    assert parting(run, runs["at once"]) == 0
    assert parting(run, run) == 8
    assert parting(run, run.isel(step=slice(5))) == 5


def test_what_are_no_branches_is_refused(runs):
    lm = random_model("gqa")
    with pytest.raises(ValueError, match="give at least one run"):
        figures.branches({})
    with pytest.raises(ValueError, match="continue different prompts"):
        figures.branches({"one": runs["the run"], "two": lv.record(lm, [5, 6], 8)})
    with pytest.raises(ValueError, match="25 steps are too many to write tokens in; at most 24"):
        figures.branches({"one": lv.record(lm, PROMPT, 25)})
    with pytest.raises(ValueError, match="the trace has no sampled_id"):
        figures.branches({"one": lv.record_forward(lm, PROMPT)})
