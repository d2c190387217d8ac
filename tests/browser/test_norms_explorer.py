"""The norms explorer in JupyterLab, and the page that it saves: the same vectors and norms."""

from __future__ import annotations

import re

import pytest

import llama_viz as lv
from llama_viz.widgets import NormsExplorer
from tests.browser.opened import HOSTILE, REDRAW, Opened

PANELS = {f"norms-{name}" for name in ("map", "depth", "vector", "outliers", "follow", "compare")}
OF_VECTOR = {"norms-vector", "norms-outliers", "norms-compare"}
CELLS = (
    "import llama_viz as lv\n"
    f"trace = lv.record_forward(lv.load('gqa'), range(1, {len(HOSTILE) + 1}))\n"
    f"trace = trace.assign_coords(token=('position', {HOSTILE!r}))",
    "explorer = lv.widgets.NormsExplorer(trace)\nexplorer",
)


@pytest.fixture(scope="module")
def trace(family):
    trace = lv.record_forward(family["gqa"], range(1, len(HOSTILE) + 1))
    return trace.assign_coords(token=("position", HOSTILE))


@pytest.fixture(scope="module", params=["notebook", "file"])
def explorer(request, lab, page, watch, trace, tmp_path_factory):
    if request.param == "notebook":
        return Opened.in_notebook(lab, page, "norms", *CELLS)
    path = tmp_path_factory.mktemp("saved") / "norms.html"
    NormsExplorer(trace).save(path)
    return Opened.from_file(page, "norms", path)


def caption(explorer, panel):
    return explorer.text(f".lv-norms-{panel} .lv-caption")


def test_everything_is_there_and_says_what_it_is(explorer):
    pictures = explorer.pictures()
    assert set(pictures) == PANELS
    for panel in explorer.root.locator("[data-panel]").all():
        assert panel.locator("h4").inner_text()
        assert panel.locator(".lv-caption").inner_text()
    for chart in explorer.root.locator("[data-panel] svg, [data-panel] canvas").all():
        assert chart.get_attribute("aria-label")
    shown = explorer.tokens()
    for token, text in zip(shown, HOSTILE, strict=True):
        assert token == text or token == f"{text}⏎"  # a byte, and the character that it is
    assert explorer.root.locator("img, script").count() == 0
    assert explorer.nameless() == []
    assert explorer.fits()


@pytest.mark.parametrize(
    ("label", "changes"),
    [
        ("Layer", OF_VECTOR | {"norms-map", "norms-depth"}),
        ("Position", OF_VECTOR | {"norms-map", "norms-depth"}),
        ("Feature", {"norms-vector", "norms-follow", "norms-compare"}),
    ],
)
def test_a_slider_moves_by_key_and_by_mouse(explorer, label, changes):
    slider = explorer.slider(label)
    explorer.press(slider, "Home")
    before = explorer.pictures()
    explorer.press(slider, "ArrowRight")
    assert slider.input_value() == "1"
    assert explorer.changed(before) >= changes
    explorer.press(slider, "Home")
    assert not explorer.changed(before)
    slider.click(position={"x": 0.8 * slider.bounding_box()["width"], "y": 8})
    assert int(slider.input_value()) > 1
    assert explorer.changed(before) >= changes


def test_the_stream_before_between_and_after(explorer):
    explorer.press(explorer.slider("Layer"), "Home")
    choices = explorer.root.locator(".lv-norms-place .lv-pills input")
    choices.nth(1).check()
    assert caption(explorer, "map").startswith("Layer 0 feed-forward,")
    before = explorer.pictures()
    explorer.press(choices.nth(1), "ArrowRight")
    assert caption(explorer, "map").startswith("Layer 1 attention,")
    assert explorer.changed(before) >= OF_VECTOR
    explorer.press(explorer.slider("Layer"), "End")
    assert caption(explorer, "map").startswith("The final norm,")
    choices.nth(0).check()


def test_recorded_and_computed_rms_agree(explorer):
    for position in ("Home", "End"):
        explorer.press(explorer.slider("Position"), position)
        words = caption(explorer, "vector")
        recorded, computed = re.search(
            r"recorded ([\d.]+), computed here ([\d.]+)\.", words
        ).groups()
        assert float(recorded) == pytest.approx(float(computed), rel=2e-5)


