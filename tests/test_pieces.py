"""Where weights lie in a file: the bytes found there are the weights."""

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.checkpoints.gguf_writing import save_gguf
from llama_viz.checkpoints.huggingface import load as load_huggingface
from llama_viz.checkpoints.pieces import pieces
from llama_viz.checkpoints.rope_layout import half_split_from_interleaved
from tests.reference import random_model
from tests.written import write_llama2c_int8, write_llama2c_legacy


@pytest.fixture
def lm():
    return random_model("gqa")


def save(lm, tmp_path, format):
    if format == "legacy":
        return write_llama2c_legacy(lm, tmp_path / "model.bin")
    lv.save_checkpoint(lm, tmp_path / "small.safetensors" if format == "llama_viz" else
                       tmp_path / "small.bin" if format == "llama2c" else
                       tmp_path / "small", format=format)  # fmt: skip
    return next(tmp_path.iterdir())


@pytest.mark.parametrize(
    "format", ["llama_viz", "huggingface", "meta", "llama2c", "gguf", "legacy"]
)
def test_the_bytes_of_a_piece_are_its_weight(lm, tmp_path, format):
    path = save(lm, tmp_path, format)
    if format == "gguf":
        path = path.rename(tmp_path / "small.gguf")
    found = pieces(path)
    weights = {piece.name: piece for piece in found if piece.name}
    expected = dict(lm.model.named_parameters())
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        if format == "huggingface" and name.endswith(("query.weight", "key.weight")):
            weight = half_split_from_interleaved(weight, lm.config.head_dim)
        piece = weights[name]
        file = path / piece.file if path.is_dir() else path
        stored = np.frombuffer(
            file.read_bytes()[piece.start : piece.start + piece.n_bytes], np.float32
        )
        assert torch.equal(torch.from_numpy(stored.copy()), weight.flatten())
    if format == "huggingface":
        assert load_huggingface(path).model.config == lm.config


@pytest.mark.parametrize("format", ["huggingface", "meta"])
def test_every_byte_of_every_file_is_in_one_piece(family, tmp_path, format):
    lv.save_checkpoint(family["gqa"], tmp_path / "copy", format=format)
    found = pieces(tmp_path / "copy")
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "copy").iterdir()}
    for name, size in sizes.items():
        here = [piece for piece in found if piece.file == name]
        starts = [piece.start for piece in here]
        assert starts == [0, *(piece.start + piece.n_bytes for piece in here)][:-1]
        assert here[-1].start + here[-1].n_bytes == size
    assert [piece.name for piece in found if piece.file == "tokenizer.model"] == [""]


def test_blocks_are_as_large_as_they_are(lm, tmp_path):
    save_gguf(lm, tmp_path / "small.gguf", kind="Q8_0")
    write_llama2c_int8(lm, tmp_path / "small.bin")
    for name, per_group in (("small.gguf", 34), ("small.bin", 36)):
        (query,) = [
            p for p in pieces(tmp_path / name) if p.name == "blocks.0.attention.query.weight"
        ]
        assert query.n_bytes == 64 * 64 // 32 * per_group


def test_a_damaged_file_is_refused(lm, tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(lv.CheckpointError, match="cannot be read as a safetensors file"):
        pieces(path)
    shared = torch.ones(4)
    torch.save({"norm.weight": shared, "output.weight": shared}, tmp_path / "x.pth")
    with pytest.raises(lv.CheckpointError, match="share memory"):
        pieces(tmp_path / "x.pth")
