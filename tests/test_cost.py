"""Costs: formulas by hand, formulas against what the model really does, and published examples."""

import math
import subprocess
import sys
from dataclasses import astuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import llama_viz as lv
from llama_viz import cost
from llama_viz.cost import devices
from llama_viz.cost.operations import BYTES
from tests.reference import random_ids, random_model

TINY = lv.ModelConfig(
    n_layers=2, n_heads=2, n_kv_heads=1, dim=4, hidden_dim=3, vocab_size=5, max_seq_len=16
)
SEVENTY = lv.PRESETS["llama2-70b"]
# What norms, rotation, softmax and activation move depends on how many kernels they take.
EXACT = [
    "embedding", "query", "key", "value", "cache_append", "scores", "weighted_values",
    "attention_output", "attention_residual", "gate", "up", "down", "feed_forward_residual",
    "output_head",
]  # fmt: skip


# --- formulas -----------------------------------------------------------------------------------


def test_every_operation_by_hand():
    # Two texts of three new positions after one that is held, two bytes a number, two layers.
    costs = cost.forward(TINY, 3, 1, batch_size=2, dtype="float16", fused=False)
    by_hand = {
        # multiply-adds, operations, weights, activations read and written, cache read and written
        "embedding": (0, 0, 48, 48, 48, 0, 0),
        "attention_norm": (0, 192, 16, 96, 96, 0, 0),
        "query": (192, 384, 64, 96, 96, 0, 0),
        "key": (96, 192, 32, 96, 48, 0, 0),
        "value": (96, 192, 32, 96, 48, 0, 0),
        "rotation": (0, 216, 0, 144, 144, 0, 0),
        "cache_append": (0, 0, 0, 96, 0, 0, 96),
        "scores": (192, 384, 0, 96, 192, 64, 0),
        "softmax": (0, 576, 0, 192, 192, 0, 0),
        "weighted_values": (192, 384, 0, 192, 96, 64, 0),
        "attention_output": (192, 384, 64, 96, 96, 0, 0),
        "attention_residual": (0, 48, 0, 192, 96, 0, 0),
        "feed_forward_norm": (0, 192, 16, 96, 96, 0, 0),
        "gate": (144, 288, 48, 96, 72, 0, 0),
        "up": (144, 288, 48, 96, 72, 0, 0),
        "neuron_activation": (0, 180, 0, 144, 72, 0, 0),
        "down": (144, 288, 48, 72, 96, 0, 0),
        "feed_forward_residual": (0, 48, 0, 192, 96, 0, 0),
        "final_norm": (0, 96, 8, 48, 48, 0, 0),
        "output_head": (120, 240, 40, 48, 60, 0, 0),
    }
    assert {row.operation: astuple(row)[2:] for row in costs} == by_hand
    assert {row.operation: row.part for row in costs} == cost.PARTS
    assert astuple(costs.total)[2:] == tuple(map(sum, zip(*by_hand.values(), strict=True)))
    assert costs["gate"].bytes == 48 + 96 + 72
    assert costs["gate"].arithmetic_intensity == pytest.approx(288 / 216, rel=1e-15)
    assert costs["query"].times(3).weights_read == 192


def test_a_layer_and_a_part_are_shares_of_the_whole():
    costs = cost.forward(TINY, 3, 1)
    layer = costs.layer
    assert [row.operation for row in layer] == [
        name for name, part in cost.PARTS.items() if part in ("attention", "feed_forward")
    ]
    assert all(costs[row.operation] == row.times(2) for row in layer)
    parts = [costs.part(name) for name in ("embedding", "attention", "feed_forward", "output")]
    assert sum(part.bytes for part in parts) == costs.total.bytes
    assert costs.part("attention").weights_read == 4 * 2 * (4 + 16 + 8 + 8 + 16)


def test_fused_attention_keeps_scores_out_of_memory_and_nothing_else():
    written, fused = (cost.forward(TINY, 4, fused=form) for form in (False, True))
    attention = ("scores", "softmax", "weighted_values")
    assert written.total.operations == fused.total.operations
    assert written.total.bytes - fused.total.bytes == 4 * (2 * 2 * 4 * 4) * 4  # four times the map
    together = fused.sum(*attention)
    assert together.operation == "scores + softmax + weighted_values"
    assert together.operations == sum(fused[name].operations for name in attention)
    assert fused["softmax"].arithmetic_intensity == math.inf
    assert cost.Cost("nothing", "attention").arithmetic_intensity == 0


