"""A stack with and without residual connections: the same weights, other results."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from llama_viz import foundations as f


@pytest.fixture(scope="module")
def deep():
    return {residual: f.train_stack(32, residual=residual) for residual in (True, False)}


def test_both_ways_have_the_same_weights():
    one, other = (f.FeedForwardStack(3, residual=residual) for residual in (True, False))
    for (name, weight), (also, twin) in zip(
        one.named_parameters(), other.named_parameters(), strict=True
    ):
        assert name == also
        assert torch.equal(weight, twin)
    assert float(one.layers[1].up.weight.detach().std()) == pytest.approx((2 / 24) ** 0.5, rel=0.05)


@pytest.mark.parametrize("residual", [True, False])
def test_the_stream_written_out(residual):
    stack = f.FeedForwardStack(2, residual=residual, dim=6)
    numbers, _ = f.same_sign(n_items=5)
    logits, stream = stack(numbers)
    x = numbers @ stack.input.weight.T
    assert_close(stream[0], x)
    for number, layer in enumerate(stack.layers):
        hidden = torch.relu(f.rms_norm(x) @ layer.up.weight.T)
        x = (x if residual else 0) + hidden @ layer.down.weight.T
        assert_close(stream[number + 1], x)
    assert_close(logits, (f.rms_norm(x) @ stack.output.weight.T)[:, 0])


def test_alikeness_is_the_mean_over_pairs():
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    for row, found in zip(x, f.alikeness(x), strict=True):
        pairs = [
            F.cosine_similarity(row[i], row[j], dim=0) for i in range(5) for j in range(5) if i != j
        ]
        assert_close(found, torch.stack(pairs).mean())
    assert_close(f.alikeness(torch.ones(4, 3)), torch.tensor(1.0))


def test_what_the_notebook_says_of_the_runs(deep):
    last = {residual: float(run.loss[-1]) for residual, run in deep.items()}
    assert last[True] < 0.05
    assert last[False] > 0.6  # guessing is log 2 = 0.69
    for n_layers in (2, 8):
        plain, added = (f.train_stack(n_layers, residual=way) for way in (False, True))
        assert float(plain.loss[-1]) < float(added.loss[-1])
    assert float(deep[False].alikeness.max()) > 0.95
    assert float(deep[True].alikeness.max()) < 0.7
    assert bool((deep[False].gradient > deep[True].gradient.values).all())


def test_the_first_loss_and_gradient_are_those_of_the_untrained_stack(deep):
    stack = f.FeedForwardStack(32, residual=True)
    numbers, labels = f.same_sign()
    loss = F.binary_cross_entropy_with_logits(stack(numbers)[0], labels)
    assert float(deep[True].loss[0]) == pytest.approx(loss.item(), rel=1e-12)
    weights = [layer.up.weight for layer in stack.layers]
    sizes = [float(gradient.norm()) for gradient in torch.autograd.grad(loss, weights)]
    np.testing.assert_allclose(deep[True].gradient, sizes, rtol=1e-9)
    assert deep[True].alikeness.sizes == {"depth": 33}


def test_a_run_can_be_repeated(deep):
    again = f.train_stack(32, residual=False, n_steps=5)
    np.testing.assert_allclose(again.loss, deep[False].loss[:5], rtol=1e-12)
