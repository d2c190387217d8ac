"""An explorer on a page, as a reader handles it: in JupyterLab, or saved to a file."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import nbformat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

    from tests.browser.lab import Lab

# Press, and count the time until the explorer has drawn what came of it.
TIMED = """async ([root, selector, event]) => {
  const target = root.querySelector(selector);
  const before = root.dataset.drawn;
  const began = performance.now();
  target.dispatchEvent(event.startsWith("Arrow") || event === "Enter"
    ? new KeyboardEvent("keydown", { key: event, bubbles: true })
    : new Event(event, { bubbles: true }));
  while (root.dataset.drawn === before && performance.now() - began < 5000)
    await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""


# Wait until nothing more is drawn: what is picked is drawn in the next frame, or the one after.
STILL = """async root => {
  const frame = () => new Promise(done => requestAnimationFrame(done));
  for (let before, still = 0; still < 4;) {
    await frame();
    still = before === root.dataset.drawn ? still + 1 : 0;
    before = root.dataset.drawn;
  }
}"""


class ExplorerPage:
    """One explorer that is shown; `root` is its element."""

    # Milliseconds to wait for what is meant to come: whoever else uses the machine slows it down.
    patience = 60_000

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.root: Locator = page.locator(f".lv-{name}").first
        self.root.wait_for(timeout=self.patience)
        self.wait("root.dataset.drawn")

    def find(self, selector: str) -> Locator:
        """What is inside of the explorer."""
        return self.root.locator(selector)

    def text(self, selector: str) -> str:
        """The text of the first such element."""
        return self.find(selector).first.inner_text()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.root.evaluate(STILL)

    def click(self, control: Locator) -> None:
        """Click on what is made anew with every drawing, when the pointer's coming is drawn.

        One that is made anew between press and release hears no click.
        """
        control.hover()
        self.settle()
        control.click()

    def wait(self, condition: str, **arguments: object) -> None:
        """Wait until an expression of root and the arguments holds."""
        names = ", ".join(arguments)
        self.page.wait_for_function(
            f"([root, {{ {names} }}]) => {condition}",
            arg=[self.root.element_handle(), arguments],
            timeout=self.patience,
        )

    def picture(self, selector: str) -> str:
        """The pixels of a canvas, or the shapes of another element."""
        self.settle()
        return self.find(selector).first.evaluate(
            "node => node.tagName === 'CANVAS' ? node.toDataURL() : node.innerHTML"
        )

    def fits(self) -> bool:
        """Whether nothing is wider than the explorer."""
        return self.root.evaluate("root => root.scrollWidth <= root.clientWidth")

    def seconds(self, selector: str, event: str) -> float:
        """From an event to the frame in which the explorer shows what came of it."""
        taken = self.page.evaluate(TIMED, [self.root.element_handle(), selector, event])
        return float(taken) / 1000

    def execute(self, code: str) -> str | None:
        """Run code in the kernel, as a cell does; the repr of what it left in `it`, if anything.

        AssertionError where it fails.
        """
        error, it = self.page.evaluate(
            """async code => {
              const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
              const future = kernel.requestExecute({ code, user_expressions: { it: "it" } });
              const { content } = await future.done;
              if (content.status !== "ok") return [`${content.ename}: ${content.evalue}`, null];
              return [null, content.user_expressions.it.data?.["text/plain"] ?? null];
            }""",
            code,
        )
        assert error is None, error
        return it

    def wait_in_kernel(self, condition: str) -> None:
        """Wait until an expression of Python holds.

        What the page sends arrives in a thread beside the cells, before or after the next of them.
        """
        until = time.monotonic() + self.patience / 1000
        while self.execute(f"it = bool({condition})") != "True":
            assert time.monotonic() < until, f"still not so: {condition}"
            self.page.wait_for_timeout(50)

    def wait_for_state(self, variable: str = "explorer", **expected: object) -> None:
        """Wait until the explorer in the kernel has this in its state."""
        self.wait_in_kernel(f"{variable}.state == {{**{variable}.state, **{expected!r}}}")


def notebook_of(*cells: str) -> nbformat.NotebookNode:
    """A notebook of these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    return notebook


def write_notebook(lab: Lab, name: str, *cells: str) -> None:
    """Put a notebook of code cells into the folder that the JupyterLab shows."""
    nbformat.write(notebook_of(*cells), lab.log.parent / "notebooks" / name)


@contextmanager
def saved_page(
    browser: Browser, path: Path, name: str, **options: object
) -> Iterator[ExplorerPage]:
    """A saved explorer over file://; what it says and asks for must be nothing."""
    page = browser.new_page(**options)  # type: ignore[arg-type]
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(f"page error: {error}"))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    try:
        yield ExplorerPage(page, name)
        strangers = [line for line in said if not re.match(re.escape(path.as_uri()), line)]
        assert strangers == []
    finally:
        page.close()
