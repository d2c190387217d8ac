"""Exercises of notebook 00: the cache in bytes, a head that looks back, the least likely token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_viz.exercises.grading import NOT_YET, Verdict, as_head, as_whole, grade_number

if TYPE_CHECKING:
    import xarray as xr


def cache_bytes(trace: xr.Dataset, answer: Any, *, step: int) -> Verdict:
    """Grade the bytes that the keys and values of all layers take after a step of the run."""
    config = trace.attrs["config"]
    used = int(trace.cache_bytes_used.sel(step=step).sum())
    positions = int(trace.cache_length.sel(step=step)[0])
    slips: dict[float, str] = {
        used // 2: "Keys and values are both kept: that is two numbers, not one.",
        used // config["n_layers"]: "Every layer has a cache of its own.",
        used // 4: "That counts numbers; a float32 takes 4 bytes.",
        used * config["n_heads"] // config["n_kv_heads"]: (
            "Only key/value heads are cached: several query heads share one."
        ),
        used * step // positions: (
            f"The tokens of the prompt are in the cache too: after step {step} it holds "
            f"{positions} positions."
        ),
        used * (positions + 1) // positions: (
            "The token that the step has just written is not in the cache yet: "
            "it passes through the model in the next step."
        ),
    }
    return grade_number(
        answer,
        used,
        right=f"{positions} positions take {used:,} bytes.",
        hint="Multiply 2 (keys and values) x layers x key/value heads x numbers per head x "
        "positions x bytes per number.",
        slips=slips,
        write="{:,.10g}".format,
    )


def head_that_looks(
    trace: xr.Dataset, answer: Any, *, query_position: int, key_position: int
) -> Verdict:
    """Grade which (layer, head) gives one position the most weight when it looks from another."""
    if answer is None:
        return NOT_YET
    at = trace.attention_weights.sel(query_position=query_position, key_position=key_position)
    layers, heads = trace["layer"].values.tolist(), trace["head"].values.tolist()
    place = as_head(answer, layers, heads)
    if isinstance(place, Verdict):
        return place
    layer, head = place
    mine = float(at.values[layers.index(layer), heads.index(head)])
    looked_at = str(trace["token"].values[key_position])
    said = f"layer {layer}, head {head} gives {looked_at!r} {mine:.0%} of its attention"
    if mine == float(at.max()):
        return Verdict(True, f"Right: {said}.")
    return Verdict(
        False,
        f"Not quite: {said}, and another head gives more. Draw the heads one after another and "
        f"follow row {query_position} to column {key_position}.",
    )


def surprise(trace: xr.Dataset, answer: Any) -> Verdict:
    """Grade which step wrote the token that the model itself thought least likely."""
    if answer is None:
        return NOT_YET
    probabilities = trace.sampled_probability.values
    steps = trace.step.values.tolist()
    step = as_whole(answer, steps)
    if step is None:
        return Verdict(False, f"Answer with the number of a step: {steps[0]} to {steps[-1]}.")
    mine = float(probabilities[steps.index(step)])
    token = str(trace.sampled_token.values[steps.index(step)])
    if mine == probabilities.min():
        return Verdict(True, f"Right: step {step} wrote {token!r} with {mine:.1%}.")
    return Verdict(
        False,
        f"Step {step} wrote {token!r} with {mine:.1%}, but another step was less sure. "
        "Look for the palest box.",
    )
