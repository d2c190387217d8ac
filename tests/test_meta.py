"""Meta's release: judged by transformers, in one file and in shards, and damaged ones."""

import json
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch

import llama_viz as lv
from llama_viz.checkpoints.meta import _params, hidden_dim
from tests.folders import greedy_in_transformers, meta_tensors, save_meta
from tests.reference import in_transformers, random_ids, random_model

KINDS = ("mha", "gqa", "mqa")
SCALED = {"kind": "llama3", "factor": 8.0, "original_max_seq_len": 8192}


@pytest.fixture
def folder(tmp_path):
    return save_meta(random_model("gqa"), tmp_path / "small")


# Judged by transformers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaled", [False, True])
def test_logits_and_text_are_those_of_transformers(tmp_path, kind, scaled):
    theirs_config = {"rope_scaling": SCALED, "rope_theta": 1e6} if scaled else {}
    lm = random_model(kind, max_seq_len=256, **theirs_config)
    save_meta(lm, tmp_path / "small", **({"use_scaled_rope": True} if scaled else {}))
    loaded, theirs = lv.load(tmp_path / "small"), in_transformers(lm)
    assert loaded.config.rope_scaling == lm.config.rope_scaling
    assert loaded.notes["rope_layout"] == "interleaved"
    ids = random_ids(lm, 200)
    assert (loaded.model(ids) - theirs(ids).logits).abs().max() < 1e-4
    expected = greedy_in_transformers(theirs, ids[:, :20], 64)
    assert lv.generate(loaded, ids[0, :20].tolist(), 64).ids == expected


