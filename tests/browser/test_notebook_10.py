"""Notebook 10 in a real JupyterLab: run, and its explorers moved."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "10_real_models.ipynb"


@pytest.fixture(scope="module")
def notebook(lab, page, watch):
    """The whole notebook, run."""
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=240_000)
    return lab


def test_four_formats_stand_side_by_side_and_agree_wherever_one_looks(notebook, page):
    notebook.show_cell(page, "lv.widgets.CompareExplorer(list(models.values())")
    explorer = ExplorerPage(page, "compare-explorer")
    names = explorer.find(".lv-compare-name strong").all_inner_texts()
    assert names == ["Meta", "Hugging Face", "llama2.c", "GGUF"]
    for layer in (0, 1):
        slider = explorer.find(".lv-bar-of-controls label:has-text('Layer') input").first
        slider.focus()
        page.keyboard.press("Home")
        for _ in range(layer):
            page.keyboard.press("ArrowRight")
        explorer.wait(
            "root.querySelector('.lv-compare-where').textContent.includes(words)",
            words=f"layer {layer}",
        )
        maps = [explorer.picture(f".lv-compare-{number} .lv-head-map") for number in range(4)]
        assert maps[0]
        assert len(set(maps)) == 1


def test_smollm2_opens_from_its_trace_and_shows_all_layers(notebook, page):
    notebook.show_cell(page, "lv.widgets.AttentionExplorer(smollm2")
    explorer = ExplorerPage(page, "attention-explorer")
    assert "All layers and heads" not in explorer.root.inner_text()
    explorer.find(".lv-attention-step").first.click()
    explorer.wait("root.textContent.includes('All layers and heads')")
    assert "9 query heads read 3 key/value heads" in explorer.root.inner_text()


def test_no_errors_and_no_other_host(notebook, watch):
    assert watch.errors == []
    assert watch.strangers == []
