"""Running notebooks: the same bytes twice, whole files or none, and problems by name."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from llama_viz.files import DATA_VARIABLE, measurement
from notebooks import execute


def write(folder: Path, *cells: NotebookNode) -> Path:
    path = folder / "00_example.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def code(source: str, *tags: str) -> NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


PICTURE = """\
import matplotlib.pyplot as plt
_ = plt.plot([1, 3, 2])
plt.show()"""

WIDGET = """\
import ipywidgets as widgets
widgets.IntSlider(description="layer")"""


def test_two_runs_store_the_same_bytes(tmp_path: Path) -> None:
    clock = code("import time; print(time.time_ns())", "live", "nbval-ignore-output")
    path = write(tmp_path, new_markdown_cell("# Title"), code(PICTURE), code(WIDGET), clock)
    assert execute.execute_one(path)
    first = path.read_bytes()
    assert not execute.execute_one(path)
    assert path.read_bytes() == first
    assert execute.problems(path) == []
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    _, picture, widget, live = notebook.cells
    assert "image/png" in picture.outputs[0].data
    assert list(widget.outputs[0].data) == ["text/plain"]
    assert live.outputs == []
    assert live.metadata.tags == ["live", "nbval-ignore-output"]
    assert "widgets" not in notebook.metadata
    assert "version" not in notebook.metadata.language_info


def test_an_error_is_shown_and_the_file_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, code("depth = 6"), code("raise ValueError(f'no layer {depth}')"))
    before = path.read_bytes()
    assert execute.execute([path]) == 1
    assert "no layer 6" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_the_seconds_are_stored_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    path = write(tmp_path, code("import time; time.sleep(0.3)"))
    assert execute.execute([path]) == 0
    assert list((tmp_path / "data").iterdir()) == []
    (tmp_path / "solutions").mkdir()
    solution = write(tmp_path / "solutions", code("depth = 6"))
    assert solution.stem == path.stem
    assert execute.execute([path, solution], is_timed=True) == 0
    stored = measurement("notebooks")
    assert stored["command"] == "python notebooks/execute.py --times"
    assert 0.3 <= stored["seconds"]["00_example"] < 60


def test_the_kernel_is_that_of_this_environment_in_the_notebooks_folder(tmp_path: Path) -> None:
    path = write(tmp_path, code("import os, sys; print(sys.prefix, os.getcwd(), sep='|')"))
    execute.execute_one(path)
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.outputs[0].text.strip() == f"{sys.prefix}|{tmp_path}"


def test_problems_of_a_stored_notebook_are_named(tmp_path: Path) -> None:
    failed = code("1 / 0")
    failed.execution_count = 2
    failed.outputs = [new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]
    expected = code("1 / 0", "raises-exception")
    expected.execution_count = 7
    expected.outputs = failed.outputs
    long = code("\n".join(["x = 1"] * 11), "live")
    long.execution_count = 4
    path = write(tmp_path, code("x = 1"), new_markdown_cell("text"), failed, expected, long)
    assert execute.problems(path) == [
        "00_example.ipynb, cell 0: was not run",
        "00_example.ipynb, cell 2: stores an error",
        "00_example.ipynb, cell 3: was run as number 7, not 3",
        "00_example.ipynb, cell 4: has 11 lines; at most 10 can be read",
        "00_example.ipynb, cell 4: is live, so it needs the tag nbval-ignore-output, too",
    ]
    assert execute.check([path]) == 1


def test_an_unknown_name_lists_the_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute.main(["99_nowhere"]) == 1
    assert "there are" in capsys.readouterr().out


def test_the_projects_notebooks_are_as_they_should_be() -> None:
    assert execute.check(execute.notebooks()) == 0
