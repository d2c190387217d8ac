"""The configuration: published sizes, derived sizes, and sizes that cannot be."""

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
