"""An optimized model: the same numbers, the same taps, on joined weights."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.optimization import (
    SERVED,
    JoinedWeights,
    OneRowBlock,
    OneRowLinear,
    PackedWeight,
    apart,
)
from tests.reference import random_ids, random_model

KINDS = ("mha", "gqa", "mqa")


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """How many threads products are shared out over; dim and hidden_dim divide by all of them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


def both(kind: str, **sizes) -> tuple[lv.LanguageModel, lv.LanguageModel]:
    plain, optimized = (random_model(kind, dim=48, **sizes) for _ in range(2))
    assert optimized.optimize() is optimized
    return plain, optimized


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_gives_the_same_logits(kind, threads):
    plain, optimized = both(kind)
    ids = random_ids(plain, 20)[0].tolist()
    for ours, theirs in zip(
        lv.generate(optimized, ids, 30).steps, lv.generate(plain, ids, 30).steps, strict=True
    ):
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-4)
        assert ours.id == theirs.id


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_are_the_same(kind, threads):
    plain, optimized = both(kind)
    ids = random_ids(plain, 9)[0].tolist()
    recorded, expected = (lv.record(lm, ids, 12) for lm in (optimized, plain))
    for name, variable in expected.data_vars.items():
        if name == "step_seconds":
            continue
        bound = 1e-5 * max(1.0, float(np.nanmax(np.abs(variable.values))))
        np.testing.assert_allclose(
            recorded[name].values, variable.values, rtol=0, atol=bound, err_msg=str(name)
        )


@pytest.fixture
def whole_blocks(monkeypatch):
    """How many blocks one row has passed as a whole."""
    calls = []
    as_before = OneRowBlock.__call__
    monkeypatch.setattr(
        OneRowBlock, "__call__", lambda self, *args: calls.append(1) or as_before(self, *args)
    )
    return calls


def test_a_row_passes_a_block_as_a_whole(whole_blocks):
    _, optimized = both("gqa")
    lv.generate(optimized, [1, 2, 3], 5)
    assert len(whole_blocks) == 4 * 3  # 4 steps after the prefill, 3 layers


# Those of the block in the middle.
PLACES = [place for place in lv.taps.places(3) if place.path.startswith("blocks.1")]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_whoever_listens_at_a_tap_is_served_by_a_whole_block(place, whole_blocks):
    """Hooks are given what the plain model gives them, and what they return goes on."""
    heard, logits = [], []
    for lm in both("gqa"):
        values = []

        def change(module, args, output=None, values=values):
            value = args[0] if output is None else output
            values.append((args[0].clone(), value.clone()))
            changed = value * 1.5
            return changed if output is not None else (changed, *args[1:])

        module = lm.model.get_submodule(place.path)
        listen = module.register_forward_pre_hook if place.before else module.register_forward_hook
        handle = listen(change)
        ran = lv.generate(lm, [1, 2, 3], 5, forced=[5, 6, 7, 8, 9])
        handle.remove()
        heard.append(values)
        logits.append(torch.stack([step.logits for step in ran.steps]))
    assert len(whole_blocks) == 4 * 3
    for theirs, ours in zip(*heard, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4)
    unchanged = lv.generate(lm, [1, 2, 3], 5, forced=[5, 6, 7, 8, 9]).steps[-1].logits
    assert (logits[0][-1] - unchanged).abs().max() > 1e-3


def test_other_hooks_are_heard_where_the_modules_are_called(whole_blocks):
    """On whole parts, before a module, with keyword arguments: the one block is no whole."""
    _, optimized = both("gqa")
    block = optimized.model.blocks[1]
    for name, module in block.named_modules():
        if not name:
            continue
        listeners = {
            "before": lambda hook, m=module: m.register_forward_pre_hook(hook),
            "with_kwargs": lambda hook, m=module: m.register_forward_hook(hook, with_kwargs=True),
            "always": lambda hook, m=module: m.register_forward_hook(hook, always_call=True),
        }
        if name not in SERVED:
            listeners["after"] = lambda hook, m=module: m.register_forward_hook(hook)
        for kind, listen in listeners.items():
            if kind == "before" and name.endswith((".rms", ".scores", ".weights")):
                continue  # made only where somebody listens to what comes out
            whole_blocks.clear()
            heard = []
            handle = listen(lambda *passed, heard=heard: heard.append(passed) and None)
            lv.generate(optimized, [1, 2, 3], 5)
            handle.remove()
            assert len(heard) == 5, (name, kind)
            assert len(whole_blocks) == 4 * 2, (name, kind)


