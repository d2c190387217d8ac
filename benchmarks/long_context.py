"""4,096 tokens of SmolLM2-135M: recorded, opened in the attention explorer, moved.

    python benchmarks/long_context.py [--tokens 4096] [--small] [--store]

The kernel of a JupyterLab of its own reads a text, records queries and keys in one pass, and shows
the explorer; a Chromium moves it. Measured are the largest memory that the kernel ever took, the
seconds of the recording and of pooling all maps, how fast the kernel answers meanwhile, and the
milliseconds from an event to the end of the frame that shows what came of it: the median of 20, the
lowest and the highest. --small takes random weights of a small model and needs nothing fetched;
--store writes data/measurements/long_context.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbformat
import torch
from playwright.sync_api import Page, sync_playwright

import llama_viz as lv
from llama_viz import fetching
from llama_viz.files import store_measurement
from llama_viz.model import Llama, initialize
from tests.browser.browser import launch
from tests.browser.lab import jupyterlab

if TYPE_CHECKING:
    import xarray as xr

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
TAPS = ("query_rotated", "key_rotated")
REPEATS = 20
MEMORY_LIMIT = 4.0  # GB
ANSWER_MS = 100

CELLS = (
    "from benchmarks.long_context import told, traced\n"
    "from llama_viz.widgets import AttentionExplorer\n"
    "trace = traced({n_tokens}, {small})",
    "explorer = AttentionExplorer(trace)\nexplorer",
)

# An expression's value in the kernel, as JSON, and the milliseconds until it was there.
ASK = """async code => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  const began = performance.now();
  const future = kernel.requestExecute({ code: "", user_expressions: { it: code } });
  const { content } = await future.done;
  const text = content.user_expressions.it.data["text/plain"];
  return { milliseconds: performance.now() - began, value: text };
}"""

# Do something, then wait for the frame that was drawn after it; or for all that it asked for.
MOVE = """async ([action, index, isFinished]) => {
  const root = document.querySelector(".lv-attention-explorer");
  const canvas = root.querySelector(".lv-attention-map");
  const key = (name, shiftKey = false) => canvas.dispatchEvent(
    new KeyboardEvent("keydown", { key: name, shiftKey, bubbles: true }));
  const actions = {
    "point at a cell": () => {
      const box = canvas.getBoundingClientRect();
      const along = 0.25 + 0.02 * (index % 20);
      canvas.dispatchEvent(new MouseEvent("mousemove", { bubbles: true,
        clientX: box.left + along * box.width, clientY: box.top + 0.8 * along * box.width }));
    },
    "closer and farther": () => key(index % 10 < 5 ? "+" : "-"),
    "move the part": () => key(index % 20 < 10 ? "ArrowUp" : "ArrowDown", true),
    "another head": () => {
      const select = root.querySelector(".lv-attention-head");
      select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
      select.dispatchEvent(new Event("change", { bubbles: true }));
    },
  };
  const words = name => root.querySelector(name).textContent;
  const isThere = () => root.dataset.drawn !== drawn && !(isFinished &&
    (words(".lv-attention-readout").includes("Fetching") ||
      words(".lv-panel .lv-caption").includes("being computed")));
  const drawn = root.dataset.drawn;
  const began = performance.now();
  actions[action]();
  while (!isThere() && performance.now() - began < 20000) {
    await new Promise(requestAnimationFrame);
  }
  await new Promise(done => { const { port1, port2 } = new MessageChannel();
    port1.onmessage = done; port2.postMessage(null); });
  return performance.now() - began;
}"""

STILL = """async () => {
  const root = document.querySelector(".lv-attention-explorer");
  for (let before, still = 0; still < 5;) {
    await new Promise(requestAnimationFrame);
    still = before === root.dataset.drawn ? still + 1 : 0;
    before = root.dataset.drawn;
  }
}"""

# What is measured, and whether until everything that was asked for is there.
ACTIONS = {
    "point at a cell": False,
    "closer and farther": False,
    "move the part": False,
    "another head": True,
}


# In the kernel

facts: dict[str, float] = {}


def traced(n_tokens: int, small: bool) -> xr.Dataset:
    """So many tokens read once, queries and keys kept; the seconds are told later."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    lm = small_model(n_tokens) if small else lv.load(MODEL)
    ids = [place % 60 for place in range(n_tokens)] if small else lm.encode(text())[:n_tokens]
    if len(ids) < n_tokens:
        raise ValueError(f"the text has {len(ids)} tokens, fewer than {n_tokens}")
    loaded = time.perf_counter()
    trace = lv.record_forward(lm, ids, taps=TAPS)
    facts["seconds_to_load"] = loaded - began
    facts["seconds_to_record"] = time.perf_counter() - loaded
    facts["gigabytes_after_recording"] = peak()
    return trace


def text() -> str:
    """What the project says of itself: its guide, and the prose of its notebooks."""
    parts = [(ROOT / "README.md").read_text(encoding="utf-8")]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        parts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    return "\n\n".join(parts)


