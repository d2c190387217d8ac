"""Notebook 01 in a real JupyterLab: run, and each of its widgets moved."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "01_from_transformer_to_llama.ipynb"


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=120_000)
    return page


def test_a_difference_is_marked_and_a_box_explained(opened, lab):
    lab.show_cell(opened, "ArchitectureMap(lm")
    explorer = ExplorerPage(opened, "architecture-map")
    before = explorer.text(".lv-told")
    explorer.find(".lv-differences label").nth(3).click()
    explorer.wait("root.querySelector('.lv-told').innerText !== before", before=before)
    explorer.find("[data-box=feed_forward_norm]").click()
    explorer.wait("root.querySelector('.lv-card h4').textContent.startsWith('RMSNorm')")


def picture_of(opened, control):
    return (
        control.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')]").locator("img").first
    )


def wait_for_another(opened, picture, before):
    opened.wait_for_function(
        "([image, before]) => image.src !== before", arg=[picture.element_handle(), before]
    )


def test_another_position_is_drawn(opened, lab):
    lab.show_cell(opened, "FigureBrowser(figures.residual_stream")
    slider = opened.locator(".widget-hslider", has_text="position").first
    picture = picture_of(opened, slider)
    before = picture.get_attribute("src")
    slider.locator(".noUi-handle").focus()
    opened.keyboard.press("ArrowLeft")
    wait_for_another(opened, picture, before)


def test_another_model_is_drawn(opened, lab):
    lab.show_cell(opened, "FigureBrowser(figures.parameter_treemap")
    menu = opened.locator(".widget-dropdown", has_text="model").first
    picture = picture_of(opened, menu)
    before = picture.get_attribute("src")
    menu.locator("select").select_option("llama2-70b")
    wait_for_another(opened, picture, before)


def test_no_errors_and_no_other_host(opened, watch):
    assert watch.errors == []
    assert watch.strangers == []
