"""How fast the attention explorer answers, and how it compares with BertViz on the same attention.

    python benchmarks/explorer_latency.py [events] [bertviz] [--store]

Measured in a real Chromium on pages that stand alone, with queries and keys drawn at random.

events: 6 layers x 8 heads at 512 tokens, then SmolLM2-135M's shape (30 layers x 9 heads, 3
key/value heads of 64) at 2,048. Each number is the time from dispatching an event to the end of the
frame in which the page has drawn what came of it (`data-drawn`).

bertviz: 6 layers x 8 heads at 32, 128 and 512 tokens, as our saved page and as BertViz's head view
and model view (html_action="return"; Vig 2019), in turns: bytes, seconds to make, seconds from
opening until the first view is drawn whole (ours: and five frames more bring nothing new).
BertViz comes with `pip install -e ".[benchmarks]"`. Its pages load three scripts from a public
server; they are drawn here with copies of them, from
`npm install --prefix build/bertviz d3@5.7.0 jquery@2.1.0 requirejs@2.3.6`.

--store writes data/measurements/explorer_latency.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import Error, Page, Route, sync_playwright

from llama_viz.config import ModelConfig
from llama_viz.files import store_measurement
from llama_viz.widgets import AttentionExplorer
from tests.browser.browser import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

REPEATS = 20
PARTS = ("events", "bertviz")
VIEWPORT = {"width": 1280, "height": 1100}

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


def measure_shape(shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Size and opening time of the page of one shape, and its actions."""
    *sizes, allowed = shape
    path = folder / "page.html"
    began = time.perf_counter()
    AttentionExplorer(synthetic_trace(*sizes)).save(path)
    saved = time.perf_counter() - began
    with chromium() as browser:
        page = browser.new_page(viewport=VIEWPORT)
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("[data-drawn]")
        opened = time.perf_counter() - began
        actions = {action: measure(page, action) for action in ACTIONS}
    return {
        "allowed_ms": allowed,
        "megabytes": path.stat().st_size / 1e6,
        "seconds_to_save": saved,
        "seconds_to_open": opened,
        "actions": actions,
    }


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the tests."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


# ---------------------------------------------------------------- beside BertViz

LENGTHS = (32, 128, 512)
ROUNDS = 5
OURS = "attention explorer"
VIEWS = ("head_view", "model_view")
# BertViz draws a line for each weight that it shows. More of them than this take more memory than
# a browser should be given: about 1 kB each.
MOST_LINES = 4_000_000
SECONDS_ALLOWED = 120

# What BertViz's pages load, and where npm puts it: (part of the address, file).
SCRIPTS = (
    ("/libs/require.js/", "requirejs/require.js"),
    ("/libs/d3/", "d3/dist/d3.min.js"),
    ("/libs/jquery/", "jquery/dist/jquery.min.js"),
)
ADVICE = "npm install --prefix build/bertviz d3@5.7.0 jquery@2.1.0 requirejs@2.3.6"

# The last of the lines is there, and the frame that shows it is over.
ALL_LINES = "count => document.getElementsByTagName('line').length >= count"
NEXT_FRAME = """() => new Promise(done => requestAnimationFrame(() => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = done; port2.postMessage(null);
}))"""


def attention_of(trace: xr.Dataset) -> list[torch.Tensor]:
    """The attention weights as BertViz takes them: of each layer (1, head, query, key)."""
    query, key = (
        torch.from_numpy(trace[name].values).transpose(1, 2)  # (layer, head, position, feature)
        for name in ("query_rotated", "key_rotated")
    )
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return list(scores.masked_fill(ahead, float("-inf")).softmax(-1)[:, None])


def makers(trace: xr.Dataset) -> dict[str, tuple[Callable[[Path], None], int]]:
    """How each page is written, and how many lines it draws: BertViz's first view of each kind."""
    import bertviz  # an extra: those who measure only events do without

    attention, tokens = attention_of(trace), [str(token) for token in trace["token"].values]
    n_layers, n_heads = len(attention), attention[0].shape[1]
    n_drawn = {"head_view": n_heads, "model_view": n_layers * n_heads}

    def of_bertviz(view: str) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            made = getattr(bertviz, view)(attention, tokens, html_action="return")
            path.write_text(made.data, encoding="utf-8")

        return write

    def ours(path: Path) -> None:
        AttentionExplorer(trace).save(path)

    return {
        OURS: (ours, 0),
        **{view: (of_bertviz(view), n_drawn[view] * len(tokens) ** 2) for view in VIEWS},
    }


def seconds_to_draw(path: Path, n_lines: int, scripts: Path) -> float:
    """From opening a page until its first view is drawn whole; raises where it cannot be drawn."""

    def serve(route: Route) -> None:
        file = next((file for part, file in SCRIPTS if part in route.request.url), None)
        if file:
            route.fulfill(path=scripts / file)
        else:
            route.abort()

    with chromium() as browser:
        page = browser.new_page(viewport=VIEWPORT)
        page.set_default_timeout(1000 * SECONDS_ALLOWED)
        page.route(re.compile("^https?:"), serve)
        began = time.perf_counter()
        page.goto(path.as_uri())
        if n_lines:
            page.wait_for_function(ALL_LINES, arg=n_lines)
            page.evaluate(NEXT_FRAME)
        else:
            page.wait_for_selector("[data-drawn]")
            page.evaluate(SETTLED)
        return time.perf_counter() - began


