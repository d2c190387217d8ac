"""Models for comparison: LLaMA with another feed-forward or another norm, and pooled heads.

They are built out of the model itself, part by part, and are only trained and scored: the taps that
a replaced part had are gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llama_viz.errors import unknown_name
from llama_viz.foundations.feed_forward import (
    ACTIVATIONS,
    GATES,
    GatedFeedForward,
    TwoMatrixFeedForward,
)
from llama_viz.foundations.normalization import LayerNorm
from llama_viz.model import Llama, initialize

if TYPE_CHECKING:
    from llama_viz.training.recipes import Recipe

FEED_FORWARDS = (*ACTIVATIONS, *GATES)
NORMS = ("rmsnorm", "layernorm", "none")
POOLINGS = ("mean", "first", "random")


def build(recipe: Recipe) -> Llama:
    """A model with fresh weights, drawn from the recipe's seed.

    Raises ValueError for a feed_forward or a normalization that there is not.
    """
    config = recipe.config
    model = Llama(config)
    if recipe.normalization not in NORMS:
        raise unknown_name("normalization", recipe.normalization, NORMS)
    if recipe.feed_forward not in FEED_FORWARDS:
        raise unknown_name("feed_forward", recipe.feed_forward, FEED_FORWARDS)
    for block in model.blocks:
        if recipe.feed_forward in ACTIVATIONS:
            block.feed_forward = TwoMatrixFeedForward(
                config.dim, config.hidden_dim, recipe.feed_forward, bias=False
            )
        elif recipe.feed_forward != "swiglu":
            block.feed_forward = GatedFeedForward(
                config.dim, config.hidden_dim, recipe.feed_forward
            )
    if recipe.normalization != "rmsnorm":
        for owner, name in [
            *((block, "attention_norm") for block in model.blocks),
            *((block, "feed_forward_norm") for block in model.blocks),
            (model, "norm"),
        ]:
            layer_norm = recipe.normalization == "layernorm"
            setattr(owner, name, LayerNorm(config.dim) if layer_norm else nn.Identity())
    generator = torch.Generator().manual_seed(recipe.seed)
    initialize(model, generator)
    with torch.no_grad():
        model.embedding.weight.normal_(0.0, recipe.embedding_deviation, generator=generator)
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.shift.zero_()
    return model


def pool_heads(model: Llama, n_kv_heads: int, pooling: str, *, seed: int = 0) -> Llama:
    """The model with fewer key/value heads, each standing for a group of them; the rest is copied.

    pooling is "mean", the mean of the group's key and value projections, "first", those of its
    first head, or "random", fresh weights (Ainslie et al. 2023). The model itself is not changed.

    Raises ValueError where the heads cannot be grouped so, or for an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise unknown_name("pooling", pooling, POOLINGS)
    config = model.config
    if not 1 <= n_kv_heads < config.n_kv_heads or config.n_kv_heads % n_kv_heads:
        raise ValueError(
            f"{config.n_kv_heads} key/value heads cannot be pooled into {n_kv_heads}: "
            f"give a smaller number that divides {config.n_kv_heads}"
        )
    fewer = replace(config, n_kv_heads=n_kv_heads)
    # Another draw than the one that the model itself began with.
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    pooled = initialize(Llama(fewer), generator)
    weights = dict(model.state_dict())
    for name, weight in weights.items():
        if name.endswith(("attention.key.weight", "attention.value.weight")):
            weights[name] = (
                pooled.state_dict()[name] if pooling == "random"
                else _pooled(weight, n_kv_heads, config.head_dim, pooling)
            )  # fmt: skip
    pooled.load_state_dict(weights)
    return pooled


def _pooled(weight: Tensor, n_kv_heads: int, head_dim: int, pooling: str) -> Tensor:
    """(key_value_head x head_feature, feature) with one head left of each group."""
    groups = weight.view(n_kv_heads, -1, head_dim, weight.shape[-1])  # group, head within it, ...
    kept = groups.mean(dim=1) if pooling == "mean" else groups[:, 0]
    return kept.reshape(-1, weight.shape[-1])
