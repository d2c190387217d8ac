"""An explorer in a browser, in a notebook or from a file, and how a reader handles it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.browser.explorer_page import ExplorerPage, write_notebook

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator, Page

    from tests.browser.lab import Lab

# Texts that must show as themselves, wherever a token may stand.
HOSTILE = [
    "<s>", "<0x0A>", "⏎", "▁leading", "$x$", "<img src=x onerror=alert(1)>", "&amp;", "the", "the",
    "שלום", "🙂",
]  # fmt: skip

# Milliseconds from an input event to the frame that shows it: the quickest of seven, since what
# else the machine does is not the explorer's.
REDRAW = """async slider => {
  const root = slider.closest(".lv-explorer");
  const times = [];
  for (let i = 0; i < 7; i++) {
    const before = root.dataset.drawn;
    const began = performance.now();
    const isLow = Number(slider.value) < (Number(slider.min) + Number(slider.max)) / 2;
    slider.value = isLow ? slider.max : slider.min;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    while (root.dataset.drawn === before) await new Promise(requestAnimationFrame);
    times.push(performance.now() - began);
  }
  return Math.min(...times);
}"""


class Opened(ExplorerPage):
    """One explorer on a page; name is that of its file."""

    def __init__(self, page: Page, name: str) -> None:
        page.set_default_timeout(self.patience)
        super().__init__(page, f"{name}-explorer")

    @classmethod
    def in_notebook(cls, lab: Lab, page: Page, name: str, *cells: str) -> Opened:
        """Run these cells in a new notebook, and find the explorer that the last one shows."""
        write_notebook(lab, f"{name}.ipynb", *cells)
        lab.open(page, f"{name}.ipynb")
        lab.run_all(page)
        lab.show_cell(page, cells[-1])
        return cls(page, name)

    @classmethod
    def from_file(cls, page: Page, name: str, path: Path) -> Opened:
        """Open a page that `save` has written."""
        page.goto(path.as_uri())
        return cls(page, name)

    def pictures(self) -> dict[str, str]:
        """What each panel shows: its caption, its shapes, the pixels of its canvases."""
        self.settle()
        return self.root.evaluate("""root => Object.fromEntries(
          [...root.querySelectorAll("[data-panel]")].map(panel => [panel.dataset.panel, [
            ...[...panel.querySelectorAll("canvas")].map(canvas => canvas.toDataURL()),
            ...[...panel.querySelectorAll("svg")].map(svg => svg.innerHTML),
            panel.querySelector(".lv-caption").textContent].join("\\n")]))""")

    def changed(self, before: dict[str, str]) -> set[str]:
        """The panels that show something else than before."""
        return {name for name, picture in self.pictures().items() if picture != before[name]}

    def slider(self, label: str) -> Locator:
        """The slider whose name begins so."""
        return self.root.get_by_role("slider", name=re.compile(f"^{label}"))

    def press(self, control: Locator, *keys: str) -> None:
        """Press keys in a control, and wait for the drawing."""
        control.focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def text(self, selector: str) -> str:
        """What an element says, once everything is drawn."""
        self.settle()
        return super().text(selector)

    def rows(self) -> list[list[str]]:
        """The rows of the table of numbers, opened where it is closed."""
        button = self.root.locator(".lv-numbers-button")
        if button.get_attribute("aria-expanded") == "false":
            button.click()
        self.settle()
        return self.root.evaluate("""root => [...root.querySelectorAll(".lv-table tbody tr")].map(
          row => [...row.cells].map(cell => cell.textContent))""")

    def tokens(self, selector: str = ".lv-story") -> list[str]:
        """The tokens of a text, as they stand there."""
        return self.root.locator(f"{selector} [data-position]").all_text_contents()

    def nameless(self) -> list[str]:
        """What takes the focus and does not say what it is."""
        return self.root.evaluate("""root => [...root.querySelectorAll(
            "button, input, select, [tabindex]")].filter(node =>
              !(node.getAttribute("aria-label") || node.labels?.[0]?.textContent.trim() ||
                node.textContent.trim())).map(node => node.outerHTML)""")
