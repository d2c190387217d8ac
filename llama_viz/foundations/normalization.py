"""LayerNorm and BatchNorm: the same formula over another axis; RMSNorm beside them.

LLaMA's own RMSNorm, with its gain, is a module in model.py; here it is a function like the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def standardize(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps): centred on 0, with a deviation of about 1.

    eps keeps a row of equal numbers, whose variance is 0, from being divided by 0. Raises
    ValueError where it is below 0.
    """
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps!r}")
    return (x - mean) / torch.sqrt(variance + eps)


def layer_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Standardize each item over its features, the last axis (Ba et al. 2016)."""
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, correction=0, keepdim=True)
    return standardize(x, mean, variance, eps)


def rms_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Divide each item by its root mean square; nothing is centred (Zhang and Sennrich 2019)."""
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def batch_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Standardize each feature over the items, all axes but the last (Ioffe and Szegedy 2015)."""
    return standardize(x, *batch_statistics(x), eps)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature over all items, both (feature,).

    Raises ValueError where there are fewer than two items: one has no variance.
    """
    items = x.flatten(0, -2) if x.dim() > 1 else x[None]
    if len(items) < 2:
        raise ValueError(
            f"BatchNorm needs at least two items to have a variance, got shape {tuple(x.shape)}; "
            "give a larger batch, or call eval() to use the running statistics"
        )
    return items.mean(dim=0), items.var(dim=0, correction=0)


class LayerNorm(nn.Module):
    """layer_norm(x) * gain + shift, with a gain and a shift learned for each feature."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.eps) * self.gain + self.shift


class BatchNorm(nn.Module):
    """batch_norm(x) * gain + shift in training; afterwards running statistics replace the batch's.

    Each training batch moves the running mean and variance towards its own by momentum. Without
    them an item's result would depend on its company, and one item alone would have none.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gain = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_variance", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            mean, variance = batch_statistics(x)
            n_items = x.numel() // x.shape[-1]
            # n / (n - 1): a sample's variance is a little below that of all the data.
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_variance.lerp_(variance.detach() * n_items / (n_items - 1), self.momentum)
        return standardize(x, mean, variance, self.eps) * self.gain + self.shift


def before_and_after(
    norm: Callable[[Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    *,
    shift: float = 1.0,
    scale: float = 2.0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The output before and after the norm's input, or a weight beside the norm, is changed.

    norm is any norm, x is (..., feature), weight is (feature, feature). The third change adds a
    shift that differs from feature to feature: 0 at the first, `shift` at the last. Returns both
    outputs, (..., feature), for each change.
    """
    by_feature = shift * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype, device=x.device)
    after_weights = norm(x) @ weight.T
    return {
        "input x scale": (norm(x), norm(x * scale)),
        "input + one constant": (norm(x), norm(x + shift)),
        "input + a shift for each feature": (norm(x), norm(x + by_feature)),
        "weights before the norm x scale": (norm(x @ weight.T), norm(x @ (weight * scale).T)),
        "weights after the norm x scale": (after_weights, norm(x) @ (weight * scale).T),
    }


def invariances(
    norm: Callable[[Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    *,
    shift: float = 1.0,
    scale: float = 2.0,
) -> dict[str, float]:
    """The largest absolute change of the output for each change of before_and_after.

    About 0 is "does not notice".
    """
    outputs = before_and_after(norm, x, weight, shift=shift, scale=scale)
    return {name: float((after - before).abs().max()) for name, (before, after) in outputs.items()}
