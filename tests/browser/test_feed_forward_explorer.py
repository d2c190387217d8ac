"""The feed-forward explorer in a real JupyterLab, then saved: every control, mouse and keys."""

from __future__ import annotations

import numpy as np
import pytest

import llama_viz as lv
from llama_viz.widgets import FeedForwardExplorer, feed_forward
from tests.browser.explorer_page import ExplorerPage, saved_page, write_notebook

NAME = "feed-forward-explorer"
TEXT = "<s> <img src=x onerror='bad = 1'> $x$ &amp; 🙂 שלום the the\nend"
CELLS = (
    "import llama_viz as lv\nfrom llama_viz.widgets import FeedForwardExplorer",
    f"""lm = lv.load("gqa")
taps = ["gate", "up", "neuron_activation", "feed_forward_output"]
trace = lv.record(lm, {TEXT!r}, max_new_tokens=20, taps=taps)
other = lv.record_forward(lm, "Once upon a time", taps=taps)
explorer = FeedForwardExplorer(trace, others=[other])
explorer""",
)


@pytest.fixture(scope="module")
def explorer(lab, page, watch):
    write_notebook(lab, "neurons.ipynb", *CELLS)
    lab.open(page, "neurons.ipynb")
    lab.run_all(page)
    lab.show_cell(page, "explorer = ")
    explorer = ExplorerPage(page, NAME)
    explorer.wait("root.querySelectorAll('.lv-strongest li').length === 8")
    return explorer


def pictures(explorer):
    """What each panel shows, and how the text is shaded; when the kernel has answered."""
    explorer.settle()
    explorer.wait("!root.querySelector('.lv-favourites .lv-caption').textContent"
                  ".startsWith('Looking through all')")  # fmt: skip
    explorer.settle()
    return {
        "text": explorer.find(".lv-token").evaluate_all(
            "tokens => tokens.map(token => token.style.cssText + token.className).join()"
        ),
        "map": explorer.picture("canvas"),
        "curve": explorer.picture(".lv-curve svg"),
        "along": explorer.picture(".lv-along svg"),
        "favourites": explorer.picture(".lv-favourites ol"),
        "strongest": explorer.picture(".lv-strongest ol"),
        "near zero": explorer.picture(".lv-near-zero .lv-two"),
    }


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def state(explorer, **expected):
    """Python has heard of it, too."""
    explorer.settle()
    explorer.wait_for_state(**expected)


def test_everything_is_there_and_nothing_is_markup(explorer, page):
    shown = "".join(explorer.find(".lv-story .lv-token").all_text_contents())
    for part in ("<s>", "onerror", "🙂", "⏎"):
        assert part in shown
    assert page.evaluate("typeof bad") == "undefined"
    assert explorer.find("img, script, s").count() == 0
    for panel in explorer.find("[data-panel]").all():
        assert panel.locator("h4").inner_text()
        assert panel.locator(".lv-caption").inner_text()
    blank = explorer.find("canvas").evaluate(
        """canvas => Object.assign(document.createElement("canvas"),
          { width: canvas.width, height: canvas.height }).toDataURL()"""
    )
    assert explorer.picture("canvas") != blank
    assert explorer.root.evaluate("root => root.scrollWidth <= root.clientWidth")
    for control in explorer.find("input, select, button, canvas").all():
        assert control.evaluate(
            """node => Boolean(node.getAttribute("aria-label") || node.labels?.length
              || node.textContent.trim())"""
        ), control.evaluate("node => node.outerHTML")


