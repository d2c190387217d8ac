"""The KV cache: what it holds, what it weighs, and what it refuses."""

from dataclasses import replace

import pytest
import torch

import llama_viz as lv
from tests.reference import random_ids, random_model


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_bytes_follow_the_formula_at_every_step(kind):
    lm = random_model(kind)
    cache = lv.KVCache(lm.config, batch_size=2, capacity=20)
    assert (cache.length, cache.bytes_used, cache.bytes_reserved) == (0, 0, 0)
    config = lm.config
    for length, new in ((4, 4), (5, 1), (12, 7)):
        lm.model(random_ids(lm, new, batch=2), cache=cache)
        per_position = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2 * 4
        assert cache.length == length
        assert cache.bytes_used == per_position * length
        assert cache.bytes_used == config.kv_cache_bytes(length, batch_size=2)
        assert cache.bytes_reserved == per_position * 20


def test_capacity_is_the_context_unless_given():
    assert lv.KVCache(random_model().config).capacity == 96


def test_a_cache_that_no_memory_holds_is_refused():
    lm = random_model(max_seq_len=2**60)
    with pytest.raises(lv.MemoryLimitError, match=r"no room for a KV cache of \d+ positions"):
        lv.generate(lm, [1, 2], 2**50)


def test_type_and_device_are_those_of_the_first_keys_unless_given():
    lm = random_model()
    lm.model.to(torch.bfloat16)
    cache = lv.KVCache(lm.config)
    lm.model(random_ids(lm, 3), cache=cache)
    assert cache.layers[0].keys.dtype == torch.bfloat16
    wide = lv.KVCache(lm.config, dtype=torch.float32)
    assert wide._reserve(cache.layers[0].keys)[0].dtype == torch.float32


def test_it_holds_the_rotated_keys_and_the_values():
    lm = random_model()
    ids = random_ids(lm, 6)
    cache = lv.KVCache(lm.config)
    lm.model(ids, cache=cache)
    trace = lv.record_forward(lm, ids[0].tolist())
    for layer, held in enumerate(cache.layers):
        keys = held.keys[0].transpose(0, 1).numpy()
        values = held.values[0].transpose(0, 1).numpy()
        assert abs(keys - trace.key_rotated[layer].values).max() < 1e-5
        assert abs(values - trace.value[layer].values).max() < 1e-5


def test_going_past_the_capacity_is_refused_and_changes_nothing():
    lm = random_model()
    cache = lv.KVCache(lm.config, capacity=4)
    lm.model(random_ids(lm, 3), cache=cache)
    with pytest.raises(ValueError, match="it holds 3 of 4 positions and 2 more do not fit"):
        lm.model(random_ids(lm, 2), cache=cache)
    assert cache.length == 3
    lm.model(random_ids(lm, 1), cache=cache)
    assert cache.length == 4


def test_another_batch_size_is_refused():
    lm = random_model()
    with pytest.raises(ValueError, match="holds a batch of 1, got 2"):
        lm.model(random_ids(lm, 2, batch=2), cache=lv.KVCache(lm.config))


def test_a_pass_that_fails_halfway_can_be_run_again():
    lm = random_model()
    ids = random_ids(lm, 10)
    cache = lv.KVCache(lm.config)
    lm.model(ids[:, :6], cache=cache)

    def fail(*_):
        raise KeyboardInterrupt

    handle = lm.model.blocks[1].feed_forward.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        lm.model(ids[:, 6:], cache=cache)
    handle.remove()
    assert cache.length == 6
    again = lm.model(ids[:, 6:], cache=cache)
    assert (again - lm.model(ids)[:, 6:]).abs().max() < 1e-4


def test_truncating_forgets_the_later_positions():
    lm = random_model()
    ids = random_ids(lm, 10)
    cache = lv.KVCache(lm.config)
    first = lm.model(ids, cache=cache)
    cache.truncate(4)
    assert cache.length == 4
    assert (lm.model(ids[:, 4:], cache=cache) - first[:, 4:]).abs().max() < 1e-4
    with pytest.raises(ValueError, match="cannot truncate to 11"):
        cache.truncate(11)


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"batch_size": 0}, {"capacity": 2.5}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        lv.KVCache(random_model().config, **wrong)


def test_keys_and_values_may_come_in_one_tensor():
    """append_both is append: first into an empty cache, then behind what is held and dropped."""
    config = random_model().config
    one, two = (lv.KVCache(config, batch_size=2, capacity=7) for _ in range(2))
    for n in (3, 1, 2):
        rows = torch.randn(2, 2, config.n_kv_heads, n, config.head_dim)
        for layer, other in zip(one.layers, two.layers, strict=True):
            for ours, theirs in zip(layer.append_both(rows), other.append(*rows), strict=True):
                assert torch.equal(ours, theirs)
        for cache in (one, two):
            cache.layers[0].drop(torch.tensor([0]), torch.tensor([1]))
            cache.truncate(cache.length - (n == 1))
        for name in ("keys", "values", "dropped"):
            ours, theirs = (getattr(cache.layers[0], name) for cache in (one, two))
            assert torch.equal(ours, theirs)
    assert one.length == two.length == 5
    assert one.bytes_used == two.bytes_used > 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_kv_heads": 8}, "n_kv_heads 8, this one has 1"),
        ({"n_layers": 4}, "n_layers 4, this one has 3"),
        ({"n_layers": 2}, "n_layers 2, this one has 3"),
        ({"head_dim": 4}, "head_dim 4, this one has 8"),
    ],
)
def test_the_cache_of_another_model_is_refused(sizes, message):
    lm = random_model("mqa")
    cache = lv.KVCache(replace(lm.config, **sizes))
    with pytest.raises(ValueError, match=f"the cache is for a model with {message}; make it with"):
        lm.model(random_ids(lm, 3), cache=cache)
    longer = lv.KVCache(replace(lm.config, max_seq_len=200))
    lm.model(random_ids(lm, 3), cache=longer)  # how many positions it could hold does not matter
    assert longer.length == 3
