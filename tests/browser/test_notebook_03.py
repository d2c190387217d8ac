"""Notebook 03 in a real JupyterLab: every widget is moved, and shows something else."""

from __future__ import annotations

import pytest

from tests.browser.opened import Opened

NOTEBOOK = "03_normalization.ipynb"

# The picture below the controls of the browser that stands under this cell.
PICTURE = """text => {
  const { content } = window.jupyterapp.shell.currentWidget;
  const cell = content.widgets.find(cell =>
    cell.model.type === "code" && cell.model.sharedModel.source.includes(text));
  return cell.node.querySelector("img.widget-image")?.src;
}"""


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=180_000)
    return page


@pytest.mark.parametrize(
    "call",
    ["FigureBrowser(linear_layer", "FigureBrowser(figures.layer_inputs", "FigureBrowser(by_hand",
     "FigureBrowser(change", "FigureBrowser(figures.gains"],
)  # fmt: skip
def test_a_slider_moved_draws_another_picture(call, lab, opened):
    lab.show_cell(opened, call)
    opened.wait_for_function(f"text => ({PICTURE})(text)", arg=call, timeout=60_000)
    before = opened.evaluate(PICTURE, call)
    cell = opened.locator(".jp-CodeCell", has_text=call).last
    handle = cell.locator(".noUi-handle").last
    handle.focus()
    opened.keyboard.press("ArrowRight")
    opened.wait_for_function(
        f"([text, before]) => ({PICTURE})(text) !== before", arg=[call, before], timeout=60_000
    )


def test_the_norms_explorer_follows_the_layer(lab, opened):
    lab.show_cell(opened, "NormsExplorer(trace)")
    explorer = Opened(opened, "norms")
    before = explorer.pictures()
    explorer.press(explorer.slider("Layer"), "ArrowRight")
    assert {"norms-vector", "norms-map", "norms-depth"} <= explorer.changed(before)


def test_nothing_went_wrong_and_nobody_else_was_asked(watch):
    assert watch.errors == []
    assert watch.strangers == []
