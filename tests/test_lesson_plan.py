"""What the plan for teachers quotes stands so in the notebooks, and its minutes add up."""

from __future__ import annotations

import re

import nbformat
import pytest

from llama_viz.files import data_folder
from llama_viz.suite import LESSONS

NOTEBOOKS = data_folder().parent / "notebooks"
PLAN = (NOTEBOOKS / "LESSON_PLAN.md").read_text(encoding="utf-8")
BODY = PLAN.partition("## Before the first session")[2]
SESSIONS = re.split(r"^## ", BODY, flags=re.MULTILINE)
SESSIONS = [part for part in SESSIONS if part.startswith("Session ")]
LINK = re.compile(r"\[(\d\d)\]\((\d\d_\w+)\.ipynb\)")
QUOTE = re.compile(r"“([^”]+)”")


def spaced(text: str) -> str:
    return " ".join(text.split())


def said(file: str) -> dict[str, list[str]]:
    """What a notebook says, by what it is: headings, predictions, often said, exercises."""
    prose = "\n\n".join(
        cell.source
        for cell in nbformat.read(NOTEBOOKS / f"{file}.ipynb", as_version=4).cells
        if cell.cell_type == "markdown"
    )
    paragraphs = re.split(r"\n\s*\n|\n(?=#)", prose)
    return {
        "heading": re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE),
        "prediction": [
            spaced(part.partition("**Predict before you look.**")[2])
            for part in paragraphs
            if "**Predict before you look.**" in part
        ],
        "often said": re.findall(r'\*\*Often said[.:]*\*\*[.:]? \*?"(.+?)"', prose),
        "exercise": [
            spaced(part.split("** ", 1)[1])
            for part in paragraphs
            if re.match(r"\*\*\d\.\*\* ", part)
        ],
    }


def quotes() -> list[tuple[str, str]]:
    """(notebook, quote) of every quote: each belongs to the nearest link before it in its line."""
    found = []
    for line in BODY.splitlines():
        file = ""
        links = list(LINK.finditer(line))
        for quote in QUOTE.finditer(line):
            before = [link[2] for link in links if link.start() < quote.start()]
            # "“...” in [02](...)" names its notebook behind it.
            after = re.match(r" in \[\d\d\]\((\d\d_\w+)\.ipynb\)", line[quote.end() :])
            file = after[1] if after else next(iter(reversed(before)), file)
            found.append((file, quote[1]))
    return found


def kinds(file: str, quote: str) -> set[str]:
    """What a quote is in its notebook; empty where it does not stand there."""
    return {
        kind
        for kind, texts in said(file).items()
        if any(
            quote == text if kind in ("heading", "often said") else text.startswith(quote)
            for text in texts
        )
    }


def test_there_is_much_to_check():
    assert len(quotes()) > 50
    assert len(SESSIONS) == 3


@pytest.mark.parametrize(("file", "quote"), quotes(), ids=lambda value: value[:50])
def test_every_quote_stands_in_its_notebook(file, quote):
    assert kinds(file, quote), f"{file} does not say {quote!r}"


def test_links_lead_to_the_notebook_that_they_name():
    for number, file in LINK.findall(PLAN):
        assert file.startswith(number)
        assert (NOTEBOOKS / f"{file}.ipynb").is_file()


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session[:9])
def test_a_session_is_complete_and_lasts_90_minutes(session):
    minutes = re.findall(r"^\| (\d+) \|", session, flags=re.MULTILINE)
    assert sum(map(int, minutes)) == 90
    parts = re.findall(r"^\*\*(.+?)\*\*", session, flags=re.MULTILINE)
    assert parts == ["Goal.", "Ask.", "Exercise.", "What confuses.", "Prepare.", "Short of time?"]


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session[:9])
@pytest.mark.parametrize(
    ("part", "kind"),
    [("Ask.", "prediction"), ("Exercise.", "exercise"), ("What confuses.", "often said")],
)
def test_each_part_quotes_what_it_should(session, part, kind):
    text = session.partition(f"**{part}**")[2]
    text = re.split(r"^\*\*", text, flags=re.MULTILINE)[0]
    quoted = QUOTE.findall(text)
    assert len(quoted) >= (2 if part == "Exercise." else 4)
    files = {quote: file for file, quote in quotes()}
    for quote in quoted:
        assert kind in kinds(files[quote], quote), f"{quote!r} is no {kind}"


def test_every_notebook_is_in_the_plan():
    there = {file for _, file in LINK.findall(PLAN)}
    for lesson in LESSONS:
        assert lesson.file in there