def test_the_numbers_are_those_of_the_trace(explorer, trace):
    explorer.root.locator(".lv-norms-place .lv-pills input").nth(0).check()
    explorer.press(explorer.slider("Layer"), "Home", "ArrowRight")
    explorer.press(explorer.slider("Position"), "Home", "ArrowRight", "ArrowRight")
    rows = explorer.rows()
    assert len(rows) == 128
    vector = trace.residual_in.sel(layer=1, position=2).values
    gain = trace.norm_gain.sel(norm=2).values
    centred = (vector - vector.mean()) / vector.std()
    output = vector / float(trace.rms.sel(norm=2, position=2)) * gain
    for row in (rows[0], rows[77]):
        feature = int(row[0])
        numbers = [float(cell.replace("−", "-")) for cell in row[1:2] + row[4:7]]
        assert float(row[8].replace("−", "-")) == pytest.approx(centred[feature], rel=0.01)
        assert numbers[0] == pytest.approx(vector[feature], rel=0.01)
        assert numbers[2] == pytest.approx(gain[feature], rel=0.01)
        assert numbers[3] == pytest.approx(output[feature], rel=0.01)
    explorer.root.locator(".lv-numbers-button").press("Enter")
    assert explorer.root.locator(".lv-table").is_hidden()


@pytest.mark.parametrize("panel", ["map", "follow"])
def test_a_map_is_pointed_at_and_picked(explorer, panel):
    explorer.press(explorer.slider("Layer"), "Home")
    explorer.press(explorer.slider("Position"), "End")
    canvas = explorer.root.locator(f".lv-norms-{panel} canvas")
    before = explorer.pictures()
    canvas.hover(position={"x": 130, "y": 8})  # the first position, at the last place
    assert "position 0:" in caption(explorer, "map")
    explorer.root.locator("h3").hover()
    assert not explorer.changed(before)
    canvas.click(position={"x": 130, "y": 8})
    explorer.root.locator("h3").hover()
    assert caption(explorer, "map").startswith("The final norm, position 0:")
    explorer.press(canvas, "ArrowRight", "ArrowDown")
    assert caption(explorer, "map").startswith("Layer 3 feed-forward, position 1:")
    assert explorer.slider("Position").input_value() == "1"
    spoken = explorer.root.locator(".lv-spoken").text_content()
    assert spoken.startswith("residual_middle of layer 3, position 1 <0x0A>")
    assert canvas.evaluate("canvas => canvas === document.activeElement")


def test_a_token_is_pointed_at_and_picked(explorer):
    text = explorer.root.get_by_label("Token of the vector")
    text.locator("[data-position='8']").hover()
    assert "position 8:" in caption(explorer, "map")
    text.locator("[data-position='8']").click()
    explorer.root.locator("h3").hover()
    assert explorer.slider("Position").input_value() == "8"
    text.locator("[data-position='8']").press("ArrowLeft")
    explorer.page.keyboard.press("Enter")
    assert "position 7:" in caption(explorer, "map")
    assert explorer.slider("Position").input_value() == "7"


def test_scale_and_order_are_switched(explorer):
    before = explorer.pictures()
    scales = explorer.root.locator(".lv-norms-map .lv-pills input")
    scales.nth(1).check()
    assert explorer.changed(before) == {"norms-map", "norms-depth", "norms-follow"}
    explorer.press(scales.nth(1), "ArrowLeft")
    assert not explorer.changed(before)
    orders = explorer.root.locator(".lv-norms-vector .lv-pills input")
    for index in (1, 2):
        explorer.press(orders.nth(index - 1), "ArrowRight")
        assert orders.nth(index).is_checked()
        assert explorer.changed(before) == {"norms-vector", "norms-compare"}
        column, sign = ((1, abs), (5, float))[index - 1]
        sizes = [sign(float(row[column].replace("−", "-"))) for row in explorer.rows()]
        assert sizes == sorted(sizes, reverse=True)
    orders.nth(0).check()
    explorer.root.locator(".lv-numbers-button").click()
    assert not explorer.changed(before)


