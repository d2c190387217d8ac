"""Surgery on the KV cache: every operation against attention written anew with explicit masks."""

import math

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import surgery
from tests.reference import random_ids, random_model

KINDS = ["mha", "gqa", "mqa"]
N_HELD = 9


def close(ours, theirs):
    """Equal within 1e-5 of the largest number."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    return float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def rotated(x, config):
    """Pairs of features turned by position x theta^(-2i / head_dim): (position, head, feature)."""
    pair = torch.arange(config.head_dim // 2, dtype=torch.float64)
    angle = torch.arange(len(x))[:, None, None] * config.rope_theta ** (-2 * pair / config.head_dim)
    even, odd = x[..., 0::2].double(), x[..., 1::2].double()
    turned = torch.stack([
        even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()
    ], dim=-1)  # fmt: skip
    return turned.flatten(-2)


def reference(lm, ids, change, n_held=N_HELD):
    """Logits of one pass, written anew in float64, without a cache.

    Queries up to n_held read keys and values as they are; later ones read, of the first n_held
    rows, what change(layer, kv_head, keys, values) makes of them: (keys, values, kept).
    """
    config, weights = lm.config, {k: v.double() for k, v in lm.model.state_dict().items()}

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * weights[name]

    n = len(ids)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    x = weights["embedding.weight"][torch.tensor(ids)]
    for layer in range(config.n_layers):
        at = f"blocks.{layer}."
        h = norm(x, at + "attention_norm.weight")
        query, key, value = (
            (h @ weights[f"{at}attention.{part}.weight"].T).unflatten(-1, (-1, config.head_dim))
            for part in ("query", "key", "value")
        )
        query, key = rotated(query, config), rotated(key, config)
        heads = []
        for head in range(config.n_heads):
            kv_head = head * config.n_kv_heads // config.n_heads
            rows = key[:, kv_head], value[:, kv_head]
            new_keys, new_values = (part.clone() for part in rows)
            new_keys[:n_held], new_values[:n_held], kept = change(
                layer, kv_head, rows[0][:n_held].clone(), rows[1][:n_held].clone()
            )
            seen = torch.cat([kept, torch.ones(n - n_held, dtype=torch.bool)])
            outputs = []
            for position in range(n):
                is_later = position >= n_held
                keys, values = (new_keys, new_values) if is_later else rows
                allowed = causal[position] & seen if is_later else causal[position]
                scores = keys[allowed] @ query[position, head] / math.sqrt(config.head_dim)
                outputs.append(scores.softmax(0) @ values[allowed])
            heads.append(torch.stack(outputs))
        x = x + torch.cat(heads, dim=-1) @ weights[at + "attention.output.weight"].T
        h = norm(x, at + "feed_forward_norm.weight")
        gate, up = (h @ weights[f"{at}feed_forward.{part}.weight"].T for part in ("gate", "up"))
        x = x + (gate * gate.sigmoid() * up) @ weights[at + "feed_forward.down.weight"].T
    return norm(x, "norm.weight") @ weights["output.weight"].T


def keep_all(keys):
    return torch.ones(len(keys), dtype=torch.bool)


def blank_rows(keys, values):
    return torch.zeros_like(keys), torch.zeros_like(values), keep_all(keys)


def drop_rows(keys, values):
    return keys, values, ~keep_all(keys)


def round_rows(bits):
    def level(row):
        low, high = float(row.min()), float(row.max())
        levels = np.linspace(low, high, 2**bits)
        return torch.tensor([levels[np.abs(levels - float(number)).argmin()] for number in row])

    def rounded(keys, values):
        return (
            torch.stack([level(row) for row in keys]),
            torch.stack([level(row) for row in values]),
            keep_all(keys),
        )

    return rounded


def only(change, layers, kv_heads, positions):
    """The change at some rows, in the form that reference() takes."""

    def chosen(layer, kv_head, keys, values):
        kept = keep_all(keys)
        if layer in layers and kv_head in kv_heads:
            rows = list(positions)
            keys[rows], values[rows], kept[rows] = change(keys[rows], values[rows])
        return keys, values, kept

    return chosen


def run_on(lm, ids, operation, **rows):
    """Logits of everything after the first N_HELD ids, whose cache was operated on."""
    cache = lv.KVCache(lm.config)
    lm.model(ids[:, :N_HELD], cache=cache)
    surgery.operate(cache, operation, **rows)
    return torch.cat(
        [lm.model(ids[:, at : at + 1], cache=cache)[0] for at in range(N_HELD, ids.shape[1])]
    )


# The arithmetic


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_model(kind):
    lm = random_model(kind)
    ids = random_ids(lm, 13)
    expected = reference(lm, ids[0].tolist(), lambda layer, head, k, v: (k, v, keep_all(k)))
    assert close(lm.model(ids)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("operation", "change"),
    [
        (surgery.blank, blank_rows),
        (surgery.drop, drop_rows),
        (surgery.rounded(1), round_rows(1)),
        (surgery.rounded(4), round_rows(4)),
    ],
    ids=["blank", "drop", "rounded 1", "rounded 4"],
)
@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"layers": [1]},
        {"kv_heads": [0], "positions": [2, 3, 7]},
        {"layers": [0, 2], "positions": range(1, 5)},
    ],
    ids=["all", "one layer", "one head", "two layers"],
)
def test_an_operation_is_attention_over_changed_rows(kind, operation, change, rows):
    lm = random_model(kind)
    ids = random_ids(lm, 13)
    every = {
        "layers": range(lm.config.n_layers),
        "kv_heads": range(lm.config.n_kv_heads),
        "positions": range(N_HELD),
    }
    expected = reference(lm, ids[0].tolist(), only(change, **{**every, **rows}))
    assert close(run_on(lm, ids, operation, **rows), expected[N_HELD:])
    assert not close(lm.model(ids)[0, N_HELD:], expected[N_HELD:])


@pytest.mark.parametrize(
    ("operation", "gone"),
    [
        (surgery.window(3), range(6)),
        (surgery.window(20), []),
        (surgery.first_and_window(2, 4), range(2, 5)),
        (surgery.first_and_window(4, 0), range(4, 9)),
    ],
)
def test_a_window_drops_what_lies_outside(operation, gone):
    lm = random_model("gqa")
    ids = random_ids(lm, 12)
    expected = reference(lm, ids[0].tolist(), only(drop_rows, range(3), range(2), gone))
    assert close(run_on(lm, ids, operation), expected[N_HELD:])


@pytest.mark.parametrize("kind", KINDS)
def test_several_new_positions_at_once_see_the_same(kind):
    lm = random_model(kind)
    ids = random_ids(lm, 14)
    one_by_one = run_on(lm, ids, surgery.drop, positions=[0, 4, 5], kv_heads=[0])
    for listens in (False, True):  # the fused kernel, and attention written out
        cache = lv.KVCache(lm.config)
        lm.model(ids[:, :N_HELD], cache=cache)
        surgery.operate(cache, surgery.drop, positions=[0, 4, 5], kv_heads=[0])
        changes = {"attention_weights": lambda value, context: value} if listens else {}
        with lv.intervene(lm, changes):
            assert close(lm.model(ids[:, N_HELD:], cache=cache)[0], one_by_one)


def test_a_mask_on_the_scores_of_one_pass_is_the_same_as_dropping():
    lm = random_model("gqa")
    ids = random_ids(lm, 12)

    def hide(scores, context):
        scores = scores.clone()
        scores[:, 4:, N_HELD:, 2:6] = float("-inf")  # key/value head 1 is read by heads 4 to 7
        return scores

    with lv.intervene(lm, {"blocks.1.attention.scores": hide}):
        expected = lm.model(ids)[0, N_HELD:]
    rows = {"layers": [1], "kv_heads": [1], "positions": range(2, 6)}
    assert close(run_on(lm, ids, surgery.drop, **rows), expected)


def test_in_bfloat16_rows_keep_their_type():
    lm = random_model()
    lm.model.to(torch.bfloat16)
    cache = lv.KVCache(lm.config)
    lm.model(random_ids(lm, 5), cache=cache)
    surgery.operate(cache, surgery.rounded(2))
    assert cache.layers[0].keys.dtype == torch.bfloat16
    levels = [len(row.unique()) for row in cache.layers[0].keys.flatten(0, -2)]
    assert max(levels) <= 4


# The cache afterwards


def test_a_dropped_row_is_forgotten_with_its_position():
    lm = random_model()
    ids = random_ids(lm, 8)
    cache = lv.KVCache(lm.config)
    lm.model(ids, cache=cache)
    surgery.operate(cache, surgery.drop, positions=[1, 6])
    assert cache.layers[0].dropped.sum(dim=1).tolist() == [2, 2]
    assert cache.length == 8
    assert cache.bytes_used == lm.config.kv_cache_bytes(8)
    cache.truncate(5)
    lm.model(ids[:, 5:], cache=cache)  # position 6 is written anew, and seen
    assert cache.layers[0].dropped.nonzero()[:, 1].tolist() == [1, 1]
    assert lv.KVCache(lm.config).layers[0].dropped is None


def test_a_cache_of_a_generation_may_be_operated_on_afterwards():
    lm = random_model()
    ids = random_ids(lm, 6)
    cache = lv.KVCache(lm.config)
    with torch.inference_mode():
        lm.model(ids[:, :4], cache=cache)
    surgery.operate(cache, surgery.blank, positions=[0])
    surgery.operate(cache, surgery.drop, positions=[1])
    with torch.inference_mode():
        lm.model(ids[:, 4:], cache=cache)
    assert (cache.layers[0].keys[:, :, 0] == 0).all()


# Runs


def test_operating_changes_the_run_from_there_and_nothing_afterwards():
    lm = random_model()
    ids = random_ids(lm, 6)[0].tolist()
    plain = lv.record(lm, ids, 8)
    with surgery.operating(lm, surgery.drop, at=9, positions=[1, 2], kv_heads=[1], layers=[0, 2]):
        trace = lv.record(lm, ids, 8)
    assert trace.attrs["edited"] == ["cache.drop"]
    assert trace.key_position.values.tolist() == list(range(13))
    assert np.array_equal(trace.token_id[:9], plain.token_id[:9])
    for name in ("attention_weights", "attention_scores"):
        missing = np.isnan(trace[name].values) & ~np.isnan(plain[name].values)
        expected = np.zeros_like(missing)
        expected[np.ix_([0, 2], range(4, 8), range(9, 13), [1, 2])] = True
        assert np.array_equal(missing, expected), name
    sums = trace.attention_weights.sum("key_position")
    assert np.allclose(sums, 1, atol=1e-6)
    assert lm.model.interventions == []
    again = lv.record(lm, ids, 8)
    assert again.attrs["edited"] == []
    assert np.array_equal(again.logits, plain.logits)


def test_only_a_run_that_was_operated_on_says_so():
    lm = random_model()
    ids = random_ids(lm, 6)[0].tolist()
    with surgery.operating(lm, surgery.drop, at=9, positions=[1]):
        long, short = (lv.record(lm, ids, n_new, taps=["rms"]) for n_new in (8, 2))
    assert (long.attrs["edited"], short.attrs["edited"]) == (["cache.drop"], [])


def test_prompts_of_unequal_length_are_refused_before_anything_is_changed():
    lm = random_model()
    prompts = [random_ids(lm, length)[0].tolist() for length in (6, 4)]
    with (
        surgery.operating(lm, surgery.drop, at=6, positions=[1]),
        pytest.raises(ValueError, match="run them one by one"),
    ):
        lv.record(lm, prompts, 8)
    with surgery.operating(lm, surgery.drop, at=6, positions=[1]):
        together = lv.record(lm, [prompts[0], prompts[0][::-1]], 8, taps=["attention_weights"])
        alone = lv.record(lm, prompts[0], 8, taps=["attention_weights"])
    first = lv.select_prompt(together, 0)
    assert close(np.nan_to_num(first.attention_weights), np.nan_to_num(alone.attention_weights))
    assert together.attrs["edited"] == alone.attrs["edited"] == ["cache.drop"]


def test_a_window_that_moves_along_holds_only_its_size():
    lm = random_model()
    ids = random_ids(lm, 6)[0].tolist()
    with surgery.operating(lm, surgery.first_and_window(1, 3), at=6, repeat=True):
        trace = lv.record(lm, ids, 8, taps=["attention_weights"])
    seen = np.isfinite(trace.attention_weights[1, 0].values)
    for query in range(6, 13):
        assert np.flatnonzero(seen[query, : query + 1]).tolist() == [
            0,
            *range(query - 3, query + 1),
        ]
    assert trace.attrs["edited"] == ["cache.first_and_window(1, 3)"]


def test_compare_runs_the_text_on_both_ways():
    lm = random_model("gqa")
    text = random_ids(lm, 24)[0].tolist()
    found = surgery.compare(lm, text, surgery.drop, positions=range(1, 20), max_new_tokens=6)
    assert found.before.ids == lv.generate(lm, text, 6).ids
    assert [len(run.new_ids) for run in (found.before, found.after)] == [6, 6]
    everything = {"layers": range(3), "kv_heads": range(2), "positions": range(1, 20)}
    logits = reference(lm, text, only(drop_rows, **everything), n_held=len(text) - 1)[-1]
    before, after = found.probabilities
    assert close(after, logits.softmax(0))
    plain = lm.model(torch.tensor([text]))[0, -1].double()
    assert close(before, plain.softmax(0))
    p, q = before.numpy(), after.numpy()
    assert found.kl_divergence == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-6)
    assert found.kl_divergence > 1e-4
    pairs = list(zip(found.before.new_ids, found.after.new_ids, strict=True))
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    assert found.first_difference == first


def test_compare_with_nothing_changed_is_the_same_to_the_bit(family):
    lm = family["mqa"]
    found = surgery.compare(lm, "Once upon a time", surgery.window(100), max_new_tokens=5)
    assert found.kl_divergence == 0.0
    assert found.first_difference is None
    assert found.before.ids == found.after.ids


def test_compare_leaves_the_model_as_it_was(family):
    lm = family["gqa"]
    before = lv.generate(lm, "Once", 8).ids
    surgery.compare(lm, "Once upon a time", surgery.blank, max_new_tokens=3)
    with pytest.raises(ValueError, match="position 40 is not in the cache: it holds 0 to"):
        surgery.compare(lm, "Once upon a time", surgery.blank, positions=[40])
    assert lm.model.interventions == []
    assert not lm.model._forward_pre_hooks
    assert lv.generate(lm, "Once", 8).ids == before


def test_another_run_during_a_comparison_is_not_operated_on():
    """JupyterLab answers its widgets in a thread of its own: a cell may run in mid-pass."""
    lm = random_model("gqa")
    text = random_ids(lm, 24)[0].tolist()
    alone = lv.generate(lm, text, 4)
    expected = surgery.compare(lm, text, surgery.drop, positions=range(1, 20), max_new_tokens=3)
    meanwhile = []

    def run_another(module, args):
        handle.remove()
        meanwhile.append((lv.record(lm, text, 4, taps=["sampled_id"]), lm.model.interventions[:]))
        listen()

    def listen():
        nonlocal handle
        handle = lm.model.register_forward_pre_hook(run_another)

    handle = None
    listen()
    found = surgery.compare(lm, text, surgery.drop, positions=range(1, 20), max_new_tokens=3)
    handle.remove()
    assert found.after.ids == expected.after.ids
    assert found.kl_divergence == expected.kl_divergence > 0
    assert len(meanwhile) == 1 + 2 * 3  # the cache is filled once, then three tokens either way
    for trace, interventions in meanwhile:
        assert trace.attrs["prompt_ids"] + trace["sampled_id"].values.tolist() == alone.ids
        assert trace.attrs["edited"] == interventions == []


# What is refused


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"layers": [3]}, r"unknown layer 3. Choose from: 0, 1, 2"),
        ({"kv_heads": [2]}, r"unknown kv_head 2. Choose from: 0, 1"),
        ({"positions": [0, 5]}, "position 5 is not in the cache: it holds 0 to 4"),
        ({"positions": [-1]}, "position -1 is not in the cache"),
        ({"layers": [True]}, "unknown layer True"),
    ],
)
def test_rows_that_are_not_there_change_nothing(rows, words):
    lm = random_model("gqa")
    cache = lv.KVCache(lm.config)
    lm.model(random_ids(lm, 5), cache=cache)
    before = cache.layers[0].keys.clone()
    with pytest.raises(ValueError, match=words):
        surgery.operate(cache, surgery.blank, **rows)
    assert torch.equal(cache.layers[0].keys, before)


def test_what_cannot_be_is_said():
    lm = random_model()
    with pytest.raises(ValueError, match="the cache is empty"):
        surgery.operate(lv.KVCache(lm.config), surgery.drop)
    cache = lv.KVCache(lm.config)
    lm.model(random_ids(lm, 5), cache=cache)
    with pytest.raises(TypeError, match="operation must be a function such as surgery.drop"):
        surgery.operate(cache, "drop")
    for make, words in (
        (lambda: surgery.rounded(0), "bits must be a whole number from 1 to 16, got 0"),
        (lambda: surgery.rounded(2.0), "bits must be a whole number"),
        (lambda: surgery.window(0), "size must be a whole number of at least 1, got 0"),
        (lambda: surgery.first_and_window(-1, 3), "first must be a whole number of at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(ValueError, match="at least two tokens"):
        surgery.compare(lm, [3], surgery.drop)
    with surgery.operating(lm, surgery.drop, at=3):
        with pytest.raises(ValueError, match="at=3 lies inside a pass, that of positions 0 to 4"):
            lv.generate(lm, [1, 2, 3, 4, 5], 2)
        with pytest.raises(ValueError, match="surgery needs a cache"):
            lv.generate(lm, [1, 2, 3], 2, use_cache=False)
    assert not lm.model._forward_pre_hooks
