"""An explorer in a browser, in a notebook or from a file, and how a reader handles it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import nbformat

from tests.browser.explorer_page import STILL

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


def write_notebook(lab: Lab, name: str, *cells: str) -> None:
    """Put a notebook of these cells into the folder of the lab."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, lab.log.parent / "notebooks" / name)


class Opened:
    """One explorer on a page."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        page.set_default_timeout(10_000)
        self.root = page.locator(f".lv-{name}-explorer").first
        self.root.wait_for(timeout=30_000)
        self.wait("root.dataset.drawn")

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

    def wait(self, condition: str, **arguments: object) -> None:
        """Wait until an expression of root and the arguments holds."""
        names = ", ".join(arguments)
        self.page.wait_for_function(
            f"([root, {{ {names} }}]) => {condition}",
            arg=[self.root.element_handle(), arguments],
            timeout=10_000,
        )

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.root.evaluate(STILL)

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
        """What an element says."""
        self.settle()
        return self.root.locator(selector).first.inner_text()

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

    def execute(self, code: str) -> None:
        """Run code in the kernel of the notebook, as a cell does."""
        self.page.evaluate(
            """async code => {
              const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
              const reply = await kernel.requestExecute({ code }).done;
              if (reply.content.status !== "ok") throw new Error(reply.content.evalue);
            }""",
            code,
        )

    def fits(self) -> bool:
        """Whether nothing is wider than the page."""
        return self.root.evaluate("root => root.scrollWidth <= root.clientWidth")