def test_without_a_cache_keys_are_activations():
    with_cache, without = (cost.forward(TINY, 4, use_cache=use).total for use in (True, False))
    assert without.cache_read == without.cache_written == 0
    assert with_cache.cache_read == with_cache.cache_written == TINY.kv_cache_bytes(4)
    # Neither the append, which reads keys and values, nor what it wrote.
    assert with_cache.bytes - without.bytes == 2 * TINY.kv_cache_bytes(4)
    assert with_cache.multiply_adds == without.multiply_adds


def test_the_masked_scores_can_be_left_out():
    everything = cost.forward(TINY, 3, 1)
    least = cost.forward(TINY, 3, 1, skip_masked=True)
    # Three queries see 2, 3 and 4 of four keys: 9 pairs of 12.
    for name in ("scores", "softmax", "weighted_values"):
        assert least[name].operations * 12 == everything[name].operations * 9
    alone = [cost.forward(TINY, 1, 7, skip_masked=skip) for skip in (True, False)]
    assert alone[0] == alone[1]  # the newest position sees every key


@pytest.mark.parametrize("name", ["llama2-7b", "llama2-70b", "smollm2-135m"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_is_a_parabola_without_a_cache_and_a_line_with_one(name, batch):
    config = lv.PRESETS[name]
    a, b = cost.step_coefficients(config, batch_size=batch)
    for n in (1, 2, 77, 2000):
        without = cost.forward(config, n, batch_size=batch, use_cache=False).total
        step = cost.forward(config, 1, n - 1, batch_size=batch).total
        assert without.multiply_adds == a * n + b * n**2
        assert step.multiply_adds == a + b * n


def test_a_generation_is_the_sum_of_its_steps():
    a, b = cost.step_coefficients(TINY)
    lengths = range(5, 5 + 6)  # the last new token is never fed back
    without = cost.generation(TINY, 5, 6, use_cache=False)
    assert [step.multiply_adds for step in without] == [a * n + b * n**2 for n in lengths]
    steps = cost.generation(TINY, 5, 6)
    assert steps[0] == cost.forward(TINY, 5).total
    assert [step.multiply_adds for step in steps[1:]] == [a + b * n for n in lengths[1:]]
    assert sum(step.cache_written for step in steps) == TINY.kv_cache_bytes(10)


def test_a_large_model_does_not_overflow():
    total = cost.forward(SEVENTY, 100_000, batch_size=100_000).total
    a, b = cost.step_coefficients(SEVENTY, batch_size=100_000)
    assert total.multiply_adds == a * 10**5 + b * 10**10 > 2**63


@pytest.mark.parametrize("name", lv.PRESETS)
def test_parameters_of_all_parts_are_those_of_the_model(name):
    config = lv.PRESETS[name]
    sizes = cost.parameters(config)
    assert sum(sizes.values()) == config.n_parameters
    assert set(sizes) <= set(cost.PARTS)
    read = cost.forward(config, 1, dtype="bfloat16")
    for operation, size in sizes.items():
        if operation != "embedding" and size:  # a pass reads each weight once
            assert read[operation].weights_read == 2 * size


def test_parameters_of_llama_2_7b_and_of_a_tied_head():
    sizes = cost.parameters(lv.PRESETS["llama2-7b"])
    assert sizes["embedding"] == sizes["output_head"] == 32000 * 4096
    assert sizes["query"] == sizes["key"] == 32 * 4096**2
    assert sizes["gate"] == sizes["up"] == sizes["down"] == 32 * 4096 * 11008
    assert cost.parameters(lv.PRESETS["smollm2-135m"])["output_head"] == 0


# --- counted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("n_new", "n_held", "batch", "use_cache"),
    [(5, 0, 1, True), (1, 5, 1, True), (3, 5, 2, True), (1, 7, 3, True), (6, 0, 2, False),
     (1, 0, 1, False)],
)  # fmt: skip
def test_formula_and_count_agree(kind, fused, n_new, n_held, batch, use_cache):
    lm = random_model(kind)
    cache = lv.KVCache(lm.config, batch) if use_cache else None
    if n_held:
        lm.model(random_ids(lm, n_held, batch=batch), cache=cache)
    counted = cost.count(lm, random_ids(lm, n_new, batch=batch), cache, fused=fused)
    formula = cost.forward(
        lm.config, n_new, n_held, batch_size=batch, use_cache=use_cache, fused=fused
    )
    for row in formula:
        found = counted[row.operation]
        assert found.multiply_adds == row.multiply_adds, row.operation
        for name in BYTES:
            assert getattr(found, name) >= getattr(row, name), (row.operation, name)
            if row.operation in EXACT or not name.startswith("activations"):
                assert getattr(found, name) == getattr(row, name), (row.operation, name)
    assert counted.total.multiply_adds == formula.total.multiply_adds
    assert {row.operation for row in counted} - {"copies"} == {row.operation for row in formula}
    if cache is not None:
        assert cache.length == n_held + n_new
        assert counted.total.cache_read == cache.bytes_used
        written = lm.config.kv_cache_bytes(n_new, batch_size=batch)
        assert counted.total.cache_written == written


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize(("n_new", "n_held"), [(6, 0), (1, 6), (3, 4)])
def test_multiply_adds_are_those_of_pytorchs_own_counter(kind, n_new, n_held):
    lm = random_model(kind)
    cache = lv.KVCache(lm.config, 2)
    if n_held:
        lm.model(random_ids(lm, n_held, batch=2), cache=cache)
    # Its counter does not see fused attention on a CPU: somebody listens, so it is written out.
    for block in lm.model.blocks:
        block.attention.scores.register_forward_hook(lambda *_: None)
    with FlopCounterMode(display=False) as counter:
        lm.model(random_ids(lm, n_new, batch=2), cache=cache)
    formula = cost.forward(lm.config, n_new, n_held, batch_size=2).total
    assert counter.get_total_flops() == 2 * formula.multiply_adds


@pytest.mark.parametrize("change", ["optimized", "bfloat16", "tied", "wide heads", "inference"])
def test_formula_and_count_agree_for_other_models(change):
    sizes = {"tied": {"tied_embeddings": True}, "wide heads": {"head_dim": 20}}.get(change, {})
    lm = random_model("gqa", **sizes)
    dtype = "float32"
    if change == "optimized":
        lm.optimize()
    if change == "bfloat16":
        lm.model.to(torch.bfloat16)
        dtype = "bfloat16"
    cache = lv.KVCache(lm.config)
    with torch.inference_mode(change == "inference"):
        steps = [cost.count(lm, random_ids(lm, n), cache) for n in (4, 1, 1)]
    for counted, (n_new, n_held) in zip(steps, [(4, 0), (1, 4), (1, 5)], strict=True):
        formula = cost.forward(lm.config, n_new, n_held, dtype=dtype)
        for operation in EXACT:
            assert astuple(counted[operation])[4:] == astuple(formula[operation])[4:], operation
            assert counted[operation].multiply_adds == formula[operation].multiply_adds


def test_a_whole_generation_counted_step_by_step(family):
    lm = family["gqa"]
    ids = lm.encode("One sunny morning")
    run = lv.generate(lm, ids, max_new_tokens=5)
    cache = lv.KVCache(lm.config)
    counted = [
        cost.count(lm.model, run.ids[step.start : step.end], cache).total for step in run.steps
    ]
    formula = cost.generation(lm.config, len(ids), len(run.steps))
    for name in ("multiply_adds", "weights_read", "cache_read", "cache_written"):
        found, expected = ([getattr(step, name) for step in steps] for steps in (counted, formula))
        assert found == expected, name


def test_counting_changes_nothing():
    lm = random_model()
    ids = random_ids(lm, 7)
    before = lm.model(ids)
    cost.count(lm, ids, fused=False)
    cost.count(lm, ids[0].tolist())
    with pytest.raises(ValueError, match="token id 120 is out of range"):
        cost.count(lm, [3, 120], fused=False)
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules()]
    assert not any(hooks)
    assert torch.equal(lm.model(ids), before)


