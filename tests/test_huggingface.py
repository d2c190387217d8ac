"""Hugging Face folders: judged by transformers, written for it, and damaged ones."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer
from transformers import AutoModelForCausalLM

import llama_viz as lv
from llama_viz.checkpoints.rope_layout import (
    half_split_from_interleaved,
    interleaved_from_half_split,
)
from llama_viz.model import Llama
from tests.folders import (
    ROPE_SCALINGS,
    greedy_in_transformers,
    random_in_transformers,
    save_meta,
)
from tests.reference import halves_from_pairs, random_ids, random_model

KINDS = ("mha", "gqa", "mqa")


@pytest.fixture
def folder(tmp_path):
    random_in_transformers("gqa").save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def sharded(tmp_path):
    random_in_transformers("gqa").save_pretrained(tmp_path / "small", max_shard_size="100KB")
    return tmp_path / "small"


def change_config(folder, **fields):
    """Change fields of config.json; None leaves one out."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


# Judged by transformers


@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_text_are_those_of_transformers(tmp_path, kind, scaling):
    theirs = random_in_transformers(kind, scaling)
    theirs.save_pretrained(tmp_path / "small")
    lm = lv.load(tmp_path / "small")
    assert lm.config.attention_kind == kind.upper()
    assert lm.notes["rope_layout"] == "half-split"
    ids = random_ids(lm, 100)
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    expected = greedy_in_transformers(theirs, ids[:, :20], 64)
    assert lv.generate(lm, ids[0, :20].tolist(), 64).ids == expected


def test_a_head_of_its_own_is_used_where_the_configuration_ties_it(folder):
    change_config(folder, tie_word_embeddings=True)
    with pytest.warns(UserWarning, match="another head is stored; it is used"):
        lm = lv.load(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ids = random_ids(lm, 40)
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    assert not lm.config.tied_embeddings


def test_swish_is_silu(folder):
    change_config(folder, hidden_act="swish")
    lm = lv.load(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ids = random_ids(lm, 40)
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    "sizes", [{"tie_word_embeddings": True}, {"head_dim": 12}, {"head_dim": 12, "hidden_size": 40}]
)
def test_tied_heads_and_a_head_size_of_its_own(tmp_path, sizes):
    theirs = random_in_transformers("gqa", **sizes)
    theirs.save_pretrained(tmp_path / "small")
    lm = lv.load(tmp_path / "small")
    ids = random_ids(lm, 40)
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    tied = sizes.get("tie_word_embeddings", False)
    assert (lm.model.output.weight is lm.model.embedding.weight) == tied
    # Some files store the copy as well.
    weights = load_file(tmp_path / "small" / "model.safetensors")
    weights["lm_head.weight"] = theirs.lm_head.weight.clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, tmp_path / "small" / "model.safetensors")
    assert torch.equal(lv.load(tmp_path / "small").model(ids), lm.model(ids))


def test_shards_are_one_model(folder, tmp_path):
    whole = lv.load(folder)
    shutil.rmtree(folder)
    random_in_transformers("gqa").save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    ids = random_ids(whole, 20)
    parts = lv.load(folder)
    assert torch.equal(parts.model(ids), whole.model(ids))
    assert parts.name == "small"
    assert parts.path == folder
    assert len(parts.checksum) == 64
    trace = lv.record(parts, [1, 2, 3], max_new_tokens=2)
    assert trace.attrs["checkpoint_sha256"] == parts.checksum


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "llama3"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_the_keys_of_older_versions_say_the_same(tmp_path, scaling, key):
    random_in_transformers("gqa", scaling).save_pretrained(tmp_path / "small")
    new = lv.load(tmp_path / "small")
    rope = {**ROPE_SCALINGS[scaling]}
    rope[key] = rope.pop("rope_type")
    change_config(tmp_path / "small", rope_parameters=None, rope_theta=5000.0, rope_scaling=rope)
    old = lv.load(tmp_path / "small")
    assert old.config == new.config
    assert old.config.rope_theta == 5000.0
    assert old.config.rope_scaling.kind == scaling


