"""The attention explorer in a real browser: in JupyterLab, and as a file without a kernel.

Each test runs in both places. They go through one page from top to bottom, as a reader does.
"""

from __future__ import annotations

import re

import nbformat
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

import llama_viz as lv
from llama_viz.widgets import AttentionExplorer
from tests.browser.browser import launch
from tests.browser.explorer_page import ExplorerPage
from tests.browser.lab import Lab, Watch, jupyterlab
from tests.test_attention_explorer import exact_row, synthetic

NOTEBOOK = "attention.ipynb"
HOSTILE = [
    "<s>", "<0x0A>", "⏎", "▁leading", "$x$", "<img src=x onerror=alert(1)>", "&amp;", "the", "the",
    "שלום", "🙂", "</script><script>alert(1)</script>", "▁$\\frac{1}{2}$", "`code`", "a\u202eb",
]  # fmt: skip
LARGE = (
    2,
    6,
    2,
    64,
    4096,
)  # layers, heads, key/value heads, head_dim, tokens: no map is sent whole

# How many times the colour changes along one line of pixels, near the lower end of the map.
COUNT_COLOURS = """(() => {
  const canvas = document.querySelector(".lv-attention-map");
  const { data } = canvas.getContext("2d").getImageData(0, 600, canvas.width, 1);
  const colour = i => data[4 * i] | data[4 * i + 1] << 8 | data[4 * i + 2] << 16;
  return [...Array(canvas.width - 1).keys()].filter(i => colour(i) !== colour(i + 1)).length;
})()"""
VIEWS = ["model", "layer", "head", "row", "product"]


@pytest.fixture(scope="module")
def trace(family):
    """A recorded run; its first tokens are given labels that a page might mistake for markup."""
    trace = lv.record(family["gqa"], "Once upon a time there was a girl named Lily.", 20)
    labels = [str(label) for label in trace["token"].values]
    labels[: len(HOSTILE)] = HOSTILE
    for name in ("token", "query_token", "key_token"):
        dims = trace[name].dims
        trace = trace.assign_coords({name: (dims, np.array(labels, dtype=object))})
    return trace


@pytest.fixture(scope="module")
def folder(trace, tmp_path_factory):
    """A notebook with the explorer, the trace that it opens, and the same explorer as a file."""
    folder = tmp_path_factory.mktemp("attention")
    (folder / "notebooks").mkdir()
    lv.save_trace(trace, folder / "notebooks" / "run.nc")
    AttentionExplorer(trace).save(folder / "page.html")
    cell = (
        "import llama_viz as lv\nfrom llama_viz.widgets import AttentionExplorer\n"
        'explorer = AttentionExplorer(lv.load_trace("run.nc"))\nexplorer'
    )
    write_notebook(folder / "notebooks" / NOTEBOOK, cell)
    cell = (
        "from llama_viz.widgets import AttentionExplorer\n"
        "from tests.test_attention_explorer import synthetic\n"
        f"explorer = AttentionExplorer(synthetic(*{LARGE}))\nexplorer"
    )
    write_notebook(folder / "notebooks" / "large.ipynb", cell)
    return folder