def test_formulas_need_no_torch():
    code = "import sys, llama_viz; llama_viz.cost.forward; print('torch' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "False"


# --- memory -------------------------------------------------------------------------------------


def test_memory_of_llama_2_in_half_precision():
    caches = {
        name: cost.memory(lv.PRESETS[f"llama2-{name}"], 4096) for name in ("7b", "13b", "70b")
    }
    assert [found.cache / cost.GIB for found in caches.values()] == [2, 3.125, 1.25]
    assert caches["7b"].cache / cost.GB == pytest.approx(2.15, abs=0.005)
    assert caches["70b"].cache / cost.GB == pytest.approx(1.34, abs=0.005)
    assert caches["70b"].weights / cost.GB == pytest.approx(138, abs=0.5)
    assert caches["70b"].total == caches["70b"].weights + caches["70b"].cache
    plain = cost.ungrouped(SEVENTY)
    assert plain.attention_kind == "MHA"
    assert cost.memory(plain, 4096).cache == 10 * cost.GIB
    assert cost.memory(plain, 4096).cache / cost.GB == pytest.approx(10.7, abs=0.05)


def test_what_fits_in_which_cards():
    seven, thirteen = lv.PRESETS["llama2-7b"], lv.PRESETS["llama2-13b"]
    assert cost.fits(seven, 4096, 24 * cost.GB)
    assert not cost.fits(thirteen, 0, 24 * cost.GB)  # 26 GB of weights
    assert cost.fits(thirteen, 4096, 24 * cost.GB, n_cards=2)
    assert not cost.fits(SEVENTY, 0, 80 * cost.GB)
    assert cost.fits(SEVENTY, 4096, 80 * cost.GB, n_cards=2, batch_size=16)
    assert not cost.fits(SEVENTY, 4096, 80 * cost.GB, n_cards=2, batch_size=17)
    assert cost.fits(thirteen, 0, 24 * cost.GB, dtype="float16", n_cards=2)
    assert not cost.fits(thirteen, 0, 24 * cost.GB, dtype="float32", n_cards=2)


