"""The architecture map in a real JupyterLab, then saved: every control, by mouse and by keys."""

from __future__ import annotations

import pytest

import llama_viz as lv
from llama_viz.config import PRESETS
from llama_viz.widgets import ArchitectureMap
from tests.browser.explorer_page import ExplorerPage, saved_page, write_notebook

NAME = "architecture-map"
CELLS = (
    "import llama_viz as lv\nfrom llama_viz.widgets import ArchitectureMap",
    'lm = lv.load("gqa")\nmap = ArchitectureMap(lm, prompt="Once")\nmap',
)


@pytest.fixture(scope="module")
def explorer(lab, page, watch):
    write_notebook(lab, "map.ipynb", *CELLS)
    lab.open(page, "map.ipynb")
    lab.run_all(page)
    lab.show_cell(page, "map = ")
    return ExplorerPage(page, NAME)


def parameters_in(explorer):
    """What stands above the drawing of LLaMA: all parameters, and their bytes."""
    return explorer.text(".lv-drawn-model h4 small")


def test_both_drawings_are_there(explorer):
    assert explorer.find(".lv-drawing").count() == 2
    config = lv.load("gqa").config
    assert f"{config.n_parameters:,} parameters" in parameters_in(explorer)
    assert explorer.find("[data-box=query]").get_attribute("aria-label").startswith("query, ")
    assert explorer.root.evaluate("root => root.scrollWidth <= root.clientWidth")
    for text in explorer.find(".lv-drawing .lv-box").all():
        inside = text.evaluate("""box => {
          const [frame, ...lines] = [...box.children].map(node => node.getBoundingClientRect());
          return lines.every(({ left, right, top, bottom }) =>
            left >= frame.left && right <= frame.right && top >= frame.top - 3
            && bottom <= frame.bottom + 3);
        }""")
        assert inside, text.get_attribute("data-box")


def test_a_click_on_a_box_tells_what_it_does(explorer):
    explorer.find("[data-box=gate]").click()
    explorer.wait("root.querySelector('.lv-card h4').textContent === 'gate (LLaMA)'")
    card = explorer.text(".lv-card")
    assert "SiLU" in card
    assert "blocks.{layer}.feed_forward.gate" in card
    assert explorer.find("[data-box=gate]").get_attribute("aria-pressed") == "true"
    assert "gate" in explorer.find(".lv-spoken").text_content()
    assert explorer.find("[data-part=gate].lv-picked").count() == 1
    explorer.find("[data-box=cross_attention]").click()
    explorer.wait("root.querySelector('.lv-card h4').textContent.startsWith('cross-attention')")
    assert explorer.find(".lv-open").is_hidden()
    explorer.page.keyboard.press("Escape")
    explorer.wait("root.querySelector('.lv-card h4').textContent === 'Pick a box'")


def test_the_keyboard_walks_through_the_boxes(explorer, page):
    explorer.find(".lv-drawing [tabindex='0']").first.focus()
    page.keyboard.press("Home")
    focused = "document.activeElement.dataset.box"
    assert page.evaluate(focused) == "embedding"
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "attention_norm"
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) in ("query", "key", "value")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("End")
    assert page.evaluate(focused) == "output_head"
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-card h4').textContent.startsWith('output head')")
    page.keyboard.press("Escape")
    explorer.wait("root.querySelector('.lv-card h4').textContent === 'Pick a box'")
    assert page.evaluate(focused) == "output_head"


def test_every_box_can_be_reached_by_arrows(explorer):
    """Wherever the keys lead, from the first box on."""
    for drawing in explorer.find(".lv-drawing").all():
        seen, n_boxes = drawing.evaluate("""svg => {
          const press = key => {
            const at = svg.querySelector("[tabindex='0']");
            at.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          };
          press("Home");
          const first = document.activeElement.dataset.box;
          const paths = new Map([[first, []]]);
          const pathTo = name => paths.get(name);
          const seen = new Set([first]);
          for (const name of seen) {
            for (const key of ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]) {
              const keys = ["Home", ...pathTo(name), key];
              for (const one of keys) press(one);
              const reached = document.activeElement.dataset.box;
              if (!paths.has(reached)) paths.set(reached, [...pathTo(name), key]);
              seen.add(reached);
            }
          }
          return [seen.size, svg.querySelectorAll("[data-box]").length];
        }""")
        assert seen == n_boxes


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_each_difference_shows_in_both_drawings(explorer, page, way):
    pills = explorer.find(".lv-differences label")
    assert pills.count() == 9
    pills.nth(0).click()
    explorer.wait("root.querySelector('.lv-told').hidden")
    if way == "keyboard":
        explorer.find(".lv-differences input:checked").focus()
    for number in range(1, 9):
        if way == "mouse":
            pills.nth(number).click()
        else:
            page.keyboard.press("ArrowDown")
        title = pills.nth(number).inner_text()
        explorer.wait("root.querySelector('.lv-spoken').textContent.startsWith(title)", title=title)
        llama, other = explorer.find(".lv-drawing").all()
        assert llama.locator(".lv-marked").count() >= 1
        assert other.locator(".lv-marked").count() >= 1
        assert "2017:" in explorer.text(".lv-told")
        assert "notebook" in explorer.text(".lv-told")
    page.keyboard.press("Escape")
    explorer.wait("root.querySelector('.lv-told').hidden")
    assert explorer.find(".lv-drawing .lv-marked").count() == 0