def write_notebook(path, cell):
    """A notebook of one cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)


class Explorer(ExplorerPage):
    """The explorer on a page, as a reader handles it."""

    def __init__(self, page, place):
        super().__init__(page, "attention-explorer")
        self.place = place
        self.canvas = self.find(".lv-attention-map")
        self.settle()

    def wait_until_fetched(self):
        """Wait until what is pointed at has come from the kernel."""
        self.settle()
        self.wait("!root.querySelector('.lv-attention-readout').textContent.includes('Fetching')")
        self.settle()

    def reset(self, **picked):
        """Begin anew: all layers, nothing locked."""
        self.page.mouse.move(2, 2)
        self.zoom("model")
        self.stage("weights")
        for name, value in {"layer": 0, "head": 0, **picked}.items():
            self.root.locator(f".lv-attention-{name}").select_option(label=None, index=value)
        self.settle()

    def picture(self):
        self.settle()
        return self.root.evaluate(
            "root => root.querySelector('.lv-attention-map').toDataURL()"
            " + root.querySelector('.lv-panel .lv-chart').innerHTML"
        )

    def text(self, name):
        self.settle()
        return self.root.locator(f".lv-{name}").first.inner_text()

    def zoom(self, view):
        self.root.locator(".lv-attention-step").nth(VIEWS.index(view)).click()
        self.settle()
        assert self.view() == view

    def view(self):
        return self.root.get_attribute("data-view")

    def stage(self, name):
        words = {"masked": "masked scores"}.get(name, name)
        self.root.locator(".lv-attention-stage").get_by_label(words, exact=True).check()
        self.settle()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def cell(self, position, key, n):
        """Where a cell of the map lies on the canvas."""
        slot = min(max(self.canvas.bounding_box()["width"] - 104, 180), 620) / n
        return {"x": 92 + (key + 0.5) * slot, "y": 8 + (position + 0.5) * slot}

    def part(self):
        """The first and last query and key in view, as the caption says them."""
        words = re.search(r"Queries (.*?), keys (.*?) of", self.text("caption"))
        return [tuple(int(place.replace(",", "")) for place in one.split(" to "))
                for one in words.groups()]  # fmt: skip

    def steps(self):
        """The picked layer, head, query and key, as the trail says them."""
        self.settle()
        return [step.split()[-1] for step in
                self.root.locator(".lv-attention-step").all_inner_texts()[1:]]  # fmt: skip


@pytest.fixture(scope="module", params=["lab", "file"])
def explorer(request, folder):
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.on("dialog", lambda dialog: dialog.accept())
        if request.param == "file":
            page.watch = Watch(page, Lab("file:", folder))
            page.goto((folder / "page.html").as_uri())
            yield Explorer(page, "file")
        else:
            with jupyterlab(folder) as lab:
                page.watch, page.lab = Watch(page, lab), lab
                lab.open(page, NOTEBOOK)
                lab.run_all(page)
                yield Explorer(page, "lab")
        browser.close()


@pytest.fixture
def page(explorer):
    return explorer.page


def wait_for_theme(page, *, light):
    """Without wait_for_function, which evaluates a text, and the file's policy forbids that."""
    page.locator(f"body[data-jp-theme-light={str(light).lower()}]").wait_for(state="attached")


def three_digits(text):
    """A number as the page writes it."""
    return float(text.replace("−", "-"))


def test_it_opens_on_all_layers_and_shows_every_token_as_it_is(explorer, page, trace):
    assert explorer.view() == "model"
    assert explorer.text("panel h4") == "All layers and heads"
    shown = explorer.root.evaluate(
        "root => [...root.querySelectorAll('.lv-story [data-position]')].map(span => "
        "[...span.childNodes].filter(node => !node.classList?.contains('lv-character'))"
        ".map(node => node.textContent).join(''))"
    )
    assert shown == [str(label) for label in trace["token"].values]
    assert explorer.root.locator("img, script, s").count() == 0
    groups = explorer.root.locator(".lv-panel .lv-group").all_text_contents()
    assert groups == [f"heads {4 * g}–{4 * g + 3} read key/value head {g}" for g in range(2)]
    assert explorer.root.evaluate("root => root.scrollWidth <= root.clientWidth")
    focusable = "button, select, input, [tabindex]"
    assert explorer.root.locator(focusable).evaluate_all(
        "all => all.every(node => node.hasAttribute('data-lm-suppress-shortcuts'))"
    )


def test_the_buttons_zoom_in_and_out(explorer):
    explorer.reset()
    pictures = {explorer.picture()}
    for view in VIEWS[1:]:
        explorer.root.get_by_text("Zoom in", exact=True).click()
        explorer.settle()
        assert explorer.view() == view
        current = explorer.root.locator(".lv-attention-step[aria-current]")
        assert current.count() == 1
        pictures.add(explorer.picture())
    assert len(pictures) == 5
    assert explorer.root.get_by_text("Zoom in", exact=True).is_disabled()
    for view in reversed(VIEWS[:-1]):
        explorer.root.get_by_text("Zoom out", exact=True).click()
        explorer.settle()
        assert explorer.view() == view


