"""Notebook 09: two tokens at another temperature, effective choices, what top-p keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.analysis import next_token_entropy, pick, ranked_probabilities
from llama_viz.exercises.grading import Verdict, grade_number

if TYPE_CHECKING:
    import xarray as xr


def times_as_likely(
    trace: xr.Dataset, answer: Any, *, position: int, temperature: float
) -> Verdict:
    """Grade how many times as likely the likeliest token is drawn as the second one."""
    logits = trace["logits"].sel(position=pick(trace, "position", position)).values
    second, first = np.sort(logits.astype(np.float64))[-2:]
    truth = float(np.exp((first - second) / temperature))
    return grade_number(
        answer,
        truth,
        tolerance=0.01 * truth,
        right=f"e to ({first:.4f} - {second:.4f}) / {temperature:g} is {truth:,.4g}; no other "
        "logit was needed.",
        hint="Both probabilities have the same sum below them: what is left is e to the "
        "difference of the logits, divided by the temperature.",
        slips={
            float(np.exp(first - second)): "That is at temperature 1.",
            float(np.exp((first - second) * temperature)): (
                "Logits are divided by the temperature, not multiplied."
            ),
            float((first - second) / temperature): "Now take e to it.",
            float(np.exp(first - second)) / temperature: (
                "Divide the logits before you take e to them, not the result."
            ),
            1 / truth: "That is the second beside the first: turn it round.",
            round(truth, 1): "Nearly: give three digits.",
        },
    )


def effective_choices(trace: xr.Dataset, answer: Any, *, position: int) -> Verdict:
    """Grade the perplexity of the next token's distribution at a position."""
    entropy = float(next_token_entropy(trace).sel(position=pick(trace, "position", position)))
    truth = float(np.exp(entropy))
    return grade_number(
        answer,
        truth,
        tolerance=0.01 * truth,
        right=f"{entropy:.3f} nats, {entropy / np.log(2):.3f} bits: as open as a choice among "
        f"{truth:.2f} equally likely tokens.",
        hint="Add up -p ln p over all tokens, and take e to the sum.",
        slips={
            entropy: "That is the entropy in nats; take e to it.",
            entropy / np.log(2): "That is the entropy in bits; take 2 to it.",
            2**entropy: "To nats belongs e; 2 belongs to bits.",
            float(np.exp(entropy / np.log(2))): "To bits belongs 2; e belongs to nats.",
            float(np.exp(-entropy)): "The sum of p ln p is below 0; entropy has a minus before it.",
            round(truth, 1): "Nearly: give three digits.",
        },
    )


def tokens_kept(trace: xr.Dataset, answer: Any, *, position: int, top_p: float) -> Verdict:
    """Grade how many tokens top-p keeps at a position, at temperature 1."""
    ranked = ranked_probabilities(trace).sel(position=pick(trace, "position", position)).values
    before = ranked.cumsum() - ranked
    truth = int((before < top_p).sum())
    together = float(ranked[:truth].sum())
    return grade_number(
        answer,
        truth,
        right=f"the likeliest {truth} have {together:.3f} together, one fewer only "
        f"{together - ranked[truth - 1]:.3f}.",
        hint="Sort the probabilities, add them up from the likeliest on, and count until the sum "
        f"reaches {top_p:g}.",
        slips={
            truth - 1: f"Together these have less than {top_p:g}: the token that crosses it is "
            "kept, too.",
            len(ranked): "That is the whole vocabulary.",
            len(ranked) - truth: "That is how many are cut off.",
        },
    )
