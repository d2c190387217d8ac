"""The model against transformers' LlamaForCausalLM, closed formulas, and itself.

Tolerances: float32 logits within 1e-4, everything recorded within 1e-5 of its largest value.
"""

import pytest
import torch
from torch.testing import assert_close

import llama_viz as lv
from llama_viz.model import FeedForward, Llama, RMSNorm, RotaryEmbedding, causal_mask, rotate
from tests.reference import (
    KV_HEADS,
    halves_from_pairs,
    in_transformers,
    random_ids,
    random_model,
)

KINDS = list(KV_HEADS)
LOGITS = {"rtol": 0, "atol": 1e-4}


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """|a - b| <= 1e-5 x max(1, max|b|)."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [{}, {"head_dim": 12}, {"tied_embeddings": True}])
def test_logits_are_those_of_transformers(kind, sizes):
    lm = random_model(kind, **sizes)
    ids = random_ids(lm, 40, batch=2)
    assert_close(lm.model(ids), in_transformers(lm)(ids).logits, **LOGITS)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_inside_is_that_of_transformers(kind):
    lm = random_model(kind)
    ids = random_ids(lm, 24)
    trace = lv.record_forward(lm, ids[0].tolist())
    theirs = in_transformers(lm)(
        ids, output_attentions=True, output_hidden_states=True, use_cache=True
    )
    for layer in range(lm.config.n_layers):
        weights = torch.tensor(trace.attention_weights[layer].values)
        close(weights, theirs.attentions[layer][0])
        close(torch.tensor(trace.residual_in[layer].values), theirs.hidden_states[layer][0])
        keys = torch.tensor(trace.key_rotated[layer].values).transpose(0, 1)
        close(halves_from_pairs(keys), theirs.past_key_values.layers[layer].keys[0])
        values = torch.tensor(trace.value[layer].values).transpose(0, 1)
        close(values, theirs.past_key_values.layers[layer].values[0])


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_ids_are_those_of_transformers(kind):
    lm = random_model(kind)
    prompt = random_ids(lm, 8)
    theirs = in_transformers(lm).generate(prompt, max_new_tokens=40, do_sample=False)
    assert lv.generate(lm, prompt[0].tolist(), max_new_tokens=40).ids == theirs[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [[1] * 30, [29, 1], [7, 1, 1, 14, 7], [30]])
def test_cached_equals_uncached_however_the_ids_are_split(kind, parts):
    lm = random_model(kind)
    ids = random_ids(lm, 30, batch=2)
    cache = lv.KVCache(lm.config, batch_size=2)
    logits = [lm.model(part, cache=cache) for part in ids.split(parts, dim=1)]
    assert_close(torch.cat(logits, dim=1), lm.model(ids), **LOGITS)


@pytest.mark.parametrize("kind", KINDS)
def test_fused_attention_equals_attention_written_out(kind):
    lm = random_model(kind)
    ids = random_ids(lm, 33)
    fused = lm.model(ids)
    for block in lm.model.blocks:
        block.attention.weights.register_forward_hook(lambda *_: None)
    assert_close(lm.model(ids), fused, **LOGITS)


def test_the_fused_norm_equals_the_norm_written_out():
    norm = RMSNorm(16, 1e-5).requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    x = 3 * torch.randn(2, 5, 16)
    fused = norm(x)
    seen = []
    norm.rms.register_forward_hook(lambda module, args, output: seen.append(output))
    close(norm(x), fused)
    close(seen[0], (x.double() ** 2).mean(-1).add(1e-5).sqrt().float())


def test_rotation_turns_interleaved_pairs_by_position_times_frequency():
    head_dim, theta, position = 6, 100.0, 5
    rotary = RotaryEmbedding(head_dim, theta)
    x = torch.randn(1, 1, 2, head_dim)
    turned = rotate(x, rotary(position, position + 1, x.device))
    for pair in range(head_dim // 2):
        angle = torch.tensor(position * theta ** (-2 * pair / head_dim))
        even, odd = x[..., 2 * pair], x[..., 2 * pair + 1]
        close(turned[..., 2 * pair], even * angle.cos() - odd * angle.sin())
        close(turned[..., 2 * pair + 1], even * angle.sin() + odd * angle.cos())
    close(turned.norm(dim=-1), x.norm(dim=-1))


def test_rotated_products_depend_on_the_offset_alone():
    rotary = RotaryEmbedding(8, 10000.0)
    query, key = torch.randn(2, 1, 1, 1, 8)

    def score(m: int, n: int) -> torch.Tensor:
        at = [rotary(place, place + 1, query.device) for place in (m, n)]
        return (rotate(query, at[0]) * rotate(key, at[1])).sum()

    close(score(9, 4), score(25, 20))
    assert abs(float(score(9, 4) - score(4, 9))) > 1e-3  # the sign of the offset matters


def test_half_precision_keeps_the_rotation_frequencies():
    lm = random_model("gqa")
    before = lm.model.rotary.frequencies.clone()
    lm.model.to(torch.bfloat16)
    assert torch.equal(lm.model.rotary.frequencies, before)
    assert lm.model(random_ids(lm, 5)).dtype == torch.bfloat16


def test_the_causal_mask_is_offset_by_what_is_held():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True] * 4]


def test_a_token_cannot_see_what_comes_after_it():
    lm = random_model("gqa")
    ids = random_ids(lm, 12)
    other = ids.clone()
    other[0, 8] = (other[0, 8] + 1) % lm.config.vocab_size
    before, after = lm.model(ids), lm.model(other)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_the_feed_forward_is_swiglu_and_works_position_by_position():
    feed_forward = FeedForward(random_model().config).requires_grad_(False)
    x = torch.randn(1, 4, 64)
    gate = x @ feed_forward.gate.weight.T
    by_hand = (gate * torch.sigmoid(gate) * (x @ feed_forward.up.weight.T)) @ (
        feed_forward.down.weight.T
    )
    close(feed_forward(x), by_hand)
    close(feed_forward(x[:, 2:3]), by_hand[:, 2:3])


def test_a_tied_output_head_is_the_embedding():
    lm = random_model(tied_embeddings=True)
    assert lm.model.output.weight is lm.model.embedding.weight


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[120]]), "token id 120 is out of range: the vocabulary has ids 0 to 119"),
        (torch.tensor([[3, -1]]), "token id -1 is out of range"),
        (torch.tensor([3]), "shape .batch, position."),
        (torch.zeros(1, 0, dtype=torch.long), "at least one id"),
        (torch.zeros(1, 3), "LongTensor"),
        (torch.zeros(1, 97, dtype=torch.long), "97 positions do not fit the context of 96"),
    ],
)
def test_ids_that_cannot_be_computed_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        random_model().model(ids)


def test_the_model_trains_and_every_weight_gets_a_gradient():
    model = Llama(random_model().config)
    model(torch.zeros(1, 6, dtype=torch.long)).square().mean().backward()
    assert all(weight.grad is not None for weight in model.parameters())
