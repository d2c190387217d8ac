"""One copy of models and traces for a whole class: nobody writes to it; and Binder's files."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import llama_viz as lv
from llama_viz import cli, fetching, files
from llama_viz.trace import VARIABLES
from tests.reference import random_model

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "labconfig" / "classroom.md").read_text(encoding="utf-8")

# A person's morning, in a process that refuses every attempt to write below the first argument:
# whoever the tests run as, and root may write anywhere.
MORNING = """
import os, sys
from pathlib import Path
shared, own = Path(sys.argv[1]), Path(sys.argv[2])
CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.link",
            "os.symlink", "os.truncate", "tempfile.mkstemp", "tempfile.mkdtemp")
def refuse(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    elif event in CHANGING:
        path, writes = arguments[0], True
    else:
        return
    if writes and isinstance(path, (str, os.PathLike)) and shared in Path(path).parents:
        raise OSError(30, "Read-only file system", str(path))
sys.addaudithook(refuse)

import llama_viz as lv
from llama_viz import cli, files
from llama_viz.fetching import cache_folder, fetch
assert shared in files.data_folder().parents and shared in cache_folder().parents
try:
    (files.data_folder() / "note").write_text("a write is refused")
except OSError as error:
    assert error.errno == 30
else:
    raise AssertionError("the write was not refused")
for name in ("mha", "gqa", "mqa"):
    lm = lv.load(name)
    assert lm.path.parent == files.data_folder()
    trace = lv.record(lm, "Once upon a time", max_new_tokens=3)
    lv.save_trace(trace, own / f"{name}.nc")
    assert lv.load_trace(own / f"{name}.nc").identical(trace)
for path in sorted((files.data_folder() / "traces").iterdir()):
    lv.widgets.AttentionExplorer(lv.load_trace(path)).save(own / "page.html")
lv.widgets.TrainingExplorer()
assert fetch("hub:class/model") == lv.load("hub:class/model").path
assert cli.main(["inspect", "hub:class/model"]) == 0
assert files.measurement("cache_time")
print("done")
"""


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file and folder with its size and time: what is made in a folder changes its time."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def test_models_traces_and_cache_may_be_one_read_only_copy(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    shutil.copytree(ROOT / "data", shared / "data")
    (shared / "cache" / "hub").mkdir(parents=True)
    lv.save_checkpoint(
        random_model(), shared / "cache" / "hub" / "class--model", format="huggingface"
    )
    own.mkdir()
    for path in [shared, *shared.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = listing(shared)
    environment = {
        **os.environ,
        files.DATA_VARIABLE: str(shared / "data"),
        fetching.CACHE_VARIABLE: str(shared / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", MORNING, str(shared), str(own)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert listing(shared) == before
    for path in [shared, *shared.rglob("*")]:  # so that it can be removed
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_the_data_may_lie_elsewhere(tmp_path, monkeypatch):
    assert files.data_folder() == ROOT / "data"
    monkeypatch.setenv("LLAMA_VIZ_DATA", str(tmp_path))
    assert files.data_folder() == tmp_path
    with pytest.raises(lv.CheckpointError, match=f"{tmp_path}/gqa.safetensors: there is no such"):
        lv.load("gqa")


def test_fetching_into_a_read_only_cache_says_whom_to_ask(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(subprocess, "run", None)
    for name in ("smollm2-135m", "hub:class/model"):
        assert cli.main(["fetch", name]) == 2
        error = capsys.readouterr().err
        assert f"cannot write to the cache {tmp_path}" in error
        assert "LLAMA_VIZ_CACHE" in error
        assert error.count("\n") == 1
    (tmp_path / "file").touch()
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert cli.main(["fetch", "smollm2-135m"]) == 2
    assert "cannot write to the cache" in capsys.readouterr().err


# Binder


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_binders_scripts_can_be_run(name):
    path = ROOT / ".binder" / name
    assert path.read_text(encoding="utf-8").startswith("#!/bin/bash\n")
    if (ROOT / ".git").exists():
        mode = subprocess.run(
            ["git", "ls-files", "--stage", path], cwd=ROOT, capture_output=True, text=True
        ).stdout
        assert mode.startswith("100755")
    subprocess.run(["bash", "-n", path], check=True)


def test_binder_starts_with_our_settings(tmp_path):
    script = ROOT / ".binder" / "start"
    command = ["bash", script, "printenv", "JUPYTER_CONFIG_PATH"]
    environment = {"PATH": os.environ["PATH"]}
    for known, expected in (({}, ""), ({"JUPYTER_CONFIG_PATH": "/known"}, ":/known")):
        done = subprocess.run(
            command, cwd=ROOT, env=environment | known, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{ROOT}{expected}\n"


def test_binder_installs_what_conda_does():
    for_binder = (ROOT / ".binder" / "environment.yml").read_text(encoding="utf-8")
    for_conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    dependencies = for_conda[for_conda.index("name:") :].partition("  - pip:\n")
    assert for_binder[for_binder.index("name:") :] == dependencies[0]
    script = (ROOT / ".binder" / "postBuild").read_text(encoding="utf-8")
    long_names = {"-r": "--requirement", "-e": "--editable"}
    for line in dependencies[2].splitlines():
        _, flag, name = line.split()
        assert f"{long_names[flag]} {name}" in script


def test_the_page_names_what_is_there():
    assert set(re.findall(r"LLAMA_VIZ_\w+", PAGE)) == {
        files.DATA_VARIABLE,
        fetching.CACHE_VARIABLE,
    }
    for name in re.findall(r"`(\.binder/|[\w/]+\.(?:py|yml|ipynb))`", PAGE):
        inside = [ROOT / name, ROOT / ".binder" / name]
        assert name.startswith("/") or any(path.exists() for path in inside), name
    (link,) = re.findall(r"urlpath=lab/tree/(\S+)", PAGE)
    assert (ROOT / link).is_file()
    parser = cli.command_line()
    for command in re.findall(r"llama-viz (record .*)\n", PAGE):
        options = parser.parse_args(
            ["record", "CHECKPOINT", "One sunny morning", *command.split('"')[2].split()]
        )
        assert options.nproc == 4
        assert set(options.taps) <= set(VARIABLES)
