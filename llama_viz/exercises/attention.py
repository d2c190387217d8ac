"""Notebook 05: a row of weights, the head that looks farthest back, the bytes of all scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.exercises.grading import NOT_YET, Verdict, as_head, grade_number, grade_numbers

if TYPE_CHECKING:
    import xarray as xr

    from llama_viz.config import ModelConfig


def attention_row(
    trace: xr.Dataset, answer: Any, *, layer: int, head: int, query_position: int
) -> Verdict:
    """Grade the attention weights of one query, from its first key to its own position."""
    here = {"layer": layer, "head": head, "query_position": query_position}
    seen = slice(0, query_position + 1)
    truth = trace.attention_weights.sel(here).values[seen].astype(np.float64)
    scores = trace.attention_scores.sel(here).values[seen].astype(np.float64)
    head_dim = trace.attrs["config"]["head_dim"]
    exponentials = np.exp(scores)
    twice = np.exp(scores / np.sqrt(head_dim))
    return grade_numbers(
        answer,
        truth.tolist(),
        tolerance=0.001,
        right=f"the row adds up to {truth.sum():.3f}, and it is what the model used.",
        hint="Take e to each score, and divide each by their sum.",
        slips=[
            (exponentials.tolist(), "Now divide each by their sum: weights add up to one."),
            ((scores / scores.sum()).tolist(), "Take e to each score before you divide."),
            (
                (twice / twice.sum()).tolist(),
                "The recorded scores are divided by the root of the head's size already.",
            ),
        ],
    )


def farthest_head(trace: xr.Dataset, answer: Any) -> Verdict:
    """Grade which (layer, head) looks back over the most positions, on average over all queries."""
    if answer is None:
        return NOT_YET
    weights = trace.attention_weights.values.astype(np.float64)
    back = trace["query_position"].values[:, None] - trace["key_position"].values[None, :]
    distance = (weights * back).sum(axis=-1).mean(axis=-1)
    n_layers, n_heads = distance.shape
    place = as_head(answer, range(n_layers), range(n_heads))
    if isinstance(place, Verdict):
        return place
    mine = distance[place]
    said = f"layer {place[0]}, head {place[1]} looks back {mine:.1f} positions on average"
    if mine == distance.max():
        return Verdict(True, f"Right: {said}.")
    if mine == distance.min():
        return Verdict(False, f"Not that one: {said}, which is the least. Look for the most.")
    return Verdict(
        False,
        f"Not that one: {said}, and another head looks farther. Multiply each weight with query "
        "position - key position, add up each row, and take the mean over the rows.",
    )


def score_bytes(config: ModelConfig, answer: Any, *, length: int) -> Verdict:
    """Grade the bytes that the scores of all heads of one layer take in float32."""
    numbers = config.n_heads * length**2
    slips = {
        float(numbers): "That counts numbers; a float32 takes 4 bytes.",
        4.0 * length**2: "Every head has scores of its own.",
        4.0 * config.n_heads * length: "Each of the queries meets each of the keys: N × N.",
        4.0 * config.n_heads * length * (length + 1) / 2: (
            "Written out, the masked half is computed and stored, too."
        ),
        4.0 * numbers * config.n_layers: "That is all layers; they take turns, one is asked for.",
    }
    slips.pop(4.0 * numbers, None)
    return grade_number(
        answer,
        4.0 * numbers,
        right=f"{config.n_heads} heads × {length:,} × {length:,} scores × 4 bytes "
        f"are {4 * numbers:,}.",
        hint="Multiply heads × queries × keys × bytes per number.",
        slips=slips,
        write="{:,.0f}".format,
    )
