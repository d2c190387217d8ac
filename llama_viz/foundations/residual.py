"""The residual connection, and what a deep network is without it: one stack, trained both ways.

Small enough for seconds on one core, in float64, so that a rounding of another machine changes
nothing that can be seen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from llama_viz.foundations.covariate_shift import EPS, same_sign
from llama_viz.foundations.feed_forward import TwoMatrixFeedForward
from llama_viz.model import RMSNorm


class FeedForwardStack(nn.Module):
    """Feed-forward layers, one on another, each on what its norm gives it: (item, n_inputs).

    With residual a layer's output is added to its input, as in LLaMA: x + layer(norm(x)). Without,
    the output alone goes on: layer(norm(x)). A final norm and a linear layer make one number for
    each item. The same seed gives the same weights both ways (He et al. 2015, scaled for ReLU).
    """

    def __init__(
        self, n_layers: int, *, residual: bool, n_inputs: int = 8, dim: int = 24, seed: int = 0
    ) -> None:
        super().__init__()
        self.residual = residual
        self.input = nn.Linear(n_inputs, dim, bias=False)
        self.layers = nn.ModuleList(
            TwoMatrixFeedForward(dim, 2 * dim, bias=False) for _ in range(n_layers)
        )
        self.norms = nn.ModuleList(RMSNorm(dim, EPS) for _ in range(n_layers))
        self.final_norm = RMSNorm(dim, EPS)
        self.output = nn.Linear(dim, 1, bias=False)
        self.double()
        # NumPy's numbers are the same on every machine; torch's own start is not used.
        random = np.random.default_rng(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.dim() < 2:
                    continue
                scale = math.sqrt((2 if name.endswith("up.weight") else 1) / weight.shape[1])
                weight.copy_(torch.from_numpy(random.normal(0, scale, tuple(weight.shape))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One number for each item, and the stream (n_layers + 1, item, feature)."""
        x = self.input(x)
        stream = [x]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            written = layer(norm(x))
            x = x + written if self.residual else written
            stream.append(x)
        return self.output(self.final_norm(x))[:, 0], torch.stack(stream)


def train_stack(
    n_layers: int, *, residual: bool, n_steps: int = 40, learning_rate: float = 0.001, **stack: int
) -> xr.Dataset:
    """Train a FeedForwardStack with Adam, on all items of same_sign at once.

    stack goes to FeedForwardStack. Returns loss (step), the binary cross-entropy in nats before
    each step, and of the untrained stack: alikeness (depth), the mean cosine of two different
    items in the stream after so many layers, and gradient (layer), the norm of the gradient of
    each layer's first matrix.
    """
    model = FeedForwardStack(n_layers, residual=residual, **stack)
    numbers, labels = same_sign(n_inputs=model.input.in_features)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses: list[float] = []
    alike, gradient = np.empty(0), np.empty(0)
    for step in range(n_steps):
        logits, stream = model(numbers)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            alike = alikeness(stream.detach()).numpy()
            gradients = [
                model.get_parameter(f"layers.{layer}.up.weight").grad for layer in range(n_layers)
            ]
            gradient = np.array([float(one.norm()) for one in gradients if one is not None])
        optimizer.step()
        losses.append(loss.item())
    return xr.Dataset(
        {"loss": ("step", losses), "alikeness": ("depth", alike), "gradient": ("layer", gradient)},
        {"step": np.arange(n_steps), "depth": np.arange(n_layers + 1)},
        {"residual": residual, "n_layers": n_layers},
    )


def alikeness(stream: Tensor) -> Tensor:
    """(..., item, feature) to (...): the mean cosine over all pairs of different items."""
    directions = F.normalize(stream, dim=-1)
    n_items = stream.shape[-2]
    together = directions.sum(dim=-2).square().sum(dim=-1)  # all pairs, each item with itself too
    return (together - n_items) / (n_items * (n_items - 1))