def test_bytes_follow_the_type(explorer, page):
    before = parameters_in(explorer)
    explorer.find(".lv-dtype label").nth(1).click()
    explorer.wait("!root.querySelector('h4 small').textContent.includes(before)", before=before)
    explorer.find(".lv-dtype input:checked").focus()
    page.keyboard.press("ArrowRight")
    explorer.wait_for_state("map", dtype="int8")
    explorer.find(".lv-dtype label").nth(0).click()
    explorer.wait("root.querySelector('h4 small').textContent === before", before=before)


def test_published_models_stand_beside(explorer, page):
    alone = explorer.picture(".lv-sizes .lv-chart")
    boxes = explorer.find(".lv-models-shown input")
    assert boxes.count() == len(PRESETS)
    boxes.nth(4).check()
    explorer.settle()
    two = explorer.picture(".lv-sizes .lv-chart")
    assert two != alone
    boxes.nth(9).focus()
    page.keyboard.press("Space")
    explorer.wait("root.querySelectorAll('.lv-sizes .lv-label').length === 3")
    explorer.find(".lv-scale label").nth(1).click()
    explorer.settle()
    sides = explorer.find(".lv-sizes .lv-chart").evaluate(
        """chart => [...chart.querySelectorAll("[data-part=gate]")].map(
          part => Math.round(part.getBBox().width * part.getBBox().height))"""
    )
    assert len(sides) == 3
    assert min(sides) > 1000  # all large enough to be seen
    explorer.find(".lv-numbers-button").click()
    table = explorer.text(".lv-table")
    assert f"{PRESETS['llama2-7b'].n_parameters:,}" in table
    for name in ("llama2-7b", "smollm2-135m"):
        assert name in table
    explorer.find(".lv-numbers-button").click()
    explorer.wait_for_state("map", models=["llama2-7b", "smollm2-135m"])


def test_areas_are_to_scale(explorer):
    explorer.find(".lv-scale label").nth(0).click()
    explorer.settle()
    areas = explorer.find(".lv-sizes .lv-chart").evaluate(
        """chart => [...chart.querySelectorAll("[data-part=up]")].map(part => {
          const { width, height } = part.getBBox();
          return width * height;
        })"""
    )
    up = [
        config.n_layers * config.dim * config.hidden_dim
        for config in (PRESETS["llama2-7b"], PRESETS["smollm2-135m"])
    ]
    assert areas[1] / areas[2] == pytest.approx(up[0] / up[1], rel=0.01)


def test_a_click_on_a_part_picks_its_box(explorer):
    explorer.click(explorer.find("[data-part=down]").first)
    explorer.wait("root.querySelector('.lv-card h4').textContent.startsWith('down')")
    explorer.click(explorer.find("[data-part=down]").first)
    explorer.wait("root.querySelector('.lv-card h4').textContent === 'Pick a box'")


def test_the_explorer_of_a_box_opens_below(explorer, page):
    explorer.find("[data-box=output_head]").click()
    explorer.find(".lv-open").click()
    page.wait_for_function("document.querySelectorAll('.lv-explorer').length === 2")
    assert "open_explorer()" in explorer.text(".lv-opening")
    explorer.wait_for_state("map", opened="output_head")
    explorer.find("[data-box=output_head]").click()
    page.wait_for_function("document.querySelectorAll('.lv-explorer').length === 1")


def test_python_and_page_agree(explorer):
    explorer.execute("map.show(box='kv_cache', difference='kv_cache')")
    explorer.wait("root.querySelector('.lv-card h4').textContent.startsWith('KV cache')")
    assert "a position" in explorer.find("[data-box=kv_cache]").text_content()
    explorer.execute("map.show(box=None, difference=None)")


def test_it_answers_at_once(explorer, record_property):
    seconds = min(  # the machine may be busy with something else
        explorer.seconds(f".lv-differences label:nth-of-type({n}) input", "change")
        for n in (2, 4, 6, 8)
    )
    record_property("seconds to the redrawn frame", seconds)
    assert seconds < 1  # benchmarks/explorer_latency.py measures it on a quiet machine


def test_no_errors_and_no_other_host(explorer, watch):
    assert watch.errors == []
    assert watch.strangers == []


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (600, "dark")])
def test_a_saved_map_needs_nobody(page, tmp_path, width, theme):
    path = tmp_path / "map.html"
    ArchitectureMap("llama2-70b", models=["llama2-7b"]).save(path)
    browser = page.context.browser
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    with saved_page(browser, path, NAME, **options) as saved:
        assert saved.root.evaluate("root => root.scrollWidth <= root.clientWidth")
        heads = saved.find(".lv-wiring rect.lv-query-head")
        assert heads.count() == 64
        assert saved.find(".lv-wiring line").count() == 64
        assert heads.first.bounding_box()["width"] >= 3
        saved.find("[data-box=attention]").click()
        saved.wait("root.querySelector('.lv-card h4').textContent.startsWith('attention')")
        assert saved.find(".lv-open").count() == 0
        assert "in a notebook with a kernel" in saved.text(".lv-opening")
        saved.find(".lv-differences label").nth(2).click()
        saved.wait("root.querySelectorAll('.lv-drawing .lv-marked').length === 3")
        before = saved.text(".lv-drawn-model h4 small")
        saved.find(".lv-dtype label").nth(2).click()
        saved.wait("root.querySelector('h4 small').textContent !== before", before=before)
        saved.find(".lv-models-shown input").first.check()
        saved.wait("root.querySelectorAll('.lv-sizes .lv-label').length === 3")
