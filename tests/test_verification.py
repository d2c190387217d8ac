"""lv.verify: agreement where there is agreement, and a difference where there is one."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import llama_viz as lv
from tests.folders import ROPE_SCALINGS, random_in_transformers, save_meta
from tests.reference import random_model
from tests.written import write_gguf


@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
def test_a_hugging_face_folder_agrees(tmp_path, scaling):
    random_in_transformers("gqa", scaling).save_pretrained(tmp_path / "small")
    table = lv.verify(tmp_path / "small")
    assert table.ok, str(table)
    assert table.weights_read_by == "transformers"
    assert table.n_agreed == table.n_tokens == 64
    quantities = [one.quantity for one in table.comparisons]
    assert quantities[0] == "embedding"
    assert quantities[-1] == "logits"
    assert len(quantities) == 2 + 2 * 3
    assert "agrees with transformers" in str(table)
    by_layer = table.by_layer()
    assert {kind: len(shares) for kind, shares in by_layer.items()} == {
        "attention weights": 3, "hidden state": 3,
    }  # fmt: skip
    hidden = [one for one in table.comparisons if one.quantity.startswith("hidden state")]
    expected = [one.difference / (one.tolerance / 1e-5) for one in hidden]
    assert by_layer["hidden state"] == pytest.approx(expected)
    assert str(table).count("\n") == len(quantities) + 2


def test_what_transformers_cannot_read_is_computed_there(tmp_path, monkeypatch):
    lm = random_model("mqa")
    lv.save_checkpoint(lm, tmp_path / "small.safetensors")
    write_gguf(lm, tmp_path / "small.gguf")
    ours, gguf = tmp_path / "small.safetensors", tmp_path / "small.gguf"
    monkeypatch.setattr("llama_viz.checkpoints.verification.find_spec", lambda name: None)
    for path in (ours, gguf, save_meta(lm, tmp_path / "small")):
        table = lv.verify(str(path), n_tokens=8)
        assert table.ok, str(table)
        assert table.weights_read_by == "llama_viz"
        assert table.n_tokens == 8


def test_nothing_but_the_table_is_written(tmp_path, capfd):
    from transformers.utils import logging

    random_in_transformers("gqa").save_pretrained(tmp_path / "small")
    capfd.readouterr()
    lv.verify(tmp_path / "small", n_tokens=2)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_a_short_context_is_filled(tmp_path):
    random_in_transformers("gqa", max_position_embeddings=20).save_pretrained(tmp_path / "small")
    table = lv.verify(tmp_path / "small")
    assert table.ok, str(table)
    assert table.n_tokens == 10


def test_a_difference_is_found_and_shown(tmp_path, monkeypatch):
    random_in_transformers("gqa").save_pretrained(tmp_path / "small")
    from llama_viz.checkpoints import verification

    def load_wrong(path, **options):
        lm = lv.load(path, **options)
        lm.model.blocks[1].attention.query.weight.mul_(-1)
        return lm

    monkeypatch.setattr(verification, "load", load_wrong)
    table = lv.verify(tmp_path / "small")
    assert not table.ok
    first = next(one for one in table.comparisons if not one.ok)
    assert first.quantity == "attention weights, layer 1"
    assert "DIFFERS from transformers" in str(table)
    assert table.n_agreed < 64


def test_weights_that_are_not_numbers_do_not_agree(tmp_path):
    random_in_transformers("gqa").save_pretrained(tmp_path / "small")
    weights = load_file(tmp_path / "small" / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="norm.weight holds weights that are NaN"):
        table = lv.verify(tmp_path / "small", n_tokens=1)
    assert not table.ok


def test_a_context_of_one_position_is_compared_without_writing(tmp_path):
    lv.save_checkpoint(random_model(max_seq_len=1), tmp_path / "small", format="huggingface")
    verified = lv.verify(tmp_path / "small")
    assert (verified.ok, verified.n_agreed, verified.n_tokens) == (True, 0, 0)
    with pytest.raises(ValueError, match="^n_tokens must be at least 1, got 0"):
        lv.verify(tmp_path / "small", n_tokens=0)


def test_the_table_is_escaped(tmp_path):
    folder = tmp_path / "<script>alert(1)</script>".replace("/", "-")
    random_in_transformers("gqa").save_pretrained(folder)
    page = lv.verify(folder, n_tokens=2)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 1 + 8 + 1


def test_without_transformers_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="transformers, which is not installed: pip install"):
        lv.verify(tmp_path)


def test_what_cannot_be_loaded_is_a_checkpoint_error(tmp_path):
    with pytest.raises(lv.CheckpointError, match="there is no such file"):
        lv.verify(tmp_path / "absent")
    assert torch.is_grad_enabled()