def test_a_block_that_was_changed_is_no_whole(whole_blocks):
    """A module or a gain put in place of another, weights that are trained, rows not to be seen."""
    plain, optimized = both("gqa")
    generator = torch.Generator().manual_seed(3)
    for lm in (plain, optimized):
        state = generator.manual_seed(3)
        attention = lm.model.blocks[0].attention
        attention.key = torch.nn.Linear(48, attention.key.out_features, bias=False)
        attention.key.weight = torch.nn.Parameter(
            torch.randn(attention.key.out_features, 48, generator=state), requires_grad=False
        )
        lm.model.blocks[1].feed_forward_norm.weight = torch.nn.Parameter(
            1 + torch.rand(48, generator=state), requires_grad=False
        )
    ours, theirs = (lv.generate(lm, [1, 2, 3], 6) for lm in (optimized, plain))
    assert len(whole_blocks) == 5 * 2  # a gain is read where it is, a new module is not
    torch.testing.assert_close(ours.steps[-1].logits, theirs.steps[-1].logits, rtol=0, atol=1e-4)
    whole_blocks.clear()
    optimized.model.blocks[2].feed_forward.down.weight.requires_grad_(True)
    optimized.model.blocks[1].attention_norm.weight.requires_grad_(True)
    lv.generate(optimized, [1, 2, 3], 6)
    assert not whole_blocks


def stored_by_torch(lm: lv.LanguageModel) -> lv.LanguageModel:
    """Written with torch.save and read again."""
    file = io.BytesIO()
    torch.save(lm, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS_TO_COPY = {
    "deepcopy": copy.deepcopy,
    "deepcopy of the model": lambda lm: lv.LanguageModel(copy.deepcopy(lm.model)),
    "pickle": lambda lm: pickle.loads(pickle.dumps(lm)),
    "torch.save": stored_by_torch,
}


@pytest.fixture(params=WAYS_TO_COPY.values(), ids=WAYS_TO_COPY.keys())
def copied_by(request):
    return request.param


def assert_same_continuation(found, expected, atol=1e-4):
    ours, theirs = (lv.generate(lm, [1, 2, 3], 6) for lm in (found, expected))
    assert ours.ids == theirs.ids
    torch.testing.assert_close(ours.steps[-1].logits, theirs.steps[-1].logits, rtol=0, atol=atol)


def test_a_copy_is_optimized_and_itself(copied_by, threads, whole_blocks):
    """A copy has weights and listeners of its own: no pass goes to those of the first."""
    plain, optimized = both("gqa")
    copied = copied_by(optimized)
    for weight in optimized.model.parameters():
        weight.zero_()
    assert_same_continuation(copied, plain)
    assert len(whole_blocks) == 5 * 3
    for module in copied.model.modules():
        if isinstance(module, OneRowLinear):
            assert module.joined.current
            storage = module.joined.weight.untyped_storage().data_ptr()
            assert module.weight.untyped_storage().data_ptr() == storage
    heard = []
    copied.model.blocks[0].attention.value.register_forward_hook(lambda *_: heard.append(1))
    lv.generate(copied, [1, 2, 3], 6)
    assert len(heard) == 6
    for lm in (copied, plain):
        lm.model.blocks[1].attention.value.weight.mul_(3)  # in place: the joined product sees it
    assert_same_continuation(copied, plain)


def test_a_shallow_copy_is_the_same_model(whole_blocks):
    plain, optimized = both("gqa")
    for copied in (copy.copy(optimized), lv.LanguageModel(copy.copy(optimized.model))):
        whole_blocks.clear()
        assert_same_continuation(copied, plain)
        assert len(whole_blocks) == 5 * 3
    assert copied.model.blocks[0].attention.query.weight is (
        optimized.model.blocks[0].attention.query.weight
    )


def test_a_copy_hears_hooks_on_all_modules(copied_by, whole_blocks):
    copied = copied_by(both("gqa")[1])
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, o: None)
    lv.generate(copied, [1, 2, 3], 3)
    handle.remove()
    assert not whole_blocks


