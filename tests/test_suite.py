"""The list of the notebooks says what they say themselves, and its map can be printed."""

import nbformat
import pytest

from llama_viz import figures, widgets
from llama_viz.cli import main
from llama_viz.figures.suite import A4, IN_ATTENTION
from llama_viz.files import data_folder
from llama_viz.suite import LESSONS

NOTEBOOKS = data_folder().parent / "notebooks"


def test_every_notebook_is_in_the_list_under_its_own_title():
    files = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    known = {lesson.file: lesson for lesson in LESSONS}
    assert files <= set(known)
    for file in files:
        first = nbformat.read(NOTEBOOKS / f"{file}.ipynb", 4).cells[0].source
        assert first.splitlines()[0] == f"# {known[file].question}"


def test_the_readme_lists_each_notebook_once():
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    there = [lesson for lesson in LESSONS if (NOTEBOOKS / f"{lesson.file}.ipynb").exists()]
    rows = [f"| [{one.file}](notebooks/{one.file}.ipynb) | {one.question} |" for one in there]
    assert [line for line in readme.splitlines() if line.startswith("| [")] == rows


def test_numbers_are_in_order_and_every_explorer_exists():
    assert [int(lesson.number) for lesson in LESSONS] == list(range(len(LESSONS)))
    assert all(lesson.file.startswith(lesson.number) for lesson in LESSONS)
    assert all(hasattr(widgets, lesson.explorer) for lesson in LESSONS if lesson.explorer)


def test_each_box_shows_the_number_of_the_notebook_that_opens_it():
    texts = [text.get_text() for text in figures.suite_map().axes[0].texts]
    for lesson in LESSONS:
        norms = {"03": 3}.get(lesson.number, bool(lesson.opens))
        assert texts.count(lesson.number) == 1 + norms
        assert texts.count(lesson.question) == 1
    assert all(name in texts for name, _ in IN_ATTENTION)


def test_nothing_on_the_map_overlaps_or_leaves_the_paper():
    figure = figures.suite_map()
    figure.canvas.draw()
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in [*figure.texts, *figure.axes[0].texts] if text.get_text()
    ]  # fmt: skip
    for place, (words, box) in enumerate(boxes):
        assert 0 < box.x0 < box.x1 < A4[0] * figure.dpi, words
        assert 0 < box.y0 < box.y1 < A4[1] * figure.dpi, words
        for others, other in boxes[place + 1 :]:
            assert not box.overlaps(other), (words, others)


@pytest.mark.parametrize(
    ("suffix", "magic"), [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")]
)
def test_the_command_writes_it(tmp_path, capsys, suffix, magic):
    path = tmp_path / f"map.{suffix}"
    assert main(["map", str(path)]) == 0
    assert path.read_bytes().startswith(magic)
    assert capsys.readouterr().out == f"{path}\n"


def test_the_command_knows_no_other_kind_of_file(tmp_path, capsys):
    assert main(["map", str(tmp_path / "map.doc")]) == 2
    assert "a map ends in .pdf, .png, .svg, got" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
