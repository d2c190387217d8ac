"""Traces written while they are recorded: the same to the bit, little in memory, nothing left."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

import llama_viz as lv
from llama_viz import cli, trace_folder
from llama_viz.trace import VARIABLES
from tests.reference import n_hooks, random_ids, random_model

PROMPT = [5, 6, 7, 8]


def assert_the_same(found, expected):
    """Every variable, coordinate and attribute, to the bit; but the time it took."""
    assert list(found.data_vars) == list(expected.data_vars)
    assert set(found.coords) == set(expected.coords)
    assert found.attrs == expected.attrs
    for name, variable in expected.variables.items():
        assert found[name].dims == variable.dims, name
        assert found[name].attrs == variable.attrs, name
        assert found[name].shape == variable.shape, name
        if name == "step_seconds":
            continue
        if variable.dtype.kind == "U":
            assert found[name].values.tolist() == variable.values.tolist(), name
        else:
            assert found[name].dtype == variable.dtype, name
            assert found[name].values.tobytes() == variable.values.tobytes(), name


@pytest.fixture(params=[256, 4])
def block(request, monkeypatch):
    """Chunks of so many positions, so that a short text has one or many."""
    monkeypatch.setattr(trace_folder, "BLOCK", request.param)
    monkeypatch.setattr("llama_viz.recorder.WINDOW", request.param)
    return request.param


@pytest.mark.parametrize(
    ("prompt", "n_new", "options"),
    [
        (PROMPT, 14, {}),
        ([3], 9, {"half_precision": True}),
        (PROMPT, 1, {}),
        (PROMPT, 6, {"layers": [0, 2], "temperature": 1.0, "seed": 2}),
        (PROMPT, 6, {"taps": ["attention_weights", "candidate_id"]}),
    ],
)
def test_a_written_trace_is_the_recorded_one(block, prompt, n_new, options, tmp_path):
    lm = random_model()
    found = lv.record(lm, prompt, n_new, path=tmp_path / "run.zarr", **options)
    assert_the_same(found, lv.record(lm, prompt, n_new, **options))
    assert [inside.name for inside in tmp_path.iterdir()] == ["run.zarr"]
    assert n_hooks(lm.model) == 0


def test_a_written_pass_is_the_recorded_one(block, tmp_path):
    lm = random_model()
    ids = random_ids(lm, 11)[0].tolist()
    found = lv.record_forward(lm, ids, path=str(tmp_path / "run.zarr"), half_precision=True)
    assert_the_same(found, lv.record_forward(lm, ids, half_precision=True))
    assert_the_same(lv.load_trace(tmp_path / "run.zarr"), found)


def test_a_text_that_ends_early_ends_in_the_folder(block, tmp_path):
    lm = lv.load("gqa")
    ids = lm.encode("Once upon a time")
    ends = {"forced": [*ids[1:3], lm.tokenizer.eos_id]}
    found = lv.record(lm, ids, 40, taps=lv.SIGNALS, path=tmp_path / "run.zarr", **ends)
    assert found.attrs["stop_reason"] == "eos"
    assert found.sizes["position"] == len(ids) + 2
    assert_the_same(found, lv.record(lm, ids, 40, taps=lv.SIGNALS, **ends))


def test_changed_values_are_written(block, tmp_path):
    lm = random_model()
    changes = {
        "blocks.1.attention.weights": lambda value, context: torch.full_like(value, 0.25),
        "blocks.2.residual_in": lambda value, context: 2 * value,
    }
    with lv.intervene(lm, changes):
        found = lv.record(lm, PROMPT, 9, path=tmp_path / "run.zarr")
        assert_the_same(found, lv.record(lm, PROMPT, 9))


def test_dropped_rows_are_marked(block, tmp_path):
    lm = random_model()
    with lv.surgery.operating(lm, lv.surgery.window(3), at=4, repeat=True):
        found = lv.record(lm, PROMPT, 9, path=tmp_path / "run.zarr")
        assert_the_same(found, lv.record(lm, PROMPT, 9))
    assert found.attention_weights.isnull().any()


def test_blocks_above_the_diagonal_take_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr(trace_folder, "BLOCK", 8)
    lm = random_model()
    ids = random_ids(lm, 40)[0].tolist()
    lv.record_forward(lm, ids, path=tmp_path / "run.zarr")
    n_blocks = 40 // 8
    for name in ("attention_scores", "attention_weights"):
        found = {file.name for file in (tmp_path / "run.zarr" / name).glob("c*")}
        assert found == {
            f"c.{layer}.0.{query}.{key}"
            for layer in range(lm.config.n_layers)
            for query in range(n_blocks)
            for key in range(query + 1)
        }


def test_memory_holds_a_small_part_of_the_trace(tmp_path):
    lm = random_model(n_layers=12, max_seq_len=512)
    ids = random_ids(lm, 400)[0].tolist()
    taps = ["attention_scores", "attention_weights", "gate"]
    lv.record_forward(lm, [1], taps, path=tmp_path / "first.zarr")  # what is imported, made once
    size = lv.recording_size(lm, ids, 1, taps).total
    limit = size // 50
    with pytest.raises(lv.MemoryLimitError, match="the trace would take"):
        lv.record_forward(lm, ids, taps, memory_limit=limit)
    tracemalloc.start()
    held = lv.cost.most_held(
        lambda: lv.record_forward(lm, ids, taps, memory_limit=limit, path=tmp_path / "run.zarr")
    )
    held += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One layer of twelve passes at a time: its scores, masked, its weights, and what is on its way.
    assert size / 100 < held < size / 3


def test_what_waits_to_be_written_has_a_limit(tmp_path):
    lm = random_model()
    with pytest.raises(lv.MemoryLimitError, match="what waits to be written would take"):
        lv.record(lm, PROMPT, 20, memory_limit="5kB", path=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


def test_values_are_read_when_they_are_asked_for(tmp_path):
    lm = random_model()
    lv.record(lm, PROMPT, 5, path=tmp_path / "run.zarr")
    trace = lv.load_trace(tmp_path / "run.zarr")
    for name in VARIABLES:
        assert not trace[name].variable._in_memory, name
    assert trace.token.values.tolist() == ["5", "6", "7", "8", *trace.token.values[4:]]
    (tmp_path / "run.zarr" / "gate" / "c.1.0.0").write_bytes(b"damage")
    assert np.isfinite(trace.gate[0].values).all()
    with pytest.raises(lv.TraceError, match="the files of gate are damaged"):
        trace.gate[1].load()


# What is there already, and what fails


def test_an_older_trace_is_replaced_and_nothing_else(tmp_path):
    lm, path = random_model(), tmp_path / "run.zarr"
    lv.record(lm, PROMPT, 4, path=path)
    trace = lv.record(lm, PROMPT, 2, taps=["rms"], path=path)
    assert list(trace.data_vars) == ["rms"]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"it holds notes.txt"):
        lv.record(lm, PROMPT, 2, taps=["rms"], path=path)
    assert (path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_recording_that_fails_leaves_nothing(error, tmp_path):
    lm = random_model()

    def fail(value, context):
        if context.start > 5:
            raise error
        return value

    with (
        pytest.raises(error),
        lv.intervene(lm, {"blocks.1.feed_forward.gate": fail}),
    ):
        lv.record(lm, PROMPT, 9, path=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())
    assert n_hooks(lm.model) == 0


def test_where_a_trace_cannot_be_written(tmp_path):
    lm = random_model()
    with pytest.raises(ValueError, match=r"end its name in .zarr, got '.*run.nc'"):
        lv.record(lm, PROMPT, 2, path=tmp_path / "run.nc")
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        lv.record(lm, PROMPT, 2, path=tmp_path / "absent" / "run.zarr")
    with pytest.raises(ValueError, match="path= is for a single prompt; record one by one"):
        lv.record(lm, [PROMPT, [1]], 2, path=tmp_path / "run.zarr")


# Folders from strangers


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run.zarr"
    lv.record(random_model(), PROMPT, 5, taps=["rms", "gate"], path=path)
    return path


def change(path, **changes):
    """Rewrite a description: key__inner=value."""
    described = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        at = described
        for name in outer:
            at = at[name]
        at[last] = value
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rms/zarr.json", {"codecs": [{"name": "numcodecs.pickle"}]}, "codec 'numcodecs.pickle'"),
        ("rms/zarr.json", {"codecs": [{"name": "sharding_indexed"}]}, "the codec 'sharding_index"),
        ("rms/zarr.json", {"data_type": "object"}, "rms is not stored as"),
        ("rms/zarr.json", {"shape": [7, 9]}, "rms is not stored as"),
        ("rms/zarr.json", {"dimension_names": ["norm", "step"]}, "rms is not stored as"),
        ("rms/zarr.json", {"storage_transformers": [{"name": "x"}]}, "rms is not stored as"),
        ("rms/zarr.json", {"zarr_format": 2}, "not array data of zarr format 3"),
        ("gate/zarr.json", {"chunk_grid__configuration__chunk_shape": [1, 2**15, 2**15]}, "gate "),
        ("gate/zarr.json", {"chunk_grid__name": "rectilinear"}, "gate is not stored as"),
        ("gate/zarr.json", {"chunk_grid": None}, "damaged or incomplete"),
        ("zarr.json", {"attributes__llama_viz_trace": 99}, "format 99, this version reads up to 1"),
        ("zarr.json", {"attributes__llama_viz_trace": None}, "not a complete trace"),
        ("zarr.json", {"attributes__llama_viz_trace": "one"}, "damaged or incomplete"),
        ("zarr.json", {"attributes__attributes": "[1]"}, "damaged or incomplete"),
        ("zarr.json", {"attributes": {}}, "not a complete trace"),
    ],
)  # fmt: skip
def test_other_descriptions_are_refused(folder, name, changes, message):
    change(folder / name, **changes)
    with pytest.raises(lv.TraceError, match=message) as caught:
        lv.load_trace(folder)
    assert "run.zarr" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_with_something_missing_is_refused(folder):
    (folder / "gate" / "c.1.0.0").rename(folder.parent / "kept")
    with pytest.raises(lv.TraceError, match="files of gate are missing or cut short"):
        lv.load_trace(folder)
    (folder / "gate" / "c.1.0.0").write_bytes((folder.parent / "kept").read_bytes()[:-1])
    with pytest.raises(lv.TraceError, match="files of gate are missing or cut short"):
        lv.load_trace(folder)
    shutil.rmtree(folder / "gate")
    with pytest.raises(lv.TraceError, match="damaged or incomplete"):
        lv.load_trace(folder)


def flip(path):
    """Change one bit in the middle of a file, whose size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(params=["removed", "renamed"])
