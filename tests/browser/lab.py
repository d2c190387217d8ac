"""A JupyterLab for the browser tests: its own port, its own settings, a copy of the notebooks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import ConsoleMessage, Page, Request

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "browser-tests"
START_SECONDS = 60

# The notebook is open, its kernel is connected, and "run all" would not be lost.
IS_READY = """name => {
  const widget = window.jupyterapp?.shell.currentWidget;
  return widget?.context?.path === name
    && widget.context.isReady
    && widget.sessionContext?.session?.kernel?.connectionStatus === "connected"
    && widget.sessionContext.session.kernel.status === "idle";
}"""

# Every cell has run: "done"; or the first error.
OUTCOME = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .filter(cell => cell.cell_type === "code" && cell.source.trim());
  for (const { source, outputs } of cells) {
    const error = outputs.find(output => output.output_type === "error");
    if (error) return `${source}\n\n${error.ename}: ${error.evalue}`;
  }
  return cells.every(cell => cell.execution_count) && "done";
}"""


class Lab(NamedTuple):
    """A server that runs, and where its log goes."""

    url: str
    log: Path

    def open(self, page: Page, name: str) -> None:
        """Open a notebook and wait until its kernel is there."""
        page.goto(f"{self.url}/lab/tree/{name}?token={TOKEN}")
        page.wait_for_function(IS_READY, arg=name, timeout=60_000)

    def show_cell(self, page: Page, text: str) -> None:
        """Scroll to the cell whose source holds a text; JupyterLab renders only what is near."""
        page.evaluate(
            """async text => {
              const { content } = window.jupyterapp.shell.currentWidget;
              const index = content.widgets.findIndex(
                cell => cell.model.type === "code" && cell.model.sharedModel.source.includes(text));
              content.activeCellIndex = index;
              await content.scrollToItem(index, "start");
            }""",
            text,
        )

    def run_all(self, page: Page, timeout: float = 60_000) -> None:
        """Run all cells; AssertionError with the cell that fails and its error."""
        for command in ("clear-all-cell-outputs", "run-all-cells"):
            page.evaluate(f"window.jupyterapp.commands.execute('notebook:{command}')")
        outcome = page.wait_for_function(OUTCOME, timeout=timeout).json_value()
        assert outcome == "done", outcome


class Watch:
    """What a page says and asks for: its errors, and every request to another host."""

    def __init__(self, page: Page, lab: Lab) -> None:
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self._own = (lab.url, lab.url.replace("http", "ws"), "blob:", "data:")
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        page.on("request", self._on_request)
        page.on("websocket", lambda socket: self._on_url(socket.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        self._on_url(request.url)

    def _on_url(self, url: str) -> None:
        if not url.startswith(self._own):
            self.strangers.append(url)


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Lab]:
    """Run JupyterLab on a copy of the notebooks until the block ends.

    Nothing is shared with a JupyterLab of the person at this machine.
    """
    notebooks = folder / "notebooks"
    if not notebooks.exists():
        shutil.copytree(
            ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_CONFIG_PATH": str(ROOT),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--expose-app-in-browser", f"--ServerApp.root_dir={notebooks}", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
    ]  # fmt: skip
    lab = Lab(f"http://127.0.0.1:{port}", folder / "jupyterlab.log")
    with lab.log.open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(server, lab)
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_it_answers(server: subprocess.Popen, lab: Lab) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{lab.url}/api/status?token={TOKEN}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{lab.log.read_text(errors='replace')[-3000:]}")
