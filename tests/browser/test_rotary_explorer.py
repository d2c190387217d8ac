"""The rotary explorer in JupyterLab, and the page that it saves: the same hands and scores."""

from __future__ import annotations

import math
import re

import pytest

import llama_viz as lv
from llama_viz.widgets import RotaryExplorer
from tests.browser.opened import HOSTILE, REDRAW, Opened

PANELS = {f"rotary-{name}" for name in ("clocks", "close-up", "split", "offset", "angles", "waves")}
CELLS = (
    "import llama_viz as lv\n"
    f"trace = lv.record_forward(lv.load('gqa'), range(1, {len(HOSTILE) + 1}))\n"
    f"trace = trace.assign_coords(token=('position', {HOSTILE!r}))",
    "explorer = lv.widgets.RotaryExplorer(trace)\nexplorer",
)


@pytest.fixture(scope="module")
def trace(family):
    trace = lv.record_forward(family["gqa"], range(1, len(HOSTILE) + 1))
    return trace.assign_coords(token=("position", HOSTILE))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("saved") / "rotary.html"
    RotaryExplorer(trace).save(path)
    return path


@pytest.fixture(scope="module", params=["notebook", "file"])
def explorer(request, lab, page, watch, saved):
    if request.param == "notebook":
        return Opened.in_notebook(lab, page, "rotary", *CELLS)
    return Opened.from_file(page, "rotary", saved)


def score(words):
    """The last score that a sentence gives."""
    return re.findall(r"score (−?[\d.]+)", words)[-1]


def test_everything_is_there_and_says_what_it_is(explorer):
    pictures = explorer.pictures()
    assert set(pictures) == PANELS
    for panel in explorer.root.locator("[data-panel]").all():
        assert panel.locator("h4").inner_text()
        assert panel.locator(".lv-caption").inner_text()
        assert panel.locator("svg").get_attribute("aria-label")
    assert explorer.root.locator("[data-panel=rotary-clocks] .lv-rotary-dial").count() == 8
    shown = explorer.tokens()
    assert len(shown) == 2 * len(HOSTILE)
    for token, text in zip(shown, HOSTILE * 2, strict=True):
        assert token == text or token == f"{text}⏎"  # a byte, and the character that it is
    assert explorer.root.locator("img, script").count() == 0
    assert explorer.nameless() == []
    assert explorer.fits()


@pytest.mark.parametrize("label", ["Layer", "Head", "Query position", "Key position"])
def test_a_slider_moves_by_key_and_by_mouse(explorer, label):
    slider = explorer.slider(label)
    explorer.press(slider, "Home")
    before = explorer.pictures()
    explorer.press(slider, "ArrowRight")
    assert explorer.changed(before) >= {"rotary-clocks", "rotary-split", "rotary-offset"}
    assert slider.input_value() == "1"
    explorer.press(slider, "Home")
    assert not explorer.changed(before)
    slider.click(position={"x": 0.8 * slider.bounding_box()["width"], "y": 8})
    assert int(slider.input_value()) > 1
    assert explorer.changed(before) >= {"rotary-clocks", "rotary-split"}


def test_the_hands_point_where_the_recorded_vectors_do(explorer, trace):
    explorer.press(explorer.slider("Layer"), "Home", "ArrowRight")
    explorer.press(explorer.slider("Head"), "End")
    explorer.press(explorer.slider("Query position"), "End")
    explorer.press(explorer.slider("Key position"), "Home", *["ArrowRight"] * 4)
    centres, rounds, squares = explorer.root.evaluate("""root => ["dial", "query-tip", "key-tip"]
      .map(name => [...root.querySelectorAll(`.lv-rotary-clocks .lv-rotary-${name}`)].map(node => {
        const { x, y, width, height } = node.getBBox();
        return [x + width / 2, y + height / 2];
      }))""")
    query = trace.query_rotated.sel(layer=1, head=7).values[-1]
    key = trace.key_rotated.sel(layer=1, key_value_head=1).values[4]
    for tips, vector in ((rounds, query), (squares, key)):
        for pair, ((x, y), (tip_x, tip_y)) in enumerate(zip(centres, tips, strict=True)):
            drawn = math.atan2(y - tip_y, tip_x - x)
            recorded = math.atan2(vector[2 * pair + 1], vector[2 * pair])
            assert math.cos(drawn - recorded) > 0.999