def lose(request):
    """How a file gets lost: it is gone, or bears the name of another chunk."""
    if request.param == "removed":
        return Path.unlink
    return lambda path: path.rename(path.with_name("c.9.9.9"))


def test_a_chunk_that_is_lost_is_not_read_as_zeros(lose, monkeypatch, tmp_path):
    monkeypatch.setattr(trace_folder, "BLOCK", 8)
    lm, path = random_model(), tmp_path / "run.zarr"
    trace = lv.record_forward(lm, random_ids(lm, 20)[0].tolist(), path=path)
    lose(path / "attention_weights" / "c.1.0.2.0")
    expected = "the files of attention_weights are damaged, .*some are missing"
    for read in (trace.attention_weights[1].load, lambda: trace.attention_weights[0, 0, 0].values):
        with pytest.raises(lv.TraceError, match=expected) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert np.isfinite(trace.gate[1].values).all()
    with pytest.raises(lv.TraceError, match="files of attention_weights are missing or cut short"):
        lv.load_trace(path)


def test_a_folder_that_was_written_before_names_were_told_is_read(folder):
    told = json.loads((folder / "zarr.json").read_text())["attributes"]["files"]
    whole = lv.load_trace(folder).load()
    change(folder / "zarr.json", attributes__files={name: told[name][:2] for name in told})
    assert lv.load_trace(folder).identical(whole)
    change(folder / "zarr.json", attributes__files={name: [] for name in told})
    with pytest.raises(lv.TraceError, match="missing or cut short"):
        lv.load_trace(folder)


