"""Attention without dot products: the attention-free Transformer (AFT-full, Zhai et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama_viz.model import causal_mask


def attention_free_weights(key: Tensor, position_bias: Tensor) -> Tensor:
    """exp(w[t, t'] + k[t']) over its sum for t' up to t, for each feature by itself.

    key is (..., position, feature), position_bias w is (position, position). Returns (...,
    query_position, key_position, feature), where attention has one weight for all features. The
    softmax subtracts each row's largest, so no exponential overflows.
    """
    n_positions = key.shape[-2]
    if position_bias.shape != (n_positions, n_positions):
        raise ValueError(
            f"position_bias must be ({n_positions}, {n_positions}) for {n_positions} keys, "
            f"got {tuple(position_bias.shape)}"
        )
    ahead = ~causal_mask(n_positions, n_positions, key.device)
    scores = position_bias[..., None] + key[..., None, :, :]
    return scores.masked_fill(ahead[..., None], float("-inf")).softmax(dim=-2)


def attention_free(
    query: Tensor | None, key: Tensor, value: Tensor, position_bias: Tensor
) -> Tensor:
    """sigmoid(query) times the average of the values by attention_free_weights().

    All are (..., position, feature). query None leaves the gate away: the "Attn+" that RWKV starts
    from (Peng et al. 2023).
    """
    if key.shape != value.shape or (query is not None and query.shape != key.shape):
        shapes = [tuple(x.shape) for x in (query, key, value) if x is not None]
        raise ValueError(f"query, key and value must have one shape, got {shapes}")
    weights = attention_free_weights(key, position_bias)
    average = torch.einsum("...qkf,...kf->...qf", weights, value)
    return average if query is None else torch.sigmoid(query) * average


class AttentionFree(nn.Module):
    """An AFT layer: learned projections and one learned number for each pair of positions.

    x is (batch, position, feature), with at most max_seq_len positions. gate=False has no query.
    """

    def __init__(self, dim: int, max_seq_len: int, *, gate: bool = True) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False) if gate else None
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(max_seq_len, max_seq_len))

    def forward(self, x: Tensor) -> Tensor:
        n_positions, learned = x.shape[-2], len(self.position_bias)
        if n_positions > learned:
            raise ValueError(f"{n_positions} positions, but only {learned} have a learned bias")
        query = None if self.query is None else self.query(x)
        bias = self.position_bias[:n_positions, :n_positions]
        return self.output(attention_free(query, self.key(x), self.value(x), bias))
