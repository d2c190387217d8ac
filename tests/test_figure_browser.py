"""The figure browser: a control moved is a picture drawn anew."""

import base64
from io import BytesIO

import pytest

import llama_viz as lv
from llama_viz import figures
from llama_viz.widgets import FigureBrowser
from tests.reference import random_model


@pytest.fixture(scope="module")
def trace():
    return lv.record(random_model("gqa"), [5, 6, 7], 6)


@pytest.fixture
def browser(trace):
    return FigureBrowser(
        figures.attention_map, trace, layer=range(3), head=range(8), stage=("weights", "scores")
    )


def test_it_begins_with_the_first_of_each(browser):
    assert browser.chosen == {"layer": 0, "head": 0, "stage": "weights"}
    assert browser.png.startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "value"), [("layer", 2), ("head", 7), ("stage", "scores")])
def test_moving_a_control_draws_what_it_says(browser, trace, name, value):
    before = browser.png
    browser._controls[name].value = value
    assert browser.png != before
    drawn = figures.attention_map(trace, **browser.chosen)
    drawn.savefig(buffer := BytesIO(), format="png")
    assert browser.png == buffer.getvalue()


def test_without_a_kernel_it_leaves_the_picture_in_view(browser):
    browser._controls["head"].value = 3
    bundle, _ = browser._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == browser.png
    assert (
        bundle["text/plain"] == "Figure browser: attention_map at layer 0, head 3, stage weights."
    )
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == browser.model_id


def test_an_argument_without_values_is_refused(trace):
    with pytest.raises(ValueError, match="head has no values to choose from"):
        FigureBrowser(figures.attention_map, trace, head=[])


def test_one_text_gets_a_box_to_type_another_one_in():
    tokenizer = lv.load("gqa").tokenizer
    browser = FigureBrowser(figures.merges, tokenizer, text="the", step=range(9))
    before = browser.png
    for typed in ("there", "<img src=x>", ""):
        browser._controls["text"].value = typed
        assert browser.chosen == {"text": typed, "step": 0}
        assert browser.png != before


def test_numbers_that_are_no_trace_get_a_slider_in_rising_order():
    def bars(row, scale):
        return figures.before_and_after({"norm": (row, [scale * x for x in row])}, f"x {scale}")

    browser = FigureBrowser(bars, [1.0, 2.0], scale=[1.0, 0.1, 10])
    assert browser.chosen == {"scale": 1.0}
    assert list(browser._controls["scale"].options) == [0.1, 1.0, 10]
    browser._controls["scale"].value = 10
    assert browser.figure.get_label() == "x 10"
