"""Notebook 07: whose keys a head reads, what an ungrouped cache would take, what fits in a card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_viz.cost import largest_batch, memory
from llama_viz.exercises.grading import Verdict, every_digit, grade_number

if TYPE_CHECKING:
    import xarray as xr

    from llama_viz.config import ModelConfig


def shared_head(config: ModelConfig, answer: Any, *, head: int) -> Verdict:
    """Grade which key/value head a query head reads."""
    truth = config.kv_head_of_head[head]
    shared = config.heads_per_kv_head
    slips = {
        float(head % config.n_kv_heads): "Neighbours share a head: they are not dealt in turns.",
        float(head % shared): "That is its place within its group. Which group is it?",
        float(truth + 1): "Heads are counted from 0.",
        float(head): "That would be MHA, where each query head has its own.",
    }
    slips.pop(float(truth), None)
    return grade_number(
        answer,
        float(truth),
        right=f"{shared} query heads share each key/value head, and {head} // {shared} is {truth}.",
        hint=f"Of {config.n_heads} query heads, {shared} neighbours share each of the "
        f"{config.n_kv_heads} key/value heads.",
        slips=slips,
    )


def ungrouped_cache(trace: xr.Dataset, answer: Any) -> Verdict:
    """Grade the bytes that the last step's cache would hold with a key/value head for each head."""
    held = int(trace.cache_bytes_used.values[-1].sum())
    n_heads, n_kv_heads = (trace.attrs["config"][name] for name in ("n_heads", "n_kv_heads"))
    truth = float(held * n_heads // n_kv_heads)
    n_layers = trace.sizes["layer"]
    slips = {
        float(held): "That is what it holds with its groups.",
        float(held * n_heads): "It has more than one key/value head already: count how often its "
        "number goes into the number of query heads.",
        truth / n_layers: "That is one layer; all layers have a cache.",
        truth / 2: "Keys and values are both kept.",
        truth / held * float(trace.cache_bytes_used.sum()): (
            "Only the last step counts: it holds the rows of all steps before it."
        ),
    }
    slips.pop(truth, None)
    return grade_number(
        answer,
        truth,
        right=f"{n_heads // n_kv_heads} times {held:,} bytes are {truth:,.0f}.",
        hint="Add up trace.cache_bytes_used of the last step over the layers. How many times as "
        "many key/value heads would there be?",
        slips=slips,
        write=every_digit,
    )


def texts_that_fit(
    config: ModelConfig, answer: Any, *, context: int, card_bytes: int, dtype: str = "float16"
) -> Verdict:
    """Grade how many texts of `context` positions fit in a card beside the weights."""
    truth = largest_batch(config, context, card_bytes, dtype=dtype)
    needs = memory(config, context, dtype=dtype)
    room = card_bytes - needs.weights
    slips = {
        float(card_bytes // needs.cache): "The weights must be there, too.",
        float(truth + 1): "The last one does not fit as a whole.",
        float(card_bytes // needs.total): "The weights are there once, for all texts together.",
        float(room // (needs.cache // 2)): "Keys and values are both kept.",
        float(largest_batch(config, 2 * context, card_bytes, dtype=dtype)): (
            "That is for twice the positions."
        ),
    }
    slips.pop(float(truth), None)
    return grade_number(
        answer,
        float(truth),
        right=f"{room / 1e9:.2f} GB are left beside the weights, and each text takes "
        f"{needs.cache / 1e9:.2f} GB.",
        hint="Take the weights from the card, and divide what is left by the cache of one text; "
        "a GB is 10^9 bytes.",
        slips=slips,
    )