def test_dynamic_scaling_begins_beyond_the_original_length(tmp_path):
    random_in_transformers("gqa", "dynamic").save_pretrained(tmp_path / "dynamic")
    theirs = random_in_transformers("gqa", "dynamic")
    plain = random_in_transformers("gqa")
    lm = lv.load(tmp_path / "dynamic")
    assert lm.config.rope_scaling.original_max_seq_len == 128
    assert lm.config.max_seq_len == 256  # factor times as far
    ids = random_ids(lm, 200)
    assert (lm.model(ids[:, :128]) - plain(ids[:, :128]).logits).abs().max() < 1e-4
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    assert (lm.model(ids) - plain(ids).logits).abs().max() > 1e-2
    with pytest.warns(UserWarning, match="keys that are cached keep their old angles") as caught:
        lv.generate(lm, ids[0, :125].tolist(), 8)
    assert len(caught) == 1


def test_rotation_angles_are_recorded_and_computed_with_scaling(tmp_path):
    from llama_viz import analysis

    for scaling in ROPE_SCALINGS:
        random_in_transformers("gqa", scaling).save_pretrained(tmp_path / scaling)
        lm = lv.load(tmp_path / scaling)
        path = tmp_path / f"{scaling}.h5"
        lv.save_trace(lv.record(lm, random_ids(lm, 50)[0].tolist(), max_new_tokens=4), path)
        trace = lv.load_trace(path)
        assert analysis.config_of(trace) == lm.config
        applied = analysis.applied_rotation_angle(trace)
        assert abs(trace.rotation_angle - applied.values).max() < 1e-4


# Memory, types, and shapes alone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_as_asked(folder, dtype):
    random_in_transformers("gqa").to(dtype).save_pretrained(folder)
    lm = lv.load(folder)
    assert lm.dtype == torch.float32
    assert lm.notes["stored_dtype"] == str(dtype).removeprefix("torch.")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = random_ids(lm, 20)
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    assert lv.load(folder, dtype=dtype).dtype == dtype


