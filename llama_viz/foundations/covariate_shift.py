"""Internal covariate shift, run for real: one deep network, trained with one norm or another.

Small enough for seconds on one core, in float64, so that a rounding of another machine changes
nothing that can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from llama_viz.errors import unknown_name
from llama_viz.foundations.normalization import BatchNorm, LayerNorm
from llama_viz.model import RMSNorm

EPS = 1e-5


class MovedBatchNorm(nn.Module):
    """BatchNorm whose output is moved and stretched at random, for each feature, at each step.

    So covariate shift is put back behind the norm (after Santurkar et al. 2018). The numbers are
    1 + deviation x normal and deviation x normal; they do not depend on the input.
    """

    def __init__(self, dim: int, *, deviation: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        self.norm = BatchNorm(dim, EPS)
        self.dim, self.deviation = dim, deviation
        self._random = np.random.default_rng(seed)

    def forward(self, x: Tensor) -> Tensor:
        stretch, move = torch.from_numpy(self._random.normal(0, self.deviation, (2, self.dim)))
        return self.norm(x) * (1 + stretch) + move


NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "no norm": lambda dim, layer: nn.Identity(),
    "BatchNorm": lambda dim, layer: BatchNorm(dim, EPS),
    "LayerNorm": lambda dim, layer: LayerNorm(dim, EPS),
    "RMSNorm": lambda dim, layer: RMSNorm(dim, EPS),
    "BatchNorm, moved": lambda dim, layer: MovedBatchNorm(dim, seed=layer),
}


class DeepNetwork(nn.Module):
    """tanh(norm(linear(x))) again and again, then one number for each item, (item, n_inputs).

    norm is one of NORMS. Weights are drawn with deviation weight_scale / sqrt(n_inputs); the
    weight_scale of PyTorch's Linear is 1 / sqrt(3).
    """

    def __init__(
        self, norm: str, *, n_inputs: int = 8, dim: int = 24, n_layers: int = 6,
        weight_scale: float = 1 / math.sqrt(3), seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if norm not in NORMS:
            raise unknown_name("norm", norm, NORMS)
        sizes = [n_inputs] + [dim] * n_layers
        self.linears = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(NORMS[norm](dim, layer) for layer in range(n_layers))
        self.output = nn.Linear(dim, 1)
        self.double()
        # NumPy's numbers are the same on every machine; torch's own start is not used.
        random = np.random.default_rng(seed)
        with torch.no_grad():
            for linear in [*self.linears, self.output]:
                deviation = weight_scale / math.sqrt(linear.in_features)
                linear.weight.copy_(
                    torch.from_numpy(random.normal(0, deviation, tuple(linear.weight.shape)))
                )
                linear.bias.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One number for each item, and what the tanh of each layer takes in."""
        inputs = []
        for linear, norm in zip(self.linears, self.norms, strict=True):
            inputs.append(norm(linear(x)))
            x = torch.tanh(inputs[-1])
        return self.output(x)[:, 0], torch.stack(inputs)


def same_sign(n_items: int = 128, n_inputs: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    """The task: rows of random numbers, and 1 where the first two have the same sign, else 0."""
    numbers = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_items, n_inputs)))
    return numbers, (numbers[:, 0] * numbers[:, 1] > 0).double()


def train_deep_network(
    norm: str, *, n_steps: int = 120, learning_rate: float = 0.1, **network: float
) -> xr.Dataset:
    """Train a DeepNetwork by plain gradient descent on all items of same_sign at once.

    network goes to DeepNetwork. Returns loss (step), the binary cross-entropy in nats before each
    step, and layer_input (step, layer, item, neuron), what each layer's tanh takes in.
    """
    model = DeepNetwork(norm, **network)  # type: ignore[arg-type]
    numbers, labels = same_sign(n_inputs=model.linears[0].in_features)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses, layer_inputs = [], []
    for _ in range(n_steps):
        logits, inputs = model(numbers)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        layer_inputs.append(inputs.detach().float().numpy())
    return xr.Dataset(
        {
            "loss": ("step", losses),
            "layer_input": (("step", "layer", "item", "neuron"), np.stack(layer_inputs)),
        },
        {"step": np.arange(n_steps)},
        {"norm": norm},
    )


def shift_per_step(run: xr.Dataset) -> xr.DataArray:
    """How far the inputs of each layer move from one step to the next, in their own deviations.

    For each neuron the distance of its means over the items, divided by its deviation before;
    averaged over neurons and steps. Takes what train_deep_network returns; returns (layer).
    """
    means = run["layer_input"].mean("item")
    deviations = run["layer_input"].std("item")
    moved = np.abs(means.values[1:] - means.values[:-1]) / deviations.values[:-1]
    return xr.DataArray(moved.mean(axis=(0, 2)), dims="layer", name="shift_per_step")
