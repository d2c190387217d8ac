"""The exercises of notebook 11: right answers, slips that get their own hint, and nonsense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llama_viz import exercises
from llama_viz.training.recipes import Recipe

LOGITS = np.log([8, 4, 2, 2])
RIGHT = [0.5, -0.75, 0.125, 0.125]
RECIPE = Recipe(n_kv_heads=2, steps=30, rows=4, row_length=16)
LOSSES = {0: 7.0, 100: 3.0, 200: 1.4, 400: 1.1, 900: 0.69, 4000: 0.6}


def test_open_answers_are_asked_for():
    for verdict in (
        exercises.logit_gradient(LOGITS, None, target=1),
        exercises.predictions_learned(RECIPE, None),
        exercises.most_of_the_way(LOSSES, None, floor=0.5),
    ):
        assert verdict is exercises.NOT_YET


def test_the_gradient_is_that_of_autograd():
    logits = torch.tensor(LOGITS, requires_grad=True)
    torch.nn.functional.cross_entropy(logits[None], torch.tensor([1])).backward()
    assert exercises.logit_gradient(LOGITS, logits.grad, target=1).right
    assert exercises.logit_gradient(torch.tensor(LOGITS), RIGHT, target=1).right
    assert exercises.logit_gradient(LOGITS + 1000, RIGHT, target=1).right
    assert not exercises.logit_gradient(LOGITS, [*RIGHT[:3], 0.13], target=1).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ([0.5, 0.25, 0.125, 0.125], "What follows is taken away"),
        ([-0.5, 0.75, -0.125, -0.125], "That is where a step goes"),
        (LOGITS - [0, 1, 0, 0], "Softmax first"),
        (-np.log([0.5, 0.25, 0.125, 0.125]), "Those are the losses of the tokens"),
        ([-0.5, 0.25, -0.875, -0.875], "Only from the target"),
        ([0.5, -0.75, 0.2, 0.05], "number 2 is not 0.2"),
        ([0.5, -0.75], "a list of 4 numbers"),
        ("1/2", "a list of 4 numbers"),
    ],
)
def test_slips_in_the_gradient(answer, hint):
    verdict = exercises.logit_gradient(LOGITS, answer, target=1)
    assert not verdict.right
    assert hint in verdict.reply


def test_predictions_are_counted():
    verdict = exercises.predictions_learned(RECIPE, 30 * 4 * 16)
    assert verdict.right
    assert verdict.reply == "Right: 30 steps × 4 rows × 16 positions."


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (30, "That counts steps"),
        (64, "That is one step"),
        (120, "That counts rows"),
        (480, "That is one row a step"),
        (30 * 4 * 15, "with one token more"),
        (30 * 4 * 17, "only a target"),
        (7, "Multiply steps, rows and the length of a row."),
        ("1920", "one number"),
    ],
)
def test_slips_in_predictions(answer, hint):
    verdict = exercises.predictions_learned(RECIPE, answer)
    assert not verdict.right
    assert hint in verdict.reply


def test_predictions_of_a_run_that_rehearses_are_counted_apart():
    recipe = replace(RECIPE, rows=8, row_length=48, max_seq_len=48, rehearsal_steps=10)
    verdict = exercises.predictions_learned(recipe, 10 * 4 * 96 + 20 * 8 * 48)
    assert verdict.reply == (
        "Right: 10 steps × 4 rows × 96 positions, and 20 steps × 8 rows × 48 positions."
    )
    for answer, hint in (
        (20 * 8 * 48, "The nonsense was learned from, too"),
        (7, "the steps of nonsense and those of stories apart"),
    ):
        assert hint in exercises.predictions_learned(recipe, answer).reply
    recipe = replace(recipe, rows=3)  # 144 positions: one row of 96
    assert "read shorter rows" in exercises.predictions_learned(recipe, 30 * 3 * 48).reply


def test_the_way_leads_from_the_first_loss_to_the_floor():
    # From 7 to 0.5: nine tenths of the way is 1.15.
    verdict = exercises.most_of_the_way(LOSSES, 400, floor=0.5)
    assert verdict.right
    assert "91% of the way from 7.00 to 0.50" in verdict.reply
    backwards = dict(reversed(LOSSES.items()))
    assert exercises.most_of_the_way(backwards, 400, floor=0.5).right


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (3, "its number in the list"),
        (4000, "an earlier one, too"),
        (900, "The way ends at the floor, not at 0"),
        (200, "86% of the way is behind it"),
        (0, "The way is the first loss less the floor"),
        (None.__class__, "one number"),
    ],
)
def test_slips_on_the_way(answer, hint):
    verdict = exercises.most_of_the_way(LOSSES, answer, floor=0.5)
    assert not verdict.right
    assert hint in verdict.reply


def test_a_run_that_has_not_come_so_far_is_no_exercise():
    with pytest.raises(ValueError, match="no snapshot has come 90% of the way to 0.5"):
        exercises.most_of_the_way({0: 7.0, 100: 3.0}, 100, floor=0.5)
