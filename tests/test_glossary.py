"""The glossary: found by name, shown as a table, and nothing in it that would break one."""

import re
from pathlib import Path

import pytest

from llama_viz import glossary


def test_terms_are_defined_in_the_order_asked_for():
    found = glossary.define("query", "RMSNorm")
    assert [term.name for term in found] == ["query", "RMSNorm"]
    assert repr(found).splitlines()[1] == (
        "RMSNorm: Divide by the root mean square over the features, then gain; nothing is "
        "subtracted. (Zhang and Sennrich 2019)"
    )
    table = found._repr_markdown_().splitlines()
    assert table[0] == "| term | meaning | source |"
    assert table[2].startswith("| **query** | What a position asks for")
    assert len(table) == 4


def test_no_term_is_defined_twice():
    source = Path(glossary.__file__).read_text(encoding="utf-8")
    names = re.findall(r'\bTerm\("([^"]+)",', source)
    assert len(names) == len(glossary.TERMS)
    assert sorted(names) == sorted(glossary.TERMS)


def test_without_names_there_is_all():
    assert len(glossary.define()) == len(glossary.TERMS) > 60


def test_an_unknown_term_lists_what_there_is():
    with pytest.raises(ValueError, match="unknown term 'RMSnorm'. Did you mean 'RMSNorm'"):
        glossary.define("RMSnorm")


@pytest.mark.parametrize("term", glossary.TERMS.values(), ids=lambda term: term.name)
def test_a_term_is_one_clean_row(term):
    for text in (term.name, term.meaning, term.source):
        assert "|" not in text
        assert "\n" not in text
        assert "  " not in text
    assert term.meaning.endswith(".")
    assert len(term.meaning) < 200
    assert not term.source or re.search(r"\d{4}$", term.source)
