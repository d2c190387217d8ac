"""The loss of a next-token prediction, and its gradient, written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def next_token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the target, in nats: the mean over what really follows.

    logits are (vocabulary,). target is (vocabulary,) as well: how often each token follows, as
    shares that add up to 1; a single token is 1 at its place.
    """
    return -(target * logits.log_softmax(dim=-1)).sum()


def next_token_gradient(logits: Tensor, target: Tensor) -> Tensor:
    """How the loss grows with each logit: what the model expects, less what follows.

    Shapes as in next_token_loss. The sums of log-softmax cancel all but this (Bridle 1990).
    """
    return logits.softmax(dim=-1) - target


def weight_gradient(logits: Tensor, target: Tensor, stream: Tensor) -> Tensor:
    """How the loss grows with each weight of the output matrix, (vocabulary, feature).

    logits are the matrix times the stream (feature,): every row gets the stream, times the gradient
    of its logit.
    """
    return torch.outer(next_token_gradient(logits, target), stream)
