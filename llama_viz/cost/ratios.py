"""Memory access per arithmetic of attention: Shazeer's orders of growth, and ours counted."""

from __future__ import annotations

from typing import NamedTuple

from llama_viz.config import ModelConfig
from llama_viz.cost.operations import Cost, check_counts, forward, itemsize, total

# What belongs to an attention layer in Shazeer 2019: four projections and the two products.
ATTENTION = (
    "query", "key", "value", "cache_append", "scores", "softmax", "weighted_values",
    "attention_output",
)  # fmt: skip


def memory_per_arithmetic(n: int, d: int, h: int, b: int) -> dict[str, float]:
    """The ratio of memory access to arithmetic of an attention layer (Shazeer 2019).

    n positions, d features, h heads of k = d / h features, b texts at once. Orders of growth, for n
    up to d: constant factors are left out, so compare shapes and not values. "batched" passes all n
    positions at once, "incremental" one after the other with a cache.
    """
    check_counts(n=n, d=d, h=h, b=b)
    return {
        "batched MHA": h / d + 1 / (b * n),  # 1/k + 1/(bn)
        "incremental MHA": n / d + 1 / b,
        "incremental MQA": 1 / d + n / (d * h) + 1 / b,
    }


def counted_memory_per_arithmetic(
    n: int, d: int, h: int, b: int, n_kv_heads: int, *, incremental: bool = True
) -> float:
    """The same ratio counted from our formulas: numbers moved per multiply-add.

    For any number of key/value heads that divides h. Scores are written out, as in the paper;
    norms, rotation and residuals are no part of it.

    Raises ValueError where the sizes cannot form an attention layer.
    """
    check_counts(n=n, d=d, h=h, b=b)
    if d % h:
        raise ValueError(f"d ({d}) must be a multiple of h ({h}): k = d / h is a whole number")
    config = ModelConfig(
        n_layers=1, n_heads=h, n_kv_heads=n_kv_heads, dim=d, hidden_dim=1, vocab_size=1
    )

    def attention(n_new: int, n_held: int) -> Cost:
        costs = forward(config, n_new, n_held, batch_size=b, use_cache=incremental, fused=False)
        return total(row for row in costs if row.operation in ATTENTION)

    # A step's cost is a straight line over what is held: first and last step stand for all.
    passes = [(1, 0), (1, n - 1)] if incremental else [(n, 0)]
    costs = [attention(*sizes) for sizes in passes]
    numbers = sum(cost.bytes for cost in costs) / itemsize("float32")
    return numbers / sum(cost.multiply_adds for cost in costs)


class Published(NamedTuple):
    """One model of Shazeer 2019 on WMT 2014 English-German.

    Microseconds are per output token on one TPUv2, amortized over a batch of 1024 sequences.
    """

    attention: str
    feed_forward_width: int
    dev_bleu: float
    test_bleu_beam_4: float
    encoder_microseconds: float
    decoder_microseconds: float


# Noam Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", arXiv 1911.02150, 2019.
# The multi-query model's feed-forward is wider, so that both have as many parameters.
PUBLISHED = (
    Published("MHA", 4096, 26.7, 28.4, 1.7, 46.0),
    Published("MQA", 5440, 26.5, 28.5, 1.5, 3.8),
)

# Of the same paper: attention sees only the present position and the 31 before it.
PUBLISHED_LOCAL = (
    Published("MHA, local", 4096, 26.6, 28.3, 1.7, 23.0),
    Published("MQA, local", 5440, 26.5, 28.2, 1.5, 3.3),
)
