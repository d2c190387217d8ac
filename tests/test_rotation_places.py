"""Rotation in other places: each against attention written out here, and hooks that come off."""

import pytest
import torch
from torch.testing import assert_close

import llama_viz as lv
from llama_viz import foundations as f
from llama_viz.model import causal_mask
from tests.reference import n_hooks, random_ids, random_model

MOVED = 37


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def lm(request):
    return random_model(request.param, head_dim=16)


def written_out(lm, ids, place):
    """The logits, with every rotation spelled out; one row of ids."""
    config = lm.config
    angle = f.rotation_angles(len(ids), config.head_dim)

    def heads(x):
        return x.unflatten(-1, (-1, config.head_dim)).transpose(0, 1)  # (head, position, feature)

    def joined(x):
        return x.transpose(0, 1).flatten(-2)

    def turned(x):
        return f.rotate_pairs(x, angle)

    x = lm.model.embedding(ids)
    for number, block in enumerate(lm.model.blocks):
        attention = block.attention
        normed = block.attention_norm(x)
        before = place == "before the projections"
        read = joined(turned(heads(normed))) if before else normed
        query, key = heads(attention.query(read)), heads(attention.key(read))
        value = heads(attention.value(normed))
        if place in ("as built", "values, too") or (
            place.startswith("in the first") and not number
        ):
            query, key = turned(query), turned(key)
        if place.startswith("on the first"):
            first = config.n_heads // config.n_kv_heads
            query = torch.cat([turned(query[:first]), query[first:]])
            key = torch.cat([turned(key[:1]), key[1:]])
        if place == "values, too":
            value = turned(value)
        sharers = config.n_heads // config.n_kv_heads
        key, value = (part.repeat_interleave(sharers, dim=0) for part in (key, value))
        output = f.attend(query, key, value, causal_mask(len(ids), len(ids))).output
        x = x + attention.output(joined(output))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    return lm.model.output(lm.model.norm(x))


@pytest.mark.parametrize("place", f.ROTATION_PLACES)
def test_each_place_is_what_it_says(lm, place):
    ids = random_ids(lm, 40)
    with f.rotating(lm, place):
        logits = lm.model(ids)[0]
    expected = written_out(lm, ids[0], place)
    assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    is_all = lm.config.n_kv_heads == 1 and place == "on the first key/value head alone"
    if place != "as built" and not is_all:
        assert (logits - lm.model(ids)[0]).abs().max() > 0.1


@pytest.mark.parametrize("place", f.ROTATION_PLACES)
def test_what_counts_is_the_offset_or_not(lm, place):
    ids = random_ids(lm, 40)
    later = {"rotation_angle": lambda angle, _: angle + MOVED * lm.model.rotary.frequencies}
    with f.rotating(lm, place):
        here = lm.model(ids)
        with lv.intervene(lm, later):
            there = lm.model(ids)
    moved = float((here - there).abs().max() / here.abs().max())
    if place in ("values, too", "before the projections"):
        assert moved > 0.05
    else:
        assert moved < 1e-4


@pytest.mark.parametrize("place", f.ROTATION_PLACES)
def test_a_generation_with_a_cache_is_one_pass(lm, place):
    with f.rotating(lm, place):
        cached = lv.generate(lm, [5, 6, 7], max_new_tokens=20).ids
        whole = lv.generate(lm, [5, 6, 7], max_new_tokens=20, use_cache=False).ids
        assert cached == whole


def test_hooks_come_off_and_recordings_say_so(lm):
    ids = random_ids(lm, 12)[0].tolist()
    before = n_hooks(lm.model)
    with f.rotating(lm, "values, too"):
        trace = lv.record_forward(lm, ids)
    with pytest.raises(ValueError, match="out of range"), f.rotating(lm, "values, too"):
        lm.model(torch.tensor([[999]]))
    assert trace.attrs["edited"] == ["rotated values, too"]
    assert n_hooks(lm.model) == before
    assert lm.model.interventions == []
    with f.rotating(lm, "as built"):
        assert n_hooks(lm.model) == before
        assert lv.record_forward(lm, ids).attrs["edited"] == []


def test_places_that_are_none_are_refused(lm):
    with (
        pytest.raises(ValueError, match="unknown place 'everywhere'"),
        f.rotating(lm, "everywhere"),
    ):
        pass
    odd = random_model("mha", head_dim=12)
    with (
        pytest.raises(ValueError, match="dim 64 does not divide into slices of 12"),
        f.rotating(odd, "before the projections"),
    ):
        pass