def test_the_keyboard_zooms_and_moves(explorer):
    explorer.reset()
    explorer.canvas.focus()
    explorer.press("ArrowDown", "ArrowRight", "ArrowRight")
    assert explorer.steps()[:2] == ["1", "2"]
    explorer.press("Enter")
    assert explorer.view() == "layer"
    explorer.press("ArrowRight")
    assert explorer.steps()[:2] == ["1", "3"]
    explorer.press("Enter")
    assert explorer.view() == "head"
    before = explorer.steps()
    explorer.press("ArrowUp", "ArrowRight")
    assert explorer.steps()[2] == str(int(before[2]) - 1)
    assert explorer.steps()[3] == str(int(before[3]) + 1)
    explorer.press("Enter", "ArrowRight")
    assert explorer.view() == "row"
    assert explorer.steps()[3] == str(int(before[3]) + 2)
    explorer.press("Enter", "ArrowRight")
    assert explorer.view() == "product"
    assert explorer.text("attention-readout").startswith("Pair 1:")
    explorer.press("Backspace")
    assert explorer.view() == "row"
    explorer.press("Escape")
    assert explorer.view() == "head"
    explorer.press("Escape", "Escape")
    assert explorer.view() == "model"
    if explorer.place == "lab":
        assert explorer.page.locator(".jp-Notebook .jp-Cell").count() <= 2


@pytest.mark.parametrize("view", ["model", "layer"])
def test_tiles_are_pointed_at_locked_and_opened(explorer, page, view):
    explorer.reset()
    explorer.zoom(view)
    middle = explorer.canvas.bounding_box()["width"] * 0.35
    spots = {
        "model": ({"x": 300, "y": 150}, {"x": 100, "y": 80}),
        "layer": ({"x": middle, "y": 200}, {"x": 60, "y": 120}),
    }[view]
    explorer.canvas.hover(position=spots[0])
    words = explorer.text("attention-readout")
    assert "head 0," not in words
    explorer.canvas.hover(position=spots[1])
    assert "head 0," in explorer.text("attention-readout")
    explorer.canvas.click(position=spots[0])
    locked = explorer.text("attention-readout")
    assert "locked, Escape unlocks" in locked
    explorer.canvas.hover(position=spots[1])
    assert explorer.text("attention-readout") == locked
    explorer.press("Escape")
    assert explorer.view() == view
    assert "locked" not in explorer.text("attention-readout")
    explorer.canvas.dblclick(position=spots[0])
    explorer.settle()
    assert explorer.view() == VIEWS[VIEWS.index(view) + 1]


def test_a_cell_shows_the_recorded_values(explorer, trace):
    explorer.reset(layer=2, head=5)
    explorer.zoom("head")
    n = trace.sizes["position"]
    for position, key in ((n - 1, 0), (10, 10), (20, 7), (3, 2), (n - 1, n - 1)):
        explorer.canvas.hover(position=explorer.cell(position, key, n))
        words = explorer.text("attention-readout")
        score, weight = words.split("score ")[1].split(", weight ")
        recorded = trace["attention_weights"].values[2, 5, position, key]
        assert three_digits(weight) == pytest.approx(recorded, rel=6e-3), words
        recorded = trace["attention_scores"].values[2, 5, position, key]
        assert three_digits(score) == pytest.approx(recorded, rel=6e-3), words
        assert f" at {position} → " in words
    explorer.canvas.hover(position=explorer.cell(4, 9, n))
    assert "masked, since this key comes later" in explorer.text("attention-readout")


def test_a_cell_is_locked_and_let_go(explorer, page, trace):
    explorer.reset(layer=1, head=4)
    explorer.zoom("head")
    n = trace.sizes["position"]
    explorer.canvas.click(position=explorer.cell(12, 5, n))
    assert explorer.steps()[2:] == ["12", "5"]
    locked = explorer.text("attention-readout")
    assert "locked" in locked
    explorer.canvas.hover(position=explorer.cell(3, 1, n))
    assert explorer.text("attention-readout") == locked
    explorer.press("Escape")
    explorer.canvas.hover(position=explorer.cell(3, 1, n))
    explorer.canvas.hover(position=explorer.cell(3, 2, n))
    assert " at 3 → " in explorer.text("attention-readout")
    assert explorer.view() == "head"
    page.mouse.move(2, 2)
    assert " at 12 → " in explorer.text("attention-readout")


