"""The two orders in which checkpoints store the feature pairs that rotary positions turn.

Interleaved: pair i is the features 2i and 2i + 1 of a head (Su et al. 2021; Meta's files, llama2.c,
GGUF, and the model here). Half-split: pair i is the features i and i + head_dim / 2 (Hugging Face).
Both compute the same as long as the rows of the query and key weights stand in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

INTERLEAVED = "interleaved"
HALF_SPLIT = "half-split"

ROTATED_WEIGHTS = ("attention.query.weight", "attention.key.weight")


def interleaved_from_half_split(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of a query or key weight, (head x head_dim, dim), to interleaved pairs."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def half_split_from_interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of a query or key weight, (head x head_dim, dim), to split halves."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
