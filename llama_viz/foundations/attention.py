"""Attention written out, and the multi-head attention of 2017 (Vaswani et al.)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class AttentionSteps(NamedTuple):
    """What attention computes on its way; the first three are (..., query_position, key_position).

    output is (..., query_position, value_feature).
    """

    scores: Tensor
    masked_scores: Tensor
    weights: Tensor
    output: Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> AttentionSteps:
    """softmax(query key^T / sqrt(head_dim), masked) value, with every step kept.

    query is (..., query_position, head_feature), key (..., key_position, head_feature), value
    (..., key_position, value_feature). Queries may be fewer or more than keys. mask is True where
    a query may look: model.causal_mask() makes the causal one.

    Raises ValueError where the shapes do not meet, or a query may look at nothing.
    """
    check_shapes(query, key, value)
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return weigh(scores, value, mask)


def weigh(scores: Tensor, value: Tensor, mask: Tensor | None = None) -> AttentionSteps:
    """From scores to output: mask, softmax over the keys, then the values in that mixture."""
    masked_scores = scores
    if mask is not None:
        if not mask.any(dim=-1).all():
            raise ValueError("the mask lets a query look at no key: each row needs one True")
        masked_scores = scores.masked_fill(~mask, float("-inf"))
    weights = masked_scores.softmax(dim=-1)
    return AttentionSteps(scores, masked_scores, weights, weights @ value)


def check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise ValueError where queries and keys differ in width, or keys and values in length."""
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"queries have {query.shape[-1]} features and keys {key.shape[-1]}: a dot product "
            "needs as many in both"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"there are {key.shape[-2]} keys and {value.shape[-2]} values: each key needs its value"
        )


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(..., position, feature) to (..., head, position, head_feature): each head gets a slice."""
    if n_heads < 1 or x.shape[-1] % n_heads:
        raise ValueError(
            f"{x.shape[-1]} features cannot be shared out evenly among {n_heads} heads"
        )
    return x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """(..., head, position, head_feature) to (..., position, feature): side by side again."""
    return x.transpose(-3, -2).flatten(-2)


class Saturation(NamedTuple):
    """What dot products do to a softmax; see saturation()."""

    variance: float
    largest_weight: float
    slope: float


def saturation(
    head_dim: int, *, divide: bool, n_keys: int = 16, n_queries: int = 2000, seed: int = 0
) -> Saturation:
    """Meet random queries with random keys: the scores' variance, and how their softmax fares.

    All features are drawn from the standard normal distribution, so the variance of a dot product
    is head_dim (Vaswani et al. 2017). Each query has keys of its own. largest_weight is the mean
    over the queries, slope the mean of w (1 - w) for that weight: how far it moves when its score
    does. divide says whether scores are divided by sqrt(head_dim).
    """
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(n_queries, 1, head_dim, generator=generator)
    key = torch.randn(n_queries, n_keys, head_dim, generator=generator)
    scores = (query * key).sum(dim=-1) * (head_dim**-0.5 if divide else 1.0)
    largest = scores.softmax(dim=-1).amax(dim=-1)
    return Saturation(
        float(scores.var()), float(largest.mean()), float((largest * (1 - largest)).mean())
    )


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each with its own small queries, keys and values.

    Self-attention gives the same input three times. Cross-attention takes queries from the decoder,
    keys and values from the encoder. value_head_dim may differ from the dim / n_heads features of
    queries and keys. 2017 has no biases here; bias=True is BERT's and PyTorch's form.

    Raises ValueError where dim is not a multiple of n_heads, or the inputs do not fit.
    """

    def __init__(
        self,
        dim: int = 512,
        n_heads: int = 8,
        *,
        value_head_dim: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if n_heads < 1 or dim % n_heads:
            raise ValueError(f"dim ({dim}) must be a multiple of n_heads ({n_heads})")
        self.dim, self.n_heads = dim, n_heads
        value_width = n_heads * (value_head_dim or dim // n_heads)
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(dim, dim, bias=bias)
        self.value = nn.Linear(dim, value_width, bias=bias)
        self.output = nn.Linear(value_width, dim, bias=bias)

    def heads(
        self,
        query_input: Tensor,
        key_input: Tensor,
        value_input: Tensor,
        mask: Tensor | None = None,
    ) -> AttentionSteps:
        """Each head's steps, as (batch, head, query_position, ...); inputs as in forward()."""
        for x in (query_input, key_input, value_input):
            if x.shape[-1] != self.dim:
                raise ValueError(f"inputs need {self.dim} features, got shape {tuple(x.shape)}")
        query = split_heads(self.query(query_input), self.n_heads)
        key = split_heads(self.key(key_input), self.n_heads)
        value = split_heads(self.value(value_input), self.n_heads)
        return attend(query, key, value, mask)

    def forward(
        self,
        query_input: Tensor,
        key_input: Tensor,
        value_input: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Inputs (batch, position, feature) to (batch, query_position, feature)."""
        heads = self.heads(query_input, key_input, value_input, mask)
        return self.output(join_heads(heads.output))
