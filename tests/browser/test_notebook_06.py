"""Notebook 06 in a real JupyterLab: run, then its explorer stepped and operated."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "06_kv_cache.ipynb"


@pytest.fixture(scope="module")
def explorer(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=180_000)
    lab.show_cell(page, "CacheExplorer(trace")
    return ExplorerPage(page, "cache-explorer")


def test_both_ways_go_in_step(explorer):
    ways = (".lv-cache-without canvas", ".lv-cache-with canvas")
    before = [explorer.picture(way) for way in ways]
    assert explorer.text(".lv-moment").startswith("Step 12 ")
    explorer.find(".lv-scrubber").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.wait("root.querySelector('.lv-moment').textContent.startsWith('Step 13 ')")
    after = [explorer.picture(way) for way in ways]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_surgery_says_what_the_model_writes_then(explorer):
    explorer.find(".lv-cache-operate").click()
    explorer.wait("!root.querySelector('.lv-cache-result').hidden")
    assert "KL divergence of" in explorer.text(".lv-cache-surgery .lv-caption")
    assert explorer.find(".lv-cache-text-after .lv-token").count() > 0


def test_the_readers_own_times_are_measured_and_drawn(explorer, lab):
    lab.show_cell(explorer.page, "mine = cost.step_times")
    cell = explorer.page.locator(".jp-CodeCell", has_text="mine = cost.step_times")
    cell.locator("img").wait_for()
    assert "the curves cross at n = " in cell.inner_text()


def test_no_errors_and_no_other_host(explorer, watch):
    assert watch.errors == []
    assert watch.strangers == []
