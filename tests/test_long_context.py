"""Beyond the trained length: rows of stories, the same weights turned otherwise, their loss."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import llama_viz as lv
from llama_viz.training.batches import story_ids
from llama_viz.training.long_context import held_out_rows, loss_by_position, with_positions
from llama_viz.training.stories import tell_story
from tests.reference import in_transformers, random_ids, random_model


def test_rows_are_held_out_stories_end_to_end(family):
    tokenizer = family["gqa"].tokenizer
    rows = held_out_rows(tokenizer, 2, 600)
    assert rows.shape == (2, 600)
    stories = [
        story_ids(tell_story(n, held_out=True, context=600).text, tokenizer) for n in range(9)
    ]
    number = 0
    for row in rows.tolist():
        expected = []
        while len(expected) < 600:
            expected += stories[number]
            number += 1
        assert row == expected[:600]


@pytest.mark.parametrize(("n_rows", "length"), [(0, 5), (5, 0)])
def test_no_rows_are_refused(family, n_rows, length):
    with pytest.raises(ValueError, match="at least 1 row and 1 position, got"):
        held_out_rows(family["gqa"].tokenizer, n_rows, length)


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"theta": 500000.0},
        {"scaling": lv.RopeScaling("linear", 4.0)},
        {"scaling": lv.RopeScaling("llama3", 4.0, original_max_seq_len=96)},
    ],
    ids=["plain", "theta", "linear", "llama3"],
)
def test_the_same_weights_with_other_angles_are_those_of_transformers(way):
    lm = random_model("gqa")
    longer = with_positions(lm, 200, **way)
    sizes = {"max_seq_len": 200, **{f"rope_{name}": value for name, value in way.items()}}
    ids = random_ids(lm, 180)
    theirs = in_transformers(random_model("gqa", **sizes))(ids).logits
    assert_close(longer.model(ids), theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    with pytest.raises(ValueError, match="180 positions do not fit the context of 96"):
        lm.model(ids)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_shared_and_the_model_is_left_as_it_was(tied):
    lm = random_model("mqa", tied_embeddings=tied)
    config, ids = lm.config, random_ids(lm, 40)
    before = lm.model(ids)
    longer = with_positions(lm, 200, theta=500.0)
    ours = dict(lm.model.named_parameters())
    for name, parameter in longer.model.named_parameters():
        assert parameter.data_ptr() == ours[name].data_ptr()
        assert not parameter.requires_grad
    assert (longer.model.output.weight is longer.model.embedding.weight) == tied
    assert lm.config is config
    assert (longer.config.max_seq_len, longer.config.rope_theta) == (200, 500.0)
    assert torch.equal(lm.model(ids), before)


def test_the_same_angles_give_the_same_model():
    lm = random_model("gqa")
    ids = random_ids(lm, 96)
    assert_close(with_positions(lm, 500).model(ids), lm.model(ids), rtol=0, atol=1e-6)


def test_the_loss_at_each_position_is_that_of_its_next_token():
    lm = random_model("gqa")
    ids = random_ids(lm, 30, batch=3)
    losses = loss_by_position(lm.model, ids)
    assert losses.shape == (29,)
    logits = lm.model(ids[:, :-1])
    for position in (0, 7, 28):
        expected = F.cross_entropy(logits[:, position], ids[:, position + 1])
        assert_close(losses[position], expected, rtol=1e-5, atol=1e-5)