def test_a_feature_is_picked_and_followed(explorer):
    explorer.page.keyboard.press("Escape")
    rows = explorer.root.locator(".lv-norms-list tbody button")
    explorer.click(rows.nth(2))
    explorer.settle()
    name = rows.nth(2).inner_text()
    assert explorer.slider("Feature").input_value() == name
    assert caption(explorer, "follow").startswith(f"Feature {name}:")
    chart = explorer.root.locator(".lv-norms-vector svg")
    chart.click(position={"x": 54, "y": 60})
    explorer.root.locator("h3").hover()
    explorer.settle()
    assert explorer.slider("Feature").input_value() == "0"
    explorer.root.get_by_role("button", name="Follow the largest").press("Enter")
    explorer.settle()
    largest = rows.nth(0).inner_text()
    assert caption(explorer, "follow").startswith(f"Feature {largest}:")


def test_a_constant_moves_one_norm_and_a_scale_neither(explorer):
    explorer.press(explorer.slider("Layer"), "End")
    before = explorer.pictures()
    constant = explorer.slider("Add a constant")
    power = explorer.slider("Scale the vector")
    explorer.press(constant, "End")
    words = caption(explorer, "compare")
    assert re.search(r"\+3 × RMS added: RMSNorm moves by up to [\d.]+, LayerNorm stays\.", words)
    assert explorer.changed(before) == {"norms-compare"}
    assert constant.get_attribute("aria-valuetext") == "+3 × RMS"
    explorer.root.get_by_role("button", name="As recorded").click()
    assert not explorer.changed(before)
    explorer.press(power, "End")
    words = caption(explorer, "compare")
    moved = [float(by) for by in re.findall(r"moves by up to ([\d.e-]*\d)", words)]
    assert words.startswith("scaled by 1000:")
    assert all(by < 1e-3 for by in moved)  # no more than epsilon does
    explorer.press(power, "Home")  # where epsilon shows
    assert "Epsilon" in caption(explorer, "compare")
    constant.click(position={"x": 4, "y": 8})
    explorer.settle()
    assert float(constant.input_value()) < -2
    power.click(position={"x": 4, "y": 8})
    explorer.page.keyboard.press("Escape")
    assert not explorer.changed(before)


def test_mean_and_deviation_are_told(explorer, trace):
    explorer.root.locator(".lv-norms-place .lv-pills input").nth(0).check()
    explorer.press(explorer.slider("Layer"), "Home")
    explorer.press(explorer.slider("Position"), "End")
    vector = trace.residual_in.sel(layer=0).values[-1]
    words = explorer.text(".lv-norms-readout")
    mean, deviation = (
        float(re.search(rf"{name} (−?[\d.e-]+),", words)[1].replace("−", "-"))
        for name in ("Mean", "deviation")
    )
    assert mean == pytest.approx(vector.mean(), rel=0.01)
    assert deviation == pytest.approx((vector.var() + 1e-5) ** 0.5, rel=0.01)


@pytest.mark.parametrize("label", ["Position", "Feature", "Add a constant"])
def test_a_frame_is_drawn_at_once(explorer, label):
    milliseconds = explorer.slider(label).evaluate(REDRAW)
    print(f"from the slider to the frame: {milliseconds:.0f} ms")
    assert milliseconds < 1000  # benchmarks/explorer_latency.py measures it on a quiet machine


def test_narrow_and_dark_it_still_fits(explorer, page):
    page.set_viewport_size({"width": 600, "height": 1500})
    explorer.settle()
    light = explorer.pictures()
    page.emulate_media(color_scheme="dark")
    explorer.settle()
    assert explorer.fits()
    if page.url.startswith("file:"):  # JupyterLab has a theme of its own
        assert explorer.changed(light) == {"norms-map", "norms-follow"}
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 1500})
    explorer.settle()


def test_nothing_went_wrong_and_nobody_else_was_asked(watch):
    assert watch.errors == []
    assert [url for url in watch.strangers if not url.startswith("file:")] == []


def test_python_and_page_share_the_state(explorer, page):
    if page.url.startswith("file:"):
        pytest.skip("there is no kernel")
    explorer.execute("explorer.show(position=4, residual='residual_middle')")
    explorer.wait("root.querySelector('.lv-spoken').textContent.includes('position 4 ')")
    explorer.press(explorer.slider("Position"), "ArrowRight")
    explorer.wait_for_state(position=5)