@pytest.mark.parametrize("name", ["llama2-7b", "llama2-13b", "llama2-70b"])
@pytest.mark.parametrize("gigabytes", [24, 40, 80])
@pytest.mark.parametrize("n_cards", [1, 2, 4])
def test_the_largest_is_the_last_that_fits(name, gigabytes, n_cards):
    config, card, cards = lv.PRESETS[name], gigabytes * cost.GB, {"n_cards": n_cards}
    context = cost.largest_context(config, card, batch_size=3, **cards)
    batch = cost.largest_batch(config, 4096, card, **cards)
    if cost.fits(config, 0, card, **cards):
        assert cost.fits(config, context, card, batch_size=3, **cards)
        assert not cost.fits(config, context + 1, card, batch_size=3, **cards)
        assert not cost.fits(config, 4096, card, batch_size=batch + 1, **cards)
        assert not batch or cost.fits(config, 4096, card, batch_size=batch, **cards)
    else:
        assert (context, batch) == (0, 0)


def test_what_grouping_saves_in_llama_2_70b():
    saved = cost.grouping_saves(SEVENTY, 4096)
    # Keys and values take 1/8: of 4 d^2 go 2 x 7/8 d^2; the three matrices of 3.5 d^2 each stay.
    assert saved.attention_projections == 1.75 / 4 == 0.4375
    assert saved.layer_matrices == pytest.approx(1.75 / 14.5, rel=1e-12)  # 12.07 %
    # Two products with 4096 = d / 2 positions are d^2 more that stay.
    assert saved.layer == pytest.approx(1.75 / 15.5, rel=1e-12)  # 11.29 %
    assert saved.cache == 1 - 8 / 64
    gone = 80 * 1.75 * 8192**2
    assert saved.parameters == pytest.approx(gone / (68_976_648_192 + gone), rel=1e-12)
    assert saved.layer_matrices < saved.layer_bytes < saved.cache
    nothing = cost.grouping_saves(lv.PRESETS["llama2-7b"], 4096)
    assert set(astuple(nothing)) == {0}


# --- ratios -------------------------------------------------------------------------------------


def test_shazeers_ratios_by_hand():
    ratios = cost.memory_per_arithmetic(n=128, d=1024, h=8, b=16)
    assert ratios == {
        "batched MHA": 1 / 128 + 1 / 2048,
        "incremental MHA": 1 / 8 + 1 / 16,
        "incremental MQA": 1 / 1024 + 1 / 64 + 1 / 16,
    }


def test_counted_ratios_grow_as_shazeers():
    # Orders of growth hide constants: over all these sizes the quotient stays between 1/12 and 3,
    # while the ratios themselves span more than three orders of magnitude.
    ratios, quotients = [], []
    for n in (16, 128, 1024):
        for d in (1024, 4096):
            for h in (8, 32):
                for b in (1, 32, 1024):
                    orders = cost.memory_per_arithmetic(n, d, h, b)
                    for (name, order), g in zip(orders.items(), (h, h, 1), strict=True):
                        counted = cost.counted_memory_per_arithmetic(
                            n, d, h, b, g, incremental=name != "batched MHA"
                        )
                        ratios.append(counted)
                        quotients.append(counted / order)
    assert max(ratios) / min(ratios) > 1000
    assert min(quotients) > 1 / 12
    assert max(quotients) < 3


