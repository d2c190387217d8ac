"""The candidates' figure in a real JupyterLab: drawn by Plotly at once, pointed at and dragged."""

from __future__ import annotations

import pytest

import llama_viz as lv
from tests.browser.explorer_page import write_notebook
from tests.reference import random_ids, random_model

NOTEBOOK = "candidates.ipynb"
CELL = """import llama_viz as lv
from llama_viz import figures
figures.candidates(lv.load_trace("run.nc"))"""
PLOT = ".jp-OutputArea-output .plot-container"


@pytest.fixture(scope="module")
def trace(lab):
    lm = random_model("gqa")
    trace = lv.record(lm, random_ids(lm, 4)[0].tolist(), 30)
    lv.save_trace(trace, lab.log.parent / "notebooks" / "run.nc")
    return trace


@pytest.fixture(scope="module")
def plot(lab, page, watch, trace):
    """The drawn figure; the mouse is far from it."""
    write_notebook(lab, NOTEBOOK, CELL)
    lab.open(page, NOTEBOOK)
    page.mouse.move(2, 2)
    lab.run_all(page)
    page.wait_for_selector(f"{PLOT} .heatmaplayer image", timeout=60_000)
    return page.locator(PLOT)


def seen(page):
    """The steps whose names stand below the axis."""
    names = page.locator(f"{PLOT} .xtick text").all_text_contents()
    return [name.split()[0] for name in names]


def test_it_is_interactive_before_anybody_points_at_it(plot, page):
    assert plot.is_visible()
    pictures = page.locator(".jp-OutputArea-output img.plot-img")
    assert not any(picture.is_visible() for picture in pictures.all())


def test_pointing_tells_step_rank_token_and_probability(plot, page, trace):
    page.locator(f"{PLOT} .nsewdrag").hover(position={"x": 12, "y": 12})
    page.wait_for_selector(f"{PLOT} .hoverlayer .hovertext")
    told = page.locator(f"{PLOT} .hoverlayer").text_content()
    assert "step 0, rank 0" in told
    probability = float(trace["candidate_probability"].transpose("step", "rank").values[0, 0])
    assert f"probability {probability:.3f}" in told


def test_dragging_shows_other_steps(plot, page):
    before = seen(page)
    box = page.locator(f"{PLOT} .nsewdrag").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.8 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], y, steps=8)
    page.mouse.up()
    page.wait_for_function(
        "([selector, name]) => !document.querySelector(selector).textContent.startsWith(name)",
        arg=[f"{PLOT} .xtick text", before[0]],
    )
    assert seen(page) != before


def test_no_errors_and_no_other_host(plot, watch):
    assert watch.errors == []
    assert watch.strangers == []