def test_the_numbers_are_those_of_the_trace(explorer):
    explorer.find(".lv-numbers-button").click()
    explorer.execute("explorer.show(layer=1, neuron=17)")
    explorer.wait("root.querySelector('.lv-table caption')?.textContent.includes('17 of layer 1')")
    rows = explorer.find(".lv-table tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    )
    told = np.array([[float(one.replace("−", "-")) for one in row[2:]] for row in rows])
    lm = lv.load("gqa")
    trace = lv.record(lm, TEXT, max_new_tokens=20, taps=["gate", "up", "neuron_activation"])
    gate, up = (trace[name].values[1][:, 17].astype(np.float64) for name in ("gate", "up"))
    expected = np.stack(
        [gate, gate / (1 + np.exp(-gate)), up, trace.neuron_activation.values[1][:, 17]], axis=-1
    )
    np.testing.assert_allclose(told, expected, rtol=0.008, atol=1e-6)
    explorer.find(".lv-numbers-button").click()


def test_a_layer_by_mouse_and_by_keys(explorer, page):
    explorer.execute("explorer.show(layer=1, neuron=None)")
    explorer.wait("root.querySelector('input.lv-neuron').value !== '17'")
    before = pictures(explorer)
    explorer.find(".lv-layers label").nth(3).click()
    explorer.wait("root.querySelector('.lv-neurons .lv-caption').textContent.includes('layer 3')")
    assert changed(before, pictures(explorer)) == set(before)
    explorer.find(".lv-layers input:checked").focus()
    page.keyboard.press("ArrowLeft")
    explorer.wait("root.querySelector('.lv-neurons .lv-caption').textContent.includes('layer 2')")
    state(explorer, layer=2)
    # Layers that were seen are not asked for again, and come at once.
    explorer.execute(
        "asked, answer_layer = [], explorer.answer_layer\n"
        "explorer.answer_layer = lambda layer: asked.append(layer) or answer_layer(layer)"
    )
    explorer.seconds(".lv-layers label:nth-of-type(4) input", "change")
    explorer.wait("root.querySelector('.lv-neurons .lv-caption').textContent.includes('layer 3')")
    state(explorer, layer=3)
    explorer.execute("assert asked == [], asked\ndel explorer.answer_layer")


def test_a_quantity_by_mouse_and_by_keys(explorer, page):
    before = pictures(explorer)
    explorer.find(".lv-quantities label").nth(0).click()
    explorer.settle()
    first = pictures(explorer)
    assert {"map", "text"} <= changed(before, first)
    assert "gate" in explorer.text(".lv-colours-meaning")
    explorer.find(".lv-quantities input:checked").focus()
    page.keyboard.press("ArrowRight")
    explorer.settle()
    assert {"map", "text"} <= changed(first, pictures(explorer))
    state(explorer, quantity="silu")
    explorer.find(".lv-quantities label").nth(3).click()


@pytest.mark.parametrize("order", [0, 2, 3, 1])
def test_neurons_are_sorted(explorer, order):
    before = explorer.picture("canvas")
    explorer.find("select.lv-order").select_option(str(order))
    explorer.settle()
    assert explorer.picture("canvas") != before
    state(explorer, order=("size", "mean", "position", "number")[order])


def test_rows_and_ranks(explorer, page):
    few = explorer.picture("canvas")
    slider = explorer.find("input.lv-first")
    slider.focus()
    page.keyboard.press("ArrowRight")
    explorer.settle()
    assert explorer.picture("canvas") != few
    state(explorer, first=1)
    rows = explorer.find("select.lv-rows")
    rows.focus()
    page.keyboard.press("ArrowDown")
    explorer.wait("root.querySelector('.lv-neurons .lv-caption').textContent.startsWith('128 of')")
    rows.select_option("2")
    explorer.wait("root.querySelector('input.lv-first').disabled")
    n = lv.load("gqa").config.hidden_dim
    assert explorer.text(".lv-neurons .lv-caption").startswith(f"{n} of {n} neurons")
    rows.select_option("0")
    explorer.settle()
    assert explorer.picture("canvas") == few


def test_hover_tells_click_picks_escape_lets_go(explorer, page):
    canvas = explorer.find("canvas")
    canvas.hover(position={"x": 200, "y": 60})
    explorer.settle()
    told = explorer.text(".lv-readout")
    canvas.hover(position={"x": 330, "y": 200})
    explorer.wait("root.querySelector('.lv-readout').textContent !== told", told=told)
    assert "SiLU(gate) × up" in told
    before = pictures(explorer)
    canvas.click(position={"x": 200, "y": 60})
    explorer.settle()
    after = changed(before, pictures(explorer))
    assert {"text", "curve", "along", "favourites", "strongest"} <= after
    number = explorer.find("input.lv-neuron").input_value()
    assert told.startswith(f"neuron {number} at position")
    page.keyboard.press("Escape")
    explorer.wait("root.querySelector('input.lv-neuron').value !== number", number=number)
    state(explorer, neuron=None)


def test_arrow_keys_walk_over_the_map(explorer, page):
    canvas = explorer.find("canvas")
    canvas.click(position={"x": 200, "y": 60})
    explorer.settle()
    said = explorer.find(".lv-spoken").text_content()
    n_cells = page.locator(".jp-Notebook .jp-Cell").count()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        explorer.wait("root.querySelector('.lv-spoken').textContent !== said", said=said)
        said = explorer.find(".lv-spoken").text_content()
    assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells


def test_a_neuron_by_its_number(explorer, page):
    n_cells = page.locator(".jp-Notebook .jp-Cell").count()
    number = explorer.find("input.lv-neuron")
    number.evaluate("""input => {
      input.changes = [];
      input.addEventListener("change", () => input.changes.push(input.value));
    }""")
    number.fill("5")
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-along .lv-caption').textContent.includes('neuron 5,')")
    assert number.evaluate("input => input.changes") == ["5"]
    page.keyboard.press("ArrowUp")
    explorer.wait("root.querySelector('.lv-along .lv-caption').textContent.includes('neuron 6,')")
    assert number.evaluate("input => input.changes") == ["5", "6"]
    assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells
    number.fill("100000")
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-alert').textContent.startsWith('Neurons have numbers')")
    number.fill("7")
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-alert').textContent === ''")
    state(explorer, neuron=7)


def test_a_token_in_the_text_by_mouse_and_by_keys(explorer, page):
    before = pictures(explorer)
    explorer.find(".lv-story [data-position='4']").click()
    explorer.wait("root.querySelector('.lv-strongest .lv-caption').textContent"
                  ".startsWith('Position 4 ')")  # fmt: skip
    assert {"map", "strongest", "near zero"} <= changed(before, pictures(explorer))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-strongest .lv-caption').textContent"
                  ".startsWith('Position 5 ')")  # fmt: skip
    state(explorer, position=5)


