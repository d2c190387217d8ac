"""The training explorer without a browser: snapshots of tiny models against what they really do."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import analysis
from llama_viz.checkpoints.native import save_native
from llama_viz.tokenizer import Tokenizer
from llama_viz.widgets import TrainingExplorer, training, training_snapshots
from tests.reference import n_hooks, random_model
from tests.test_explorer import answer, unpacked
from tests.vocabularies import sentence_piece_model

STEPS = (0, 10, 40, 200)
PROMPT = "Once upon a time. Once upon"
HOSTILE = "<s> <img src=x onerror=alert(1)> $x$ &amp; the the\nשלום 🙂"
TABLE = """\
step,tokens,train_loss,held_out_loss,recall_place,recall_colour
10,200,5.5,,,
20,400,4.25,4.5,0.1,0.2
200,4000,1.5,1.75,0.9,
"""


def tiny_model(seed=0, **sizes):
    tokenizer = Tokenizer.from_bytes(sentence_piece_model())
    lm = random_model(
        "gqa", seed=seed, vocab_size=tokenizer.vocab_size, n_layers=2, n_heads=4, **sizes
    )
    return dataclasses.replace(lm, tokenizer=tokenizer, name=f"seed {seed}")


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in range(len(STEPS))]


@pytest.fixture
def data(models, tmp_path):
    """A data folder as training leaves it: snapshots, the tokenizer above them, losses."""
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "training" / "losses").mkdir(parents=True)
    (tmp_path / "tokenizer.model").write_bytes(sentence_piece_model())
    for step, lm in zip(STEPS, models, strict=True):
        save_native(lm.model, tmp_path / "snapshots" / f"gqa-{step:06d}.safetensors")
    (tmp_path / "training" / "losses" / "gqa-seed0.csv").write_text(TABLE)
    return tmp_path


@pytest.fixture
def losses(data):
    return data / "training" / "losses" / "gqa-seed0.csv"


@pytest.fixture
def explorer(data, losses):
    explorer = TrainingExplorer(
        training_snapshots(data=data), losses, prompt=PROMPT, max_new_tokens=6
    )
    yield explorer
    explorer.close()


# The data


def test_stored_snapshots_come_in_the_order_of_their_steps(data):
    (data / "snapshots" / "gqa-1000000.safetensors").write_bytes(b"")
    (data / "snapshots" / "gqa-notes.safetensors").write_bytes(b"")
    (data / "snapshots" / "mha-000007.safetensors").write_bytes(b"")
    found = training_snapshots(data=data)
    assert [step for step, _ in found] == [*STEPS, 1_000_000]
    assert found[2][1] == data / "snapshots" / "gqa-000040.safetensors"
    assert [step for step, _ in training_snapshots("mha", data)] == [7]
    with pytest.raises(lv.CheckpointError, match="holds no snapshots named mqa-<step>"):
        training_snapshots("mqa", data)
    with pytest.raises(lv.CheckpointError, match="nowhere"):
        training_snapshots(data=data / "nowhere")


def test_without_arguments_it_opens_the_projects_own_run(data, monkeypatch):
    monkeypatch.setattr(training, "data_folder", lambda: data)
    explorer = TrainingExplorer(prompt=PROMPT, max_new_tokens=2)
    assert explorer.steps == list(STEPS)
    assert explorer.losses["train_loss"] == [5.5, 4.25, 1.5]
    assert TrainingExplorer(max_new_tokens=1).prompt_ids  # its own prompt
    monkeypatch.setattr(training, "data_folder", lambda: data / "nowhere")
    with pytest.raises(lv.CheckpointError, match="give snapshots="):
        TrainingExplorer()


def test_a_snapshot_is_read_when_it_is_asked_for(explorer, models, monkeypatch):
    opened = []
    real = training.load
    monkeypatch.setattr(
        training, "load", lambda path, **kwargs: opened.append(path.stem) or real(path, **kwargs)
    )
    content, buffers = answer(explorer, "content")
    readings = content["header"]["readings"]
    assert [reading is not None for reading in readings] == [False, False, False, True]
    assert {name.split()[-1] for name in unpacked(content["arrays"], buffers)} == {"3"}
    for _ in range(2):
        answer(explorer, "snapshot", number=1)
    assert opened == ["gqa-000010"]
    content, _ = answer(explorer, "content")
    assert [reading is not None for reading in content["header"]["readings"]] == [
        False, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(STEPS)))
def test_what_the_page_gets_is_what_the_snapshot_does(explorer, models, number):
    lm = models[number]
    ids = lm.encode(PROMPT)
    content, buffers = answer(explorer, "snapshot", number=number)
    header, arrays = content["header"], unpacked(content["arrays"], buffers)
    trace = lv.record_forward(lm, ids)
    weights = trace["attention_weights"].values
    np.testing.assert_allclose(arrays["attention"], weights, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(arrays["kinds"], analysis.head_kinds(trace).values, rtol=1e-4)
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids]))[0].double()
    likely = logits.softmax(-1).topk(training.N_CANDIDATES)
    np.testing.assert_allclose(arrays["candidate_probability"], likely.values, rtol=1e-3, atol=1e-6)
    assert header["candidates"][4] == [lm.label(i) for i in likely.indices[4].tolist()]
    nats = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    assert header["loss"]["nats"] == pytest.approx(float(nats), rel=1e-4)
    written = lv.generate(lm, ids, 6)
    assert [token["id"] for token in header["tokens"]] == written.new_ids
    assert explorer.reading(number).text == written.text
    assert n_hooks(lm.model) == 0


def test_scores_of_kinds_are_labelled_by_step(explorer):
    explorer.reading(1)
    kinds = explorer.kinds
    assert kinds.dims == ("step", "kind", "layer", "head")
    assert kinds["step"].values.tolist() == [10, 200]
    assert explorer.revision == 0
    explorer.read_all()
    assert explorer.kinds["step"].values.tolist() == list(STEPS)
    assert explorer.revision == 1
    induction = explorer.kinds.sel(kind="induction").values[-1]
    layer, head = np.unravel_index(induction.argmax(), induction.shape)
    assert (explorer.state["layer"], explorer.state["head"]) == (layer, head)


def test_all_snapshots_pass_the_same_ids(models):
    explorer = TrainingExplorer(
        list(zip(STEPS, models, strict=True)), prompt=[1, 7, 9, 7, 9], max_new_tokens=2
    )
    header, arrays = explorer.content(whole=True)
    assert [token["id"] for token in header["tokens"]] == [1, 7, 9, 7, 9]
    assert all(arrays[f"attention {n}"].stored.shape == (2, 4, 5, 5) for n in range(4))
    assert header["losses"] == {}
    assert explorer.still().startswith(b"\x89PNG")


def test_hostile_texts_travel_as_they_are(models):
    explorer = TrainingExplorer([(0, models[0])], prompt=HOSTILE, max_new_tokens=2)
    content, _ = answer(explorer, "content")
    labels = [token["label"] for token in content["header"]["tokens"]]
    assert labels == [models[0].label(i) for i in models[0].encode(HOSTILE)]


def test_a_full_context_leaves_a_short_text(recwarn):
    lm = tiny_model(max_seq_len=12)
    explorer = TrainingExplorer([(5, lm)], prompt=[1] * 12)
    assert len(explorer.reading(0).tokens) == 1
    assert not [one for one in recwarn if "context" in str(one.message)]


# Losses


def test_losses_keep_what_was_measured(losses):
    table = training.read_losses(losses)
    assert table == {
        "step": [10, 20, 200],
        "train_loss": [5.5, 4.25, 1.5],
        "held_out_loss": [None, 4.5, 1.75],
        "recall_place": [None, 0.1, 0.9],
        "recall_colour": [None, 0.2, None],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step,train_loss\n1,2\n2,x\n", "line 3: train_loss is 'x', expected a number"),
        ("step,train_loss\n,2\n", "line 2: there is no step"),
        ("a,b\n1,2\n", "has the columns a, b; expected step and any of train_loss"),
        ("step\n1\n", "has the columns step; expected step and any"),
        ("", "has the columns of nothing"),
        ("step,train_loss\n", "the table of losses is empty"),
    ],
)
def test_losses_that_cannot_be_read_say_why(tmp_path, text, words):
    path = tmp_path / "losses.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)):
        training.read_losses(path)
    with pytest.raises(ValueError, match="there is no such table"):
        training.read_losses(tmp_path / "none.csv")


def test_a_loss_that_is_not_finite_is_not_drawn(tmp_path):
    path = tmp_path / "losses.csv"
    path.write_text("step,train_loss\n1,nan\n2,inf\n3,1.5\n")
    assert training.read_losses(path)["train_loss"] == [None, None, 1.5]


# What is wrong


def test_wrong_snapshots_are_refused(models, data):
    lm = models[0]
    for snapshots, words in (
        ([], "give at least one snapshot"),
        ([lm], "a snapshot is a pair of a step and a checkpoint"),
        ([("1", lm)], "a snapshot is a pair"),
        ([(5, lm), (5, lm)], "must grow from 0 or more, got [5, 5]"),
        ([(5, lm), (2, lm)], "must grow"),
        ([(-1, lm)], "must grow"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            TrainingExplorer(snapshots)
    with pytest.raises(lv.CheckpointError, match="no such file"):
        TrainingExplorer([(0, data / "none.safetensors")])


def test_snapshots_of_two_runs_are_refused_in_one_line(models):
    explorer = TrainingExplorer(
        [(0, tiny_model(max_seq_len=96, head_dim=8, n_kv_heads=2)), (1, models[0])],
        prompt=PROMPT, max_new_tokens=1,
    )  # fmt: skip
    other = random_model("gqa", n_layers=3, n_heads=4, vocab_size=models[0].config.vocab_size)
    explorer.snapshots[0] = (0, dataclasses.replace(other, tokenizer=models[0].tokenizer))
    content, _ = answer(explorer, "snapshot", number=0)
    assert content["error"].startswith("the snapshot of step 0 has 3 layers, 4 heads and 340")


def test_without_a_tokenizer_ids_are_needed(models, data):
    (data / "tokenizer.model").unlink()
    snapshots = training_snapshots(data=data)
    with pytest.raises(ValueError, match="has no tokenizer to encode text"):
        TrainingExplorer(snapshots)
    explorer = TrainingExplorer(snapshots, prompt=[3, 4, 5], max_new_tokens=3)
    assert explorer.tokens[1]["label"] == "4"
    assert len(explorer.reading(3).text.split()) == 3
    path = data / "elsewhere.model"
    path.write_bytes(sentence_piece_model())
    assert TrainingExplorer(snapshots, tokenizer=path, max_new_tokens=1).prompt_ids[0] == 1


def test_a_wrong_state_lists_what_there_is(explorer):
    for state, words in (
        ({"snapshot": 4}, "from 0 to 3, got 4"),
        ({"kind": "next"}, "unknown kind 'next'. Choose from: previous, first, induction"),
        ({"log_steps": 1}, "unknown log_steps 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            explorer.show(**state)


# Without a kernel


def test_a_saved_page_holds_every_snapshot(explorer, tmp_path):
    path = tmp_path / "page.html"
    explorer.save(path)
    text = path.read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])
    assert all(content["header"]["readings"])
    assert sum("attention" in spec["name"] for spec in content["arrays"]) == len(STEPS)


def test_the_picture_and_its_words_follow_the_state(explorer):
    explorer.read_all()
    before = explorer.still()
    explorer.show(snapshot=1, kind="previous")
    assert explorer.still() != before
    words = explorer.describe()
    assert "4 snapshots, step 0 to 200" in words
    assert "Held-out loss: from 4.50 to 1.75 nats." in words
    assert repr(explorer.reading(1).text) in words


def test_the_models_given_stay_as_they_were(models):
    before = copy.deepcopy(models[0].model.state_dict())
    TrainingExplorer([(0, models[0])], prompt=PROMPT, max_new_tokens=2).read_all()
    for name, value in models[0].model.state_dict().items():
        assert torch.equal(before[name], value)
