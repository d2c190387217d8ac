"""Softmax in one pass, and attention whose memory grows with N instead of N x N."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from llama_viz.foundations.attention import attend, check_shapes


class OnlineSoftmax(NamedTuple):
    """The weights, and what was known after each score: all of the scores' shape."""

    weights: Tensor
    running_maximum: Tensor
    running_sum: Tensor


def online_softmax(scores: Tensor) -> OnlineSoftmax:
    """Softmax over the last axis with a running maximum and sum (Milakov and Gimelshein 2018).

    Whenever the maximum grows, the sum so far is shrunk to the new scale; so the scores are read
    once for both, and no exponential overflows. -inf is a masked score.
    """
    # The lowest number there is, not -inf: -inf - (-inf) is not a number.
    maximum = torch.full_like(scores[..., 0], torch.finfo(scores.dtype).min)
    total = torch.zeros_like(maximum)
    maxima, totals = [], []
    for score in scores.unbind(dim=-1):
        new_maximum = torch.maximum(maximum, score)
        total = total * (maximum - new_maximum).exp() + (score - new_maximum).exp()
        maximum = new_maximum
        maxima.append(maximum)
        totals.append(total)
    weights = (scores - maximum[..., None]).exp() / total[..., None]
    return OnlineSoftmax(weights, torch.stack(maxima, dim=-1), torch.stack(totals, dim=-1))


def attention_by_rows(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """attend(...).output, one query at a time: one row of scores is all that is ever held.

    Shapes as in attend(); causal queries are the last of the keys' positions.
    """
    first = _first_query(query, key, value, causal)
    n_keys = key.shape[-2]
    rows = []
    for row in range(query.shape[-2]):
        seen = first + row + 1 if causal else n_keys
        one = query[..., row : row + 1, :]
        rows.append(attend(one, key[..., :seen, :], value[..., :seen, :]).output)
    return torch.cat(rows, dim=-2)


def attention_by_blocks(
    query: Tensor, key: Tensor, value: Tensor, *, block_size: int = 64, causal: bool = False
) -> Tensor:
    """attend(...).output by online softmax over blocks of keys (Rabe and Staats 2021, Dao 2022).

    No more than block_size x block_size scores are held at once, whatever the length; keys and
    values stay in memory. Shapes as in attend(); causal queries are the last of the keys'
    positions.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    first = _first_query(query, key, value, causal)
    blocks = []
    for start in range(0, query.shape[-2], block_size):
        some = query[..., start : start + block_size, :]
        position = first + start if causal else None
        blocks.append(_attend_some(some, key, value, block_size, position))
    return torch.cat(blocks, dim=-2)


def _attend_some(
    query: Tensor, key: Tensor, value: Tensor, block_size: int, position: int | None
) -> Tensor:
    """A block of queries over all keys; position is that of its first query where it is causal."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    seen = n_keys if position is None else position + n_queries
    # -inf can stand here: every query sees the first key, so the next maximum is a number.
    maximum = torch.full_like(query[..., :1], float("-inf"))
    total = torch.zeros_like(maximum)
    mixed: Tensor | float = 0.0  # values, weighted by exponentials that total will divide
    for start in range(0, seen, block_size):
        block = slice(start, min(start + block_size, seen))
        scores = query @ key[..., block, :].transpose(-2, -1) * query.shape[-1] ** -0.5
        if position is not None:
            query_position = position + torch.arange(n_queries, device=query.device)
            key_position = torch.arange(block.start, block.stop, device=query.device)
            ahead = key_position > query_position[:, None]
            scores = scores.masked_fill(ahead, float("-inf"))
        new_maximum = torch.maximum(maximum, scores.amax(dim=-1, keepdim=True))
        shrunk = (maximum - new_maximum).exp()
        exponentials = (scores - new_maximum).exp()
        total = total * shrunk + exponentials.sum(dim=-1, keepdim=True)
        mixed = mixed * shrunk + exponentials @ value[..., block, :]
        maximum = new_maximum
    return mixed / total


def _first_query(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> int:
    """The position of the first query; raises ValueError where the shapes do not meet."""
    check_shapes(query, key, value)
    first = key.shape[-2] - query.shape[-2]
    if causal and first < 0:
        raise ValueError(
            f"{query.shape[-2]} causal queries for {key.shape[-2]} keys: a query sees at least its "
            "own key"
        )
    return first
