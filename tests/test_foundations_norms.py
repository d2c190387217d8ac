"""RMSNorm as a function, what a change does to a norm, covariate shift run for real, and times."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llama_viz import foundations as f
from llama_viz.foundations import covariate_shift
from llama_viz.foundations.covariate_shift import NORMS
from llama_viz.foundations.norm_times import ways
from llama_viz.model import RMSNorm


def test_rms_norm_is_the_models_and_layer_norm_is_it_of_what_is_centred():
    x = 3 + 2 * torch.randn(5, 4, 8).double()
    assert_close(f.rms_norm(x, 1e-3), RMSNorm(8, 1e-3).double()(x).detach(), rtol=1e-12, atol=1e-12)
    centred = x - x.mean(-1, keepdim=True)
    assert_close(f.layer_norm(x, 1e-3), f.rms_norm(centred, 1e-3), rtol=1e-12, atol=1e-12)


def test_rms_norm_by_hand():
    row = torch.tensor([1.0, 2.0, 2.0, 4.0])
    assert_close(f.rms_norm(row, 0.0), torch.tensor([0.4, 0.8, 0.8, 1.6]))


def test_before_and_after_are_the_outputs_whose_change_is_measured():
    x, weight = torch.randn(3, 4).double(), torch.randn(4, 4).double()
    outputs = f.before_and_after(f.rms_norm, x, weight, shift=0.5, scale=3.0)
    before, after = outputs["weights after the norm x scale"]
    assert_close(after, 3 * before)
    assert_close(outputs["input + one constant"][1], f.rms_norm(x + 0.5))
    assert_close(outputs["weights before the norm x scale"][1], f.rms_norm(3 * x @ weight.T))
    by_feature = torch.tensor([0, 0.5 / 3, 1 / 3, 0.5]).double()
    assert_close(outputs["input + a shift for each feature"][1], f.rms_norm(x + by_feature))
    for name, change in f.invariances(f.rms_norm, x, weight, shift=0.5, scale=3.0).items():
        before, after = outputs[name]
        assert change == pytest.approx(float((after - before).abs().max()))


@pytest.fixture(scope="module")
def runs():
    return {name: f.train_deep_network(name) for name in NORMS}


def test_the_same_start_and_task_for_every_norm():
    plain, normed = (f.DeepNetwork(name) for name in ("no norm", "RMSNorm"))
    for one, other in zip(plain.linears, normed.linears, strict=True):
        assert torch.equal(one.weight, other.weight)
    assert float(plain.linears[3].weight.detach().std()) == pytest.approx(
        (3 * 24) ** -0.5, rel=0.05
    )
    numbers, labels = f.same_sign()
    assert torch.equal(labels, (numbers[:, 0].sign() == numbers[:, 1].sign()).double())
    with pytest.raises(ValueError, match="unknown norm 'Norm'"):
        f.DeepNetwork("Norm")


def test_what_the_notebook_says_of_the_runs(runs):
    last = {name: float(run.loss[-1]) for name, run in runs.items()}
    assert last["no norm"] > 0.6
    assert max(last["BatchNorm"], last["LayerNorm"], last["RMSNorm"]) < 0.03
    assert float(f.train_deep_network("no norm", weight_scale=2).loss[-1]) < 0.1
    moved = {name: float(f.shift_per_step(run)[-1]) for name, run in runs.items()}
    assert moved["BatchNorm"] < 0.1 * moved["no norm"]
    assert min(moved["LayerNorm"], moved["RMSNorm"]) > 2 * moved["no norm"]
    assert moved["BatchNorm, moved"] > 10 * moved["no norm"]
    assert last["BatchNorm, moved"] < 0.7 * last["no norm"]


def test_the_loss_before_the_first_step_is_that_of_the_start(runs):
    numbers, labels = f.same_sign()
    logits, inputs = f.DeepNetwork("LayerNorm")(numbers)
    chance = torch.sigmoid(logits)
    nats = -(labels * chance.log() + (1 - labels) * (1 - chance).log()).mean()
    assert float(runs["LayerNorm"].loss[0]) == pytest.approx(float(nats.detach()))
    taken_in = runs["LayerNorm"].layer_input.values[0]
    np.testing.assert_allclose(taken_in, inputs.detach().numpy(), rtol=1e-6, atol=1e-6)
    # Each item is standardized over its neurons: gain 1 and shift 0 at the start.
    np.testing.assert_allclose(taken_in.mean(axis=-1), 0, atol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_a_rounding_does_not_change_what_is_drawn(name, runs, monkeypatch):
    start = covariate_shift.DeepNetwork.__init__

    def nudged(self, *arguments, **options):
        start(self, *arguments, **options)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(1 + 1e-14)

    monkeypatch.setattr(covariate_shift.DeepNetwork, "__init__", nudged)
    again = f.train_deep_network(name)
    assert np.abs(again.loss - runs[name].loss).max() < 1e-5
    assert np.abs(again.layer_input - runs[name].layer_input).max() < 1e-4


def test_shift_per_step_by_hand(runs):
    run = runs["RMSNorm"].isel(step=slice(0, 2), neuron=slice(0, 1))
    before, after = run.layer_input.values[0, 3, :, 0], run.layer_input.values[1, 3, :, 0]
    moved = abs(after.mean() - before.mean()) / before.std()
    assert float(f.shift_per_step(run)[3]) == pytest.approx(moved, rel=1e-5)


def test_both_ways_of_both_norms_agree_and_take_time():
    x = torch.randn(6, 16)
    written, called = ways(16).values()
    for name in ("LayerNorm", "RMSNorm"):
        assert_close(written[name](x), called[name](x), rtol=1e-5, atol=1e-5)
    taken = f.norm_times(16, 4, seconds=0.02)
    assert {way: set(norms) for way, norms in taken.items()} == {
        "written out": {"LayerNorm", "RMSNorm"}, "PyTorch's call": {"LayerNorm", "RMSNorm"},
    }  # fmt: skip
    assert all(0 < seconds < 1 for norms in taken.values() for seconds in norms.values())
    with pytest.raises(ValueError, match="seconds must be above 0"):
        f.norm_times(16, 4, seconds=0)
