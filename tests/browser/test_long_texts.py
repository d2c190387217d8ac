"""Explorers saved on thousands of tokens: what is said is true, and nothing lies over another."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

import llama_viz as lv
from llama_viz.widgets import EXPLORERS, AttentionExplorer
from tests.browser.browser import launch
from tests.browser.explorer_page import saved_page
from tests.reference import random_ids, random_model
from tests.test_attention_explorer import synthetic

N_POSITIONS = 2600
LOOKS = [(1280, "light"), (600, "dark")]

# The lowest end of a name below the drawing, and where the line under it begins, in pixels.
ENDS = """root => {
  const names = [...root.querySelectorAll(".lv-chart text[transform]")];
  const ends = names.map(name => name.getBoundingClientRect().bottom);
  const line = root.querySelector(".lv-attention-readout").getBoundingClientRect();
  return [names.length, Math.max(...ends), line.top];
}"""

# Where the token that was picked lies in the box of its text.
PICKED = """root => [...root.querySelectorAll(".lv-story")].map(box => {
  const token = box.querySelector("[aria-selected=true]");
  return [token.dataset.position, token.offsetTop - box.scrollTop,
    box.clientHeight - token.offsetHeight];
})"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        yield launch(playwright)


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    """A file that has no room for all heads; every name is as long as it may be."""
    trace = synthetic(2, 4, 2, 64, n=N_POSITIONS)
    trace["token"] = "position", np.full(N_POSITIONS, "▁bedroom")
    path = tmp_path_factory.mktemp("long") / "attention.html"
    AttentionExplorer(trace, layer=0).save(path)
    return path


@pytest.fixture(params=LOOKS, ids=[look for _, look in LOOKS])
def explorer(request, browser, attention):
    width, look = request.param
    with saved_page(
        browser, attention, "attention-explorer",
        viewport={"width": width, "height": 1100}, color_scheme=look,
    ) as explorer:  # fmt: skip
        yield explorer


def test_names_end_above_the_line_that_is_read_out(explorer):
    for view in (2, 3):  # a head, a row
        explorer.find(".lv-attention-step").nth(view).click()
        explorer.settle()
        explorer.find(".lv-attention-map").hover(position={"x": 300, "y": 150})
        explorer.settle()
        n_names, lowest, line = explorer.root.evaluate(ENDS)
        assert n_names > 20
        assert lowest <= line
        assert explorer.fits()


def test_heads_that_the_file_lacks_are_said_to_be_coarser(explorer):
    explorer.find(".lv-attention-step").nth(1).click()
    kinds = set()
    for layer in range(2):
        explorer.find(".lv-attention-layer").select_option(index=layer)
        explorer.settle()
        words = explorer.text(".lv-panel .lv-caption")
        sizes = words.split("of a block of ")[1].split(".")[0].split(" or ")
        kinds.add(len(sizes))
        assert len(sizes) == 1 or int(sizes[0].split()[0]) < int(sizes[1].split()[0])
    assert kinds == {1, 2}  # all heads of a layer alike, or some held in full


def test_a_mark_of_the_legend_is_whole(explorer):
    gap = explorer.root.evaluate(
        """root => root.querySelector(".lv-legend .lv-looked-at").getBoundingClientRect().top
          - root.querySelector(".lv-story").getBoundingClientRect().bottom"""
    )
    assert gap >= 2  # its frame


@pytest.mark.parametrize("name", ["norms", "rotary", "feed-forward"])
def test_the_token_that_is_picked_is_in_view(name, browser, tmp_path):
    lm = random_model("gqa", max_seq_len=600)
    trace = lv.record_forward(lm, random_ids(lm, 600)[0].tolist())
    path = tmp_path / "page.html"
    EXPLORERS[name](trace).save(path)
    options = {"viewport": {"width": 600, "height": 1100}}
    with saved_page(browser, path, f"{name}-explorer", **options) as explorer:
        explorer.settle()
        for position, top, most in explorer.root.evaluate(PICKED):
            assert int(position) >= 598
            assert 0 <= top <= most
