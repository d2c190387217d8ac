"""The notebook on positions in a real JupyterLab: both widgets are moved, and answer."""

from __future__ import annotations

import re

import pytest

from tests.browser.opened import Opened

NOTEBOOK = "04_positions.ipynb"


@pytest.fixture(scope="module")
def notebook(lab, page, watch):
    """The whole notebook, run."""
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=180_000)
    return lab


def test_query_and_key_slide_together(notebook, page):
    notebook.show_cell(page, "browser = lv.widgets.FigureBrowser(")
    picture = page.locator(".widget-image").first
    picture.wait_for(timeout=60_000)
    sliders = page.locator(".widget-hselect-slider, .widget-slider")
    for place, name in enumerate(("key_position", "offset")):
        slider = sliders.nth(place)
        assert slider.locator(".widget-label").inner_text() == name
        before, value = picture.get_attribute("src"), slider.locator(".widget-readout").inner_text()
        slider.locator(".noUi-handle").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "([image, before]) => image.src !== before", arg=[picture.element_handle(), before]
        )
        assert int(slider.locator(".widget-readout").inner_text()) == int(value) + 1


def test_both_shift_and_the_score_stays(notebook, page):
    notebook.show_cell(page, "explorer = lv.widgets.RotaryExplorer(")
    explorer = Opened(page, "rotary")

    def score():
        return re.findall(r"score (−?[\d.]+)", explorer.text(".lv-rotary-moved"))[-1]

    start, before = score(), explorer.pictures()
    explorer.press(explorer.slider("Shift both"), "ArrowRight", "ArrowRight")
    assert "rotary-clocks" in explorer.changed(before)
    assert score() == start
    explorer.press(explorer.slider("Shift the key alone"), "ArrowRight")
    assert score() != start


def test_nothing_went_wrong_and_nobody_else_was_asked(notebook, watch):
    assert watch.errors == []
    assert watch.strangers == []
