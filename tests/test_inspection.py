"""Inspecting: sizes in llama.cpp's terms beside ours, without reading a weight."""

from __future__ import annotations

import pytest

import llama_viz as lv
from llama_viz import cli
from llama_viz.checkpoints import llama2c
from llama_viz.config import RopeScaling
from llama_viz.inspection import inspect
from tests.reference import random_model
from tests.vocabularies import sentence_piece_model
from tests.written import write_gguf

SIZES = [
    ("n_vocab", "vocab_size", "360"),
    ("n_ctx_train", "max_seq_len", "96"),
    ("n_embd", "dim", "64"),
    ("n_layer", "n_layers", "3"),
    ("n_head", "n_heads", "8"),
    ("n_head_kv", "n_kv_heads", "2"),
    ("n_gqa", "heads_per_kv_head", "4"),
    ("n_rot", "head_dim", "8"),
    ("n_ff", "hidden_dim", "96"),
    ("f_norm_rms_eps", "norm_eps", "1e-05"),
    ("freq_base_train", "rope_theta", "10000"),
]


def test_a_gguf_file_is_told(tmp_path, capsys):
    path = write_gguf(
        random_model(vocab_size=360), tmp_path / "small.gguf", vocabulary="gpt2",
        fields={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0,
                "tokenizer.chat_template": "{{ messages }}"},
    )  # fmt: skip
    told = inspect(path)
    assert told.sizes == SIZES
    facts = dict(told.facts)
    n = lv.load(path).config.n_parameters
    assert facts["parameters"].startswith(f"{n:,} ")
    assert facts["bytes on disk"] == f"{path.stat().st_size:,} (F32)"
    assert facts["bytes in float32"] == f"{4 * n:,}"
    assert facts["attention"] == "GQA: 8 query heads share 2 key/value heads"
    # keys and values x 3 layers x 2 heads x 8 features x 4 bytes
    assert facts["KV cache per token"] == "384 bytes in float32, 192 in float16"
    assert facts["RoPE layout"] == "interleaved in the file"
    assert facts["RoPE scaling"] == "linear, factor 4"
    assert facts["tokenizer"] == "byte-level BPE, 360 tokens"
    assert facts["BOS"] == "1 <|im_start|>, not put in front of a text"
    assert facts["EOS"] == "2 <|im_end|>"
    assert facts["control tokens"] == "0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>"
    assert facts["chat template"] == "its own"
    assert cli.main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{told}\n"
    for theirs, ours, value in SIZES:
        assert f"{theirs} " in printed
        assert f"{ours} " in printed
        assert value in printed


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("mha", "MHA: 8 query heads, each with a key/value head of its own"),
        ("gqa", "GQA: 8 query heads share 2 key/value heads"),
        ("mqa", "MQA: 8 query heads share 1 key/value head"),
    ],
)
def test_every_kind_and_format_is_told(tmp_path, kind, attention):
    words = lv.Tokenizer.from_bytes(sentence_piece_model())
    lm = lv.LanguageModel(random_model(kind, vocab_size=words.vocab_size).model, words)
    llama2c.save(lm, tmp_path / "small.bin")
    (tmp_path / "native").mkdir()
    lv.save_checkpoint(lm, tmp_path / "native" / "small.safetensors")
    lv.save_checkpoint(lm, tmp_path / "folder", format="huggingface")
    layouts = []
    for path in (tmp_path / "small.bin", tmp_path / "native", tmp_path / "folder"):
        facts = dict(inspect(path).facts)
        assert facts["attention"] == attention
        assert facts["output head"] == "its own weights"
        assert facts["BOS"].startswith("1 <s>, put in front of every text")
        assert facts["bytes on disk"].endswith("(float32)")
        layouts.append(facts["RoPE layout"])
    assert layouts == ["interleaved in the file"] * 2 + ["half-split in the file"]


def test_a_model_without_a_tokenizer_and_scaled_positions_are_told(tmp_path):
    scaling = RopeScaling("llama3", factor=8.0, original_max_seq_len=32)
    lv.save_checkpoint(random_model(rope_scaling=scaling), tmp_path / "x.safetensors")
    facts = dict(inspect(tmp_path / "x.safetensors").facts)
    assert facts["RoPE scaling"] == "llama3, factor 8, first trained on 32 positions"
    assert facts["tokenizer"] == "none: the model takes ids alone"


def test_weights_are_not_read(tmp_path):
    """A file with a hole where its weights are takes no time and no memory."""
    lm = random_model(vocab_size=360, tied_embeddings=True)
    whole = write_gguf(lm, tmp_path / "small.gguf").read_bytes()
    (tmp_path / "small.gguf").write_bytes(whole[:-1000] + b"\xff" * 1000)  # NaN weights
    assert inspect(tmp_path / "small.gguf").sizes == SIZES


def test_what_cannot_be_loaded_is_one_line(tmp_path, capsys):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert cli.main(["inspect", str(tmp_path / "x.gguf")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
