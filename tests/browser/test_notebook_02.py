"""Notebook 02 in a real JupyterLab: a text is typed, the merges are stepped, a class is chosen."""

from __future__ import annotations

import pytest

NOTEBOOK = "02_tokens_and_embeddings.ipynb"
PICTURE = "root => root.querySelector('img').src"


class Browser:
    """A figure browser on the page, below the cell that made it."""

    def __init__(self, lab, page, source):
        self.page = page
        lab.show_cell(page, source)
        self.root = page.locator(".jp-CodeCell", has_text=source).locator(".jp-OutputArea").first
        self.root.locator("img").wait_for(timeout=60_000)

    def picture(self):
        return self.root.evaluate(PICTURE)

    def changed(self, act):
        """Do something and wait until another picture is shown."""
        before = self.picture()
        act()
        self.page.wait_for_function(
            "([root, before]) => root.querySelector('img').src !== before",
            arg=[self.root.element_handle(), before],
            timeout=60_000,
        )


@pytest.fixture(scope="module")
def notebook(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=120_000)


def test_the_merges_are_stepped_with_the_arrow_keys(lab, page, notebook):
    browser = Browser(lab, page, "figures.merges, tokenizer, text=")
    handle = browser.root.locator(".noUi-handle").first
    handle.focus()
    for step in (1, 2):
        browser.changed(lambda: page.keyboard.press("ArrowRight"))
        assert browser.root.locator(".widget-readout").first.inner_text() == str(step)


@pytest.mark.parametrize("typed", ["breakfast", "🙂", "<img src=x onerror='executed = 1'> <s>"])
def test_a_typed_text_is_cut_and_shown_as_itself(lab, page, notebook, typed):
    browser = Browser(lab, page, "figures.merges, tokenizer, text=")
    box = browser.root.locator("input[type=text]").first
    browser.changed(lambda: box.fill(typed))
    assert box.input_value() == typed
    assert page.evaluate("typeof executed") == "undefined"
    assert browser.root.locator("img").count() == 1
    assert browser.root.locator("s").count() == 0


def test_a_class_is_chosen(lab, page, notebook):
    browser = Browser(lab, page, "figures.word_map, tables, highlight=")
    browser.changed(lambda: browser.root.locator("select").select_option(label="girls"))


def test_another_token_is_chosen(lab, page, notebook):
    browser = Browser(lab, page, "FigureBrowser(figures.nearest_tokens")
    browser.changed(lambda: browser.root.locator("select").select_option(label="▁Lily"))


def test_no_errors_and_no_other_host(notebook, watch):
    assert watch.errors == []
    assert watch.strangers == []
