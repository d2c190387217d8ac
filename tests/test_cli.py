"""The command line: the same text as the library, and one clear line where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import jupyterlab.labapp
import pytest

import llama_viz as lv
from llama_viz import cli

PROMPT = "Once upon a time"


def test_generate_prints_the_continuation(
    family: dict[str, lv.LanguageModel], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = lv.generate(family["gqa"], PROMPT, max_new_tokens=12).text
    assert cli.main(["generate", PROMPT, "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out == expected + "\n"


def test_generate_hands_every_setting_on(
    family: dict[str, lv.LanguageModel], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"max_new_tokens": 10, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": 7}
    expected = lv.generate(family["mqa"], PROMPT, **settings).text
    options = [
        text
        for name, value in settings.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert cli.main(["generate", "--model", "mqa", *options, PROMPT]) == 0
    assert capsys.readouterr().out == expected + "\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["generate", ""], "prompt is empty"),
        (["generate", PROMPT, "--temperature", "-1"], "temperature"),
        (["generate", PROMPT, "--max-new-tokens", "0"], "max_new_tokens"),
        (["generate", PROMPT, "--model", "no such model"], "no such model"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("llama-viz: ")
    assert part in output.err
    assert output.err.count("\n") == 1


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> Iterator[None]:
        warnings.warn("the context\nis full", stacklevel=1)
        yield from ()

    monkeypatch.setattr(lv, "stream", full)
    assert cli.main(["generate", PROMPT]) == 0
    assert capsys.readouterr().err == "llama-viz: the context is full\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["compose"], ["generate"], ["generate", PROMPT, "--tempo", "3"]],
)
def test_an_unknown_command_or_option_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: llama-viz" in capsys.readouterr().err


def test_ctrl_c_leaves_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(lv, "stream", interrupted)
    assert cli.main(["generate", PROMPT]) == 130
    assert capsys.readouterr().err == "\n"


def test_lab_opens_the_first_notebook_with_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(jupyterlab.labapp, "main", started.append)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "elsewhere")
    assert cli.main(["lab", "--no-browser", "--port", "8890"]) == 0
    (arguments,) = started
    assert arguments[-3:] == ["--no-browser", "--port", "8890"]
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in arguments
    assert os.environ["JUPYTER_CONFIG_PATH"] == f"{cli.CHECKOUT}{os.pathsep}elsewhere"


def test_lab_without_the_notebooks_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "FIRST_NOTEBOOK", tmp_path / "00_start_here.ipynb")
    assert cli.main(["lab"]) == 2
    assert "clone the project" in capsys.readouterr().err


def test_it_runs_as_a_module_from_any_folder(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "llama_viz", "generate", PROMPT, "--max-new-tokens", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()


def test_a_reader_may_go_away() -> None:
    command = [sys.executable, "-m", "llama_viz", "generate", PROMPT, "--max-new-tokens", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == cli.ENOUGH
