"""How fast the attention explorer answers: from an input event to the frame that shows it.

    python benchmarks/explorer_latency.py [--tokens 512] [--json results.json]

Measured in a real Chromium on pages that stand alone, with queries and keys drawn at random: first
6 layers x 8 heads at 512 tokens, then SmolLM2-135M's shape (30 layers x 9 heads, 3 key/value heads
of 64) at 2,048. Each number is the time from dispatching an event to the end of the frame in which
the page has drawn what came of it (`data-drawn`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import Page, sync_playwright

from llama_viz.config import ModelConfig
from llama_viz.widgets import AttentionExplorer
from tests.browser.browser import launch

REPEATS = 20

# name -> (layers, heads, key/value heads, head_dim, tokens, milliseconds allowed)
SHAPES = {
    "6 x 8 heads, 512 tokens": (6, 8, 8, 32, 512, 50),
    "30 x 9 heads, 2,048 tokens": (30, 9, 3, 64, 2048, 100),
}

# Dispatch an event, then wait for the first frame that was drawn after it.
MEASURE = """async ([action, index]) => {
  const root = document.querySelector(".lv-attention-explorer");
  const canvas = root.querySelector(".lv-attention-map");
  const token = place => root.querySelectorAll(".lv-story [data-position]")[place];
  const point = (x, y) => {
    const box = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new MouseEvent("mousemove", { bubbles: true,
      clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
  };
  const choose = (name, place) => {
    const select = root.querySelector(name);
    select.selectedIndex = place % select.options.length;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const step = place => root.querySelectorAll(".lv-attention-step")[place].click();
  const stages = root.querySelectorAll(".lv-attention-stage input");
  const actions = {
    "hover a cell": () => point(0.2 + 0.02 * (index % 20), 0.3 + 0.02 * (index % 20)),
    "hover a tile": () => point(0.1 + 0.8 * ((0.37 * index) % 1), 0.2 + 0.7 * ((0.43 * index) % 1)),
    "hover a token": () => token(7 * index + 3).dispatchEvent(
      new MouseEvent("mouseover", { bubbles: true })),
    "switch the head": () => choose(".lv-attention-head", index + 1),
    "zoom": () => step([2, 3, 1, 0][index % 4]),
    "switch the stage": () => {
      const input = stages[index % 3];
      input.checked = true;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    },
  };
  const drawn = Number(root.dataset.drawn);
  const began = performance.now();
  actions[action]();
  while (Number(root.dataset.drawn) === drawn) {
    if (performance.now() - began > 1000) return null; // from one gap to another: nothing new
    await new Promise(requestAnimationFrame);
  }
  await new Promise(done => { const { port1, port2 } = new MessageChannel();
    port1.onmessage = done; port2.postMessage(null); });
  return performance.now() - began;
}"""

# Nothing is drawn any more: maps that are computed bit by bit are finished.
SETTLED = """async () => {
  const root = document.querySelector(".lv-attention-explorer");
  for (let before, still = 0; still < 5;) {
    await new Promise(requestAnimationFrame);
    still = before === root.dataset.drawn ? still + 1 : 0;
    before = root.dataset.drawn;
  }
}"""

# In which view each action is measured.
ACTIONS = {
    "hover a tile": 0,
    "hover a cell": 2,
    "hover a token": 2,
    "switch the head": 2,
    "switch the stage": 2,
    "zoom": 0,
}


def synthetic_trace(
    n_layers: int, n_heads: int, n_kv_heads: int, head_dim: int, n_tokens: int
) -> xr.Dataset:
    """Queries and keys at random, labelled as a trace is."""
    rng = np.random.default_rng(0)
    config = ModelConfig(
        n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, dim=n_heads * head_dim,
        hidden_dim=8, vocab_size=10, max_seq_len=n_tokens,
    )  # fmt: skip
    shape = (n_layers, n_tokens)
    query = rng.standard_normal((*shape, n_heads, head_dim), dtype=np.float32)
    key = rng.standard_normal((*shape, n_kv_heads, head_dim), dtype=np.float32)
    return xr.Dataset(
        {
            "query_rotated": (("layer", "position", "head", "head_feature"), 1.3 * query),
            "key_rotated": (("layer", "position", "key_value_head", "head_feature"), 1.3 * key),
        },
        {
            "layer": np.arange(n_layers),
            "head": np.arange(n_heads),
            "position": np.arange(n_tokens),
            "token": ("position", [f"▁word{place}" for place in range(n_tokens)]),
            "token_id": ("position", np.arange(n_tokens) % 10),
        },
        {"config": config.to_dict(), "model": "at random", "edited": []},
    )


def measure(page: Page, action: str) -> dict[str, float]:
    """Median and spread of one action in milliseconds."""
    page.locator(".lv-attention-step").nth(ACTIONS[action]).click()
    milliseconds: list[float] = []
    for index in range(3 * REPEATS):
        page.evaluate(SETTLED)
        measured = page.evaluate(MEASURE, [action, index])
        milliseconds += [measured] if measured is not None else []
        if len(milliseconds) == REPEATS + 1:
            break
    del milliseconds[0]  # the first one warms up
    return {
        "median_ms": statistics.median(milliseconds),
        "lowest_ms": min(milliseconds),
        "highest_ms": max(milliseconds),
    }


def measure_shape(shape: tuple[int, ...], folder: Path) -> dict[str, object]:
    """Size and opening time of the page of one shape, and its actions."""
    *sizes, _ = shape
    path = folder / "page.html"
    began = time.perf_counter()
    AttentionExplorer(synthetic_trace(*sizes)).save(path)
    saved = time.perf_counter() - began
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("[data-drawn]")
        opened = time.perf_counter() - began
        actions = {action: measure(page, action) for action in ACTIONS}
        browser.close()
    return {
        "megabytes": path.stat().st_size / 1e6,
        "seconds_to_save": saved,
        "seconds_to_open": opened,
        "actions": actions,
    }


def main() -> int:
    """Measure, print a table, and say with 1 where a median is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, help="only the shape with so many tokens")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    results = {}
    for name, shape in SHAPES.items():
        if options.tokens not in (None, shape[4]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure_shape(shape, Path(folder))
    slow = False
    for name, result in results.items():
        allowed = SHAPES[name][-1]
        print(
            f"{name}: {result['megabytes']:.1f} MB, saved in {result['seconds_to_save']:.1f} s, "
            f"opens in {result['seconds_to_open']:.2f} s; {allowed} ms allowed"
        )
        for action, row in result["actions"].items():  # type: ignore[attr-defined]
            slow = slow or row["median_ms"] > allowed
            spread = f"{row['lowest_ms']:.0f} to {row['highest_ms']:.0f}"
            print(f"  {action:18} median {row['median_ms']:5.0f} ms   ({spread})")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
