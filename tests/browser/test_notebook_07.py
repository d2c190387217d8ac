"""Notebook 07 in a real JupyterLab: run, and each of its widgets moved."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "07_grouped_queries.ipynb"

IS_ANOTHER = "([image, before]) => image.src !== before"


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=180_000)
    return page


def picture_beside(control):
    """The picture of the figure browser that a control belongs to, and what it shows now."""
    image = control.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')]").locator("img")
    return [image.first.element_handle(), image.first.get_attribute("src")]


@pytest.mark.parametrize(
    ("cell", "control", "key"),
    [
        ("FigureBrowser(roofline", "batch", "ArrowLeft"),
        ("FigureBrowser(figures.memory_ratios", "n", "ArrowLeft"),
        ("FigureBrowser(figures.memory_ratios", "d", "ArrowLeft"),
        ("FigureBrowser(figures.memory_ratios", "h", "ArrowLeft"),
        ("FigureBrowser(figures.memory_ratios", "b", "ArrowLeft"),
        ("FigureBrowser(figures.cache_over_context", "batch_size", "ArrowRight"),
        ("FigureBrowser(figures.what_fits", "context", "ArrowRight"),
    ],
)
def test_a_slider_draws_the_figure_anew(opened, lab, cell, control, key):
    lab.show_cell(opened, cell)
    label = opened.get_by_text(control, exact=True)
    slider = opened.locator(".widget-hslider").filter(has=label).first
    before = picture_beside(slider)
    slider.locator(".noUi-handle").focus()
    opened.keyboard.press(key)
    opened.wait_for_function(IS_ANOTHER, arg=before)


@pytest.mark.parametrize(
    ("cell", "control", "choice"),
    [
        ("FigureBrowser(figures.head_wiring", "model", "smollm2-135m"),
        ("FigureBrowser(roofline", "device", "this CPU"),
        ("FigureBrowser(roofline", "dtype", "float32"),
    ],
)
def test_a_menu_draws_the_figure_anew(opened, lab, cell, control, choice):
    lab.show_cell(opened, cell)
    label = opened.get_by_text(control, exact=True)
    menu = opened.locator(".widget-dropdown").filter(has=label).first
    before = picture_beside(menu)
    names = menu.locator("option").all_inner_texts()
    # ipywidgets keeps the spaces of an option from being joined.
    menu.locator("select").select_option(
        next(name for name in names if choice in name.replace("\xa0", " "))
    )
    opened.wait_for_function(IS_ANOTHER, arg=before)


def test_a_token_is_picked_in_all_three_models(opened, lab):
    lab.show_cell(opened, "CompareExplorer(list(models.values())")
    explorer = ExplorerPage(opened, "compare-explorer")
    names = explorer.find(".lv-compare-name strong").all_inner_texts()
    assert names == ["mha", "gqa", "mqa"]
    columns = explorer.find(".lv-compare-column")
    columns.nth(1).locator("[data-position='6']").click()
    explorer.wait("root.querySelectorAll(\".lv-compare-picked[data-position='6']\").length === 3")


def test_the_live_curve_has_grown(opened, lab):
    lab.show_cell(opened, "uptraining.uptrain(")
    image = opened.locator(".jp-Cell", has_text="uptraining.uptrain(").locator("img").last
    image.wait_for(timeout=60_000)
    assert image.evaluate("image => image.naturalWidth") == 950


def test_no_errors_and_no_other_host(opened, watch):
    assert watch.errors == []
    assert watch.strangers == []
