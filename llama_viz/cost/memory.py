"""What must be in memory: weights and cache, what fits in how many cards, what grouping saves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_viz.cost.operations import check_counts, forward, itemsize, parameters

if TYPE_CHECKING:
    from llama_viz.config import ModelConfig

GB = 10**9  # the gigabyte that cards are sold by
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights and of the KV cache."""

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.weights + self.cache


def memory(
    config: ModelConfig, context: int, *, batch_size: int = 1, dtype: str = "float16"
) -> Memory:
    """What a model and the cache of `context` positions take.

    Not in it: activations at work and what a framework keeps for itself. context may go beyond
    config.max_seq_len.
    """
    check_counts(0, context=context)
    check_counts(batch_size=batch_size)
    item = itemsize(dtype)
    cache = config.kv_cache_bytes(context, batch_size=batch_size, itemsize=item)
    return Memory(config.n_parameters * item, cache)


def fits(
    config: ModelConfig,
    context: int,
    card_bytes: int,
    *,
    n_cards: int = 1,
    batch_size: int = 1,
    dtype: str = "float16",
) -> bool:
    """Whether weights and cache fit in n_cards of card_bytes each, divided among them evenly."""
    check_counts(card_bytes=card_bytes, n_cards=n_cards)
    needed = memory(config, context, batch_size=batch_size, dtype=dtype).total
    return needed <= n_cards * card_bytes


def largest_context(
    config: ModelConfig,
    card_bytes: int,
    *,
    n_cards: int = 1,
    batch_size: int = 1,
    dtype: str = "float16",
) -> int:
    """How many positions of each text fit beside the weights; 0 where the weights alone do not.

    May go beyond config.max_seq_len: memory is one limit, training another.
    """
    check_counts(batch_size=batch_size)
    per_position = memory(config, 1, batch_size=batch_size, dtype=dtype).cache
    return _room(config, card_bytes, n_cards, dtype) // per_position


def largest_batch(
    config: ModelConfig,
    context: int,
    card_bytes: int,
    *,
    n_cards: int = 1,
    dtype: str = "float16",
) -> int:
    """How many texts of `context` positions fit beside the weights; 0 where not even one does."""
    check_counts(context=context)
    per_text = memory(config, context, dtype=dtype).cache
    return _room(config, card_bytes, n_cards, dtype) // per_text


def _room(config: ModelConfig, card_bytes: int, n_cards: int, dtype: str) -> int:
    """Bytes that the weights leave."""
    check_counts(card_bytes=card_bytes, n_cards=n_cards)
    return max(n_cards * card_bytes - memory(config, 0, dtype=dtype).weights, 0)


def ungrouped(config: ModelConfig) -> ModelConfig:
    """The same model with a key/value head for every query head (MHA)."""
    return replace(config, n_kv_heads=config.n_heads)


@dataclass(frozen=True)
class Grouping:
    """What sharing key/value heads saves, as shares of the same model ungrouped, from 0 to 1.

    attention_projections: of the multiply-adds (and weights) of query, key, value and output.
    layer_matrices: of those of all seven matrices of a layer. layer: of all multiply-adds of a
    layer for one new position that sees `context` positions, score and value products included:
    those stay. parameters: of the model. cache: of the bytes of the KV cache. layer_bytes: of all
    bytes that a layer moves for that position.
    """

    attention_projections: float
    layer_matrices: float
    layer: float
    parameters: float
    cache: float
    layer_bytes: float


def grouping_saves(
    config: ModelConfig, context: int, *, batch_size: int = 1, dtype: str = "float16"
) -> Grouping:
    """What the groups of a model save against the same model ungrouped (Ainslie et al. 2023).

    For one new position after context - 1 others, for batch_size texts at once.
    """
    check_counts(context=context)
    both = (ungrouped(config), config)
    matrices = [parameters(model) for model in both]
    layers = [
        forward(model, 1, context - 1, batch_size=batch_size, dtype=dtype).layer.total
        for model in both
    ]
    projections = ("query", "key", "value", "attention_output")
    feed_forward = ("gate", "up", "down")
    return Grouping(
        attention_projections=_saved(
            sum(sizes[name] for name in projections) for sizes in matrices
        ),
        layer_matrices=_saved(
            sum(sizes[name] for name in (*projections, *feed_forward)) for sizes in matrices
        ),
        layer=_saved(layer.multiply_adds for layer in layers),
        parameters=_saved(sum(sizes.values()) for sizes in matrices),
        cache=_saved(model.kv_cache_bytes(context) for model in both),
        layer_bytes=_saved(layer.bytes for layer in layers),
    )


def _saved(sizes: Iterable[int]) -> float:
    before, after = sizes
    return 1 - after / before