def test_favourites_come_from_all_texts_and_lead_to_their_tokens(explorer):
    explorer.wait("root.querySelectorAll('.lv-favourites li').length === 8")
    explorer.wait(
        "root.querySelector('.lv-favourites .lv-caption').textContent.includes('and 1 other')"
    )
    explorer.execute(
        "found = explorer.favourites()\nassert found.sizes['rank'] == 8\n"
        "expected = [abs(round(float(v), 3)) for v in found.neuron_activation]"
    )
    values = explorer.find(".lv-favourites .lv-value").all_inner_texts()
    told = [float(value.replace("−", "-")) for value in values]
    explorer.execute(
        f"import numpy as np\nnp.testing.assert_allclose({told}, found.neuron_activation.values, "
        "rtol=0.006, atol=1e-5)"
    )
    place = explorer.find(".lv-favourites button").first
    position = place.locator("small").inner_text().split()[-1]
    explorer.click(place)
    explorer.wait("root.querySelector('.lv-strongest .lv-caption').textContent"
                  ".startsWith(`Position ${position} `)", position=position)  # fmt: skip


def test_the_strongest_neuron_of_a_token_can_be_taken(explorer):
    first = explorer.find(".lv-strongest button").nth(2)
    neuron = first.get_attribute("aria-label").split(",")[0].split()[-1]
    explorer.settle()
    first.press("Enter")
    explorer.wait("root.querySelector('input.lv-neuron').value === neuron", neuron=neuron)
    explorer.settle()
    assert first.evaluate("node => node.matches(':focus')"), "the list was made anew"


