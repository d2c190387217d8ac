"""GGUF files written here: read by the gguf library and by transformers, and read back."""

import gguf
import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.checkpoints.gguf_writing import KINDS, bytes_of_kind, save_gguf
from llama_viz.config import RopeScaling
from tests.reference import random_ids, random_model
from tests.vocabularies import SAMPLES, byte_level_library
from tests.written import gguf_in_transformers, gguf_weights


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_transformers_reads_what_is_written(tmp_path, kind):
    lm = random_model(kind)
    lv.save_checkpoint(lm, tmp_path / "small.gguf", format="gguf")
    theirs = gguf_in_transformers(tmp_path / "small.gguf", lm.config.n_layers)
    ids = random_ids(lm, 40)
    with torch.no_grad():
        assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"tied_embeddings": True},
        {"head_dim": 12, "rope_theta": 5e5},
        {"rope_scaling": RopeScaling("linear", 4.0)},
        {"rope_scaling": RopeScaling("divided", divisors=(1.0, 2.0, 4.0, 8.0))},
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path, sizes):
    lm = random_model("gqa", **sizes)
    save_gguf(lm, tmp_path / "small.gguf")
    loaded = lv.load(tmp_path / "small.gguf")
    assert loaded.config == lm.config
    for name, weight in lm.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight)


def test_weights_have_the_names_and_rows_of_llama_cpps_converter(tmp_path):
    lm = random_model("gqa")
    save_gguf(lm, tmp_path / "small.gguf")
    read = gguf.GGUFReader(tmp_path / "small.gguf")
    stored = {tensor.name: tensor.data for tensor in read.tensors}
    expected = gguf_weights(lm)
    assert stored.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(stored[name], array)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_what_its_blocks_take(tmp_path, kind):
    lm = random_model("gqa", dim=64, hidden_dim=96)
    save_gguf(lm, tmp_path / "small.gguf", kind=kind)
    tensors = gguf.GGUFReader(tmp_path / "small.gguf").tensors
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    assert {tensor.tensor_type.name for tensor in matrices} == {kind}
    n_weights = sum(int(tensor.n_elements) for tensor in matrices)
    assert sum(int(tensor.n_bytes) for tensor in matrices) == bytes_of_kind(kind, n_weights)
    ids = random_ids(lm, 20)
    off = (lv.load(tmp_path / "small.gguf").model(ids) - lm.model(ids)).abs().max()
    assert (off == 0) == (kind == "F32")
    per_weight = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q5_1": 6, "Q5_0": 5.5,
                  "Q4_1": 5, "Q4_0": 4.5}  # fmt: skip
    assert 8 * bytes_of_kind(kind, 320) / 320 == per_weight[kind]


@pytest.mark.parametrize("text", [*SAMPLES, "Once there was a girl named Lily."])
def test_the_tokenizer_goes_with_it(family, tmp_path, text):
    lm = family["gqa"]
    lv.save_checkpoint(lm, tmp_path / "gqa.gguf", format="gguf")
    loaded = lv.load(tmp_path / "gqa.gguf")
    assert loaded.encode(text) == lm.encode(text)
    assert loaded.tokenizer.control_ids == lm.tokenizer.control_ids
    assert (loaded.tokenizer.bos_id, loaded.tokenizer.eos_id) == (1, 2)


def test_a_chat_template_goes_with_it(family, tmp_path):
    words = lv.Tokenizer.from_bytes(family["gqa"].tokenizer.model)
    words.chat_template = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]"
    save_gguf(lv.LanguageModel(family["gqa"].model, words), tmp_path / "chat.gguf")
    loaded = lv.load(tmp_path / "chat.gguf")
    assert loaded.chat_template == words.chat_template


def test_dtype_says_the_kind(tmp_path):
    for dtype, kind in ((torch.float16, "F16"), (torch.bfloat16, "BF16")):
        lv.save_checkpoint(random_model(), tmp_path / "x.gguf", format="gguf", dtype=dtype)
        assert lv.load(tmp_path / "x.gguf").notes["stored_dtype"] == kind
    with pytest.raises(ValueError, match="float32, float16 or bfloat16 weights, not torch.float64"):
        lv.save_checkpoint(random_model(), tmp_path / "y.gguf", format="gguf", dtype=torch.float64)
    wide = random_model()
    wide.model.double()
    with pytest.raises(ValueError, match="not torch.float64; choose one of them with dtype="):
        lv.save_checkpoint(wide, tmp_path / "y.gguf", format="gguf")


def test_what_the_format_cannot_say_is_refused_and_leaves_nothing(tmp_path):
    path = tmp_path / "x.gguf"
    with pytest.raises(ValueError, match="unknown kind of weights 'Q8'. Did you mean 'Q8_0'"):
        save_gguf(random_model(), path, kind="Q8")
    with pytest.raises(ValueError, match="Q4_0 takes 32 numbers at a time: embedding.weight is"):
        save_gguf(random_model(dim=48), path, kind="Q4_0")
    scaled = random_model(rope_scaling=RopeScaling("dynamic", 2.0, 32))
    with pytest.raises(ValueError, match="cannot hold dynamic rope scaling"):
        save_gguf(scaled, path)
    words = lv.Tokenizer.from_bytes(byte_level_library().to_str().encode())
    with pytest.raises(ValueError, match="only tokenizers that merge by score are written"):
        save_gguf(lv.LanguageModel(random_model().model, words), path)
    assert list(tmp_path.iterdir()) == []
