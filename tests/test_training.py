"""The training of the embedded models: tokenizer, batches, loop, scores, and what is stored."""

import csv
import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
import torch.nn.functional as F

from llama_viz.checkpoints.native import load_native
from llama_viz.files import data_folder
from llama_viz.tokenizer import Tokenizer
from llama_viz.training.__main__ import main
from llama_viz.training.batches import batch, story_ids
from llama_viz.training.evaluation import HeldOut
from llama_viz.training.loop import Trainer, train, write_table
from llama_viz.training.recipes import RECIPES, Recipe
from llama_viz.training.store import digest, write_card
from llama_viz.training.stories import tell_story
from llama_viz.training.tokenizer import train_tokenizer

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


def read_table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


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
    lengths = [len(story_ids(tell_story(number).text, tokenizer)) for number in range(1000)]
    assert max(lengths) <= RECIPES["mha"].max_seq_len
    assert 80 < sum(lengths) / len(lengths) < 160


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
        ({"row_length": 300}, "must fit the context"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"matrix_learning_rate": float("nan")}, "matrix_learning_rate must be above 0"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


# The batches.


def test_rows_begin_where_a_story_begins(tokenizer):
    for step in range(5):
        rows = batch(RECIPES["mha"], step, tokenizer)
        assert rows.shape == (RECIPES["mha"].rows, RECIPES["mha"].row_length + 1)
        assert (rows[:, 0] == tokenizer.bos_id).all()


def test_a_row_is_story_after_story(tokenizer):
    row = batch(RECIPES["mha"], 3, tokenizer)[2].tolist()
    number = (3 * RECIPES["mha"].rows + 2) * (RECIPES["mha"].row_length + 1)
    stories = [story_ids(tell_story(number + i).text, tokenizer) for i in range(10)]
    assert row == list(chain(*stories))[: len(row)]
    assert stories[0][0] == tokenizer.bos_id
    assert stories[0][-1] == tokenizer.eos_id


def test_all_recipes_see_the_same_data_and_no_row_twice(tokenizer):
    seen = set()
    for step in range(6):
        rows = batch(RECIPES["mha"], step, tokenizer)
        for kind in ("gqa", "mqa"):
            assert torch.equal(rows, batch(RECIPES[kind], step, tokenizer))
        seen |= {tuple(row) for row in rows.tolist()}
    assert len(seen) == 6 * RECIPES["mha"].rows
    other = batch(replace(RECIPES["mha"], seed=1), 0, tokenizer)
    assert not torch.equal(batch(RECIPES["mha"], 0, tokenizer), other)


# The loop.


def test_the_loss_falls(tokenizer):
    trainer = Trainer(replace(TINY, steps=60, warmup_steps=5), tokenizer)
    losses = [trainer.advance() for _ in range(60)]
    assert losses[0] == pytest.approx(torch.tensor(768.0).log().item(), abs=0.1)
    assert sum(losses[-10:]) / 10 < 5.5


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
        row["train_loss"] for row in whole.table[6:]
    ]
    mean = sum(row["train_loss"] for row in whole.table[:6]) / 6
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
    assert [row["step"] for row in saved["table"]] == [1, 2, 3]
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "run.pt"]


def test_a_state_of_another_recipe_is_refused(tokenizer, tmp_path):
    torch.save(Trainer(TINY, tokenizer).state_dict(), tmp_path / "run.pt")
    other = Trainer(replace(TINY, learning_rate=1e-3), tokenizer)
    with pytest.raises(ValueError, match=r"another recipe: learning_rate 0.003, not 0.001"):
        train(other, state=tmp_path / "run.pt", **QUIET)


def test_a_tokenizer_of_another_size_is_refused(tokenizer):
    with pytest.raises(ValueError, match="768 tokens, the recipe 512"):
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
    rows = read_table(tmp_path / "losses.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [row["tokens"] for row in rows] == ["96", "192", "288"]
    assert [bool(row["held_out_loss"]) for row in rows] == [False, False, True]
    assert float(rows[2]["train_loss"]) == pytest.approx(trainer.table[2]["train_loss"], rel=1e-5)


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
            (kind, tokenizer.decode(held_out.ids[number][first:end]).strip())
            for kind, first, end in held_out.answers[number]
        ] == [(question.kind, question.answer) for question in story.questions]


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


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_names_the_files_that_are_stored(kind):
    facts = json.loads((DATA / "training" / f"{kind}.json").read_text())
    card = (DATA / "README.md").read_text()
    assert f"{kind}.safetensors" in facts["sha256"]
    for name, recorded in facts["sha256"].items():
        assert digest(DATA / name) == recorded, name
        assert f"| `{name}` | `{recorded}` |" in card