def test_how_many_are_near_zero(explorer, page):
    before = explorer.picture(".lv-two")
    slider = explorer.find("input.lv-threshold")
    slider.focus()
    page.keyboard.press("End")
    explorer.settle()
    assert explorer.picture(".lv-two") != before
    assert explorer.text(".lv-near-zero .lv-caption").startswith("Below 10 in size: ")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    explorer.wait("root.querySelector('input.lv-threshold').getAttribute('aria-valuetext')"
                  " === '0.0015'")  # fmt: skip
    state(explorer, threshold=0.0015)
    explorer.find(".lv-two svg").first.click(position={"x": 60, "y": 70})
    explorer.wait("root.querySelector('.lv-layers input').checked")
    explorer.find(".lv-two svg").nth(1).click(position={"x": 60, "y": 70})
    explorer.find(".lv-along svg").click(position={"x": 300, "y": 60})
    dot = explorer.find(".lv-curve circle").first
    position = dot.get_attribute("data-position")
    dot.dispatch_event("click")
    explorer.wait("root.querySelector('.lv-strongest .lv-caption').textContent"
                  ".startsWith(`Position ${position} `)",
                  position=position)  # fmt: skip


def test_it_answers_at_once(explorer, record_property):
    explorer.execute("explorer.show(position=8)")
    explorer.wait("root.querySelector('.lv-strongest .lv-caption').textContent"
                  ".startsWith('Position 8 ')")  # fmt: skip
    taken = [explorer.seconds("canvas", key) for key in ("ArrowRight", "ArrowLeft") * 4]
    record_property("seconds to the redrawn frame", min(taken))
    assert min(taken) < 1  # benchmarks/explorer_latency.py measures it on a quiet machine


def test_what_is_missing_is_said(explorer, lab, page):
    explorer.execute(
        "short = FeedForwardExplorer(lv.record_forward(lm, 'One', taps=['neuron_activation']))\n"
        "short.save('short.html')"
    )
    folder = lab.log.parent / "notebooks"
    with saved_page(page.context.browser, folder / "short.html", NAME) as saved:
        assert "has no gate and no up" in saved.text(".lv-missing")
        assert "not recorded" in saved.text(".lv-curve .lv-caption")
        assert saved.find(".lv-quantities label").count() == 1


def test_no_errors_and_no_other_host(explorer, watch):
    assert watch.errors == []
    assert watch.strangers == []


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (600, "dark")])
def test_a_saved_page_needs_nobody(page, tmp_path, monkeypatch, width, theme):
    monkeypatch.setattr(feed_forward, "EXPORT_BYTES", 60_000)
    lm = lv.load("gqa")
    trace = lv.record(lm, TEXT, max_new_tokens=8, taps=["gate", "up"])
    path = tmp_path / "neurons.html"
    FeedForwardExplorer(trace, others=[trace]).save(path)
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    with saved_page(page.context.browser, path, NAME, **options) as saved:
        assert saved.root.evaluate("root => root.scrollWidth <= root.clientWidth")
        assert "were left out" in saved.text(".lv-neurons .lv-caption")
        assert "needs a kernel" in saved.text(".lv-favourites .lv-caption")
        before = pictures(saved)
        saved.find(".lv-layers label").nth(3).click()
        saved.wait("root.querySelector('.lv-neurons .lv-caption').textContent.includes('layer 3')")
        assert changed(before, pictures(saved)) == set(before)
        saved.find(".lv-story [data-position='2']").click()
        saved.wait("root.querySelector('.lv-strongest .lv-caption').textContent"
                   ".startsWith('Position 2 ')")  # fmt: skip
        saved.click(saved.find(".lv-favourites button").nth(1))
        saved.find("select.lv-rows").select_option("2")
        saved.find("canvas").press("ArrowDown")
        saved.find("input.lv-neuron").fill("100001")
        saved.page.keyboard.press("Enter")
        saved.wait("root.querySelector('.lv-alert').textContent.startsWith('Neurons have numbers')")
        saved.find("input.lv-threshold").press("ArrowRight")
        saved.settle()
        saved.find(".lv-numbers-button").click()
        assert saved.find(".lv-table tbody tr").count() == trace.sizes["position"]
