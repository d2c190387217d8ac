"""Notebook 08 in a real JupyterLab: run, and each of its widgets moved."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "08_feed_forward.ipynb"


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=180_000)
    return page


@pytest.fixture(scope="module")
def explorer(opened, lab):
    lab.show_cell(opened, "FeedForwardExplorer(trace")
    explorer = ExplorerPage(opened, "feed-forward-explorer")
    explorer.wait("root.querySelectorAll('.lv-strongest li').length === 8")
    return explorer


@pytest.mark.parametrize("key", ["ArrowLeft", "ArrowRight", "End"])
def test_the_slider_of_beta_draws_the_curves_anew(opened, lab, key):
    lab.show_cell(opened, "FigureBrowser(activations")
    label = opened.get_by_text("beta", exact=True)
    slider = opened.locator(".widget-hslider").filter(has=label).first
    image = slider.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')]").locator("img")
    before = [image.first.element_handle(), image.first.get_attribute("src")]
    slider.locator(".noUi-handle").focus()
    opened.keyboard.press(key)
    opened.wait_for_function("([image, before]) => image.src !== before", arg=before)


def test_another_layer_and_the_stories_beside_the_run(explorer):
    explorer.wait(
        "root.querySelector('.lv-favourites .lv-caption').textContent.includes('and 24 others')"
    )
    explorer.find(".lv-layers label").nth(0).click()
    explorer.wait("root.querySelector('.lv-neurons .lv-caption').textContent.includes('layer 0')")


def test_a_cell_picks_its_neuron(explorer):
    explorer.settle()
    before = explorer.picture(".lv-curve svg")
    explorer.find("canvas").click(position={"x": 200, "y": 60})
    explorer.settle()
    assert explorer.find("input.lv-neuron").input_value() != ""
    assert explorer.picture(".lv-curve svg") != before


def test_the_threshold_counts_anew(explorer, opened):
    before = explorer.text(".lv-near-zero .lv-caption")
    explorer.find("input.lv-threshold").focus()
    opened.keyboard.press("ArrowRight")
    explorer.wait(
        "root.querySelector('.lv-near-zero .lv-caption').innerText !== before", before=before
    )


def test_no_errors_and_no_other_host(explorer, watch):
    assert watch.errors == []
    assert watch.strangers == []
