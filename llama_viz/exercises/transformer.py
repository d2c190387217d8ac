"""Notebook 01: the stream by addition, a block's parameters, the scores of a translation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.analysis import pick
from llama_viz.cost import parameters
from llama_viz.exercises.grading import Verdict, grade_number

if TYPE_CHECKING:
    import xarray as xr

    from llama_viz.config import ModelConfig


def stream_after_block(
    trace: xr.Dataset, answer: Any, *, layer: int, position: int, feature: int
) -> Verdict:
    """Grade one number of the residual stream after a block, a sum of all that was written."""
    index, at = pick(trace, "layer", layer), pick(trace, "position", position)

    def numbers(name: str) -> np.ndarray:
        values = trace[name].isel(position=at, feature=feature).values
        return np.asarray(values, dtype=np.float64)

    start = float(numbers("embedding"))
    attention = numbers("attention_output")[: index + 1]
    feed_forward = numbers("feed_forward_output")[: index + 1]
    truth = float(numbers("residual_out")[index])
    written = float(attention.sum() + feed_forward.sum())
    slips = {
        written: "That is what was written; the stream began as the embedding.",
        start + float(attention.sum()): "The feed-forward of each block writes, too.",
        start + float(feed_forward.sum()): "The attention of each block writes, too.",
        truth
        - float(feed_forward[-1]): "That is the middle of the block, before its feed-forward.",
        float(attention[-1] + feed_forward[-1]): "That is what this block alone has written.",
        start + float(attention[-1] + feed_forward[-1]): "The blocks before it have written, too.",
    }
    return grade_number(
        answer,
        truth,
        tolerance=1e-3 * max(1.0, abs(truth)),
        right=f"{start:.4f} from the embedding, {written:+.4f} written by "
        f"{2 * (index + 1)} sublayers.",
        hint="Add what attention and feed-forward wrote in every block up to this one to the "
        "embedding: nothing is multiplied, normed or left out.",
        slips={wrong: reply for wrong, reply in slips.items() if abs(wrong - truth) > 0.01},
        write="{:.4f}".format,
    )


def block_parameters(config: ModelConfig, answer: Any) -> Verdict:
    """Grade the parameters of one block, norms included."""
    part = {name: count // config.n_layers for name, count in parameters(config).items()}
    matrices = ("query", "key", "value", "attention_output", "gate", "up", "down")
    in_matrices = sum(part[name] for name in matrices)
    truth = in_matrices + part["attention_norm"] + part["feed_forward_norm"]
    biases = sum((config.n_heads, 2 * config.n_kv_heads)) * config.head_dim
    biases += 2 * config.dim + 2 * config.hidden_dim
    ungrouped = truth - part["key"] - part["value"] + 2 * part["query"]
    slips = {
        in_matrices: f"Two norms have {config.dim:,} gains each.",
        truth - config.dim: "A block has two norms.",
        truth + config.dim: "The final norm belongs to the model, not to a block.",
        truth - part["gate"]: "SwiGLU has three matrices.",
        truth + biases: "LLaMA has no biases.",
        ungrouped: f"Keys and values have {config.n_kv_heads} heads, not {config.n_heads}.",
        truth * config.n_layers: "That is all blocks.",
        config.n_parameters: "That is the whole model.",
    }
    return grade_number(
        answer,
        truth,
        right=f"{truth:,}, {truth / config.n_parameters:.2%} of the model; "
        f"{config.n_layers} such blocks are {config.n_layers * truth:,}.",
        hint="Add query, key, value and output, then gate, up and down, then the gains of two "
        "norms. Each matrix has as many numbers as it has inputs times outputs.",
        slips={wrong: reply for wrong, reply in slips.items() if wrong != truth},
        write="{:,.0f}".format,
    )


def cross_attention_scores(answer: Any, *, n_source: int, n_target: int, n_heads: int) -> Verdict:
    """Grade how many scores the cross-attention of one decoder layer computes for one sentence."""
    truth = n_heads * n_source * n_target
    slips = {
        n_source * n_target: "Every head has scores of its own.",
        n_heads * n_target**2: "That is the decoder's self-attention: target with target.",
        n_heads * n_source**2: "That is the encoder's self-attention: source with source.",
        n_heads
        * (n_source + n_target) ** 2: "That is a decoder alone that reads both as one text.",
        n_heads * (n_source + n_target): "Each query meets each key: multiply the lengths.",
    }
    return grade_number(
        answer,
        truth,
        right=f"{n_heads} heads × {n_target} queries × {n_source} keys.",
        hint="Queries come from the target, keys from the source, and each query meets each key.",
        slips={wrong: reply for wrong, reply in slips.items() if wrong != truth},
        write="{:,.0f}".format,
    )