@pytest.mark.parametrize("what", ["moved", "deleted", "replaced"])
def test_an_open_trace_whose_folder_is_another_says_so(what, folder):
    trace = lv.load_trace(folder)
    if what == "moved":
        folder.rename(folder.with_name("other.zarr"))
    elif what == "deleted":
        shutil.rmtree(folder)
    else:
        lv.record(random_model(), [9, 5, 6, 7], 5, taps=["rms", "gate"], path=folder)
    with pytest.raises(lv.TraceError, match="run.zarr: moved, deleted or replaced since") as caught:
        trace.gate.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gate", "attention_weights", "lens_id", "token_id"])
def test_damaged_values_are_told_when_they_are_read(name, tmp_path):
    path = tmp_path / "run.zarr"
    whole = lv.record(random_model(), PROMPT, 5, path=path).load()
    flip(min((path / name).glob("c*")))
    trace = lv.load_trace(path)
    expected = f"run.zarr: the files of {name} are damaged, .* record the run again"
    for read in (trace[name].load, trace.load, lambda: trace[name][..., ::2].values):
        with pytest.raises(lv.TraceError, match=expected) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert np.array_equal(trace.up.values, whole.up.values)


@pytest.mark.parametrize("name", ["token", "lens_token", "position"])
def test_damaged_coordinates_are_told_when_the_folder_is_opened(name, tmp_path):
    path = tmp_path / "run.zarr"
    lv.record(random_model(), PROMPT, 5, path=path)
    flip(min((path / name).glob("c*")))
    with pytest.raises(lv.TraceError, match=f"run.zarr: the files of {name} are damaged"):
        lv.load_trace(path)


