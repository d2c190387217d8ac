"""Traces in files: one file, whole or not there, opened without a model."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import llama_viz as lv
from llama_viz import cli
from tests.reference import random_model


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model(), [1, 2, 3], 5)


def test_a_trace_comes_back_as_it_was(trace, tmp_path):
    lv.save_trace(trace, tmp_path / "run.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]
    loaded = lv.load_trace(tmp_path / "run.nc")
    xr.testing.assert_identical(loaded, trace)
    for name in trace.data_vars:
        assert loaded[name].dtype == trace[name].dtype


@pytest.mark.parametrize(
    "prompt",
    ["NUL \x00 here", "\U0001f600 \u05e9\u05dc\u05d5\u05dd", "<s> $x$ <script>", "two\nlines"],
)
def test_any_prompt_comes_back_as_it_was(family, prompt, tmp_path):
    trace = lv.record(family["gqa"], prompt, max_new_tokens=2, taps=["rms"])
    lv.save_trace(trace, tmp_path / "run.nc")
    loaded = lv.load_trace(tmp_path / "run.nc")
    assert loaded.attrs["prompt"] == prompt
    xr.testing.assert_identical(loaded, trace)


def test_a_trace_of_some_variables_comes_back(tmp_path):
    trace = lv.record_forward(random_model(), [4], taps=["rms"], layers=[1])
    lv.save_trace(trace, tmp_path / "run.nc")
    xr.testing.assert_identical(lv.load_trace(tmp_path / "run.nc"), trace)


def test_saving_replaces_an_older_file(trace, tmp_path):
    path = tmp_path / "run.nc"
    path.write_text("older")
    lv.save_trace(trace, path)
    assert lv.load_trace(path).identical(trace)


def test_a_failed_save_leaves_the_older_file_and_nothing_else(trace, tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    path.write_text("older")

    def fill_the_disk(dataset, unfinished, **_):
        unfinished.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        lv.save_trace(trace, path)
    assert path.read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["run.nc"]


def test_loading_needs_neither_torch_nor_a_model(trace, tmp_path):
    lv.save_trace(trace, tmp_path / "run.nc")
    code = (
        "import sys, llama_viz as lv; "
        f"trace = lv.load_trace({str(tmp_path / 'run.nc')!r}); "
        "print('torch' in sys.modules, float(trace.rms.sum()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[0] == "False"
    assert float(printed[1]) == pytest.approx(float(trace.rms.sum()))


@pytest.mark.parametrize("kept", [0, 7, 100, 2000, 0.3, 0.7, -1])
def test_a_file_cut_short_is_refused(trace, tmp_path, kept):
    path = tmp_path / "run.nc"
    lv.save_trace(trace, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(lv.TraceError, match=r"run\.nc: cannot be read as a trace"):
        lv.load_trace(path)


def test_damage_anywhere_is_an_error_of_ours_or_harmless(tmp_path):
    path = tmp_path / "run.nc"
    lv.save_trace(lv.record(random_model(), [1, 2, 3], 5, taps=["rms", "gate"]), path)
    whole = path.read_bytes()
    chance = np.random.default_rng(0)
    refused = harmless = 0
    for _ in range(60):
        damaged = bytearray(whole)
        at = int(chance.integers(len(whole) - 64))
        damaged[at : at + 64] = chance.bytes(64)
        path.write_bytes(damaged)
        try:
            lv.load_trace(path)
        except lv.TraceError as error:
            refused += "run.nc" in str(error) and "\n" not in str(error)
        else:
            harmless += 1
    assert refused + harmless == 60
    assert refused > 10


def test_other_files_are_refused(trace, tmp_path):
    path = tmp_path / "other.nc"
    xr.Dataset({"a": ("x", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(lv.TraceError, match="not a trace written by llama_viz.save_trace"):
        lv.load_trace(path)
    with pytest.raises(lv.TraceError, match="there is no such file"):
        lv.load_trace(tmp_path / "absent.nc")
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        lv.save_trace(trace, tmp_path / "absent" / "run.nc")
    with pytest.raises(TypeError, match="expected a trace"):
        lv.save_trace({"rms": 1}, path)


def test_attributes_may_be_numbers_of_numpy(trace, tmp_path):
    told = {"loss": np.float32(0.5), "heads": np.arange(3), "run": {"seed": np.int64(7)}}
    lv.save_trace(trace.assign_attrs(told), tmp_path / "run.nc")
    attributes = lv.load_trace(tmp_path / "run.nc").attrs
    assert [attributes[name] for name in told] == [0.5, [0, 1, 2], {"seed": 7}]
    with pytest.raises(TypeError, match="an attribute of the trace is of the type set, which a"):
        lv.save_trace(trace.assign_attrs(heads={1, 2}), tmp_path / "other.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]


def test_a_file_with_our_mark_and_other_attributes_is_refused(tmp_path):
    path = tmp_path / "marked.nc"
    marked = {"llama_viz_trace": 1, "attributes": "[]"}
    xr.Dataset({"rms": ("x", [1.0])}, attrs=marked).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(lv.TraceError, match="marked.nc: cannot be read as a trace"):
        lv.load_trace(path)


@pytest.mark.parametrize("name", ["x" * 300 + ".nc", "a\0.nc"])
def test_a_name_that_no_file_can_have_is_not_there(name, tmp_path):
    with pytest.raises(lv.TraceError, match="there is no such file"):
        lv.load_trace(tmp_path / name)


def test_a_dataset_without_the_attributes_of_a_trace_says_so(trace, tmp_path, capsys):
    lv.save_trace(trace.drop_attrs(), tmp_path / "bare.nc")
    for explorer in ("attention", "norms", "rotary", "cache"):
        page = tmp_path / "page.html"
        assert cli.main(["export", f"{tmp_path / 'bare.nc'}", f"{page}", "--explorer", explorer])
        error = capsys.readouterr().err
        assert "does not say the sizes of a model" in error
        assert error.count("\n") == 1
        assert not page.exists()


def test_a_later_format_is_refused(trace, tmp_path):
    path = tmp_path / "run.nc"
    lv.save_trace(trace, path)
    with xr.open_dataset(path, engine="h5netcdf") as file:
        later = file.load()
    later.attrs["llama_viz_trace"] = 99
    later.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(lv.TraceError, match="trace format 99, this version reads up to 1"):
        lv.load_trace(path)
