"""Notebook 05 in a real JupyterLab: run, and each of its widgets moved."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "05_attention.ipynb"


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=120_000)
    return page


@pytest.mark.parametrize(
    ("cell", "control"),
    [("FigureBrowser(figures.vectors", "query"), ("FigureBrowser(figures.online_softmax", "step")],
)
def test_a_slider_draws_the_figure_anew(opened, lab, cell, control):
    lab.show_cell(opened, cell)
    slider = opened.locator(".widget-hslider", has_text=control).first
    picture = slider.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')]").locator("img")
    before = picture.first.get_attribute("src")
    slider.locator(".noUi-handle").focus()
    opened.keyboard.press("ArrowRight")
    opened.wait_for_function(
        "([image, before]) => image.src !== before", arg=[picture.first.element_handle(), before]
    )


def test_the_explorer_goes_down_from_all_heads_to_one(opened, lab):
    lab.show_cell(opened, "AttentionExplorer(trace)")
    explorer = ExplorerPage(opened, "attention-explorer")
    before = explorer.picture(".lv-attention-map")
    explorer.find(".lv-attention-step").nth(2).click()
    assert explorer.picture(".lv-attention-map") != before


def test_no_errors_and_no_other_host(opened, watch):
    assert watch.errors == []
    assert watch.strangers == []