@pytest.mark.parametrize("view", VIEWS[:-1])
def test_the_stage_changes_what_is_drawn_and_what_colours_mean(explorer, trace, view):
    explorer.reset(layer=1, head=2)
    explorer.zoom("head")  # a query with keys after it, which the mask hides
    explorer.canvas.click(position=explorer.cell(12, 5, trace.sizes["position"]))
    explorer.zoom(view)
    seen = {}
    for stage in ("scores", "masked", "weights"):
        explorer.stage(stage)
        seen[stage] = explorer.picture()
        if view != "row":
            bar = explorer.text("colour-bar")
            assert ("attention weight" in bar) == (stage == "weights")
            assert ("masked" in bar) == (stage != "scores")
            assert ("−" in bar) == (stage != "weights")
    assert len(set(seen.values())) == 3


def test_the_menus_change_the_head(explorer):
    explorer.reset()
    explorer.zoom("head")
    first = explorer.picture()
    explorer.root.locator(".lv-attention-head").select_option(index=6)
    second = explorer.picture()
    explorer.root.locator(".lv-attention-layer").select_option(index=3)
    third = explorer.picture()
    assert len({first, second, third}) == 3
    assert explorer.text("panel h4") == "Layer 3, head 6"
    assert "reads key/value head 1" in explorer.text("caption")


def test_the_row_and_the_product_add_up(explorer, trace):
    explorer.reset(layer=2, head=5)
    explorer.zoom("head")
    n = trace.sizes["position"]
    explorer.canvas.click(position=explorer.cell(20, 7, n))
    explorer.zoom("row")
    assert "together 1.00" in explorer.text("caption")
    explorer.zoom("product")
    recorded = trace["attention_scores"].values[2, 5, 20, 7]
    words = explorer.text("caption").split("is the score, ")[1].split(";")[0]
    assert three_digits(words) == pytest.approx(recorded, rel=6e-3)
    config = lv.ModelConfig(**trace.attrs["config"])
    query = trace["query_rotated"].values[2, 20, 5]
    key = trace["key_rotated"].values[2, 7, config.kv_head_of_head[5]]
    parts = (query * key).reshape(-1, 2).sum(axis=1) / np.sqrt(config.head_dim)
    explorer.root.locator(".lv-numbers-button").click()
    explorer.settle()
    rows = explorer.root.locator(".lv-table tbody tr").all_inner_texts()
    assert [three_digits(row.split("\t")[-1]) for row in rows] == pytest.approx(
        parts.tolist(), rel=6e-3, abs=1e-6
    )
    explorer.root.locator(".lv-numbers-button").click()
    assert explorer.root.locator(".lv-table").is_hidden()


def test_the_numbers_of_each_view(explorer, trace):
    explorer.reset()
    explorer.root.locator(".lv-numbers-button").focus()
    explorer.press("Enter")
    n_rows = {"model": 32, "layer": 8, "head": trace.sizes["position"]}
    n_rows["row"] = n_rows["head"]
    explorer.zoom("head")
    explorer.canvas.focus()
    explorer.press(*["ArrowDown"] * trace.sizes["position"])
    for view, expected in n_rows.items():
        explorer.zoom(view)
        assert explorer.root.locator(".lv-table tbody tr").count() == expected, view
    explorer.zoom("head")
    weights = [
        three_digits(row.split("\t")[-1])
        for row in explorer.root.locator(".lv-table tbody tr").all_inner_texts()
    ]
    recorded = trace["attention_weights"].values[0, 0, -1]
    np.testing.assert_allclose(weights, recorded, rtol=6e-3, atol=1e-7)
    explorer.root.locator(".lv-numbers-button").click()


def test_the_text_is_a_control(explorer, page, trace):
    explorer.reset(layer=2, head=3)
    token = explorer.root.locator(".lv-story [data-position='12']")
    token.hover()
    words = explorer.text("attention-said")
    row = trace["attention_weights"].values[2, 3, 12]
    assert f" at {row.argmax()} (" in words
    assert "position 12" in words
    column = trace["attention_weights"].values[2, 3, 13:, 12]
    assert f" at {13 + column.argmax()} (" in words
    shade = "span => Number(getComputedStyle(span).getPropertyValue('--p'))"
    for place, weight in ((row.argmax(), row.max()), (13 + column.argmax(), column.max())):
        span = explorer.root.locator(f".lv-story [data-position='{place}']")
        assert span.evaluate(shade) == pytest.approx(weight**0.5, abs=0.6 / 64)
    token.click()
    assert explorer.steps()[2] == "12"
    explorer.press("ArrowRight", "ArrowRight", "Enter")
    assert explorer.steps()[2] == "14"
    explorer.press("Home")
    assert "position 0" in explorer.text("attention-said")
    active = "document.activeElement.dataset.position"
    assert page.evaluate(active) == "0"