def test_a_counted_ratio_is_the_sum_over_all_steps():
    config = lv.ModelConfig(n_layers=1, n_heads=4, n_kv_heads=2, dim=16, vocab_size=1)
    names = ("query", "key", "value", "cache_append", "scores", "softmax", "weighted_values",
             "attention_output")  # fmt: skip
    steps = [cost.forward(config, 1, n, batch_size=3, fused=False).sum(*names) for n in range(10)]
    numbers = sum(step.bytes for step in steps) / 4
    expected = numbers / sum(step.multiply_adds for step in steps)
    assert cost.counted_memory_per_arithmetic(10, 16, 4, 3, 2) == pytest.approx(expected, rel=1e-12)


def test_fewer_key_value_heads_move_less():
    counted = [cost.counted_memory_per_arithmetic(1024, 1024, 16, 64, g) for g in (16, 4, 1)]
    assert counted == sorted(counted, reverse=True)
    assert counted[0] / counted[2] > 5


def test_published_evidence_is_that_of_the_paper():
    many, one = cost.PUBLISHED
    assert (many.attention, one.attention) == ("MHA", "MQA")
    assert one.dev_bleu < many.dev_bleu
    assert many.decoder_microseconds / one.decoder_microseconds == pytest.approx(12.1, abs=0.05)
    # Eight heads of 128: the wider feed-forward gives back what seven key and value heads took.
    # Decoder layers have two attentions each; encoder layers one: 3 attentions for 2 feed-forwards.
    lost = 3 * 2 * 7 * 128
    gained = 2 * 2 * (one.feed_forward_width - many.feed_forward_width)
    assert lost == gained


# --- devices ------------------------------------------------------------------------------------


def test_ridge_points_of_an_a100():
    card = cost.DEVICES["a100-80gb-pcie"]
    assert card.ridge_point("float32") == pytest.approx(19.5 / 1.935, rel=1e-12)  # about ten
    assert card.ridge_point_per_number("float32") == pytest.approx(40.3, abs=0.05)
    assert card.ridge_point("float16") == pytest.approx(161.2, abs=0.05)


@pytest.mark.parametrize("name", cost.DEVICES)
def test_devices_have_plausible_figures_and_a_source(name):
    device = cost.DEVICES[name]
    assert any(year in device.source for year in ("2020", "2021", "2022", "2023", "2024"))
    assert 1e11 < device.bytes_per_second < 1e13
    assert device.memory_bytes in (24 * cost.GB, 40 * cost.GB, 80 * cost.GB, 128 * cost.GB)
    for dtype, peak in device.operations_per_second.items():
        assert 1e13 < peak < 1e15
        assert device.ridge_point(dtype) > 5


def test_the_roofline_rises_to_the_ridge_and_stays():
    card = cost.DEVICES["h100-sxm"]
    ridge = card.ridge_point("bfloat16")
    assert card.attainable(0, "bfloat16") == 0
    assert card.attainable(1, "bfloat16") == card.bytes_per_second
    assert card.attainable(ridge / 2, "bfloat16") == pytest.approx(card.peak("bfloat16") / 2)
    assert card.attainable(2 * ridge, "bfloat16") == card.peak("bfloat16")
    assert card.attainable(math.inf, "bfloat16") == card.peak("bfloat16")


def test_decoding_is_bound_by_memory_and_prefill_by_arithmetic():
    card, seven = cost.DEVICES["a100-80gb-sxm"], lv.PRESETS["llama2-7b"]
    step = cost.forward(seven, 1, 4095, dtype="float16")
    prefill = cost.forward(seven, 4096, dtype="float16")
    products = ("query", "gate", "down", "output_head")
    assert all(card.is_memory_bound(step[name]) for name in products)
    assert not any(card.is_memory_bound(prefill[name]) for name in products)
    assert not card.is_memory_bound(prefill["softmax"])  # fused, it moves nothing
    assert card.is_memory_bound(prefill["attention_norm"])
    assert card.seconds(step["gate"]) == pytest.approx(step["gate"].bytes / 2.039e12)
    assert card.seconds(prefill["gate"]) == pytest.approx(prefill["gate"].operations / 312e12)
    # A token takes at least as long as reading the weights and the cache once: 7.6 ms.
    assert card.seconds(step.total) == pytest.approx(0.0076, abs=0.0001)


