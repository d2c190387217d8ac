"""The configuration: published sizes, derived sizes, and sizes that cannot be."""

import json

import numpy as np
import pytest

import llama_viz as lv
from llama_viz.model import Llama

SIZES = {"n_layers": 2, "n_heads": 8, "dim": 64, "vocab_size": 100}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-33b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
        ("llama2-7b", 6_738_415_616),
        ("llama2-70b", 68_976_648_192),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_published_models_have_their_published_parameters(name, parameters):
    assert lv.PRESETS[name].n_parameters == parameters


@pytest.mark.parametrize("kv_heads", [8, 2, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_by_formula_are_those_of_the_model(kv_heads, tied):
    config = lv.ModelConfig(**SIZES, n_kv_heads=kv_heads, tied_embeddings=tied, head_dim=12)
    assert config.n_parameters == sum(weight.numel() for weight in Llama(config).parameters())


def test_what_is_left_out_is_derived():
    config = lv.ModelConfig(n_layers=32, n_heads=32, dim=4096, vocab_size=32000)
    assert (config.n_kv_heads, config.head_dim, config.hidden_dim) == (32, 128, 11008)
    assert config.n_pairs == 64


def test_neighbouring_query_heads_share_a_key_value_head():
    config = lv.ModelConfig(**SIZES, n_kv_heads=2)
    assert config.attention_kind == "GQA"
    assert config.heads_per_kv_head == 4
    assert config.kv_head_of_head == [0, 0, 0, 0, 1, 1, 1, 1]
    assert lv.ModelConfig(**SIZES).attention_kind == "MHA"
    assert lv.ModelConfig(**SIZES, n_kv_heads=1).attention_kind == "MQA"


def test_cache_bytes_of_llama_2_at_its_context_in_half_precision():
    gib = 2**30
    assert lv.PRESETS["llama2-7b"].kv_cache_bytes(4096, itemsize=2) == 2 * gib
    assert lv.PRESETS["llama2-13b"].kv_cache_bytes(4096, itemsize=2) == 3.125 * gib
    assert lv.PRESETS["llama2-70b"].kv_cache_bytes(4096, itemsize=2) == 1.25 * gib


@pytest.mark.parametrize(
    "scaling",
    [
        {"kind": "linear", "factor": 4.0},
        {"kind": "dynamic", "factor": 2.0, "original_max_seq_len": 32},
        {"kind": "llama3", "factor": 8.0, "original_max_seq_len": 32},
        {"kind": "divided", "divisors": [1.0, 1.0, 2.0, 4.0]},
    ],
)
def test_rope_scaling_survives_json(scaling):
    config = lv.ModelConfig(**SIZES, rope_scaling=scaling)
    assert config.rope_scaling == lv.RopeScaling(**scaling)
    assert lv.ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert lv.ModelConfig.from_dict(lv.ModelConfig(**SIZES).to_dict()).rope_scaling is None
    assert hash(config) != hash(lv.ModelConfig(**SIZES))


def test_rope_scaling_by_hand():
    pair = np.arange(4)
    plain = 100.0 ** (-pair / 4)  # turns of 2 pi, 19.9, 62.8 and 198.7 positions

    def scaled(**scaling):
        config = lv.ModelConfig(**{**SIZES, "head_dim": 8, "rope_theta": 100.0},
                                rope_scaling=scaling)  # fmt: skip
        return config.rotation_frequencies(pair, 64)

    assert np.allclose(scaled(kind="linear", factor=4.0), plain / 4)
    assert np.allclose(scaled(kind="divided", divisors=[1, 2, 4, 8]), plain / [1, 2, 4, 8])
    assert np.allclose(scaled(kind="dynamic", factor=2.0, original_max_seq_len=64), plain)
    longer = 100.0 * (2.0 * 64 / 32 - 1) ** (8 / 6)  # theta for 64 positions of 32
    expected = longer ** (-pair / 4)
    assert np.allclose(scaled(kind="dynamic", factor=2.0, original_max_seq_len=32), expected)
    # In 40 positions the pairs turn 6.4, 2.0, 0.6 and 0.2 times: kept, between, and divided twice.
    kept = (40 / (2 * np.pi / plain[1]) - 1) / (4 - 1)
    expected = plain * [1, kept + (1 - kept) / 8, 1 / 8, 1 / 8]
    assert np.allclose(scaled(kind="llama3", factor=8.0, original_max_seq_len=40), expected)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"kind": "yarn"}, "unknown rope scaling 'yarn'. .*linear, dynamic, llama3, divided"),
        ({"kind": "linear", "factor": 0}, "rope_scaling.factor must be finite and above 0"),
        ({"kind": "dynamic", "factor": 2.0}, "original_max_seq_len must be a whole number"),
        ({"kind": "dynamic", "factor": 0.5, "original_max_seq_len": 8}, "must be at least 1"),
        ({"kind": "llama3", "original_max_seq_len": 8, "low_frequency_factor": 4.0}, "be above"),
        ({"kind": "linear", "divisors": [1.0]}, "belong to the kind"),
        ({"kind": "divided", "divisors": [1.0] * 99}, "has 99 divisors for"),
        ("linear", "rope_scaling must be a RopeScaling or None"),
    ],
)
def test_rope_scaling_that_cannot_be_is_refused(scaling, message):
    with pytest.raises(ValueError, match=message):
        lv.ModelConfig(**SIZES, rope_scaling=scaling)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "n_heads .8. must be a multiple of n_kv_heads .3."),
        ({"head_dim": 7}, "head_dim .7. must be even"),
        ({"dim": 72}, "head_dim .9. must be even"),
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1, got 0"),
        ({"vocab_size": 10.5}, "vocab_size must be a whole number"),
        ({"n_heads": 0}, "n_heads must be a whole number of at least 1, got 0"),
        ({"norm_eps": float("nan")}, "norm_eps must be finite and above 0"),
        ({"rope_theta": "big"}, "rope_theta must be a number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        lv.ModelConfig(**{**SIZES, **change})
