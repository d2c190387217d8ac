"""Exercises of notebook 10: a row in the other layout, a model's bytes, a layer of SmolLM2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_viz.analysis import head_kinds
from llama_viz.checkpoints.gguf_writing import bytes_of_kind
from llama_viz.exercises.grading import NOT_YET, Verdict, as_number, grade_number

if TYPE_CHECKING:
    import xarray as xr

    from llama_viz.config import ModelConfig


def half_split_row(answer: Any, *, head_dim: int, head: int, feature: int) -> Verdict:
    """Grade in which row of a half-split query weight a feature of an interleaved head stands."""
    pair, second = divmod(feature, 2)
    truth = head * head_dim + second * (head_dim // 2) + pair
    return grade_number(
        answer,
        truth,
        right=f"head {head} begins at row {head * head_dim}; feature {feature} is the "
        f"{('first', 'second')[second]} of pair {pair}, so it stands in the "
        f"{('first', 'second')[second]} half.",
        hint="Find its pair, feature // 2, and whether it is the first or the second of it: the "
        "first ones fill the first half of the head, the second ones the other half.",
        slips={
            head * head_dim + feature: "That is its row in the interleaved layout.",
            truth - head * head_dim: f"That is its place inside the head: head {head} begins "
            f"further down.",
            head * head_dim + (1 - second) * (head_dim // 2) + pair: "Even features are the first "
            "of their pair, odd ones the second.",
            head * head_dim + second * (head_dim // 2) + feature: "It is the pair that counts, not "
            f"the feature: {feature} // 2.",
        },
        write="{:,.0f}".format,
    )


def weight_bytes(config: ModelConfig, answer: Any, *, kind: str) -> Verdict:
    """Grade how many bytes all parameters of a model take in a kind of GGUF, to a hundredth."""
    n = config.n_parameters
    truth = bytes_of_kind(kind, n)
    in_block = bytes_of_kind(kind, 32)
    return grade_number(
        answer,
        truth,
        tolerance=0.01 * truth,
        right=f"{n / 1e9:.2f} billion parameters in {kind} take {truth / 1e9:.2f} billion bytes, "
        f"{8 * in_block / 32:g} bits each.",
        hint=f"32 numbers share a block of {in_block} bytes: divide the parameters "
        f"(config.n_parameters) by 32, then multiply.",
        slips={
            float(n * in_block): "That is a block for every parameter: 32 of them share one.",
            n * int(kind[1]) / 8: "The scale of each block takes room, too.",
            8.0 * truth: "That is in bits.",
            4.0 * n: "That is float32, 4 bytes for each.",
            truth / 1e9: "Answer in bytes, not in gigabytes.",
        },
        write=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:,.6g}",
    )


def layer_that_looks_first(trace: xr.Dataset, answer: Any) -> Verdict:
    """Grade which layer gives the first position most attention, in the mean over its heads."""
    if answer is None:
        return NOT_YET
    share = head_kinds(trace).sel(kind="first").mean("head")
    layers = trace["layer"].values.tolist()
    layer = as_number(answer)
    if layer is None or layer not in layers:
        return Verdict(False, f"Answer with the number of a layer: {layers[0]} to {layers[-1]}.")
    mine, most = float(share.sel(layer=int(layer))), float(share.max())
    said = f"layer {int(layer)} gives {mine:.0%} of its attention to the first position"
    if mine == most:
        return Verdict(True, f"Right: {said}.")
    if mine == float(share.min()):
        return Verdict(False, f"Not quite: {said}, the least of all; the most is asked for.")
    one_head = head_kinds(trace).sel(kind="first").max("head")
    if float(one_head.sel(layer=int(layer))) == float(one_head.max()):
        return Verdict(
            False, f"Not quite: {said}. It has the head with the most, but take the mean."
        )
    return Verdict(False, f"Not quite: {said}, and another layer gives more.")