def test_this_machine_is_measured():
    device = cost.measure_device(seconds=0.3)
    assert "float32" in device.operations_per_second
    figures = {**device.operations_per_second, "bytes": device.bytes_per_second}
    assert set(device.spread) == set(figures)
    for name, median in figures.items():
        low, high = device.spread[name]
        assert 0 < low <= median <= high < math.inf
        assert median > 1e6  # slower than any machine that could have come this far
    assert device.memory_bytes is None or device.memory_bytes > 2**28
    assert "measured" in device.name
    assert torch.__version__ in device.source
    assert 0 < device.ridge_point("float32") < math.inf


def test_what_is_measured_is_operations_and_bytes_over_the_median_time(monkeypatch):
    monkeypatch.setattr(devices, "_timed", lambda work, place, seconds: [0.5, 0.25, 1.0])
    device = cost.measure_device("cpu")
    assert device.operations_per_second["float32"] == 2 * 256**3 / 0.5
    assert device.spread["float32"] == (2 * 256**3 / 1.0, 2 * 256**3 / 0.25)
    assert device.bytes_per_second == 2**28 / 0.5
    assert device.spread["bytes"] == (2**28 / 1.0, 2**28 / 0.25)


# --- errors and texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: cost.forward(TINY, 0), "n_new must be a whole number of at least 1, got 0"),
        (lambda: cost.forward(TINY, 1, -1), "n_held must be a whole number of at least 0, got -1"),
        (lambda: cost.forward(TINY, 2.0), "n_new must be a whole number of at least 1, got 2.0"),
        (lambda: cost.forward(TINY, 1, batch_size=True), "batch_size must be a whole number"),
        (lambda: cost.forward(TINY, 1, dtype="int4"), "unknown dtype 'int4'.*Choose from: float64"),
        (lambda: cost.forward(TINY, 1, 3, use_cache=False), "without a cache nothing can be held"),
        (lambda: cost.forward(TINY, 1)["querry"], "unknown operation 'querry'.*mean 'query'"),
        (lambda: cost.forward(TINY, 1).part("head"), "unknown part 'head'.*output"),
        (lambda: cost.generation(TINY, 1, 0), "max_new_tokens must be a whole number of at least"),
        (lambda: cost.memory(TINY, -1), "context must be a whole number of at least 0"),
        (lambda: cost.fits(TINY, 1, 24e9), "card_bytes must be a whole number"),
        (lambda: cost.largest_batch(TINY, 0, 1), "context must be a whole number of at least 1"),
        (lambda: cost.memory_per_arithmetic(0, 1, 1, 1), "n must be a whole number of at least 1"),
        (lambda: cost.counted_memory_per_arithmetic(4, 10, 4, 1, 1), "d .10. must be a multiple"),
        (lambda: cost.DEVICES["m4-max"].peak(), "no operations per second of Apple M4 Max"),
        (lambda: cost.DEVICES["h100-sxm"].peak("int8"), "known: float32, float16, bfloat16"),
        (lambda: cost.DEVICES["h100-sxm"].attainable(-1), "must be 0 or more, got -1"),
        (lambda: cost.measure_device(seconds=0), "seconds must be finite and above 0, got 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_unknown_names_of_the_module_are_attribute_errors():
    assert callable(cost.count)
    assert all(hasattr(cost, name) for name in cost.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'cuont'"):
        cost.cuont  # noqa: B018


def test_costs_print_as_a_table():
    lines = repr(cost.forward(lv.PRESETS["llama2-7b"], 1, 4095, dtype="float16")).splitlines()
    assert len(lines) == 1 + len(cost.PARTS) + 1
    assert lines[0].split() == [
        "operation", "multiply-adds", "weights", "activations", "cache", "operations/byte",
    ]  # fmt: skip
    assert lines[3].split() == ["query", "537", "M", "1.07", "G", "524", "k", "0", "1"]
    assert lines[-1].split()[:5] == ["total", "7.68", "G", "13.2", "G"]
    assert len({len(line) for line in lines}) == 1
    assert "inf" in lines[1 + list(cost.PARTS).index("softmax")].split()
    huge = cost.Costs((cost.Cost("gate", "feed_forward", 2 * 10**15, 5, 99_999, 10**5),), 1)
    assert repr(huge).splitlines()[1].split()[1:] == [
        "2",
        "P",
        "99,999",
        "100",
        "k",
        "0",
        "2.5e-05",
    ]