@pytest.mark.parametrize(("scope", "axes"), [("layer", (0,)), ("model", (0, 1))])
def test_the_text_shows_means(explorer, trace, scope, axes):
    explorer.reset(layer=2)
    index = ["head", "layer", "model"].index(scope)
    explorer.root.locator(".lv-attention-scope").select_option(index=index)
    explorer.root.locator(".lv-story [data-position='15']").hover()
    explorer.settle()
    weights = trace["attention_weights"].values
    mean = (weights[2] if scope == "layer" else weights).mean(axis=axes)
    shades = explorer.root.locator(".lv-story [data-position]").evaluate_all(
        "all => all.map(span => Number(span.style.getPropertyValue('--p')))"
    )
    expected = np.concatenate([mean[15, :16], mean[16:, 15]]) ** 0.5
    np.testing.assert_allclose(shades, expected, atol=0.6 / 64)
    explorer.root.locator(".lv-attention-scope").select_option(index=0)


def test_the_wheel_scrolls_the_page(explorer, page):
    explorer.reset()
    explorer.zoom("layer")
    before = explorer.picture()
    explorer.canvas.hover(position={"x": 5, "y": 5})
    prevented = explorer.canvas.evaluate(
        "canvas => !canvas.dispatchEvent(new WheelEvent('wheel', "
        "{ deltaY: 100, bubbles: true, cancelable: true }))"
    )
    assert not prevented
    assert explorer.view() == "layer"
    page.mouse.move(2, 2)
    assert explorer.picture() == before


def test_the_theme_is_followed(explorer, page):
    explorer.reset()
    light = explorer.picture()
    if explorer.place == "file":
        page.emulate_media(color_scheme="dark")
    else:
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', "
                      "{ theme: 'JupyterLab Dark' })")  # fmt: skip
    wait_for_theme(page, light=False)
    assert explorer.picture() != light
    if explorer.place == "file":
        page.emulate_media(color_scheme="light")
        wait_for_theme(page, light=True)
        assert explorer.picture() == light


def test_maps_are_finished_beyond_their_overviews(tmp_path, explorer):
    path = tmp_path / "page.html"
    AttentionExplorer(synthetic(2, 4, 2, 16, n=600), view="head").save(path)
    page = explorer.page.context.browser.new_page(viewport={"width": 1280, "height": 1400})
    page.goto(path.as_uri())
    Explorer(page, "file")
    n_changes = page.evaluate(COUNT_COLOURS)
    page.close()
    assert n_changes > 150  # an overview has so many cells in a row