def test_a_small_machine_is_not_called_damage(folder, monkeypatch):
    class Full:
        def __getitem__(self, key):
            raise MemoryError("no room")

    trace = lv.load_trace(folder)
    monkeypatch.setattr(zarr.Array, "oindex", Full())
    with pytest.raises(MemoryError, match="no room"):
        trace.gate.load()


def test_parts_are_read_as_from_memory(tmp_path):
    path = tmp_path / "run.zarr"
    gate = lv.record(random_model(), PROMPT, 5, path=path).gate
    whole = lv.load_trace(path).gate.load()
    layers, positions = (xr.DataArray(places, dims="place") for places in ([2, 0], [1, 5]))
    for part in (
        {"layer": 1}, {"layer": -1, "position": 3, "neuron": 5},
        {"position": slice(None, None, -2)},
        {"neuron": [7, 3, 3], "layer": slice(1, 3)}, {"layer": layers, "position": positions},
    ):  # fmt: skip
        assert np.array_equal(gate.isel(part).values, whole.isel(part).values), part
    assert not gate.variable._in_memory
    gate.load()
    flip(path / "gate" / "c.0.0.0")
    assert np.array_equal(gate.values, whole.values)  # what was read once is kept


def test_an_unfinished_folder_is_refused(tmp_path):
    trace_folder.TraceWriter(tmp_path / "run.zarr", {"rms": (7, 5)}, {"rms": "float32"})
    with pytest.raises(lv.TraceError, match="not a complete trace"):
        lv.load_trace(tmp_path / "run.zarr")


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(lv.TraceError, match="a folder, but not a trace"):
        lv.load_trace(tmp_path)
    (folder / "extra").mkdir()
    with pytest.raises(lv.TraceError, match="damaged or incomplete"):
        lv.load_trace(folder)
    second = tmp_path / "second.zarr"
    zarr.create_group(second, zarr_format=2).create_array("rms", shape=(3,), dtype="float32")
    with pytest.raises(lv.TraceError, match="zarr format 2, whose codecs may run code"):
        lv.load_trace(second)


def test_damage_in_any_description_is_an_error_of_ours_or_harmless(folder):
    chance = np.random.default_rng(0)
    descriptions = sorted(folder.rglob("zarr.json"))
    refused = 0
    for number in range(60):
        path = descriptions[number % len(descriptions)]
        whole = path.read_bytes()
        at = int(chance.integers(len(whole) - 4))
        path.write_bytes(whole[:at] + chance.bytes(4) + whole[at + 4 :])
        try:
            lv.load_trace(folder)
        except lv.TraceError as error:
            refused += "run.zarr" in str(error) and "\n" not in str(error)
        path.write_bytes(whole)
    assert refused > 30
    assert isinstance(lv.load_trace(folder), xr.Dataset)


# The command line


def test_the_command_writes_as_it_goes(tmp_path, capsys):
    path = tmp_path / "run.zarr"
    text = "Once upon a time"
    settings = ["--max-new-tokens", "4", "--taps", "rms,gate", "--out", str(path)]
    assert cli.main(["record", "gqa", text, *settings]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert_the_same(lv.load_trace(path), lv.record(lv.load("gqa"), text, 4, taps=["rms", "gate"]))
    assert cli.main(["record", "gqa", text, *settings, "--nproc", "2"]) == 2
    assert "name a path ending in .nc" in capsys.readouterr().err
