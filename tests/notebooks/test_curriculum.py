"""Every line of what the notebooks teach, and the place where it is shown.

curriculum/NN.toml lists the lines of notebook NN. `printed` must stand in what its cells print,
`written` in its prose or code; `figure` is a figure that is compared with its reference. `number`
holds texts that are printed with a number at {}, which must lie within [lowest, highest] wherever
the text stands; # is any other number, and any space is as good as another. `tested` names tests of
this repository, as file::test: what can be seen only in a page that runs.
"""

from __future__ import annotations

import math
import re
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


NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?|nan"


def numbers(text: str, printed: str) -> list[float]:
    """Every number that is printed in the place of {} in a text."""
    pattern = r"\s+".join(map(re.escape, text.split()))
    pattern = pattern.replace(re.escape("#"), f"(?:{NUMBER})")
    pattern = pattern.replace(re.escape("{}"), rf"(?P<number>{NUMBER})(?![\d.]*\d)")
    return [float(found["number"].replace(",", "")) for found in re.finditer(pattern, printed)]


@pytest.mark.parametrize(("number", "line"), LINES)
def test_a_line_of_the_curriculum_is_shown(number, line):
    assert set(line) <= {"says", "printed", "written", "figure", "number", "tested"}
    assert len(line) > 1, "nothing says where it is shown"
    printed, written = contents(notebook(number))
    for text in line.get("printed", []):
        assert text in printed, f"no cell prints {text!r}"
    for text in line.get("written", []):
        assert text in written, f"nowhere stands {text!r}"
    for name in line.get("figure", []):
        assert f'figures.check(figure, "{name}")' in written, f"no figure {name}"
    for text, (lowest, highest) in line.get("number", {}).items():
        found = numbers(text, printed)
        assert found, f"no cell prints {text!r}"
        for value in found:
            assert lowest <= value <= highest, f"{text!r} is {value}"
    for name in line.get("tested", []):
        file, test = name.split("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"\ndef {test}(" in source, f"no test {name}"


def test_numbers_are_read_wherever_a_text_stands():
    printed = "layer 0:   moved 0.50 of it\nlayer 1: moved -1,200 of it\nlayer 2: moved nan of it"
    found = numbers("layer #: moved {} of it", printed)
    assert found[:2] == [0.5, -1200]
    assert math.isnan(found[2])
    assert not 0 <= found[2] <= 1, "nan lies in no range"
    assert numbers("layer {}:", printed) == [0, 1, 2]
    assert numbers("moved {}% of it", printed) == []
    assert numbers("in all {}", "in all 12.5.") == [12.5]


def test_no_list_is_empty():
    for path in LISTS:
        assert len(tomllib.loads(path.read_text(encoding="utf-8"))["line"]) >= 8, path.name