@pytest.mark.parametrize("embedding_axis", [0, 1])
@pytest.mark.parametrize("n_shards", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_joined_to_one_model(tmp_path, kind, n_shards, embedding_axis):
    lm = random_model(kind)
    whole = lv.load(save_meta(lm, tmp_path / "whole"))
    cut = save_meta(lm, tmp_path / "cut", n_shards=n_shards, embedding_axis=embedding_axis)
    parts = lv.load(cut)
    ids = random_ids(lm, 30)
    assert torch.equal(parts.model(ids), whole.model(ids))
    assert parts.notes["shards"] == str(n_shards)
    assert parts.config == whole.config


def test_heads_that_several_shards_repeat_are_taken_once(tmp_path):
    lm = random_model("gqa")  # 2 key/value heads in 4 shards
    folder = save_meta(lm, tmp_path / "cut", n_shards=4)
    for name, weight in meta_tensors(lm).items():
        if name.endswith(("wk.weight", "wv.weight")):
            for number in range(4):
                path = folder / f"consolidated.{number:02}.pth"
                held = torch.load(path, weights_only=True)
                held[name] = weight.chunk(2)[number // 2].clone()
                torch.save(held, path)
    ids = random_ids(lm, 30)
    assert (lv.load(folder).model(ids) - lm.model(ids)).abs().max() < 1e-4


def test_the_width_of_the_feed_forward_is_the_releases():
    assert hidden_dim(4096, 256) == 11008  # Llama 2 7B
    assert hidden_dim(5120, 256) == 13824  # Llama 2 13B
    assert hidden_dim(8192, 4096, 1.3) == 28672  # Llama 2 70B
    assert hidden_dim(4096, 1024, 1.3) == 14336  # Llama 3 8B


@pytest.mark.parametrize(
    ("params", "context"),
    [
        ({}, 4096),
        ({"norm_eps": 1e-6}, 2048),
        ({"rope_theta": 1000000.0}, 16384),
        ({"rope_theta": 500000.0}, 8192),
        ({"rope_theta": 500000.0, "use_scaled_rope": True}, 131072),
        ({"max_seq_len": 77}, 77),
    ],
)
def test_the_context_is_told_by_the_release(tmp_path, params, context):
    lm = lv.load(save_meta(random_model("gqa"), tmp_path / "small", **params))
    assert lm.config.max_seq_len == context
    assert "Llama" in lm.notes["max_seq_len"] or "params.json" in lm.notes["max_seq_len"]


def test_what_params_leaves_out_has_the_releases_defaults(tmp_path):
    lm = random_model("mha")
    folder = save_meta(lm, tmp_path / "small")
    params = json.loads((folder / "params.json").read_text())
    for name in ("n_kv_heads", "rope_theta", "vocab_size"):
        params.pop(name)
    (folder / "params.json").write_text(json.dumps(params))
    held = torch.load(folder / "consolidated.00.pth", weights_only=True)
    torch.save({**held, "rope.freqs": torch.ones(4)}, folder / "consolidated.00.pth")
    loaded = lv.load(folder)
    assert loaded.config.vocab_size == 120
    ids = random_ids(lm, 30)
    assert (loaded.model(ids) - lm.model(ids)).abs().max() < 1e-4


def test_half_precision_and_shapes_alone(tmp_path):
    folder = save_meta(random_model("gqa"), tmp_path / "small", n_shards=2, dtype=torch.bfloat16)
    lm = lv.load(folder)
    assert lm.dtype == torch.float32
    assert lm.notes["stored_dtype"] == "bfloat16"
    assert lv.load(folder, dtype=torch.float16).dtype == torch.float16
    assert all(p.is_meta for p in lv.load(folder, device="meta").model.parameters())


# Files that cannot be loaded


def refused(folder, message):
    with pytest.raises(lv.CheckpointError, match=message) as caught:
        lv.load(folder)
    assert "\n" not in str(caught.value)


class Executes:
    """A pickle of this makes a file when it is opened carelessly."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_a_pickle_that_would_execute_is_refused(folder, tmp_path):
    trace = tmp_path / "it ran"
    for content in (Executes(trace), {"tok_embeddings.weight": Executes(trace)}):
        torch.save(content, folder / "consolidated.00.pth")
        refused(folder, "consolidated.00.pth: refused, .* its pickle names io.open")
    (folder / "consolidated.00.pth").write_bytes(pickle.dumps(Executes(trace)))
    refused(folder, "consolidated.00.pth: cannot be read as a file of torch.save")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list, expected a dict of tensors"),
        (torch.ones(2), "holds a Tensor, expected"),
        ({1: torch.ones(2)}, "holds a dict, expected a dict of tensors by name"),
        ({"output.weight": 5}, "output.weight is a int, expected a tensor"),
        (
            {"output.weight": torch.ones(1).expand(10**6, 10**6)},
            "output.weight is not stored whole",
        ),
        ({"output.weight": torch.ones(2, 2).to_sparse()}, "output.weight is not stored whole"),
        ({"output.weight": torch.ones(2, device="meta")}, "output.weight is not stored whole"),
        ({"output.weight": torch.tensor(1.0)}, "cannot be used|does not fit|holds 1 tensors"),
        ({}, "output.weight is missing"),
    ],
)
def test_a_pickle_of_the_wrong_shape_is_refused(folder, content, message):
    torch.save(content, folder / "consolidated.00.pth")
    refused(folder, message)


@pytest.mark.parametrize("kept", [0, 10, 0.1, 0.5, 0.9, -1])
def test_a_file_cut_short_is_refused(folder, kept):
    path = folder / "consolidated.00.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(folder, "consolidated.00.pth: cannot be read as a file of torch.save")


def test_a_packed_file_that_unfolds_to_gigabytes_is_refused(folder):
    path = folder / "consolidated.00.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    refused(folder, "consolidated.00.pth: is damaged .an entry that is larger than the file")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dim": None}, "params.json: lacks dim"),
        ({"n_heads": 0}, "params.json: its configuration cannot be used"),
        ({"multiple_of": 0}, "params.json: its configuration cannot be used"),
        ({"n_layers": 10**12}, "asks for 1000000000000 layers, but it holds"),
        ({"n_layers": 4}, "blocks.3.attention.key.weight is missing"),
        ({"vocab_size": 121}, r"embedding.weight has shape \(120, 64\), expected"),
        ({"ffn_dim_multiplier": 1e308}, "params.json: its configuration cannot be used"),
        ({"norm_eps": "small"}, "norm_eps must be a number"),
        ({"dim": [64]}, "params.json: its configuration cannot be used"),
    ],
)
def test_params_that_cannot_be_used_are_refused(folder, params, message):
    path = folder / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | params))
    refused(folder, message)


def test_shards_that_are_missing_or_do_not_belong_are_named(tmp_path):
    lm = random_model("gqa")
    folder = save_meta(lm, tmp_path / "cut", n_shards=4)
    last = (folder / "consolidated.03.pth").read_bytes()
    (folder / "consolidated.03.pth").unlink()
    refused(folder, r"has shape .*, expected .*; a shard may be missing")
    (folder / "consolidated.03.pth").write_bytes(last)
    (folder / "consolidated.01.pth").unlink()
    refused(folder, "consolidated.01.pth: is missing, but consolidated.02.pth is there")
    torch.save({"norm.weight": torch.ones(64)}, folder / "consolidated.01.pth")
    refused(folder, "consolidated.01.pth: does not belong to consolidated.00.pth")
    held = torch.load(folder / "consolidated.00.pth", weights_only=True)
    held["layers.0.attention.wq.weight"] = torch.ones(16, 63)
    torch.save(held, folder / "consolidated.01.pth")
    refused(folder, r"consolidated.01.pth: blocks.0.attention.query.weight has shape \(16, 63\)")
    for file in folder.glob("*.pth"):
        file.unlink()
    refused(folder, "consolidated.00.pth: is missing")


def test_a_file_nobody_may_read_is_refused(folder):
    (folder / "params.json").unlink()
    refused(folder, r"params.json: cannot be read \(No such file")
    (folder / "params.json").mkdir()
    refused(folder, r"params.json: cannot be read \(Is a directory")
    save_meta(random_model("gqa"), folder.parent / "other")
    (folder.parent / "other" / "consolidated.00.pth").unlink()
    (folder.parent / "other" / "consolidated.00.pth").mkdir()
    refused(folder.parent / "other", r"consolidated.00.pth: cannot be read \(Is a directory")


def test_weights_that_are_not_finite_load_and_warn_once(folder):
    path = folder / "consolidated.00.pth"
    held = torch.load(path, weights_only=True)
    held["layers.2.attention.wo.weight"][0, 0] = float("nan")
    torch.save(held, path)
    with pytest.warns(UserWarning, match="blocks.2.attention.output.weight holds") as caught:
        lv.load(folder)
    assert len(caught) == 1


# Written here


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"hidden_dim": 97},
        {"hidden_dim": 256},
        {"tied_embeddings": True},
        {"rope_theta": 5e5, "max_seq_len": 8192},
        {"max_seq_len": 4096},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back(tmp_path, kind, sizes):
    lm = random_model(kind, **sizes)
    lv.save_checkpoint(lm, tmp_path / "small", format="meta")
    loaded = lv.load(tmp_path / "small")
    assert loaded.config == replace(lm.config, tied_embeddings=False)
    ids = random_ids(lm, 30)
    assert (loaded.model(ids) - lm.model(ids)).abs().max() < 1e-4
    stored = torch.load(tmp_path / "small" / "consolidated.00.pth", weights_only=True)
    assert stored.keys() == {*meta_tensors(lm), "output.weight"}
    for name, weight in meta_tensors(lm).items():
        assert torch.equal(stored[name], weight)


def test_params_are_those_of_the_release(tmp_path):
    told = {name: _params(lv.PRESETS[name]) for name in ("llama2-7b", "llama2-70b")}
    assert told["llama2-7b"] == {
        "dim": 4096, "multiple_of": 256, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32,
        "norm_eps": 1e-05, "vocab_size": 32000,
    }  # fmt: skip
    assert told["llama2-70b"]["multiple_of"] == 4096
    for name, params in told.items():
        width = hidden_dim(params["dim"], params["multiple_of"], params.get("ffn_dim_multiplier"))
        assert width == lv.PRESETS[name].hidden_dim
        assert "max_seq_len" not in params  # 4096 is the release's own
    assert _params(random_model().config)["max_seq_len"] == 96


def test_the_tokenizer_and_the_type_go_with_it(family, tmp_path):
    lm = family["gqa"]
    for _ in range(2):  # what was written before is replaced
        lv.save_checkpoint(lm, tmp_path / "copy", format="meta", dtype=torch.bfloat16)
    loaded = lv.load(tmp_path / "copy")
    assert loaded.notes["stored_dtype"] == "bfloat16"
    assert loaded.tokenizer.model == lm.tokenizer.model


def test_what_the_release_cannot_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no head_dim of its own, and this is 12"):
        lv.save_checkpoint(random_model(head_dim=12), tmp_path / "x", format="meta")
    scaled = random_model(rope_scaling={"kind": "linear", "factor": 2.0})
    with pytest.raises(ValueError, match="cannot hold rope scaling"):
        lv.save_checkpoint(scaled, tmp_path / "x", format="meta")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds letter.txt"):
        lv.save_checkpoint(random_model(), tmp_path / "mine", format="meta")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