def small_model(n_tokens: int) -> lv.LanguageModel:
    """Random weights for many positions."""
    config = lv.ModelConfig(
        n_layers=4, n_heads=4, n_kv_heads=2, dim=64, hidden_dim=96, vocab_size=61,
        max_seq_len=n_tokens,
    )  # fmt: skip
    model = initialize(Llama(config), torch.Generator().manual_seed(0))
    return lv.LanguageModel(model.eval())


def peak() -> float:
    """Gigabytes: the largest memory that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def told() -> str:
    """Everything measured here."""
    return json.dumps({**facts, "gigabytes": peak()})


# Outside of it


def measure(n_tokens: int, small: bool, picture: Path | None) -> dict[str, Any]:
    """Record, open and move, in a JupyterLab that was not there before."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "notebooks").mkdir()
        cells = [cell.format(n_tokens=n_tokens, small=small) for cell in CELLS]
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
        )
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / "notebooks" / "long.ipynb")
        with jupyterlab(folder) as lab:
            browser = launch(playwright)
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.on("dialog", lambda dialog: dialog.accept())
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            lab.open(page, "long.ipynb")
            lab.run_all(page, timeout=600_000)
            result = moved(page, picture)
            result |= json.loads(value(page, "told()")[0].strip("'"))
            browser.close()
        if errors:
            raise RuntimeError(f"the page had errors: {errors}")
    return result


def moved(page: Page, picture: Path | None) -> dict[str, Any]:
    """Pool all maps while the kernel is asked, then move about in one of them."""
    root = page.locator(".lv-attention-explorer").first
    root.locator(".lv-attention-map").wait_for(timeout=60_000)
    began = time.perf_counter()
    answers = []
    caption = ".lv-attention-explorer .lv-panel .lv-caption"
    page.wait_for_selector(caption)
    while "so far" in page.locator(caption).first.inner_text():
        answers.append(value(page, "1")[1])
        page.wait_for_timeout(100)
    pooled = time.perf_counter() - began
    if picture:
        page.screenshot(path=picture.with_stem(f"{picture.stem}-model"))
    root.locator(".lv-attention-step").nth(2).click()
    actions = {action: times(page, action, until) for action, until in ACTIONS.items()}
    page.evaluate(STILL)
    if picture:
        page.screenshot(path=picture.with_stem(f"{picture.stem}-head"))
    return {
        "seconds_to_pool": pooled,
        "answer_ms": spread(answers) if answers else None,
        "actions": actions,
    }


def value(page: Page, code: str) -> tuple[str, float]:
    """What an expression is in the kernel, and after how many milliseconds that was known."""
    answer = page.evaluate(ASK, code)
    return answer["value"], answer["milliseconds"]


def times(page: Page, action: str, is_finished: bool) -> dict[str, float]:
    """Milliseconds of one action; the first time warms up."""
    taken = []
    for index in range(REPEATS + 1):
        page.evaluate(STILL)
        taken.append(page.evaluate(MOVE, [action, index, is_finished]))
    return spread(taken[1:])


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }


def main() -> int:
    """Measure and print; 1 where the memory is above 4 GB or the kernel answers too slowly."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--small", action="store_true", help="a small model with random weights")
    parser.add_argument("--picture", type=Path, help="save what was seen: PATH-model, PATH-head")
    parser.add_argument("--store", action="store_true", help="store the numbers in data/")
    options = parser.parse_args()
    if not options.small:
        try:
            fetching.cached(MODEL)
        except lv.CheckpointError as error:
            print(error, file=sys.stderr)
            return 2
    result = measure(options.tokens, options.small, options.picture)
    print(f"{options.tokens:,} tokens of {'a small model' if options.small else MODEL}")
    print(f"memory of the kernel at most {result['gigabytes']:.2f} GB, "
          f"after the recording {result['gigabytes_after_recording']:.2f} GB")  # fmt: skip
    print(f"recorded in {result['seconds_to_record']:.1f} s, "
          f"all maps pooled in {result['seconds_to_pool']:.1f} s")  # fmt: skip
    rows = {"kernel answers meanwhile": result["answer_ms"], **result["actions"]}
    for name, row in rows.items():
        if row:
            low, high = row["lowest"], row["highest"]
            print(f"  {name:24} median {row['median']:5.0f} ms   ({low:.0f} to {high:.0f})")
    if options.store:
        store_measurement(
            "long_context", model="random" if options.small else MODEL, tokens=options.tokens,
            threads=1, torch=torch.__version__, repeats=REPEATS, **result,
        )  # fmt: skip
    is_slow = result["answer_ms"] is not None and result["answer_ms"]["median"] > ANSWER_MS
    return int(result["gigabytes"] > MEMORY_LIMIT or is_slow)


if __name__ == "__main__":
    sys.exit(main())
