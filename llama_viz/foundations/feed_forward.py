"""Feed-forward networks: two matrices with an activation (2017), and three with a gate (2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llama_viz.errors import unknown_name


def relu(x: Tensor) -> Tensor:
    """max(0, x)."""
    return torch.relu(x)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), with Phi the normal distribution function, exact (Hendrycks and Gimpel 2016)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def swish(x: Tensor, beta: float = 1.0) -> Tensor:
    """x sigmoid(beta x): x / 2 at beta 0, ReLU as beta grows (Ramachandran et al. 2017)."""
    return x * torch.sigmoid(beta * x)


def silu(x: Tensor) -> Tensor:
    """Swish with beta 1, the activation of LLaMA's gate."""
    return swish(x)


def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "gelu": gelu,
    "swish": swish,
}

# The gated family (Shazeer 2020): the name, and what is done to the gate.
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "glu": torch.sigmoid,
    "bilinear": identity,
    "reglu": relu,
    "geglu": gelu,
    "swiglu": silu,
}


class LogPerplexity(NamedTuple):
    """What Shazeer (2020) measured of one kind: held-out log-perplexity, in nats per token.

    early is the mean after 65,536 steps, deviation that between runs, late what one run came to
    after 524,288 steps.
    """

    early: float
    deviation: float
    late: float


# Noam Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202, 2020, table 1: T5's task of
# filling in missing pieces of a text, in an encoder and decoder of 12 layers and 768 features with
# 3072 neurons, or 2048 where there are three matrices.
SHAZEER_2020: dict[str, LogPerplexity] = {
    "relu": LogPerplexity(1.997, 0.005, 1.677),
    "gelu": LogPerplexity(1.983, 0.005, 1.679),
    "swish": LogPerplexity(1.994, 0.003, 1.683),
    "glu": LogPerplexity(1.982, 0.006, 1.663),
    "bilinear": LogPerplexity(1.960, 0.005, 1.648),
    "reglu": LogPerplexity(1.953, 0.003, 1.645),
    "geglu": LogPerplexity(1.942, 0.004, 1.633),
    "swiglu": LogPerplexity(1.944, 0.010, 1.636),
}


def slope(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of an activation at each x, by automatic differentiation."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(activation(x).sum(), x)
    return found


class TwoMatrixFeedForward(nn.Module):
    """down(activation(up(x))), each position by itself (Vaswani et al. 2017).

    activation is one of ACTIVATIONS. 2017 has biases; Shazeer's comparison of 2020 has none.
    Raises ValueError for an unknown activation.
    """

    def __init__(
        self, dim: int = 512, hidden_dim: int = 2048, activation: str = "relu", *, bias: bool = True
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(dim, hidden_dim, bias=bias)
        self.down = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)): one product opens and closes the other (Shazeer 2020).

    kind is one of GATES; "swiglu" is LLaMA's feed-forward. Two thirds of the hidden_dim of a
    TwoMatrixFeedForward give as many weights. Raises ValueError for an unknown kind.
    """

    def __init__(self, dim: int, hidden_dim: int, kind: str = "swiglu") -> None:
        super().__init__()
        if kind not in GATES:
            raise unknown_name("gate", kind, GATES)
        self.activation = GATES[kind]
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.up = nn.Linear(dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))
