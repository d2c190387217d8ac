"""What every notebook owes its reader, read from the stored files; nbval runs the cells."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("[0-9]*.ipynb"))


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def printed(cell: nbformat.NotebookNode) -> str:
    """All text that a cell shows."""
    texts = [output.get("text", "") for output in cell.outputs]
    texts += [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(texts)


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_the_title_asks_and_the_last_text_answers(path):
    texts = [cell.source for cell in cells(path, "markdown")]
    title = texts[0].splitlines()[0]
    assert title.startswith("# ")
    assert title.endswith("?")
    assert re.match(r"## So, ", texts[-1])


@every_notebook
def test_code_cells_are_short_and_the_first_one_sets_up(path):
    lengths = [len(cell.source.splitlines()) for cell in cells(path, "code")]
    assert lengths[0] <= 8
    assert statistics.median(lengths) <= 4
    assert max(lengths) <= 10


@every_notebook
def test_code_in_the_prose_is_code_of_the_package(path):
    package = "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "llama_viz").rglob("*.py")
    )
    lines = {line.strip() for line in package.splitlines()}
    for cell in cells(path, "markdown"):
        for block in re.findall(r"```python\n(.*?)```", cell.source, flags=re.DOTALL):
            for line in block.splitlines():
                assert line.strip() in lines, f"no module says: {line}"


@every_notebook
def test_every_checked_figure_is_compared_with_its_reference(path):
    code = [
        cell
        for cell in cells(path, "code")
        if "nbval-ignore-output" not in cell.metadata.get("tags", [])
    ]
    drawing = [
        number
        for number, cell in enumerate(code)
        if re.search(r"\bfigures\.(?!check)\w+\(", cell.source)
    ]
    assert drawing
    for number in drawing:
        assert code[number].source.endswith("\nfigure")
        assert code[number + 1].source.startswith(f'figures.check(figure, "{path.stem[:2]}_')


@every_notebook
def test_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        linked = re.findall(r"\]\((?!https?:|#)([^)]+)\)", cell.source)
        linked += re.findall(r"`(solutions/[^`]+)`", cell.source)
        for link in linked:
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


@every_notebook
def test_every_widget_leaves_a_picture_and_a_text(path):
    for cell in cells(path, "code"):
        tags = cell.metadata.get("tags", [])
        if "nbval-ignore-output" in tags and "live" not in tags:
            shown = [output.get("data", {}) for output in cell.outputs]
            pictures = [data for data in shown if {"image/png", "image/jpeg"} & set(data)]
            assert any(data["text/plain"].strip() for data in pictures)
    assert "widgets" not in nbformat.read(path, as_version=4).metadata


@every_notebook
def test_every_exercise_has_a_solution_that_is_right(path):
    solution = ROOT / "notebooks" / "solutions" / path.name
    asked = [
        cell
        for cell in cells(path, "code")
        if re.search(r"^exercises\.", cell.source, re.MULTILINE)
    ]
    solved = [cell for cell in cells(solution, "code") if "exercises." in cell.source]
    solved = [cell for cell in solved if "import" not in cell.source]
    assert 2 <= len(asked) == len(solved) <= 3
    for cell in asked:
        assert "Not answered yet" in printed(cell)
    for cell in solved:
        assert printed(cell).strip().startswith("Right")


def test_every_solution_belongs_to_a_notebook():
    assert {path.name for path in SOLUTIONS} <= {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", [*NOTEBOOKS, *SOLUTIONS], ids=lambda path: path.parent.name)
def test_nothing_warns(path):
    for cell in cells(path, "code"):
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