def test_a_part_of_a_map_is_shown_closer_and_moved(explorer, page, trace):
    explorer.reset(layer=1, head=4)
    explorer.zoom("head")
    n = trace.sizes["position"]
    explorer.canvas.click(position=explorer.cell(20, 7, n))
    explorer.press("Escape", "+")
    assert explorer.view() == "head"
    assert "Queries" in explorer.text("caption")
    while not explorer.root.get_by_role("button", name="Closer").is_disabled():
        explorer.root.get_by_role("button", name="Closer").click()
        explorer.settle()
    queries, keys = explorer.part()
    assert (queries[1] - queries[0], keys[1] - keys[0]) == (7, 7)
    assert queries[0] <= 20 <= queries[1]
    assert keys[0] <= 7 <= keys[1]
    box = explorer.canvas.bounding_box()
    slot = min(max(box["width"] - 104, 180), 620) / 8
    spot = {"x": 92 + 2.5 * slot, "y": 8 + 3.5 * slot}
    page.mouse.move(2, 2)
    explorer.canvas.hover(position=spot)
    words = explorer.text("attention-readout")
    position, key = queries[0] + 3, keys[0] + 2
    assert f" at {position} → " in words
    recorded = trace["attention_weights"].values[1, 4, position, key]
    assert three_digits(words.split(", weight ")[1]) == pytest.approx(recorded, rel=6e-3)
    # The map follows the hand: two cells up, one to the right; no cell is locked by that.
    before = explorer.picture()
    page.mouse.down()
    x, y = box["x"] + spot["x"], box["y"] + spot["y"]
    page.mouse.move(x + slot / 2, y - slot)
    page.mouse.move(x + slot, y - 2 * slot)
    page.mouse.up()
    moved_queries, moved_keys = explorer.part()
    assert moved_queries[0] == min(queries[0] + 2, n - 8)
    assert moved_keys[0] == max(keys[0] - 1, 0)
    assert "locked" not in explorer.text("attention-readout")
    assert explorer.picture() != before
    # The arrow keys take the part along; with Shift by a quarter of it.
    explorer.canvas.focus()
    explorer.press(*["Shift+ArrowUp"] * n)
    assert explorer.part()[0] == (0, 7)
    assert explorer.steps()[2] == "0"
    # A pinch is Ctrl and the wheel; the wheel alone is the page's.
    explorer.press("0")
    assert "Queries" not in explorer.text("caption")
    wheel = """(canvas, ctrlKey) => {
      const box = canvas.getBoundingClientRect();
      return canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -120, ctrlKey, bubbles: true,
        cancelable: true, clientX: box.left + 300, clientY: box.top + 300 }));
    }"""
    assert explorer.canvas.evaluate(wheel, False)
    assert "Queries" not in explorer.text("caption")
    assert not explorer.canvas.evaluate(wheel, True)
    queries, _ = explorer.part()
    assert queries[1] - queries[0] + 1 == round(n / 2)
    # A row shows the keys of the same part.
    explorer.zoom("row")
    assert explorer.text("caption").startswith("Keys ")
    explorer.root.get_by_role("button", name="Whole map").click()
    assert explorer.text("caption").startswith("Weights of")


def test_python_and_the_page_pick_together(explorer, page):
    if explorer.place == "file":
        pytest.skip("a file has no kernel")
    explorer.reset(layer=3, head=7)
    explorer.wait_for_state(layer=3, head=7)
    explorer.execute("explorer.show(view='head', layer=1, head=2, position=9)")
    explorer.wait("root.dataset.view === 'head'")
    assert explorer.steps()[:3] == ["1", "2", "9"]
    assert explorer.root.locator(".lv-attention-head").input_value() == "2"


