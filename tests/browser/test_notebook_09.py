"""Notebook 09 in a real JupyterLab: run, each of its widgets moved, and a run forked."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "09_next_token.ipynb"


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=180_000)
    return page


@pytest.mark.parametrize(
    ("cell", "control", "key"),
    [
        ("FigureBrowser(figures.logit_lens", "first", "ArrowRight"),
        ("FigureBrowser(figures.entropy_along", "first", "ArrowRight"),
        ("def sampler(", "position", "ArrowLeft"),
        ("def sampler(", "temperature", "ArrowRight"),
        ("def sampler(", "top_k", "ArrowLeft"),
        ("def sampler(", "top_p", "ArrowLeft"),
    ],
)
def test_a_slider_draws_the_figure_anew(opened, lab, cell, control, key):
    lab.show_cell(opened, cell)
    browser = opened.locator(".jp-Cell.jp-mod-active .widget-vbox")
    slider = browser.locator(".widget-hslider", has_text=control)
    picture = browser.locator("img")
    before = picture.get_attribute("src")
    slider.locator(".noUi-handle").focus()
    opened.keyboard.press(key)
    opened.wait_for_function(
        "([image, before]) => image.src !== before", arg=[picture.element_handle(), before]
    )


def test_a_click_on_a_candidate_writes_a_branch(opened, lab):
    lab.show_cell(opened, "GenerationExplorer([lm]")
    explorer = ExplorerPage(opened, "explorer")
    explorer.wait("root.querySelectorAll('.lv-story [data-position]').length > 5")
    explorer.find(".lv-scrubber").evaluate(
        "input => { input.value = 3; input.dispatchEvent(new Event('input')); }"
    )
    explorer.settle()
    explorer.click(explorer.find(".lv-fork").first)
    explorer.wait(
        "root.querySelectorAll('.lv-branch').length === 2"
        " && root.querySelector('.lv-run').textContent === 'Run'"
    )
    names = explorer.find(".lv-branch strong").all_inner_texts()
    assert names[0] == "the run"
    assert "step 3: " in names[1]


def test_no_errors_and_no_other_host(opened, watch):
    assert watch.errors == []
    assert watch.strangers == []