def test_the_card_is_written_from_the_stored_facts(tmp_path):
    shutil.copytree(DATA / "training", tmp_path / "training")
    assert write_card(tmp_path).read_text() == (DATA / "README.md").read_text()


def test_a_card_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run is stored"):
        write_card(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_models_are_those_of_the_recipes(kind, tokenizer):
    facts = json.loads((DATA / "training" / f"{kind}.json").read_text())
    stored = load_native(DATA / f"{kind}.safetensors")
    recipe = replace(RECIPES[kind], steps=facts["recipe"]["steps"])
    assert facts["recipe"] == recipe.to_dict()  # field by field: a new one has no silent default
    assert stored.model.config == recipe.config
    assert stored.model.embedding.weight.dtype == torch.float16
    assert json.loads(stored.metadata["recipe"]) == facts["recipe"]
    rows = read_table(DATA / "training" / f"{kind}.csv")
    assert int(rows[-1]["step"]) == recipe.steps
    assert float(rows[-1]["train_loss"]) == pytest.approx(facts["train_loss"], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_scores_as_its_table_says(kind, tokenizer):
    last = read_table(DATA / "training" / f"{kind}.csv")[-1]
    model = load_native(DATA / f"{kind}.safetensors", dtype=torch.float32).model
    score = HeldOut(tokenizer, 100).score(model)  # as many stories as during training
    # The table was made before the weights were rounded to half precision.
    assert score.loss == pytest.approx(float(last["held_out_loss"]), abs=3e-3)
    for name, share in score.recall.items():
        off_by = abs(share - float(last[f"recall_{name}"])) * score.asked[name]
        assert off_by < 2.5, name  # answers


def test_the_stored_runs_differ_in_key_value_heads_alone():
    recipes = [
        json.loads((DATA / "training" / f"{kind}.json").read_text())["recipe"] for kind in KINDS
    ]
    assert [recipe.pop("n_kv_heads") for recipe in recipes] == [8, 2, 1]
    assert recipes[0] == recipes[1] == recipes[2]


def test_the_card_scores_agree_with_the_table():
    for kind in KINDS:
        facts = json.loads((DATA / "training" / f"{kind}.json").read_text())
        last = read_table(DATA / "training" / f"{kind}.csv")[-1]
        assert facts["held_out_loss"] == pytest.approx(float(last["held_out_loss"]), rel=0.03)
        for name in ("place", "colour", "owner"):
            share = facts["right"][name] / facts["asked"][name]
            assert share == pytest.approx(float(last[f"recall_{name}"]), abs=0.15)


# The command.


def test_the_command_trains_and_stores_a_model(tmp_path, capsys):
    shutil.copy(DATA / "tokenizer.model", tmp_path)
    small = ["mqa", "--steps", "2", "--held-out", "3", "--seed", "5"]
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main([*small, *places]) == 0
    facts = json.loads((tmp_path / "training" / "mqa.json").read_text())
    assert facts["command"] == "python -m llama_viz.training mqa --seed 5 --steps 2"
    assert facts["recipe"]["seed"] == 5
    stored = load_native(tmp_path / "mqa.safetensors").model
    assert stored.config.n_kv_heads == 1
    assert {weight.dtype for weight in stored.parameters()} == {torch.float16}
    assert "mqa" in (tmp_path / "README.md").read_text()
    assert not list((tmp_path / "runs").iterdir())  # nothing is left to resume
    assert "held-out loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mla"], "nothing here is called 'mla'; choose from tokenizer, mha, gqa, mqa, card"),
        (["mha", "--steps", "0"], "steps must be at least 1"),
        (["mha", "--threads", "0"], "threads must be at least 1"),
        (["card"], "no run is stored"),
    ],
)
def test_bad_requests_get_one_clear_line(argv, message, tmp_path, capsys):
    shutil.copy(DATA / "tokenizer.model", tmp_path)
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main([*argv, *places]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