def test_a_click_survives_a_drawing_between_press_and_release(explorer):
    mouse = explorer.page.mouse
    box = explorer.root.locator("[data-panel=rotary-clocks] .lv-rotary-dial").nth(4).bounding_box()
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    explorer.settle()
    mouse.down()
    explorer.slider("Pair").evaluate(
        "node => { node.value = 2; node.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    explorer.settle()
    assert explorer.slider("Pair").input_value() == "2"
    mouse.up()
    explorer.root.locator("h3").hover()
    explorer.settle()
    assert explorer.slider("Pair").input_value() == "4"


def test_a_pair_is_pointed_at_and_picked(explorer):
    explorer.press(explorer.slider("Pair"), "Home", "ArrowRight")
    assert explorer.text(".lv-rotary-close-up .lv-caption").startswith("Pair 1 adds")
    dials = explorer.root.locator("[data-panel=rotary-clocks] .lv-rotary-dial")
    dials.nth(6).hover(force=True)
    assert explorer.text(".lv-rotary-close-up .lv-caption").startswith("Pair 6 adds")
    explorer.root.locator("h3").hover()
    assert explorer.text(".lv-rotary-close-up .lv-caption").startswith("Pair 1 adds")
    dials.nth(6).click(force=True)
    explorer.root.locator("h3").hover()
    explorer.settle()
    assert explorer.slider("Pair").input_value() == "6"
    for panel in ("split", "angles", "waves"):
        chart = explorer.root.locator(f"[data-panel=rotary-{panel}] svg")
        chart.click(position={"x": 60, "y": 60})  # in the first column
        explorer.settle()
        assert explorer.slider("Pair").input_value() == "0"
        explorer.press(explorer.slider("Pair"), "End")
    assert explorer.slider("Pair").input_value() == "7"


def test_tokens_are_pointed_at_and_picked(explorer):
    for side, place in (("query", 7), ("key", 3)):
        text = explorer.root.get_by_label(f"Token of the {side}")
        token = text.locator(f"[data-position='{place}']")
        token.hover()
        explorer.settle()
        assert f"lv-rotary-at-{side}" in token.get_attribute("class")
        token.click()
        explorer.root.locator("h3").hover()
        slider = explorer.slider(f"{side.capitalize()} position")
        assert slider.input_value() == str(place)
        token.press("ArrowRight")
        explorer.page.keyboard.press("Enter")
        explorer.settle()
        assert slider.input_value() == str(place + 1)
    assert explorer.text(".lv-rotary-recorded").startswith("query at 8, the; key at 4, $x$: rec")
    spoken = explorer.root.locator(".lv-spoken").text_content()
    assert "query position 8, key position 4" in spoken


def test_the_pairs_add_up_to_the_recorded_score(explorer):
    words = explorer.text(".lv-rotary-recorded")
    recorded, total = (
        float(re.search(rf"{name} (−?[\d.]+)", words)[1].replace("−", "-"))
        for name in ("recorded score", "8 pairs")
    )
    assert total == pytest.approx(recorded, abs=1e-5 * max(1, abs(recorded)))
    rows = explorer.rows()
    assert len(rows) == 8
    added = sum(float(row[-2].replace("−", "-")) for row in rows)
    assert added == pytest.approx(recorded, abs=1e-5)
    explorer.root.locator(".lv-numbers-button").press("Enter")
    assert explorer.root.locator(".lv-table").is_hidden()


def test_both_may_move_but_one_alone_changes_the_score(explorer):
    both = explorer.slider("Shift both")
    start = score(explorer.text(".lv-rotary-moved"))
    recorded = score(explorer.text(".lv-rotary-recorded"))
    as_numbers = [float(number.replace("−", "-")) for number in (start, recorded)]
    assert as_numbers[0] == pytest.approx(as_numbers[1], abs=1e-5 * max(1, abs(as_numbers[1])))
    before = explorer.pictures()
    for key, place in (("End", "+128"), ("Home", "−128")):
        explorer.press(both, key)
        words = explorer.text(".lv-rotary-moved")
        assert score(words) == start
        assert "offset +4 as before" in words
        assert both.get_attribute("aria-valuetext") == place
        assert explorer.changed(before) >= {"rotary-clocks", "rotary-angles"}
    for name, moved in (("Shift the query alone", "+5"), ("Shift the key alone", "+3")):
        explorer.root.get_by_role("button", name="Back to the recording").click()
        explorer.settle()
        assert not explorer.changed(before)
        slider = explorer.slider(name)
        explorer.press(slider, "ArrowRight")
        words = explorer.text(".lv-rotary-moved")
        assert f"offset {moved}:" in words
        assert score(words) != start
        assert "Outlines: as recorded." in explorer.text(".lv-rotary-split .lv-caption")
        slider.click(position={"x": 4, "y": 8})
        assert int(slider.input_value()) < -100
    explorer.page.keyboard.press("Escape")
    assert not explorer.changed(before)


def test_the_sign_of_the_offset_matters(explorer):
    words = explorer.text(".lv-rotary-offset .lv-caption")
    after, before = re.search(r"\+1: (−?[\d.]+); .* −1: (−?[\d.]+)\.", words).groups()
    assert after != before


def test_a_key_after_the_query_has_no_recorded_score(explorer):
    explorer.press(explorer.slider("Query position"), "Home")
    explorer.press(explorer.slider("Key position"), "End")
    assert "the mask hides keys after the query" in explorer.text(".lv-rotary-recorded")
    assert "offset −10" in explorer.text(".lv-rotary-moved")


def test_hands_by_length(explorer):
    before = explorer.pictures()
    switch = explorer.root.locator("[data-panel=rotary-clocks] .lv-pills")
    switch.get_by_label("true lengths").click()
    assert explorer.changed(before) == {"rotary-clocks"}
    explorer.press(switch.locator("input").nth(1), "ArrowLeft")
    assert not explorer.changed(before)


def test_a_frame_is_drawn_at_once(explorer):
    milliseconds = explorer.slider("Query position").evaluate(REDRAW)
    print(f"from the slider to the frame: {milliseconds:.0f} ms")
    assert milliseconds < 1000  # benchmarks/explorer_latency.py measures it on a quiet machine


def test_narrow_and_dark_it_still_fits(explorer, page):
    page.set_viewport_size({"width": 600, "height": 1500})
    page.emulate_media(color_scheme="dark")
    explorer.settle()
    explorer.settle()
    assert explorer.fits()
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 1500})
    explorer.settle()


def test_nothing_went_wrong_and_nobody_else_was_asked(explorer, watch):
    assert watch.errors == []
    own = [url for url in watch.strangers if not url.startswith("file:")]
    assert own == []


def test_python_and_page_share_the_state(explorer, page):
    if page.url.startswith("file:"):
        pytest.skip("there is no kernel")
    explorer.execute("explorer.show(head=5, layer=3)")
    explorer.wait("root.querySelector('label.lv-field span span').textContent === '3'")
    explorer.press(explorer.slider("Head"), "ArrowRight")
    explorer.wait_for_state(head=6)