def test_a_copy_keeps_a_tied_head(copied_by, whole_blocks):
    plain, optimized = both("gqa", tied_embeddings=True)
    copied = copied_by(optimized)
    assert copied.model.output.weight is copied.model.embedding.weight
    assert_same_continuation(copied, plain)
    assert copied.model.output.joined.current


def test_a_copy_of_a_changed_model_reads_what_it_reads(copied_by, whole_blocks):
    """Weights and modules put in place of others, of another type even, go on as they are."""
    plain, optimized = both("gqa")
    generator = torch.Generator().manual_seed(3)
    for lm in (plain, optimized):
        generator.manual_seed(3)
        feed_forward, attention = lm.model.blocks[0].feed_forward, lm.model.blocks[1].attention
        weight = torch.randn(feed_forward.gate.weight.shape, generator=generator)
        feed_forward.gate.weight = torch.nn.Parameter(weight, requires_grad=False)
        attention.query = torch.nn.Linear(48, attention.query.out_features, bias=False)
        weight = torch.randn(attention.query.weight.shape, generator=generator)
        attention.query.weight = torch.nn.Parameter(weight, requires_grad=False)
    optimized.model.blocks[0].feed_forward.up.double()
    copied = copied_by(optimized)
    up = copied.model.blocks[0].feed_forward.up
    assert up.weight.dtype == torch.float64
    assert not up.joined.current
    up.float()
    optimized.model.blocks[0].feed_forward.up.float()
    assert_same_continuation(copied, plain)
    assert len(whole_blocks) == 5 * 1
    whole_blocks.clear()
    assert_same_continuation(copied.optimize(), plain)
    assert len(whole_blocks) == 5 * 3


def test_a_copy_made_while_products_are_counted_apart_joins_them(copied_by):
    _, optimized = both("gqa")
    with apart(optimized.model):
        copied = copied_by(optimized)
        assert not optimized.model.output.joined.current
    assert copied.model.output.joined.current
    assert optimized.model.output.joined.current


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["float16", "bfloat16", "bfloat16, packed"])
def test_half_precision_is_that_of_the_plain_model(kind, how, whole_blocks):
    """One step of each: within 16 of the roundings of the type, of the largest logit."""
    plain, optimized = (random_model(kind, dim=48) for _ in range(2))
    dtype = getattr(torch, how.split(",")[0])
    optimized.optimize(dtype, packed="packed" in how)
    plain.model.to(dtype)
    exact = random_model(kind, dim=48)
    ids = random_ids(plain, 9)[0].tolist()
    forced = random_ids(plain, 12, seed=4)[0].tolist()
    ours, theirs, true = (
        torch.stack([step.logits for step in lv.generate(lm, ids, 12, forced=forced).steps]).float()
        for lm in (optimized, plain, exact)
    )
    assert len(whole_blocks) == 11 * 3
    bound = 16 * torch.finfo(dtype).eps * float(true.abs().max())
    assert float((ours - true).abs().max()) < bound
    # no worse than the plain model of the same type, on the whole
    assert float((ours - true).norm()) < 1.25 * float((theirs - true).norm())


def of_last_step(lm: lv.LanguageModel) -> torch.Tensor:
    return lv.generate(lm, [1, 2, 3], 6, forced=[5, 6, 7, 8, 9, 4]).steps[-1].logits.float()


def test_packed_weights_are_read_until_they_change(whole_blocks):
    """What passes is their product; a weight changed in place, or put in place of one, counts."""
    plain, packed = (random_model("gqa", dim=48) for _ in range(2))
    plain.model.to(torch.bfloat16)
    packed.optimize(torch.bfloat16, packed=True)
    before = of_last_step(packed)
    assert len(whole_blocks) == 5 * 3
    down = packed.model.blocks[1].feed_forward.down
    weights = down.joined._packed
    read, weights.packed = weights.packed, PackedWeight(torch.zeros_like(down.weight)).packed
    assert (of_last_step(packed) - before).abs().max() > 0.1  # it is what is read
    weights.packed = read
    torch.testing.assert_close(of_last_step(packed), before)
    for lm in (plain, packed):
        lm.model.blocks[1].feed_forward.down.weight.zero_()
    whole_blocks.clear()
    changed = of_last_step(packed)
    assert len(whole_blocks) == 5 * 2
    assert (changed - before).abs().max() > 0.1
    torch.testing.assert_close(changed, of_last_step(plain), rtol=0, atol=0.05)
    whole_blocks.clear()
    packed.optimize(packed=True)  # anew, with what they are now
    torch.testing.assert_close(of_last_step(packed), changed, rtol=0, atol=0.05)
    assert len(whole_blocks) == 5 * 3


