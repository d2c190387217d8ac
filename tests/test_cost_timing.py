"""Times of a step with a KV cache and without: what is timed, and the curves through it."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import cost, files
from llama_viz.model import Llama
from tests.reference import random_model

TINY = lv.ModelConfig(
    n_layers=2, n_heads=2, n_kv_heads=1, dim=4, hidden_dim=3, vocab_size=5, max_seq_len=8
)
LENGTHS = (16, 64, 256, 1024)


@pytest.fixture
def passes(monkeypatch):
    """What passes through the model: (positions, how many are held, whether there is a cache)."""
    seen = []
    forward = Llama.forward

    def watched(self, ids, cache=None):
        seen.append((ids.shape[1], 0 if cache is None else cache.length, cache is not None))
        return forward(self, ids, cache)

    monkeypatch.setattr(Llama, "forward", watched)
    return seen


def test_each_step_ends_at_its_length_both_ways(passes):
    ticks = itertools.count()
    taken = cost.step_times(TINY, (3, 12), runs=2, clock=lambda: float(next(ticks)))
    assert taken == {"without": {3: [1.0, 1.0], 12: [1.0, 1.0]},
                     "with": {3: [1.0, 1.0], 12: [1.0, 1.0]}}  # fmt: skip
    filled = (12, 0, True)
    one_round = [filled, (12, 0, False), (1, 11, True), (3, 0, False), (1, 2, True)]
    assert passes == 3 * one_round  # the first of them does not count


def test_only_the_pass_is_timed():
    taken = cost.step_times(TINY, (2,), runs=3)
    assert all(0 < seconds < 1 for way in taken.values() for seconds in way[2])


@pytest.mark.parametrize(
    "wrong", [{"lengths": ()}, {"lengths": (1,)}, {"lengths": (4,), "runs": 0}]
)
def test_what_cannot_be_timed_is_refused(wrong):
    with pytest.raises(ValueError, match="must be a whole number of at least"):
        cost.step_times(TINY, **wrong)


def exact(a, b, c, d, spread=0.0):
    """Times that lie on the curves, three runs each."""
    around = (1 - spread, 1, 1 + spread)
    return {
        "without": {n: [factor * (a * n + b * n**2) for factor in around] for n in LENGTHS},
        "with": {n: [factor * (c + d * n) for factor in around] for n in LENGTHS},
    }


def test_the_curves_are_found_again():
    fit = cost.fit_steps(exact(4e-5, 2e-8, 2e-3, 5e-7))
    assert (fit.a, fit.b, fit.c, fit.d) == pytest.approx((4e-5, 2e-8, 2e-3, 5e-7), rel=1e-6)
    n = fit.crossing
    assert fit.without(n) == pytest.approx(fit.with_cache(n))
    assert fit.without(n + 1) > fit.with_cache(n + 1)
    assert n == pytest.approx(49.40, abs=0.01)  # the root of 2e-8 n^2 + 395e-7 n - 2e-3
    assert fit.apart == 64
    assert str(fit).splitlines() == [
        "without a cache: 40.0 µs n + 20.0 ns n²",
        "with a cache: 2.00 ms + 0.50 µs n",
        "the curves cross at n = 49; the measured times lie apart from n = 64 on",
    ]


def test_spreads_that_overlap_do_not_lie_apart():
    assert cost.fit_steps(exact(4e-5, 2e-8, 2e-3, 5e-7, spread=0.9)).apart == 256
    never = cost.fit_steps(exact(1e-9, 0, 2e-3, 5e-7))
    assert never.apart is None
    assert "nowhere" in str(never)
    assert never.crossing == np.inf


def test_no_factor_falls_below_zero():
    falling = {"without": {n: [1e-4 * n**0.5] for n in LENGTHS},
               "with": {n: [1e-3 / n] for n in LENGTHS}}  # fmt: skip
    fit = cost.fit_steps(falling)
    assert fit.b == 0 < fit.a
    assert fit.d == 0 < fit.c
    assert fit.crossing == pytest.approx(fit.c / fit.a)


def test_the_stored_measurement_is_fitted_by_its_five_numbers():
    seconds = files.measurement("cache_time")["seconds"]
    fit = cost.fit_steps(seconds)
    longest = max(seconds["with"], key=int)
    medians = [seconds[way][longest][2] for way in ("without", "with")]
    assert [fit.without(int(longest)), fit.with_cache(int(longest))] == pytest.approx(
        medians, rel=0.1
    )
    assert fit.apart in map(int, seconds["with"])
    for way in seconds.values():
        for five in way.values():
            assert five == sorted(five)
            assert len(five) == 5


def test_what_is_stored_says_how_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "data_folder", lambda: tmp_path)
    files.store_measurement("cache_time", runs=3, seconds={"with": {16: [0.5]}})
    stored = files.measurement("cache_time")
    assert list(stored) == ["command", "processor", "runs", "seconds"]
    assert stored["command"] == "python benchmarks/cache_time.py"
    assert stored["processor"]
    assert stored["seconds"] == {"with": {"16": [0.5]}}


def test_the_real_model_is_stored_as_every_measurement_is(tmp_path, monkeypatch):
    """With another model in the place of the one that is fetched."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import real_model

    vocabulary = lv.load("gqa", device="meta").config.vocab_size
    path, before = tmp_path / "model.safetensors", files.measurement("smollm2-135m")
    lv.save_checkpoint(random_model(n_layers=2, vocab_size=vocabulary), path)
    shutil.copy(files.data_folder() / "tokenizer.model", tmp_path)
    load = lv.load
    monkeypatch.setattr(real_model.fetching, "fetch", lambda name: path)
    monkeypatch.setattr(lv, "load", lambda source: load(path))
    monkeypatch.setattr(real_model, "N_NEW", 2)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv(files.DATA_VARIABLE, str(tmp_path / "data"))
    real_model.main()
    stored = files.measurement("smollm2-135m")
    assert list(stored)[:2] == ["command", "processor"]
    assert stored["processor"]
    assert stored["command"] == before["command"] == "python benchmarks/real_model.py"
    assert {*stored} == {*before, "processor"}
    assert stored["sizes"]["n_layer"] == "2"
    assert stored["n_agreed"] == stored["n_tokens"]
    trace = lv.load_trace(tmp_path / "data" / "traces" / "smollm2-135m.nc")
    assert trace.attrs["prompt"] == real_model.PROMPT