def test_thousands_of_tokens_are_explored(explorer, page):
    if explorer.place == "file":
        pytest.skip("a file has no kernel to ask")
    page.lab.open(page, "large.ipynb")
    page.lab.run_all(page)
    large = Explorer(page, "lab")
    trace = synthetic(*LARGE)
    caption = large.root.locator(".lv-panel .lv-caption")
    caption.filter(has_text="so far").wait_for(state="detached", timeout=180_000)
    assert large.execute("it = sum(map(len, explorer.content(whole=False)[0]"
                         "['heads_held'].values()))") == "0"  # fmt: skip
    assert large.execute("it = len(explorer._levels)") == str(LARGE[0] * LARGE[1])
    assert "the largest weight of a block of" in caption.inner_text()
    large.reset(layer=1, head=3)
    large.zoom("head")
    page.wait_for_function(COUNT_COLOURS + " > 150", timeout=60_000)  # an overview has 128

    def check(x, y, head=3):
        """What is read under the pointer is exact to three digits."""
        page.mouse.move(2, 2)
        large.canvas.hover(position={"x": x, "y": y})
        large.wait_until_fetched()
        words = large.text("attention-readout")
        position, key = (int(part.split(" at ")[1].split(":")[0]) for part in words.split(" → "))
        score, weight = words.split("score ")[1].split(", weight ")
        scores, weights = exact_row(trace, 1, head, position)
        assert three_digits(score) == pytest.approx(scores[key], rel=6e-3, abs=2e-5)
        assert three_digits(weight) == pytest.approx(weights[key], rel=6e-3)
        return position, key

    assert check(250, 500) != check(130, 580)
    # Closer and closer, down to single cells; in between the map is finished in tiles.
    large.canvas.focus()
    pictures = {large.picture()}
    while not large.root.get_by_role("button", name="Closer").is_disabled():
        large.press("+")
        pictures.add(large.picture())
    assert len(pictures) > 6
    queries, keys = large.part()
    assert queries[1] - queries[0] == keys[1] - keys[0] == 7
    # All cells in view show the colour of their own weight: none is left from a coarser level.
    colours = large.canvas.evaluate("""canvas => {
      const ratio = canvas.width / canvas.clientWidth;
      const slot = Math.min(Math.max(canvas.clientWidth - 104, 180), 620) / 8;
      const context = canvas.getContext("2d");
      return [...Array(8).keys()].map(row => [...Array(8).keys()].map(column => {
        const [x, y] = [92 + (column + 0.3) * slot, 8 + (row + 0.3) * slot];
        return [...context.getImageData(x * ratio, y * ratio, 1, 1).data].join();
      }));
    }""")
    by_colour = {}
    for row in range(8):
        _, weights = exact_row(trace, 1, 3, queries[0] + row)
        for column in range(8):
            key = keys[0] + column
            if key <= queries[0] + row:
                step = round(255 * weights[key] ** 0.5)
                by_colour.setdefault(colours[row][column], set()).add(step)
    assert all(max(steps) - min(steps) <= 3 for steps in by_colour.values())
    check(92 + 30, 8 + 30)
    # Another head, far along the text: a part that was never seen, read at once.
    large.press("0")
    large.root.locator(".lv-attention-head").select_option(index=1)
    check(600, 620, head=1)
    # The text holds elements for what is near alone, and brings the picked query into view.
    assert large.root.locator(".lv-story [data-position]").count() < 1200
    large.canvas.click(position={"x": 200, "y": 300})
    picked = int(large.steps()[2])
    span = large.root.locator(f".lv-story [data-position='{picked}']")
    story = large.root.locator(".lv-story").bounding_box()
    assert story["y"] <= span.bounding_box()["y"] <= story["y"] + story["height"]
    assert span.get_attribute("aria-posinset") == str(picked + 1)
    large.press("Escape")
    large.root.locator(".lv-attention-scope").select_option(index=2)
    said = large.root.locator(".lv-attention-said")
    said.filter(has_text="all heads: it looked most").wait_for(timeout=60_000)
    # The numbers of all heads come from the kernel.
    large.zoom("layer")
    large.root.locator(".lv-numbers-button").click()
    rows = large.root.locator(".lv-table tbody tr")
    rows.nth(LARGE[1] - 1).wait_for(timeout=60_000)
    best = exact_row(trace, 1, 0, picked)[1].argmax()
    assert rows.first.inner_text().split("\t")[3].split()[0] == str(best)
    assert large.text("alert") == ""


def test_a_file_says_what_it_leaves_out(tmp_path, explorer):
    path = tmp_path / "long.html"
    trace = synthetic(2, 4, 2, 64, n=4096)
    AttentionExplorer(trace, layer=1, head=2).save(path)
    page = explorer.page.context.browser.new_page(viewport={"width": 1280, "height": 1400})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    long = Explorer(page, "file")
    line = "This file keeps to 5 MB: it holds"
    assert line in long.text("caption")
    long.zoom("head")
    assert line not in long.text("caption")
    long.canvas.hover(position={"x": 300, "y": 500})
    words = long.text("attention-readout")
    position, key = (int(part.split(" at ")[1].split(":")[0]) for part in words.split(" → "))
    _, weights = exact_row(trace, 1, 2, position)
    assert three_digits(words.split(", weight ")[1]) == pytest.approx(weights[key], rel=6e-3)
    before = long.picture()
    long.root.locator(".lv-attention-layer").select_option(index=0)
    assert line in long.text("caption")
    assert "is here in blocks of" in long.text("attention-readout")
    assert long.picture() != before
    long.zoom("row")
    assert line in long.text("caption")
    assert errors == []
    page.close()


def test_no_errors_and_no_other_host(explorer, page):
    assert page.watch.errors == []
    assert page.watch.strangers == []
    assert page.evaluate("typeof executed") == "undefined"