def why_not_drawn(n_lines: int, scripts: Path) -> str | None:
    """Why a page of so many lines is not opened here; None if it can be."""
    if n_lines > MOST_LINES:
        return f"not opened: it draws {n_lines:,} lines at once, {MOST_LINES:,} at most are tried"
    missing = [file for _, file in SCRIPTS if not (scripts / file).exists()]
    if n_lines and missing:
        return f"not drawn: {', '.join(missing)} not found in {scripts}; get them by {ADVICE}"
    return None


def beside_bertviz(n_tokens: int, folder: Path, scripts: Path) -> dict[str, Any]:
    """The same attention as our page and as BertViz's, in turns: medians of all rounds."""
    pages = makers(synthetic_trace(6, 8, 8, 32, n_tokens))
    results: dict[str, Any] = {
        name: {"bytes": 0, "lines": n_lines, "not_drawn": why_not_drawn(n_lines, scripts)}
        for name, (_, n_lines) in pages.items()
    }
    made: dict[str, list[float]] = {name: [] for name in pages}
    drawn: dict[str, list[float]] = {name: [] for name in pages}
    for _ in range(ROUNDS):
        for name, (write, n_lines) in pages.items():
            path = folder / f"{name}.html"
            began = time.perf_counter()
            write(path)
            made[name].append(time.perf_counter() - began)
            result = results[name]
            result["bytes"] = path.stat().st_size
            if result["not_drawn"] is None:
                try:
                    drawn[name].append(seconds_to_draw(path, n_lines, scripts))
                except Error as error:
                    reason = error.message.split("\n")[0]
                    result["not_drawn"] = f"not drawn within {SECONDS_ALLOWED} s: {reason}"
            path.unlink()
    for name, result in results.items():
        result["seconds_to_make"] = statistics.median(made[name])
        result["seconds_to_draw"] = None if result["not_drawn"] else statistics.median(drawn[name])
    return results


def print_beside(n_tokens: int, results: dict[str, Any]) -> None:
    """One line for each page."""
    print(f"6 x 8 heads, {n_tokens} tokens")
    for name, result in results.items():
        seconds = result["seconds_to_draw"]
        drawn = result["not_drawn"] or f"drawn in {seconds:.2f} s"
        print(
            f"  {name:18} {result['bytes'] / 1e6:7.2f} MB, made in "
            f"{result['seconds_to_make']:.2f} s, {drawn}"
        )


def print_events(name: str, result: dict[str, Any]) -> None:
    """A line for the page, and one for each event."""
    print(
        f"{name}: {result['megabytes']:.1f} MB, saved in {result['seconds_to_save']:.1f} s, "
        f"opens in {result['seconds_to_open']:.2f} s; {result['allowed_ms']} ms allowed"
    )
    for action, row in result["actions"].items():
        spread = f"{row['lowest_ms']:.0f} to {row['highest_ms']:.0f}"
        print(f"  {action:18} median {row['median_ms']:5.0f} ms   ({spread})")


def main() -> int:
    """Measure, print a table, and say with 1 where a median is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; else all")
    parser.add_argument("--tokens", type=int, help="only what has so many tokens")
    parser.add_argument(
        "--scripts", type=Path, default=Path("build/bertviz/node_modules"),
        help=f"where BertViz's scripts are: {ADVICE}",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    parser.add_argument("--store", action="store_true", help="write data/measurements as well")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}; choose from {', '.join(PARTS)}")
    parts = options.parts or PARTS
    if "bertviz" in parts and importlib.util.find_spec("bertviz") is None:
        what_to_do = 'BertViz is not installed; to have it beside: pip install -e ".[benchmarks]"'
        if options.parts:
            parser.error(what_to_do)
        print(what_to_do)
        parts = tuple(part for part in parts if part != "bertviz")

    measured: dict[str, Any] = {part: {} for part in parts}
    with tempfile.TemporaryDirectory() as folder:
        if "events" in parts:
            for name, shape in SHAPES.items():
                if options.tokens in (None, shape[4]):
                    measured["events"][name] = measure_shape(shape, Path(folder))
                    print_events(name, measured["events"][name])
        if "bertviz" in parts:
            measured["bertviz"]["version"] = importlib.metadata.version("bertviz")
            for n_tokens in LENGTHS:
                if options.tokens in (None, n_tokens):
                    results = beside_bertviz(n_tokens, Path(folder), options.scripts)
                    measured["bertviz"][str(n_tokens)] = results
                    print_beside(n_tokens, results)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    if options.store:
        store_measurement("explorer_latency", **measured)
    return int(
        any(
            row["median_ms"] > shape["allowed_ms"]
            for shape in measured.get("events", {}).values()
            for row in shape["actions"].values()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
