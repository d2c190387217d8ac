"""The training of the embedded models: tokenizer, batches, loop, scores, and what is stored."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llama_viz.checkpoints.native import load_native
from llama_viz.files import data_folder, measurement
from llama_viz.tokenizer import Tokenizer
from llama_viz.training.__main__ import main
from llama_viz.training.batches import answer_mask, batch, nonsense, story_ids
from llama_viz.training.card import over_seeds, write_card
from llama_viz.training.evaluation import HeldOut, recall_curves
from llama_viz.training.loop import Trainer, train, write_table
from llama_viz.training.recipes import (
    EMBEDDED,
    GROUPS,
    RECIPES,
    REHEARSAL_LENGTH,
    SEEDS,
    Recipe,
    group_of,
)
from llama_viz.training.store import digest, read_csv, read_runs, run_name, spread_over_fall
from llama_viz.training.stories import tell_story
from llama_viz.training.tokenizer import train_tokenizer
from llama_viz.training.variants import FEED_FORWARDS, NORMS, build, pool_heads

DATA = data_folder()
KINDS = ("mha", "gqa", "mqa")
TINY = Recipe(
    n_kv_heads=2, n_layers=1, n_heads=4, dim=32, hidden_dim=64, steps=12, rows=2, row_length=48,
    warmup_steps=3,
)  # fmt: skip
QUIET = {"progress": False, "n_held_out": 2, "log_every": 1, "evaluate_every": 6}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(DATA / "tokenizer.model")


# The tokenizer.


def test_the_tokenizer_is_made_again_byte_by_byte(tokenizer):
    again = train_tokenizer(RECIPES["mha"].vocab_size)
    assert again.model == train_tokenizer(RECIPES["mha"].vocab_size).model
    assert again.model == tokenizer.model


@pytest.mark.parametrize(
    "text",
    [
        tell_story(0).text,
        "Dan loves ice cream",
        "  two spaces, before and within  and after  ",
        "a\nnew line\tand a tab\r\n",
        "nul \x00 inside",
        "emoji 😀👩‍👩‍👧",
        "שלום وسلام",
        "<s> </s> <unk> <0x41> [INST]",
        "Dan älskar glass. e\u0301 is not é, ﬁ is not fi",
    ],
)
def test_any_text_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_typed_control_symbols_stay_text(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    ids = tokenizer.encode("<s> and </s> and <unk>")
    assert ids[0] == 1
    assert not {0, 1, 2} & set(ids[1:])


def test_names_are_short_in_tokens_and_stories_fit_the_context(tokenizer):
    assert len(tokenizer.encode("Grandma")) == 2  # BOS and the name
    assert len(tokenizer.encode("Once there was a girl named Lily.")) == 9
    lengths = [len(story_ids(tell_story(number).text, tokenizer)) for number in range(1000)]
    assert max(lengths) <= RECIPES["mha"].max_seq_len
    assert 80 < sum(lengths) / len(lengths) < 160
    full = [tell_story(number, n_facts=8, held_out=True).text for number in range(500)]
    assert max(len(story_ids(text, tokenizer)) for text in full) <= RECIPES["mha"].max_seq_len
    long = [tell_story(number, context=512).text for number in range(300)]
    assert max(len(story_ids(text, tokenizer)) for text in long) <= 512


def test_an_impossible_vocabulary_is_refused():
    with pytest.raises(ValueError, match="no tokenizer of 200 tokens"):
        train_tokenizer(200, n_stories=20)


# The recipes.


def test_the_recipes_differ_in_key_value_heads_alone():
    assert [RECIPES[kind].config.attention_kind for kind in KINDS] == ["MHA", "GQA", "MQA"]
    assert [RECIPES[kind].n_kv_heads for kind in KINDS] == [8, 2, 1]
    for kind in KINDS:
        assert replace(RECIPES[kind], n_kv_heads=8) == RECIPES["mha"]
        assert RECIPES[kind].config.n_parameters < 1_400_000


def test_recipes_of_a_group_differ_in_what_is_compared():
    for name, recipe in GROUPS["feed-forward"].items():
        assert recipe.feed_forward == name
        assert replace(recipe, feed_forward="swiglu", hidden_dim=256) == RECIPES["swiglu"]
    for name, recipe in GROUPS["normalization"].items():
        assert name == f"{recipe.normalization}-deep"
        assert replace(recipe, normalization="rmsnorm") == RECIPES["rmsnorm-deep"]
    for recipe in GROUPS["uptraining"].values():
        assert recipe.pooled_from == "mha"
        assert recipe.steps == 0.05 * RECIPES["mha"].steps
        assert recipe.first_batch == RECIPES["mha"].steps  # no story a second time
    assert set(SEEDS) == set(GROUPS)
    assert {name: group_of(name) for name in EMBEDDED} == {
        "mha": "attention", "gqa": "attention", "mqa": "attention", "gqa-mean": "uptraining",
    }  # fmt: skip


def test_matched_recipes_have_the_parameters_of_mha():
    wanted = RECIPES["mha"].config.n_parameters
    for recipe in GROUPS["matched"].values():
        assert recipe.config.n_parameters == pytest.approx(wanted, rel=0.001)


def test_feed_forwards_have_equally_many_weights():
    counts = {
        sum(weight.numel() for weight in build(recipe).parameters())
        for recipe in GROUPS["feed-forward"].values()
    }
    assert len(counts) == 1


# The variants.


@pytest.mark.parametrize("kind", FEED_FORWARDS)
def test_a_variant_of_the_feed_forward_computes_its_formula(kind):
    model = build(replace(TINY, feed_forward=kind))
    block = model.blocks[0]
    x = torch.randn(1, 5, TINY.dim, generator=torch.Generator().manual_seed(0))
    formula = {
        "relu": F.relu, "gelu": F.gelu, "swish": F.silu, "glu": torch.sigmoid,
        "bilinear": lambda x: x, "reglu": F.relu, "geglu": F.gelu, "swiglu": F.silu,
    }[kind]  # fmt: skip
    ff = block.feed_forward
    gated = hasattr(ff, "gate")
    assert gated == ("glu" in kind or kind == "bilinear")
    inner = formula(ff.gate(x)) * ff.up(x) if gated else formula(ff.up(x))
    torch.testing.assert_close(ff(x), inner @ ff.down.weight.T, atol=1e-6, rtol=0)
    assert all("bias" not in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("kind", NORMS)
def test_a_variant_of_the_norm_is_in_every_place(kind):
    model = build(replace(TINY, normalization=kind))
    norms = [model.norm, model.blocks[0].attention_norm, model.blocks[0].feed_forward_norm]
    x = torch.randn(3, TINY.dim, generator=torch.Generator().manual_seed(0)) + 1
    wanted = {
        "rmsnorm": lambda x: F.rms_norm(x, (TINY.dim,), eps=1e-5),
        "layernorm": lambda x: F.layer_norm(x, (TINY.dim,)),
        "none": lambda x: x,
    }[kind](x)
    for norm in norms:
        torch.testing.assert_close(norm(x), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward": "mlp"}, "feed_forward 'mlp'.*relu.*swiglu"),
        ({"normalization": "batchnorm"}, "normalization 'batchnorm'.*rmsnorm"),
    ],
)
def test_unknown_variants_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(replace(TINY, **change))


# Pooling.


def heads_of(weight, n_heads):
    return weight.view(n_heads, -1, weight.shape[-1])


@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_pooled_heads_are_means_firsts_or_fresh(n_kv_heads):
    model = build(replace(TINY, n_kv_heads=4))
    pooled = {how: pool_heads(model, n_kv_heads, how) for how in ("mean", "first", "random")}
    for name in ("key", "value"):
        whole = heads_of(getattr(model.blocks[0].attention, name).weight, 4)
        groups = whole.unflatten(0, (n_kv_heads, -1))
        mean, first, fresh = (
            heads_of(getattr(each.blocks[0].attention, name).weight, n_kv_heads)
            for each in pooled.values()
        )
        assert torch.equal(mean, groups.mean(dim=1))
        assert torch.equal(first, groups[:, 0])
        assert fresh.std().item() == pytest.approx(0.02, rel=0.15)
        assert not torch.equal(fresh, first)
    for each in pooled.values():
        assert each.config == replace(model.config, n_kv_heads=n_kv_heads)
        assert torch.equal(each.embedding.weight, model.embedding.weight)
        assert torch.equal(each.blocks[0].attention.query.weight,
                           model.blocks[0].attention.query.weight)  # fmt: skip


def test_pooling_heads_that_are_alike_changes_nothing():
    model = build(replace(TINY, n_kv_heads=4))
    for name in ("key", "value"):
        weight = getattr(model.blocks[0].attention, name).weight
        alike = heads_of(weight.detach(), 4)[::2].repeat_interleave(2, dim=0)
        with torch.no_grad():
            weight.copy_(alike.flatten(0, 1))
    ids = torch.arange(12)[None]
    for how in ("mean", "first"):
        torch.testing.assert_close(
            pool_heads(model, 2, how)(ids), model(ids), atol=1e-5, rtol=0
        )  # fmt: skip


@pytest.mark.parametrize(
    ("n_kv_heads", "how", "message"),
    [
        (3, "mean", "4 key/value heads cannot be pooled into 3"),
        (4, "mean", "cannot be pooled into 4"),
        (2, "median", "pooling 'median'.*mean, first, random"),
    ],
)
def test_impossible_poolings_are_refused(n_kv_heads, how, message):
    with pytest.raises(ValueError, match=message):
        pool_heads(build(replace(TINY, n_kv_heads=4)), n_kv_heads, how)


def test_uptraining_starts_from_the_pooled_model_and_sees_new_stories(tokenizer):
    source = build(replace(TINY, n_kv_heads=4, seed=3))
    recipe = replace(TINY, pooled_from="mha", pooling="mean", first_batch=500)
    trainer = Trainer(recipe, tokenizer, source=source)
    wanted = pool_heads(source, TINY.n_kv_heads, "mean")
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, wanted.state_dict()[name])
    ids = batch(TINY, 500, tokenizer).ids
    logits = trainer.model(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    assert trainer.advance() == pytest.approx(loss, rel=1e-6)
    with pytest.raises(ValueError, match="starts from the trained mha: give it"):
        Trainer(recipe, tokenizer)


def test_the_learning_rate_rises_and_then_falls():
    recipe = replace(TINY, steps=100, warmup_steps=10, final_share=0.1)
    shares = [recipe.schedule(step) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1.0
    assert shares[55] == pytest.approx(0.55)  # half-way down
    assert shares[100] == pytest.approx(0.1)
    assert all(later <= sooner for sooner, later in pairwise(shares[10:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"pooling": "mean"}, "pooled_from and pooling belong together"),
        ({"row_length": 300}, "must fit the context"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"matrix_learning_rate": float("nan")}, "matrix_learning_rate must be above 0"),
        ({"rehearsal_rows": 3}, r"rehearsal_rows must be 0 to rows \(2\), got 3"),
        ({"rehearsal_rows": -1}, "rehearsal_rows must be 0 to"),
        ({"rehearsal_steps": 1, "rows": 1}, "room for a row of 96 tokens, and 1 x 48 are fewer"),
        ({"rehearsal_steps": -1}, "rehearsal_steps must be 0 or more, got -1"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


# The batches.


STORIES = RECIPES["mha"].rehearsal_steps  # the first step that tells any


def test_rows_begin_where_a_story_begins(tokenizer):
    for step in range(STORIES, STORIES + 5):
        rows = batch(RECIPES["mha"], step, tokenizer).ids
        assert rows.shape == (RECIPES["mha"].rows, RECIPES["mha"].row_length + 1)
        assert (rows[:, 0] == tokenizer.bos_id).all()  # the nonsense begins so too


def test_a_row_is_story_after_story(tokenizer):
    row = batch(RECIPES["mha"], STORIES + 3, tokenizer).ids[2].tolist()  # behind the nonsense
    number = ((STORIES + 3) * RECIPES["mha"].rows + 2) * (RECIPES["mha"].row_length + 1)
    stories = [story_ids(tell_story(number + i).text, tokenizer) for i in range(10)]
    assert row == list(chain(*stories))[: len(row)]
    assert stories[0][0] == tokenizer.bos_id
    assert stories[0][-1] == tokenizer.eos_id


def test_all_recipes_see_the_same_data_and_no_row_twice(tokenizer):
    seen = set()
    steps = [*range(3), *range(STORIES, STORIES + 3)]
    for step in steps:
        rows = batch(RECIPES["mha"], step, tokenizer).ids
        for kind in ("gqa", "mqa"):
            assert torch.equal(rows, batch(RECIPES[kind], step, tokenizer).ids)
        seen |= {tuple(row) for row in rows.tolist()}
    assert len(seen) == 3 * RECIPES["mha"].short_rows + 3 * RECIPES["mha"].rows
    other = batch(replace(RECIPES["mha"], seed=1), 0, tokenizer).ids
    assert not torch.equal(batch(RECIPES["mha"], 0, tokenizer).ids, other)


def test_nonsense_repeats_what_it_drew_and_marks_what_can_be_known(tokenizer):
    drawn = set()
    for seed in range(20):
        ids, is_repeat = nonsense(str(seed), 97, tokenizer)
        assert ids[0] == tokenizer.bos_id
        assert len(ids) == len(is_repeat) == 97
        period = is_repeat.index(True) - 1
        assert 8 <= period <= 24
        assert len(set(ids[1 : 1 + period])) == period
        assert ids[1 + period :] == ids[1:-period]
        assert is_repeat == [position > period for position in range(97)]
        assert not any(tokenizer.label(token).startswith("<") for token in ids[1:])
        drawn |= {tuple(ids)}
    assert len(drawn) == 20
    assert nonsense("0", 97, tokenizer) == nonsense("0", 97, tokenizer)


def test_nonsense_alone_at_first_and_beside_the_stories_later(tokenizer):
    recipe = replace(RECIPES["mha"], rehearsal_steps=2, rehearsal_rows=3)
    ids, is_answer = batch(recipe, 1, tokenizer)
    assert ids.shape == (21, REHEARSAL_LENGTH + 1)
    assert recipe.short_rows == 21
    assert is_answer.any(dim=1).all()  # the repeats lead while they are alone
    ids, is_answer = batch(recipe, 2, tokenizer)
    assert ids.shape == (recipe.rows, recipe.row_length + 1)
    for row, answers in zip(ids[:3].tolist(), is_answer[:3], strict=True):
        assert tokenizer.eos_id not in row
        assert not answers.any()
    plain = batch(replace(recipe, rehearsal_rows=0), 2, tokenizer)
    assert torch.equal(ids[3:], plain.ids[3:])  # the other rows' stories stay
    assert torch.equal(is_answer[3:], plain.is_answer[3:])


def test_tokens_are_counted_with_and_without_rehearsal(tokenizer):
    recipe = replace(TINY, rows=4, rehearsal_steps=2)  # 4 rows of 48: two of 96
    counted = [0]
    for step in range(4):
        ids = batch(recipe, step, tokenizer).ids
        counted.append(counted[-1] + ids[:, 1:].numel())
    assert [recipe.tokens(steps) for steps in range(5)] == counted


def test_answers_are_marked_token_by_token(tokenizer):
    for number in range(60):
        story = tell_story(number)
        ids = story_ids(story.text, tokenizer)
        wanted = [False] * len(ids)
        for question in story.questions:
            first = len(tokenizer.encode(question.prompt))
            end = len(tokenizer.encode(question.prompt + question.answer))
            wanted[first:end] = [True] * (end - first)
        assert answer_mask(story, ids, tokenizer) == wanted
    ids, is_answer = batch(RECIPES["swiglu"], 0, tokenizer)
    story = tell_story(0)
    first = answer_mask(story, story_ids(story.text, tokenizer), tokenizer)
    assert is_answer[0, : len(first)].tolist() == first
    assert ids.shape == is_answer.shape


def test_answers_count_more_at_first_and_equally_in_the_end():
    recipe = replace(TINY, steps=100, answer_weight=5.0)
    assert [recipe.weight(step) for step in (0, 50, 65, 80, 99)] == pytest.approx([5, 5, 3, 1, 1])


def test_the_gradient_weighs_answers_and_the_loss_told_does_not(tokenizer):
    trainer = Trainer(replace(TINY, answer_weight=4.0), tokenizer)
    ids, is_answer = batch(TINY, 0, tokenizer)
    logits = trainer.model(ids[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = 1 + 3 * is_answer[:, 1:].flatten()
    name = "blocks.0.attention.query.weight"
    weighted = (losses * weight).sum() / weight.sum()
    (wanted,) = torch.autograd.grad(weighted, [dict(trainer.model.named_parameters())[name]])
    assert trainer.advance() == pytest.approx(losses.mean().item(), rel=1e-6)
    found = dict(trainer.model.named_parameters())[name].grad
    ratio = found / wanted  # clipping scales all alike
    assert ratio.min().item() == pytest.approx(ratio.max().item(), rel=1e-3)


# The loop.


def test_the_loss_falls(tokenizer):
    trainer = Trainer(replace(TINY, steps=60, warmup_steps=5), tokenizer)
    losses = [trainer.advance() for _ in range(60)]
    assert losses[0] == pytest.approx(torch.tensor(1408.0).log().item(), abs=0.1)
    assert sum(losses[-10:]) / 10 < 6.6


def test_every_weight_is_trained_by_one_optimizer(tokenizer):
    trainer = Trainer(TINY, tokenizer)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    for _ in range(3):
        trainer.advance()
    for name, weight in trainer.model.named_parameters():
        assert not torch.equal(weight, before[name]), name
    trained = [id(weight) for optimizer in trainer.optimizers for group in optimizer.param_groups
               for weight in group["params"]]  # fmt: skip
    assert sorted(trained) == sorted(id(weight) for weight in trainer.model.parameters())


def test_a_resumed_run_equals_an_uninterrupted_one(tokenizer, tmp_path):
    whole = Trainer(TINY, tokenizer)
    train(whole, **QUIET)

    first = Trainer(TINY, tokenizer)
    for _ in range(5):
        first.advance()
    torch.save(first.state_dict(), tmp_path / "run.pt")
    second = Trainer(replace(TINY), tokenizer)
    train(second, state=tmp_path / "run.pt", **QUIET)

    assert second.step == TINY.steps
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, dict(second.model.named_parameters())[name])
    # The first five steps were not logged by the loop: they are part of the next row's mean.
    assert [row["train_loss"] for row in second.table[1:]] == [
        row["train_loss"] for row in whole.table[7:]
    ]
    mean = sum(row["train_loss"] for row in whole.table[1:7]) / 6
    assert second.table[0]["train_loss"] == pytest.approx(mean)
    assert second.table[-1]["held_out_loss"] == whole.table[-1]["held_out_loss"]


def test_an_interrupt_saves_the_run_and_loses_no_step(tokenizer, tmp_path, monkeypatch):
    trainer = Trainer(TINY, tokenizer)
    advance = trainer.advance

    def interrupted_at_the_third_step():
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return advance()

    monkeypatch.setattr(trainer, "advance", interrupted_at_the_third_step)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, state=tmp_path / "runs" / "run.pt", **QUIET)
    assert signal.getsignal(signal.SIGINT) is before
    saved = torch.load(tmp_path / "runs" / "run.pt", weights_only=True)
    assert saved["step"] == 3
    assert [row["step"] for row in saved["table"]] == [0, 1, 2, 3]
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "run.pt"]


def test_a_state_of_another_recipe_is_refused(tokenizer, tmp_path):
    torch.save(Trainer(TINY, tokenizer).state_dict(), tmp_path / "run.pt")
    other = Trainer(replace(TINY, learning_rate=1e-3), tokenizer)
    with pytest.raises(ValueError, match=r"another recipe: learning_rate 0.006, not 0.001"):
        train(other, state=tmp_path / "run.pt", **QUIET)


def test_a_tokenizer_of_another_size_is_refused(tokenizer):
    with pytest.raises(ValueError, match="1408 tokens, the recipe 512"):
        Trainer(replace(TINY, vocab_size=512), tokenizer)


def test_bfloat16_trains_the_same_model_roughly(tokenizer):
    exact, rough = (Trainer(TINY, tokenizer, bfloat16=half) for half in (False, True))
    pairs = [(exact.advance(), rough.advance()) for _ in range(5)]
    assert any(one != other for one, other in pairs)
    assert all(one == pytest.approx(other, abs=0.05) for one, other in pairs)


def test_the_table_is_written_with_empty_cells_where_nothing_was_scored(tokenizer, tmp_path):
    trainer = Trainer(replace(TINY, steps=3), tokenizer)
    train(trainer, **QUIET)
    write_table(trainer.table, tmp_path / "losses.csv")
    rows = read_csv(tmp_path / "losses.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["tokens"] for row in rows] == ["0", "96", "192", "288"]
    assert [bool(row["train_loss"]) for row in rows] == [False, True, True, True]
    assert [bool(row["held_out_loss"]) for row in rows] == [True, False, False, True]
    assert float(rows[3]["train_loss"]) == pytest.approx(trainer.table[3]["train_loss"], rel=1e-5)


def test_snapshots_are_the_model_at_their_steps(tokenizer, tmp_path):
    trainer = Trainer(TINY, tokenizer)
    first = trainer.model.embedding.weight.detach().half()
    train(trainer, snapshots=tmp_path, snapshot_every=5, **QUIET)
    names = ["000000", "000005", "000010", "000012"]
    assert sorted(path.stem for path in tmp_path.iterdir()) == names
    stored = [load_native(tmp_path / f"{name}.safetensors").model for name in names]
    assert torch.equal(stored[0].embedding.weight, first)
    assert torch.equal(stored[-1].embedding.weight, trainer.model.embedding.weight.half())


# The scores.


class Echo(torch.nn.Module):
    """Says what follows in its own input, if it looks `ahead`; else repeats what it hears."""

    def __init__(self, config, ahead):
        super().__init__()
        self.config, self.ahead = config, ahead
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids):
        said = torch.cat([ids[:, self.ahead :], ids[:, : self.ahead]], dim=1)
        return 20.0 * F.one_hot(said, self.config.vocab_size)


def test_recall_is_all_for_who_knows_and_nothing_for_who_repeats(tokenizer):
    held_out = HeldOut(tokenizer, 40)
    knows = held_out.score(Echo(TINY.config, 1))
    repeats = held_out.score(Echo(TINY.config, 0))
    assert set(knows.recall.values()) == {1.0}
    assert set(repeats.recall.values()) == {0.0}
    assert knows.asked == repeats.asked
    assert knows.loss < 0.2 < 15 < repeats.loss


def test_answers_are_looked_for_where_they_stand(tokenizer):
    held_out = HeldOut(tokenizer, 60)
    for number in range(60):
        story = tell_story(number, held_out=True)
        assert [
            (asked.kind, tokenizer.decode(held_out.ids[number][asked.first : asked.end]).strip())
            for asked in held_out.questions[number]
        ] == [(question.kind, question.answer.strip()) for question in story.questions]


def test_distances_lead_back_to_where_the_answer_was_told(tokenizer):
    held_out = HeldOut(tokenizer, 60, n_facts=4)
    checked = 0
    for number in range(60):
        for asked in held_out.questions[number]:
            if asked.kind in ("place", "colour"):
                ids = held_out.ids[number]
                answer = tokenizer.decode(ids[asked.first : asked.end]).strip().lower()
                told = tokenizer.decode(ids[asked.first - asked.distance :][:8]).strip().lower()
                assert told.startswith(answer)
                checked += 1
    assert checked > 60


def test_recall_curves_count_by_facts_and_by_distance(tokenizer):
    rows = recall_curves(Echo(TINY.config, 1), tokenizer, 12)
    assert all(row["right"] == row["asked"] > 0 for row in rows)
    by = {name: [row for row in rows if row["by"] == name] for name in ("facts", "distance")}
    assert {row["value"] for row in by["facts"]} == set(range(1, 9))
    assert {row["kind"] for row in by["facts"]} == {"place", "colour", "owner"}
    assert {row["value"] % 25 for row in by["distance"]} == {0}
    assert max(row["value"] for row in by["distance"]) >= 100
    for kind in ("place", "colour"):
        counts = [sum(row["asked"] for row in rows if row["kind"] == kind) for rows in by.values()]
        assert counts[0] == counts[1] > 0
    wrong = recall_curves(Echo(TINY.config, 0), tokenizer, 3)
    assert not any(row["right"] for row in wrong)


def test_the_held_out_loss_is_the_mean_over_all_tokens_of_stories(tokenizer):
    model = Trainer(TINY, tokenizer).model
    held_out = HeldOut(tokenizer, 20)
    losses = []
    for ids in held_out.ids:  # one by one, so without padding
        logits = model(torch.tensor([ids[:-1]]))[0]
        losses.append(F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
    assert held_out.score(model).loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_a_context_too_short_for_the_stories_is_refused(tokenizer):
    model = Trainer(replace(TINY, max_seq_len=64), tokenizer).model
    with pytest.raises(ValueError, match="does not fit the model's context of 64"):
        HeldOut(tokenizer, 5).score(model)


# What is stored.

RUNS = read_runs(DATA)
BY_RUN = {run_name(run["name"], run["recipe"]["seed"]): run for run in RUNS}


def test_the_embedded_models_are_stored():
    assert {run_name(kind, 0) for kind in KINDS} <= set(BY_RUN)


@pytest.mark.parametrize("run", BY_RUN)
def test_the_digests_are_those_of_the_files(run):
    card = (DATA / "README.md").read_text()
    for name, recorded in BY_RUN[run]["sha256"].items():
        assert digest(DATA / name) == recorded, name
        if name.endswith(".safetensors"):
            assert f"| `{name}` | `{recorded}` |" in card


def test_the_tables_and_the_card_are_written_from_the_stored_facts(tmp_path):
    shutil.copytree(DATA / "training", tmp_path / "training")
    for name in ("results.csv", "recall.csv"):
        (tmp_path / "training" / name).unlink()
    assert write_card(tmp_path).read_text() == (DATA / "README.md").read_text()
    for name in ("results.csv", "recall.csv"):
        stored = (DATA / "training" / name).read_text()
        assert (tmp_path / "training" / name).read_text() == stored


def test_the_card_says_what_every_folder_holds_and_what_wrote_it():
    card = (DATA / "README.md").read_text()
    for folder in filter(Path.is_dir, DATA.iterdir()):
        assert f"`{folder.name}/`" in card, folder.name
    beside = card.partition("## What lies beside the models")[2].partition("\n## ")[0]
    for command in re.findall(r"`python ([\w/.]+)", beside):
        assert (DATA.parent / command).exists() or command == "benchmarks/NAME.py"
    for path in (DATA / "measurements").iterdir():
        command = json.loads(path.read_text())["command"]
        assert (DATA.parent / command.split()[1]).exists(), path.name
        assert f"`{re.sub(r'benchmarks/[a-z_]+', 'benchmarks/NAME', command)}`" in beside, path.name


def test_the_tables_hold_every_run():
    results = read_csv(DATA / "training" / "results.csv")
    assert [row["run"] for row in results] == list(BY_RUN)
    for row in results:
        facts = BY_RUN[row["run"]]
        assert float(row["held_out_loss"]) == pytest.approx(facts["held_out_loss"], abs=1e-5)
        assert int(row["right_place"]) == facts["right"]["place"]
    curves = read_csv(DATA / "training" / "recall.csv")
    assert {row["run"] for row in curves} == set(BY_RUN)


def test_a_card_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run is stored"):
        write_card(tmp_path)


def test_a_spread_is_written_where_there_are_several_seeds():
    assert over_seeds([0.25], lambda value: f"{value:.2f}") == "0.25"
    assert over_seeds([0.2, 0.4, 0.3], lambda value: f"{value:.1f}") == "0.3 (0.2 to 0.4)"
    assert over_seeds([], str) == ""


@pytest.mark.parametrize("run", BY_RUN)
def test_stored_runs_follow_the_recipes(run):
    facts = BY_RUN[run]
    recipe = replace(RECIPES[facts["name"]], seed=facts["recipe"]["seed"])
    assert facts["recipe"] == recipe.to_dict()  # field by field: a new one has no silent default
    assert facts["group"] == group_of(facts["name"])
    rows = read_csv(DATA / "training" / "losses" / f"{run}.csv")
    assert int(rows[0]["step"]) == 0
    assert int(rows[-1]["step"]) == recipe.steps
    assert float(rows[-1]["train_loss"]) == pytest.approx(facts["train_loss"], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_models_are_those_of_the_recipes(kind):
    stored = load_native(DATA / f"{kind}.safetensors")
    assert stored.model.config == RECIPES[kind].config
    assert stored.model.embedding.weight.dtype == torch.float16
    assert json.loads(stored.metadata["recipe"]) == RECIPES[kind].to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_scores_as_its_table_says(kind, tokenizer):
    last = read_csv(DATA / "training" / "losses" / f"{run_name(kind, 0)}.csv")[-1]
    model = load_native(DATA / f"{kind}.safetensors", dtype=torch.float32).model
    score = HeldOut(tokenizer, 100).score(model)  # as many stories as during training
    # The table was made before the weights were rounded to half precision.
    assert score.loss == pytest.approx(float(last["held_out_loss"]), abs=3e-3)
    for name, share in score.recall.items():
        off_by = abs(share - float(last[f"recall_{name}"])) * score.asked[name]
        assert off_by < 2.5, name  # answers


def test_the_stored_facts_agree_with_the_table():
    for kind in KINDS:
        facts = BY_RUN[run_name(kind, 0)]
        last = read_csv(DATA / "training" / "losses" / f"{run_name(kind, 0)}.csv")[-1]
        assert facts["held_out_loss"] == pytest.approx(float(last["held_out_loss"]), rel=0.03)
        for name in ("place", "colour", "owner"):
            share = facts["right"][name] / facts["asked"][name]
            assert share == pytest.approx(float(last[f"recall_{name}"]), abs=0.15)


def test_the_first_steps_were_taken_again_with_the_same_losses():
    again = measurement("retraining")
    assert again["steps"] == 200
    assert again["compared"] >= 20
    assert again["losses"] == digest(DATA / "training" / "losses" / f"{again['run']}.csv")
    assert again["largest_difference"] < 1e-3


def test_the_data_folder_is_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 40e6


def test_snapshots_are_spread_over_the_fall():
    losses = {step: 7.0 if step < 500 else 2.0 - step / 1e6 for step in range(0, 3001, 100)}
    chosen = spread_over_fall(losses, 6)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 3000, 6)
    assert 400 in chosen or 500 in chosen
    assert chosen == sorted(set(chosen))
    assert spread_over_fall({0: 7.0, 10: 6.0}, 5) == [0, 10]
    at_once = dict.fromkeys(range(0, 3001, 100), 1.0) | {0: 7.0}
    assert 100 in spread_over_fall(at_once, 4)  # the fall of the very first steps counts, too
    # Another text from step 1000 on: both falls are kept, also the one that ends no lower.
    twice = dict.fromkeys(range(0, 3001, 100), 1.0)
    twice |= dict.fromkeys(range(0, 500, 100), 7.0) | {1100: 8.0, 1200: 4.0, 1300: 2.0}
    chosen = spread_over_fall(twice, 10, 1000)
    assert {400, 500} & set(chosen)
    assert len({1100, 1200, 1300, 1400} & set(chosen)) >= 2


# The command.


def test_the_command_trains_and_stores_a_model(tmp_path, capsys):
    shutil.copy(DATA / "tokenizer.model", tmp_path)
    few = ["--steps", "2", "--held-out", "3", "--curve", "2", "--samples", "1"]
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(["gqa", *few, *places]) == 0
    facts = json.loads((tmp_path / "training" / "runs" / "gqa-seed0.json").read_text())
    assert facts["command"] == "python -m llama_viz.training gqa --seed 0 --steps 2"
    stored = load_native(tmp_path / "gqa.safetensors").model
    assert stored.config.n_kv_heads == 2
    assert {weight.dtype for weight in stored.parameters()} == {torch.float16}
    assert facts["parameters"] == stored.config.n_parameters
    assert [snapshot["step"] for snapshot in facts["snapshots"]] == [0, 2]
    assert all((tmp_path / snapshot["file"]).exists() for snapshot in facts["snapshots"])
    assert not list((tmp_path / "runs").glob("*.pt"))  # nothing is left to resume
    # Another seed adds to the tables, and stores no model.
    assert main(["mqa", "--seed", "5", *few, *places]) == 0
    assert not (tmp_path / "mqa.safetensors").exists()
    runs = [row["run"] for row in read_csv(tmp_path / "training" / "results.csv")]
    assert runs == ["gqa-seed0", "mqa-seed5"]
    card = (tmp_path / "README.md").read_text()
    assert "`gqa`" in card
    assert "`mqa`" in card
    assert "held-out loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mla"], "nothing here is called 'mla'; choose from tokenizer, card, attention, matched"),
        (["mha", "--steps", "0"], "steps must be at least 1"),
        (["mha", "--threads", "0"], "threads must be at least 1"),
        (["card"], "no run is stored"),
        (["gqa-mean"], "gqa-mean starts from"),
    ],
)
def test_bad_requests_get_one_clear_line(argv, message, tmp_path, capsys):
    shutil.copy(DATA / "tokenizer.model", tmp_path)
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main([*argv, *places]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
