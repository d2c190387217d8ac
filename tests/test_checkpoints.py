"""Checkpoints: round trips, and files and names that cannot be loaded."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import llama_viz as lv
from llama_viz.checkpoints import pick_device
from tests.reference import random_ids, random_model


@pytest.fixture
def saved(tmp_path):
    lm = random_model("gqa")
    lv.save_checkpoint(lm, tmp_path / "small.safetensors")
    return lm, tmp_path / "small.safetensors"


@pytest.mark.parametrize("sizes", [{}, {"tied_embeddings": True}, {"head_dim": 12}])
def test_a_model_comes_back_as_it_was(tmp_path, sizes):
    lm = random_model("gqa", **sizes)
    lv.save_checkpoint(lm, tmp_path / "small.safetensors")
    loaded = lv.load(tmp_path / "small.safetensors")
    assert loaded.config == lm.config
    assert loaded.name == "small"
    assert loaded.tokenizer is None
    ids = random_ids(lm, 20)
    assert (loaded.model(ids) - lm.model(ids)).abs().max() < 1e-4
    for name, weight in lm.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight)
    assert (loaded.model.output.weight is loaded.model.embedding.weight) == bool(
        sizes.get("tied_embeddings")
    )


def test_a_tokenizer_beside_the_checkpoint_is_found(family, tmp_path):
    lm = family["gqa"]
    lv.save_checkpoint(lm, tmp_path / "copy.safetensors")
    for path in (tmp_path / "copy.safetensors", tmp_path, str(tmp_path)):
        loaded = lv.load(path)
        assert loaded.tokenizer.model == lm.tokenizer.model
        assert lv.generate(loaded, "Once", 8).text == lv.generate(lm, "Once", 8).text


def test_a_tokenizer_can_be_given(family, tmp_path):
    lm = family["gqa"]
    lv.save_checkpoint(lv.LanguageModel(lm.model), tmp_path / "bare.safetensors")
    assert lv.load(tmp_path / "bare.safetensors").tokenizer is None
    (tmp_path / "words.model").write_bytes(lm.tokenizer.model)
    for given in (lm.tokenizer, tmp_path / "words.model"):
        loaded = lv.load(tmp_path / "bare.safetensors", tokenizer=given)
        assert loaded.encode("Once") == lm.encode("Once")


def test_a_tokenizer_of_another_vocabulary_is_refused(saved, family):
    with pytest.raises(lv.CheckpointError, match="vocabulary has 120 tokens, but the tokenizer"):
        lv.load(saved[1], tokenizer=family["gqa"].tokenizer)


def test_another_models_tokenizer_is_not_overwritten(family, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(ValueError, match="is another model's tokenizer"):
        lv.save_checkpoint(family["gqa"], tmp_path / "copy.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


def test_weights_stored_in_half_precision_are_computed_in_float32(tmp_path):
    lm = random_model()
    lv.save_checkpoint(lm, tmp_path / "half.safetensors", dtype=torch.float16)
    stored = load_file(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert lv.load(tmp_path / "half.safetensors").dtype == torch.float32
    as_asked = lv.load(tmp_path / "half.safetensors", dtype=torch.bfloat16)
    assert as_asked.dtype == torch.bfloat16
    assert len(lv.generate(as_asked, [1, 2], 4).new_ids) == 4


def test_the_embedded_models_are_one_family(family):
    kinds = {name: lm.config for name, lm in family.items()}
    assert [kinds[name].n_kv_heads for name in ("mha", "gqa", "mqa")] == [8, 2, 1]
    for config in kinds.values():
        assert config.n_heads == 8
        assert 4 <= config.n_layers <= 6
        assert config.n_parameters <= 1_400_000
    same = [
        {name: size for name, size in config.to_dict().items() if name != "n_kv_heads"}
        for config in kinds.values()
    ]
    assert same[0] == same[1] == same[2]


def test_optimizing_changes_no_value():
    lm = random_model()
    ids = random_ids(lm, 12)
    before = lm.model(ids)
    assert lm.optimize() is lm
    assert (lm.model(ids) - before).abs().max() < 1e-4
    assert not lm.model.blocks[0].attention.query.weight.is_contiguous()


# Files that cannot be loaded


@pytest.mark.parametrize("kept", [0, 4, 60, 0.5, -1])
def test_a_checkpoint_cut_short_is_refused(saved, kept):
    path = saved[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(lv.CheckpointError, match=r"small\.safetensors: cannot be read") as caught:
        lv.load(path)
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_terabytes_is_refused(saved):
    path = saved[1]
    path.write_bytes((2**50).to_bytes(8, "little") + b"{" * 100)
    with pytest.raises(lv.CheckpointError, match="cannot be read"):
        lv.load(path)


def rewrite(path, *, config=None, metadata=None, **tensors):
    """Save the checkpoint again with another header or other tensors (None leaves one out)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    stored = {**load_file(path), **tensors}
    header["config"] = json.dumps({**json.loads(header["config"]), **(config or {})})
    save_file(
        {name: tensor for name, tensor in stored.items() if tensor is not None},
        path,
        metadata=header if metadata is None else metadata,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.weight": None}, "norm.weight is missing"),
        ({"surprise": torch.zeros(2)}, "surprise is not part of the model"),
        ({"norm.weight": torch.zeros(5)}, r"norm.weight has shape \(5,\), expected \(64,\)"),
        ({"config": {"n_heads": 7}}, "its configuration cannot be used: n_heads"),
        ({"config": {"wings": 2}}, "its configuration cannot be used"),
        ({"config": {"dim": "large"}}, "its configuration cannot be used"),
        ({"config": {"n_layers": 4}}, "blocks.3.attention.key.weight is missing, and 8 more"),
        ({"metadata": {"format": "pt"}}, "not one written by llama_viz.save_checkpoint"),
        ({"metadata": {}}, "not one written by llama_viz.save_checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_itself_is_refused(saved, change, message):
    rewrite(saved[1], **change)
    with pytest.raises(lv.CheckpointError, match=f"small.safetensors: .*{message}") as caught:
        lv.load(saved[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn, "float16"])
def test_a_type_that_cannot_hold_weights_is_refused(dtype, saved, tmp_path):
    lm, path = saved
    with pytest.raises(ValueError, match="unknown dtype .*Choose from: torch.float32, torch.float"):
        lv.load(path, dtype=dtype)
    for format in ("llama_viz", "huggingface", "meta"):
        with pytest.raises(ValueError, match="unknown dtype"):
            lv.save_checkpoint(lm, tmp_path / "other", format=format, dtype=dtype)
    assert not (tmp_path / "other").exists()
    written = path.read_bytes()
    with pytest.raises(ValueError, match="unknown dtype"):
        lv.save_checkpoint(lm, path, dtype=dtype)
    assert path.read_bytes() == written


def test_a_model_of_shapes_alone_is_not_saved(saved, tmp_path):
    with pytest.raises(ValueError, match="opened by its shapes alone"):
        lv.save_checkpoint(lv.load(saved[1], device="meta"), tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_an_empty_name_is_not_the_folder_one_is_in(saved, monkeypatch):
    monkeypatch.chdir(saved[1].parent)
    with pytest.raises(ValueError, match="the model's name is empty"):
        lv.load("")


def test_names_and_paths_that_are_not_there(tmp_path):
    with pytest.raises(
        ValueError, match="unknown model 'gqq'. Did you mean 'gqa'. Choose from: mha,"
    ):
        lv.load("gqq")
    for absent in (tmp_path / "absent", str(tmp_path / "absent"), "absent.safetensors"):
        with pytest.raises(lv.CheckpointError, match="absent.*: there is no such file"):
            lv.load(absent)
    with pytest.raises(lv.CheckpointError, match="holds no .safetensors file"):
        lv.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "consolidated.00.pth", "stories.bin", "x.gguf"]
)
def test_a_pipe_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(lv.CheckpointError, match=f"{name}: is not an ordinary file"):
            lv.load(path)


def test_a_folder_with_two_checkpoints_is_refused(saved, tmp_path):
    lv.save_checkpoint(saved[0], tmp_path / "second.safetensors")
    with pytest.raises(lv.CheckpointError, match="holds 2 .safetensors files, expected one"):
        lv.load(tmp_path)


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'ggml'. Choose from: llama_viz"):
        lv.save_checkpoint(random_model(), tmp_path / "x.ggml", format="ggml")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        lv.save_checkpoint(random_model(), tmp_path / "absent" / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


# Devices


def test_the_device_is_picked_or_as_asked(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device() == torch.device("cuda")
    with pytest.raises(ValueError, match="no device 'cuda:3' on this machine; it has: cuda, "):
        pick_device("cuda:3")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="there is no device 'cuda' on this machine; it has: cpu"):
        lv.load("gqa", device="cuda")
    with pytest.raises(ValueError, match="unknown device 'gpu'.* Choose from: cuda, mps, cpu"):
        lv.load("gqa", device="gpu")