def test_a_model_is_opened_by_its_shapes_alone(folder, monkeypatch):
    from llama_viz.checkpoints import mapped

    def read(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(mapped.StoredTensors, "read", read)
    lm = lv.load(folder, device="meta")
    assert lm.device.type == "meta"
    assert all(parameter.is_meta for parameter in lm.model.parameters())
    assert lm.config.n_parameters == sum(p.numel() for p in lm.model.parameters())


def test_weights_that_are_not_finite_load_and_warn_once(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="small: blocks.1.feed_forward.up.weight holds") as caught:
        lm = lv.load(folder)
    assert len(caught) == 1
    assert "NaN or infinite, and so does 1 more tensor" in str(caught[0].message)
    assert lm.model.blocks[1].feed_forward.up.weight[3, 4].isnan()


# Writing


@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_what_is_saved(tmp_path, scaling, tied):
    random_in_transformers("mqa", scaling, tie_word_embeddings=tied).save_pretrained(tmp_path / "a")
    lm = lv.load(tmp_path / "a")
    lv.save_checkpoint(lm, tmp_path / "b", format="huggingface")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()
    ids = random_ids(lm, 60)
    assert (lm.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    again = lv.load(tmp_path / "b")
    assert again.config == lm.config
    assert torch.equal(again.model(ids), lm.model(ids))


def test_a_native_checkpoint_keeps_the_scaling(tmp_path):
    random_in_transformers("gqa", "llama3").save_pretrained(tmp_path / "a")
    lm = lv.load(tmp_path / "a")
    lv.save_checkpoint(lm, tmp_path / "b.safetensors")
    again = lv.load(tmp_path / "b.safetensors")
    assert again.config == lm.config
    assert again.notes["rope_layout"] == "interleaved"
    ids = random_ids(lm, 60)
    assert torch.equal(again.model(ids), lm.model(ids))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A small SentencePiece model of 120 pieces."""
    place = tmp_path_factory.mktemp("words")
    (place / "text.txt").write_text("a small model tells a small story about a small cat\n" * 50)
    SentencePieceTrainer.train(
        input=str(place / "text.txt"), model_prefix=str(place / "tokenizer"), vocab_size=290,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return place / "tokenizer.model"


def test_the_tokenizer_goes_with_it(tmp_path, words):
    tokenizer = lv.Tokenizer.from_file(words)
    lm = random_model("gqa", vocab_size=tokenizer.vocab_size)
    lm.tokenizer = tokenizer
    lv.save_checkpoint(lm, tmp_path / "small", format="huggingface")
    again = lv.load(tmp_path / "small")
    assert again.encode("a small cat") == lm.encode("a small cat")
    assert again.tokenizer.eos_id == tokenizer.eos_id
    described = json.loads((tmp_path / "small" / "config.json").read_text())
    assert described["bos_token_id"] == tokenizer.bos_id


def test_a_tokenizer_of_another_vocabulary_size_is_refused(folder, words):
    shutil.copy(words, folder / "tokenizer.model")
    with pytest.raises(lv.CheckpointError, match="vocabulary has 120 tokens, but the tokenizer"):
        lv.load(folder)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    lm = random_model()
    monkeypatch.setattr("llama_viz.checkpoints.huggingface.save_file", _no_room)
    with pytest.raises(OSError, match="no room"):
        lv.save_checkpoint(lm, tmp_path / "small", format="huggingface")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "small").mkdir()
    for _ in range(2):  # an empty folder, and one that was written before
        lv.save_checkpoint(lm, tmp_path / "small", format="huggingface")
        assert [path.name for path in tmp_path.iterdir()] == ["small"]
    monkeypatch.setattr("llama_viz.checkpoints.huggingface.save_file", _no_room)
    with pytest.raises(OSError, match="no room"):
        lv.save_checkpoint(lm, tmp_path / "small", format="huggingface")
    assert lv.load(tmp_path / "small").config == lm.config
    monkeypatch.undo()
    (tmp_path / "small" / "thesis.txt").write_text("not to be lost")
    with pytest.raises(FileExistsError, match="it holds thesis.txt"):
        lv.save_checkpoint(lm, tmp_path / "small", format="huggingface")


def _no_room(*_, **__):
    raise OSError("no room")


def test_what_the_format_cannot_say_is_refused(tmp_path):
    divided = {"kind": "divided", "divisors": [1.0, 1.0, 2.0, 4.0]}
    lm = random_model("gqa", rope_scaling=divided)
    with pytest.raises(ValueError, match="cannot hold rope scaling with a divisor"):
        lv.save_checkpoint(lm, tmp_path / "small", format="huggingface")
    lv.save_checkpoint(lm, tmp_path / "small.safetensors")
    assert lv.load(tmp_path / "small.safetensors").config == lm.config
    assert list(tmp_path.iterdir()) == [tmp_path / "small.safetensors"]


def test_the_two_layouts_undo_each_other():
    weight = torch.arange(16.0)[:, None] * torch.ones(3)
    halves = half_split_from_interleaved(weight, 8)
    assert torch.equal(halves[:8, 0], halves_from_pairs(torch.arange(8.0)))
    assert torch.equal(interleaved_from_half_split(halves, 8), weight)


# Files that cannot be loaded


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
         "its architecture is Qwen2ForCausalLM .model_type 'qwen2'., expected LLaMA's"),
        ({"model_type": "gpt2", "architectures": None}, "its architecture is gpt2"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"attention_bias": True}, "attention_bias is 'True', which is not supported"),
        ({"mlp_bias": True}, "mlp_bias is 'True'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_act": ["silu"]}, "hidden_act is"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "rope scaling 'yarn' is not"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "lacks low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "x"}}, "must be a number"),
        ({"rope_parameters": "x"}, "rope_parameters must be an object or null, got 'x'"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object or null, got .1."),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "64"}, "dim must be a whole number of at least 1, got '64'"),
        ({"num_attention_heads": 0}, "n_heads must be a whole number"),
        ({"num_attention_heads": 7}, "n_heads .7. must be a multiple"),
        ({"num_hidden_layers": 10**12}, "asks for 1000000000000 layers, but it holds 30 tensors"),
        ({"num_hidden_layers": 4}, "blocks.3.attention.key.weight is missing"),
        ({"num_hidden_layers": 2}, "is not part of the model"),
        ({"hidden_size": 10**15}, "has shape .*, expected"),
        ({"vocab_size": 121}, r"embedding.weight has shape \(120, 64\), expected \(121, 64\)"),
        ({"rms_norm_eps": 10**400}, "norm_eps must be finite"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_is_refused(folder, fields, message):
    change_config(folder, **fields)
    with pytest.raises(lv.CheckpointError, match=f"small.*: .*{message}") as caught:
        lv.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"model_type": ', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_a_damaged_config_json_is_refused(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(lv.CheckpointError, match=f"config.json: {message}") as caught:
        lv.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "outside",
    [
        "../small.safetensors",
        "pytorch_model.bin",
        "/etc/passwd",
        "..\\x.safetensors",
        "C:x.safetensors",
        "",
        5,
    ],
)
def test_an_index_that_names_files_outside_its_folder_is_refused(sharded, tmp_path, outside):
    lv.save_checkpoint(random_model(), tmp_path / "small.safetensors")
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = outside
    path.write_text(json.dumps(index))
    with pytest.raises(
        lv.CheckpointError, match="index.json: .* not a .safetensors file in its fo"
    ):
        lv.load(sharded)


def test_shards_that_are_missing_or_wrong_are_named(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    name = shards[1].name
    held = shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(lv.CheckpointError, match=f"{name}: is missing, but model.safe"):
        lv.load(sharded)
    shutil.copy(shards[0], shards[1])
    with pytest.raises(lv.CheckpointError, match=f"{name}: lacks model"):
        lv.load(sharded)
    shards[1].write_bytes(held[: len(held) // 2])
    with pytest.raises(lv.CheckpointError, match=f"{name}: cannot be read as a safetensors"):
        lv.load(sharded)
    shards[1].write_bytes(held)
    for content in ("{}", '{"weight_map": []}', '{"weight_map": {}}'):
        (sharded / "model.safetensors.index.json").write_text(content)
        with pytest.raises(lv.CheckpointError, match=r"index.json: has no weight_map"):
            lv.load(sharded)
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(lv.CheckpointError, match=r"small: holds \d safetensors files|but no model"):
        lv.load(sharded)


def test_weights_that_are_not_there_or_pickled_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(lv.CheckpointError, match="small: holds no model.safetensors"):
        lv.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(lv.CheckpointError, match="pytorch_model.bin must be converted"):
        lv.load(folder)


def test_weights_that_are_whole_numbers_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(64, dtype=torch.int64)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(lv.CheckpointError, match="norm.weight is stored as int64, expected float"):
        lv.load(folder)


def test_a_file_nobody_may_read_is_refused(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("llama_viz.checkpoints.mapped.safe_open", refuse)
    with pytest.raises(lv.CheckpointError, match=r"model.safetensors: cannot be read .*Permission"):
        lv.load(folder)
    monkeypatch.undo()
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(lv.CheckpointError, match=r"config.json: cannot be read .*directory"):
        lv.load(folder)


def test_a_folder_with_two_formats_names_both(folder):
    (folder / "params.json").write_text('{"dim": 64, "n_layers": 3, "n_heads": 8}')
    with pytest.raises(lv.CheckpointError, match="small: holds .* Hugging Face and Meta"):
        lv.load(folder)
    (folder / "params.json").unlink()
    lv.save_checkpoint(random_model(), folder / "ours.safetensors")
    with pytest.raises(lv.CheckpointError, match="small: holds .* llama_viz and Hugging Face"):
        lv.load(folder)


def test_a_single_file_of_a_folder_says_so(folder):
    with pytest.raises(lv.CheckpointError, match=r"model.safetensors: .*; name its folder"):
        lv.load(folder / "model.safetensors")


def test_a_folder_whose_config_is_missing_or_names_no_model_says_so(folder):
    change_config(folder, model_type=None, architectures=None)
    with pytest.raises(lv.CheckpointError, match="config.json beside it names no model_type"):
        lv.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(lv.CheckpointError, match="needs its config.json beside it"):
        lv.load(folder)


# Memory

MEASURE = """
import re, sys
from pathlib import Path
import torch
import llama_viz as lv
from llama_viz.checkpoints import detect
def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
detect(Path(sys.argv[1]))  # what is imported is not what a model takes
before = memory("VmRSS")
lm = lv.load(sys.argv[1])
print((memory("VmHWM") - before) / sum(weight.nbytes for weight in lm.model.parameters()))
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", ["llama_viz", "huggingface", "meta"])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path, format, dtype):
    config = lv.ModelConfig(n_layers=8, n_heads=8, dim=512, vocab_size=8000)
    lm = lv.LanguageModel(Llama(config).requires_grad_(False))
    path = tmp_path / "large.safetensors"
    if format == "meta":
        save_meta(lm, path, n_shards=2, dtype=dtype)
    else:
        lv.save_checkpoint(lm, path, format=format, dtype=dtype)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.3
