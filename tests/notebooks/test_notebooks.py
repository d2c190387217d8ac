"""What every notebook owes its reader, read from the stored files; nbval runs the cells."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import llama_viz as lv

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


# The runs that exercises ask about, read from the code; nothing is executed

RUNS = ("record", "record_forward", "load_trace", "load")
Known = dict[str, list[ast.expr]]  # what a name may stand for: in a loop over three models, three


def meanings(node: ast.expr, known: Known) -> list[ast.expr]:
    """What an expression may stand for, as far as names and loops over plain values tell it."""
    match node:
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.DictComp(value=value):
            return meanings(value, known)
        case ast.Subscript(value=value) | ast.Attribute(value=value) if runs_of(value, known):
            return meanings(value, known)
        case ast.Call(args=args) if run_name(node) is not None:
            places = itertools.product(*(meanings(arg, known) for arg in args))
            keywords = list(spelled_out(node.keywords, known))
            return [ast.Call(node.func, list(place), keywords) for place in places]
    return [node]


def spelled_out(keywords: list[ast.keyword], known: Known) -> Iterator[ast.keyword]:
    """Keywords, with those that a dictionary holds, each with the first of its meanings."""
    for keyword in keywords:
        value = meanings(keyword.value, known)[0]
        if keyword.arg is None and isinstance(value, ast.Dict):
            for name, inside in zip(value.keys, value.values, strict=True):
                yield ast.keyword(ast.literal_eval(name), meanings(inside, known)[0])
        else:
            yield ast.keyword(keyword.arg, value)


def run_name(node: ast.expr) -> str | None:
    """record of lv.record(...); None for what is no run."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="lv"), attr=name)) if name in RUNS:
            return name
    return None


def runs_of(node: ast.expr, known: Known) -> set[str]:
    """The runs, and the models, that an expression may stand for, with all their settings."""
    return {in_full(one) for one in meanings(node, known) if run_name(one) is not None}


def in_full(node: ast.expr) -> str:
    """A run with every setting by its name, those not given too."""
    name = run_name(node)
    if name is None:
        return ast.unparse(node)
    assert isinstance(node, ast.Call)
    parameters = inspect.signature(getattr(lv, name)).parameters
    settings = {one.name: repr(one.default) for one in parameters.values()}
    settings |= dict(zip(parameters, map(in_full, node.args), strict=False))
    settings |= {str(keyword.arg): in_full(keyword.value) for keyword in node.keywords}
    return f"{name}({', '.join(f'{name}={value}' for name, value in settings.items())})"


def runs_asked_about(sources: list[str]) -> dict[str, set[str]]:
    """For each exercise of a notebook the runs or the models that are given to it."""
    known: Known = {}
    asked = {}
    for statement in itertools.chain.from_iterable(ast.parse(code).body for code in sources):
        for node in ast.walk(statement):
            match node:
                case ast.comprehension(ast.Name(id=name), ast.Tuple(elts) | ast.List(elts)):
                    known[name] = elts
                case ast.comprehension(
                    ast.Tuple([_, ast.Name(id=name)]),
                    ast.Call(func=ast.Attribute(value=items, attr="items")),
                ):
                    known[name] = meanings(items, known)
                case ast.Call(func=ast.Attribute(ast.Name(id="exercises"), attr=name), args=args):
                    asked[name] = set().union(*(runs_of(arg, known) for arg in args))
        match statement:
            case ast.Assign([ast.Name(id=name)], value):
                known[name] = meanings(value, known)
            case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
                pairs = zip(names, values, strict=True)
                known |= {ast.unparse(name): meanings(value, known) for name, value in pairs}
    return {name: runs for name, runs in asked.items() if runs}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_solution_reads_the_run_of_its_notebook(path):
    page, solution = (
        runs_asked_about([cell.source for cell in cells(one, "code")])
        for one in (ROOT / "notebooks" / path.name, path)
    )
    assert set(solution) == set(page)
    for exercise, runs in solution.items():
        assert runs <= page[exercise], exercise


def test_runs_are_read_from_code_however_it_is_written():
    def asked(*lines):
        (runs,) = runs_asked_about([*lines, "exercises.one(trace, None)"]).values()
        return runs

    plain = asked('trace = lv.record(lv.load("gqa"), "Once", max_new_tokens=9, seed=6)')
    assert len(plain) == 1
    gqa = 'lm = lv.load("gqa")'
    assert asked(gqa, 'trace = lv.record(lm, "Once", 9, None, seed=6)') == plain
    how = 'text, how = "Once", {"seed": 6, "max_new_tokens": 9}'
    assert asked(gqa, how, "trace = lv.record(lm, text, **how)") == plain
    several = asked(
        'models = {name: lv.load(name) for name in ("mha", "gqa")}',
        'runs = {name: lv.record(lm, "Once", 9, seed=6) for name, lm in models.items()}',
        'trace = runs["gqa"]',
    )
    assert plain < several
    assert len(several) == 2
    for other in (
        '"mha"), "Once", 9, seed=6', '"gqa"), "Then", 9, seed=6', '"gqa"), "Once", 8, seed=6',
        '"gqa"), "Once", 9, seed=7', '"gqa"), "Once", 9, seed=6, temperature=0.7',
    ):  # fmt: skip
        assert asked(f"trace = lv.record(lv.load({other})").isdisjoint(plain)