def test_a_copy_of_packed_weights_is_itself(copied_by, monkeypatch):
    packed = random_model("gqa", dim=48).optimize(torch.bfloat16, packed=True)
    before = of_last_step(packed)
    copied = copied_by(packed)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elsewhere = copied_by(packed)  # on a machine that cannot pack
    for weight in packed.model.parameters():
        weight.zero_()
    for lm, is_packed in ((copied, True), (elsewhere, False)):
        joined = lm.model.blocks[1].feed_forward.down.joined
        assert joined.current
        assert (joined._packed is not None) == is_packed
        torch.testing.assert_close(of_last_step(lm), before, rtol=0, atol=0.05)


def test_what_cannot_be_packed_is_refused(monkeypatch):
    lm = random_model("gqa", dim=48)
    with pytest.raises(
        ValueError, match=r"these are torch.float32 on cpu: say optimize\(torch.bfl"
    ):
        lm.optimize(packed=True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="here PyTorch cannot pack bfloat16 weights"):
        lm.optimize(torch.bfloat16, packed=True)
    with pytest.raises(ValueError, match=r"these are torch.float16 on cpu"):
        lm.optimize(torch.float16, packed=True)
    assert lm.dtype == torch.float32  # what is refused changes nothing


def test_shares_are_used(monkeypatch):
    """The product of one row is that of the shares: spoil one and it is another."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    _, optimized = both("gqa")
    down = optimized.model.blocks[0].feed_forward.down
    assert isinstance(down, OneRowLinear)
    assert down.joined.n_shares == 2
    row = torch.randn(1, 1, down.in_features)
    expected = row @ down.weight.t()
    torch.testing.assert_close(down(row), expected)
    down.joined.shares = down.joined.shares * 2
    torch.testing.assert_close(down(row), 2 * expected)
    rows = torch.randn(1, 2, down.in_features)
    torch.testing.assert_close(down(rows), rows @ down.weight.t())


def test_projections_are_views_of_one_buffer():
    _, optimized = both("gqa")
    attention = optimized.model.blocks[1].attention
    storages = {
        getattr(attention, name).weight.untyped_storage().data_ptr()
        for name in ("query", "key", "value")
    }
    assert storages == {attention.joined.weight.untyped_storage().data_ptr()}
    before = lv.generate(optimized, [1, 2, 3], 8).ids
    attention.value.weight.zero_()  # in place: the joined product sees it
    plain = random_model("gqa", dim=48)
    plain.model.blocks[1].attention.value.weight.zero_()
    after = lv.generate(optimized, [1, 2, 3], 8)
    assert after.ids == lv.generate(plain, [1, 2, 3], 8).ids
    assert after.ids != before


def test_replaced_weights_are_not_overlooked():
    plain, optimized = both("gqa")
    for lm in (plain, optimized):
        generator = torch.Generator().manual_seed(5)
        for linear in (lm.model.blocks[0].attention.key, lm.model.blocks[2].feed_forward.up,
                       lm.model.blocks[1].feed_forward.down, lm.model.output):  # fmt: skip
            shape = linear.weight.shape
            linear.weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    assert lv.generate(optimized, [4, 5], 20).ids == lv.generate(plain, [4, 5], 20).ids


def test_a_listener_hears_one_position_at_a_time():
    _, optimized = both("gqa")
    heard = []
    for path in ("attention.query", "attention.head_output", "feed_forward.gate",
                 "feed_forward.neuron_activation", "feed_forward.down"):  # fmt: skip
        module = optimized.model.get_submodule(f"blocks.0.{path}")
        handle = module.register_forward_hook(lambda m, a, o, path=path: heard.append(path))
        lv.generate(optimized, [1, 2, 3], 4)
        handle.remove()
    assert [heard.count(path) for path in dict.fromkeys(heard)] == [4] * 5


def test_interventions_and_dropped_rows_reach_an_optimized_model():
    plain, optimized = both("gqa")
    texts = []
    for lm in (plain, optimized):
        with lv.intervene(lm, {"neuron_activation": lambda value, context: value * 0.5}):
            texts.append(lv.generate(lm, [1, 2, 3], 12).ids)
    assert texts[0] == texts[1] != lv.generate(plain, [1, 2, 3], 12).ids
    logits = []
    for lm in (plain, optimized):
        cache = lv.KVCache(lm.config)
        with torch.inference_mode():
            lm.model(torch.tensor([[1, 2, 3, 4, 5]]), cache=cache)
            for layer in cache.layers:
                layer.drop(torch.tensor([0]), torch.tensor([1, 2]))
            logits.append(lm.model(torch.tensor([[6]]), cache=cache))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-4)


def test_half_precision_weights_halve_the_bytes():
    plain, optimized = random_model("gqa"), random_model("gqa")
    optimized.optimize(torch.bfloat16)
    sizes = [sum(p.nbytes for p in lm.model.parameters()) for lm in (optimized, plain)]
    assert 2 * sizes[0] == sizes[1]
    assert optimized.dtype == torch.bfloat16
    ours, theirs = (lv.generate(lm, [1, 2, 3], 1).steps[0].logits for lm in (optimized, plain))
    assert float((ours.float() - theirs).abs().max()) < 0.05 * float(theirs.abs().max())
    assert lv.generate(optimized, [1, 2, 3], 8).steps[-1].logits.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="unknown dtype"):
        plain.optimize(torch.int8)


def test_a_tied_head_stays_tied():
    plain, optimized = both("gqa", tied_embeddings=True)
    assert optimized.model.output.weight is optimized.model.embedding.weight
    assert lv.generate(optimized, [7], 20).ids == lv.generate(plain, [7], 20).ids


def test_a_width_that_no_thread_count_divides_is_one_share():
    linear = torch.nn.Linear(7, 5, bias=False).requires_grad_(False)
    weight = linear.weight.clone()
    joined = JoinedWeights([linear])
    assert joined.n_shares == 1
    row = torch.randn(1, 1, 7)
    torch.testing.assert_close(joined.product(row), row @ weight.t())


def test_gradients_are_those_of_the_plain_model():
    """Of weights that are trained, and of the input: for whoever trains or attributes."""
    plain, optimized = both("gqa")
    row = torch.randn(1, 1, 48)
    gradients = []
    for lm in (plain, optimized):
        block = lm.model.blocks[0]
        block.feed_forward.up.weight.requires_grad_(True)
        x = row.clone().requires_grad_(True)
        block.feed_forward(block.feed_forward_norm(x)).sum().backward()
        gradients.append((x.grad, block.feed_forward.up.weight.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_who_asks_again_sees_weights_that_changed():
    _, optimized = both("gqa")
    attention = optimized.model.blocks[0].attention
    row = torch.randn(1, 1, 48)
    for linear in (attention.query, attention.key, attention.value):
        assert float(linear(row).abs().sum()) > 0
        linear.weight.zero_()
        assert float(linear(row).abs().sum()) == 0


def test_hooks_on_all_modules_are_heard_inside_blocks(whole_blocks):
    _, optimized = both("gqa")
    heard = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, o: heard.append(m))
    lv.generate(optimized, [1, 2, 3], 3)
    handle.remove()
    assert not whole_blocks
    assert heard.count(optimized.model.blocks[1].feed_forward.down) == 3
    lv.generate(optimized, [1, 2, 3], 3)
    assert len(whole_blocks) == 2 * 3


def test_any_shape_of_one_row_is_multiplied():
    _, optimized = both("gqa")
    linear = optimized.model.blocks[0].attention.query
    row = torch.randn(48)
    torch.testing.assert_close(linear(row), linear(row[None, None])[0, 0])
    assert linear(row).shape == (48,)
