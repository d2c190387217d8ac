"""An explorer in a real browser, in either of its places: JupyterLab, or a saved page."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import nbformat
from playwright.sync_api import sync_playwright

from tests.browser.browser import launch
from tests.browser.explorer_page import ExplorerPage, notebook_of
from tests.browser.lab import Lab, Watch, jupyterlab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NOTEBOOK = "explorer.ipynb"

# What is drawn: the pixels of every canvas, and the shapes of every chart.
PICTURE = """root => [root, ...root.querySelectorAll("canvas, svg")].map(node =>
  node.tagName === "CANVAS" ? node.toDataURL() : node.tagName === "svg" ? node.innerHTML : "")
  .join("\\n")"""


class Opened(ExplorerPage):
    """An explorer on a page, as a reader handles it; place is "lab" or "file"."""

    def __init__(self, page: Any, place: str, name: str, watch: Watch) -> None:
        self.place, self.watch = place, watch
        super().__init__(page, name)
        self.settle()

    def open_file(self, path: Path, name: str) -> Opened:
        """Another saved explorer, in the same browser."""
        page = self.page.context.browser.new_page(viewport=self.page.viewport_size)
        watch = Watch(page, Lab("file:", path.parent))
        page.goto(path.as_uri())
        return Opened(page, "file", name, watch)

    def text(self, selector: str) -> str:
        """The text of the first such element, once everything is drawn."""
        self.settle()
        return super().text(selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all such elements."""
        self.settle()
        return self.find(selector).all_inner_texts()

    def picture(self, selector: str | None = None) -> str:
        """What is drawn, everywhere or in the first such element."""
        self.settle()
        return str((self.find(selector).first if selector else self.root).evaluate(PICTURE))

    def press(self, *keys: str) -> None:
        """Keys, one after another, to what has the focus."""
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def change_theme(self) -> None:
        """From light to dark."""
        if self.place == "file":
            self.page.emulate_media(color_scheme="dark")
        else:
            self.page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', "
                               "{ theme: 'JupyterLab Dark' })")  # fmt: skip
        self.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")

    def check_labels(self) -> None:
        """Every control has a name, keeps its keys, and nothing is wider than the explorer."""
        unnamed = self.find("input, select, textarea, button, canvas, [role]").evaluate_all(
            """all => all.filter(node => !node.closest("[hidden]") && !node.labels?.length
              && !node.getAttribute("aria-label") && !node.getAttribute("aria-labelledby")
              && !["status", "alert", "option"].includes(node.getAttribute("role"))
              && !node.textContent.trim()).map(node => node.outerHTML.slice(0, 90))"""
        )
        assert unnamed == [], unnamed
        focusable = self.find("button, select, input:not([type=number]), [tabindex]")
        assert focusable.evaluate_all(
            "all => all.every(node => node.hasAttribute('data-lm-suppress-shortcuts'))"
        )
        assert self.fits()


def write_notebook(folder: Path, code: str) -> None:
    """A notebook of one cell, in a folder that JupyterLab can open."""
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook_of(code), folder / "notebooks" / NOTEBOOK)


@contextmanager
def opened(place: str, folder: Path, name: str) -> Iterator[Opened]:
    """The explorer of the folder's notebook ("lab"), or of its page.html ("file")."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.on("dialog", lambda dialog: dialog.accept())
        if place == "file":
            watch = Watch(page, Lab("file:", folder))
            page.goto((folder / "page.html").as_uri())
            yield Opened(page, place, name, watch)
        else:
            with jupyterlab(folder) as lab:
                watch = Watch(page, lab)
                lab.open(page, NOTEBOOK)
                lab.run_all(page)
                yield Opened(page, place, name, watch)
        browser.close()
