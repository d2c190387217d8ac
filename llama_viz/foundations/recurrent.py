"""The plain recurrent network, in which every position waits for the one before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RecurrentCell(nn.Module):
    """state = tanh(input(x) + recurrent(previous state)) (Elman 1990).

    x is (batch, feature), state (batch, hidden feature).
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(dim, hidden_dim)
        self.recurrent = nn.Linear(hidden_dim, hidden_dim, bias=False)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(self.input(x) + self.recurrent(state))


class RecurrentNetwork(nn.Module):
    """One cell, position after position: all that came before must fit into its state.

    x is (batch, position, feature); returns the states, (batch, position, hidden feature).
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.cell = RecurrentCell(dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1] == 0:
            raise ValueError(f"x must be (batch, position, feature), got shape {tuple(x.shape)}")
        state = x.new_zeros(len(x), self.cell.recurrent.in_features)
        states = []
        for one in x.unbind(dim=1):
            state = self.cell(one, state)
            states.append(state)
        return torch.stack(states, dim=1)
