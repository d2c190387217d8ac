"""Notebook 11: a gradient by hand, the predictions that a run learns from, the way to the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.exercises.grading import Verdict, every_digit, grade_number, grade_numbers
from llama_viz.training.recipes import REHEARSAL_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_viz.training.recipes import Recipe


def logit_gradient(logits: Any, answer: Any, *, target: int) -> Verdict:
    """Grade the gradient of -log p of the target, in each of a few logits."""
    values = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(values - values.max())
    expected = exponentials / exponentials.sum()
    follows = np.eye(len(values))[target]
    truth = expected - follows
    return grade_numbers(
        answer,
        truth.tolist(),
        tolerance=0.001,
        right="they add up to 0: what one logit gains, the others lose.",
        hint="Take the softmax of the logits, and 1 away from the target's probability.",
        slips=[
            (expected.tolist(), "Those are the probabilities. What follows is taken away."),
            (
                (-truth).tolist(),
                "That is where a step goes. The gradient is the other way: expected, less what "
                "follows.",
            ),
            ((values - follows).tolist(), "Softmax first: probabilities, not logits."),
            (
                (-np.log(expected)).tolist(),
                "Those are the losses of the tokens. The gradient is what the loss does when a "
                "logit grows.",
            ),
            ((follows - 1 + expected).tolist(), "Only from the target 1 is taken away."),
        ],
    )


def predictions_learned(recipe: Recipe, answer: Any) -> Verdict:
    """Grade how many next-token predictions a whole run learns from."""
    per_step = recipe.rows * recipe.row_length
    truth = float(recipe.tokens(recipe.steps))
    rehearsed = recipe.rehearsal_steps
    told = f"{recipe.steps - rehearsed:,} steps × {recipe.rows} rows × {recipe.row_length}"
    short = f"{rehearsed:,} steps × {recipe.short_rows} rows × {REHEARSAL_LENGTH}"
    slips = {
        float(
            recipe.steps * per_step
        ): "The steps of nonsense read shorter rows, and another number of them.",
        float((recipe.steps - rehearsed) * per_step): "The nonsense was learned from, too.",
        float(recipe.steps): "That counts steps; each sees several rows, and every position of a "
        "row is a prediction.",
        float(per_step): "That is one step.",
        float(recipe.steps * recipe.rows): "That counts rows; every position of a row is a "
        "prediction.",
        float(recipe.steps * recipe.row_length): "That is one row a step.",
        float(recipe.steps * recipe.rows * (recipe.row_length - 1)): "A row is read with one token "
        "more, so that its last position has a target, too.",
        float(recipe.steps * recipe.rows * (recipe.row_length + 1)): "The last token of a row is "
        "only a target: nothing is asked after it.",
    }
    slips.pop(truth, None)
    return grade_number(
        answer,
        truth,
        right=f"{short} positions, and {told} positions." if rehearsed else f"{told} positions.",
        hint="Multiply steps, rows and the length of a row"
        + ("; the steps of nonsense and those of stories apart." if rehearsed else "."),
        slips=slips,
        write=every_digit,
    )


def most_of_the_way(
    losses: Mapping[int, float], answer: Any, *, floor: float, share: float = 0.9
) -> Verdict:
    """Grade the first snapshot that has come so much of the way from the first loss to the floor.

    losses are held-out losses by step.
    """
    steps = sorted(losses)
    start = losses[steps[0]]

    def first_with(level: float) -> int | None:
        return next((step for step in steps if losses[step] <= level), None)

    truth = first_with(start - share * (start - floor))
    if truth is None:
        raise ValueError(f"no snapshot has come {share:.0%} of the way to {floor}")
    to_zero = first_with((1 - share) * start)
    slips = {
        float(steps.index(truth)): "That is its number in the list; answer with its step.",
        float(steps[-1]): "The last one has, but an earlier one, too.",
    }
    if to_zero is not None:
        slips[float(to_zero)] = "The way ends at the floor, not at 0."
    if steps.index(truth) > 0:
        slips[float(steps[steps.index(truth) - 1])] = (
            f"At that step {(start - losses[steps[steps.index(truth) - 1]]) / (start - floor):.0%} "
            "of the way is behind it: one more."
        )
    slips.pop(float(truth), None)
    done = (start - losses[truth]) / (start - floor)
    return grade_number(
        answer,
        float(truth),
        right=f"{done:.0%} of the way from {start:.2f} to {floor:.2f} is behind it at step {truth} "
        f"of {steps[-1]:,}.",
        hint="The way is the first loss less the floor. Which is the first snapshot whose loss is "
        f"at most the floor and {1 - share:.0%} of it?",
        slips=slips,
        write=every_digit,
    )
