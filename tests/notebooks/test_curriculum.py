"""Every line of what the notebooks teach, and the place where it is shown.

curriculum/NN.toml lists the lines of notebook NN. `printed` must stand in what its cells print,
`written` in its prose or code; `figure` is a figure that is compared with its reference.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
LISTS = sorted((Path(__file__).parent / "curriculum").glob("[0-9]*.toml"))
LINES = [
    pytest.param(path.stem, line, id=f"{path.stem}: {line['says'][:60]}")
    for path in LISTS
    for line in tomllib.loads(path.read_text(encoding="utf-8"))["line"]
]


def notebook(number: str) -> Path:
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return path


def contents(path: Path) -> tuple[str, str]:
    """All that a notebook's cells print, and all that is written in it."""
    cells = nbformat.read(path, as_version=4).cells
    printed = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown = [output.get("text", ""), data.get("text/plain", "")]
            shown += [data.get("text/markdown", ""), data.get("text/html", "")]
            printed += ["".join(part) for part in shown]
    return "\n".join(printed), "\n".join(cell.source for cell in cells)


@pytest.mark.parametrize(("number", "line"), LINES)
def test_a_line_of_the_curriculum_is_shown(number, line):
    assert set(line) <= {"says", "printed", "written", "figure"}
    assert len(line) > 1, "nothing says where it is shown"
    printed, written = contents(notebook(number))
    for text in line.get("printed", []):
        assert text in printed, f"no cell prints {text!r}"
    for text in line.get("written", []):
        assert text in written, f"nowhere stands {text!r}"
    for name in line.get("figure", []):
        assert f'figures.check(figure, "{name}")' in written, f"no figure {name}"


def test_no_list_is_empty():
    for path in LISTS:
        assert len(tomllib.loads(path.read_text(encoding="utf-8"))["line"]) >= 8, path.name
