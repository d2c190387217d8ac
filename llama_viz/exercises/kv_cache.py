"""Notebook 06: scores that a head computes, the cache of a batch, the row that is missed most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_viz import surgery
from llama_viz.exercises.grading import NOT_YET, Verdict, as_number, every_digit, grade_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_viz.config import ModelConfig
    from llama_viz.language_model import LanguageModel


def scores_computed(answer: Any, *, n_prompt: int, n_steps: int) -> Verdict:
    """Grade how many scores one head computes with a cache: the prefill, then n_steps - 1 steps.

    Masked scores count: written out, they are computed too.
    """
    lengths = range(n_prompt + 1, n_prompt + n_steps)
    prefill, rows = n_prompt**2, sum(lengths)
    truth = float(prefill + rows)
    slips = {
        float(prefill + sum(length**2 for length in lengths)): "That is without a cache.",
        float(n_prompt + rows): (
            "The prefill has a query for each token of the prompt, not one for all."
        ),
        float(prefill + sum(length - 1 for length in lengths)): (
            "The new position looks at itself, too: its own key is among the keys."
        ),
        float(n_prompt * (n_prompt + 1) // 2 + rows): (
            "In the prefill the masked scores are computed as well: it is a square."
        ),
        float(prefill + rows + n_prompt + n_steps): (
            "The last token that is written does not pass through the model any more."
        ),
    }
    slips.pop(truth, None)
    said = " + ".join(str(length) for length in lengths)
    return grade_number(
        answer,
        truth,
        right=f"{n_prompt} × {n_prompt} in the prefill, then {said}: {truth:.0f}.",
        hint="The prefill is a square; each later step is one row that is one longer.",
        slips=slips,
        write=every_digit,
    )


def batch_cache_bytes(
    config: ModelConfig, answer: Any, *, positions: int, batch_size: int, itemsize: int = 2
) -> Verdict:
    """Grade the bytes that a cache holds for a batch of texts, all of the same length."""
    truth = float(config.kv_cache_bytes(positions, batch_size=batch_size, itemsize=itemsize))
    slips: dict[float, str] = {}
    for wrong, reply in (
        (truth / 2, "Keys and values are both kept."),
        (truth / itemsize, f"Each number takes {itemsize} bytes."),
        (4 * truth / itemsize, f"A number takes {itemsize} bytes here, not 4."),
        (truth / batch_size, "Each text of the batch has rows of its own."),
        (truth / config.n_layers, "Every layer has a cache of its own."),
        (truth / config.n_kv_heads, "Every key/value head has rows of its own."),
        (truth / 1e9, "Answer in bytes, not in gigabytes."),
        (float(f"{truth:.3g}"), "Nearly: it is a count, so write every digit."),
    ):
        # Where two slips give one number, both are named.
        slips[wrong] = f"{slips[wrong]} Or: {reply}" if wrong in slips else reply
    slips.pop(truth, None)
    return grade_number(
        answer,
        truth,
        right=f"{truth:,.0f} bytes: {truth / 1e9:.3g} GB.",
        hint="Multiply 2 × layers × key/value heads × head size × positions × texts × bytes per "
        "number.",
        slips=slips,
        write=every_digit,
    )


def most_missed_position(lm: LanguageModel, ids: Sequence[int], answer: Any) -> Verdict:
    """Grade which position changes the next token most when all layers drop its row.

    Changed most is the prediction with the largest KL divergence. All but the last of ids are in
    the cache.
    """
    if answer is None:
        return NOT_YET
    n_held = len(ids) - 1
    position = as_number(answer)
    if position not in range(n_held):
        return Verdict(False, f"Answer with one position that is in the cache: 0 to {n_held - 1}.")
    missed = [
        surgery.compare(lm, ids, surgery.drop, positions=[held], max_new_tokens=1).kl_divergence
        for held in range(n_held)
    ]
    here = int(position or 0)
    said = (
        f"without the row of position {here}, {lm.label(ids[here])!r}, the prediction changes by "
        f"{missed[here]:.2g} nats"
    )
    if missed[here] == max(missed):
        return Verdict(True, f"Right: {said}.")
    rank = 1 + sum(other > missed[here] for other in missed)
    return Verdict(
        False,
        f"Not that one: {said}, and {rank - 1} {'rows' if rank > 2 else 'row'} would be missed "
        "more. Let a loop drop one position after another, and keep the KL divergence of each.",
    )
