"""The compare explorer in a real browser: in JupyterLab, where it runs models, and as a file.

The tests go through one page from top to bottom, as a reader does, once in each place.
"""

from __future__ import annotations

import ast

import numpy as np
import pytest

import llama_viz as lv
from llama_viz.widgets import CompareExplorer
from tests.browser.places import opened, write_notebook
from tests.test_compare_explorer import TEXT, with_other_sizes


def shade(weights):
    """Weights as tokens are shaded with them: sent in steps of 1/255, drawn in 1/64."""
    return np.floor(np.rint(weights * 255) / 255 * 64 + 0.5) / 64


PROMPT = "Once <s> $x$ &amp; <img src=x onerror='executed=1'>\nשלום 🙂 the the"
N_NEW = 10
MODELS = ("mha", "gqa", "mqa")
HEADS = ".lv-head-maps"
MAP = ".lv-head-map"


@pytest.fixture(scope="module")
def traces(family):
    """What the explorer must show: the same runs, recorded here."""
    return [lv.record(family[name], PROMPT, N_NEW) for name in MODELS]


@pytest.fixture(scope="module", params=["lab", "file"])
def explorer(request, family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    if request.param == "lab":
        write_notebook(
            folder,
            "import llama_viz as lv\n"
            f"explorer = lv.widgets.CompareExplorer(prompt={PROMPT!r}, max_new_tokens={N_NEW})\n"
            "explorer",
        )
    else:
        comparison = CompareExplorer(list(family.values()), prompt=PROMPT, max_new_tokens=N_NEW)
        comparison.measure_times()
        comparison.save(folder / "page.html")
    with opened(request.param, folder, "compare-explorer") as explorer:
        yield explorer


def column(explorer, number):
    return explorer.find(".lv-compare-column").nth(number)


def slide(explorer, words, value):
    """Put a slider somewhere, as a drag does."""
    explorer.find(f".lv-bar-of-controls label:has-text('{words}') input").evaluate(
        """(input, value) => {
          input.value = value;
          input.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        value,
    )
    explorer.settle()


def test_it_opens_with_a_column_for_each_model(explorer, traces):
    explorer.check_labels()
    names = explorer.texts(".lv-compare-name strong")
    assert names == list(MODELS)
    wires = [column(explorer, number).locator(".lv-shared").count() for number in range(3)]
    assert wires == [8, 2, 1]
    for number, trace in enumerate(traces):
        shown = (
            column(explorer, number)
            .locator(".lv-token")
            .evaluate_all(
                "all => all.map(span => [...span.childNodes].filter(node => "
                "!node.classList?.contains('lv-character')).map(node => node.textContent).join(''))"
            )
        )
        labels = [str(label) for label in trace["token"].values]
        assert shown == [*labels, str(trace["sampled_token"].values[-1])]
    assert explorer.find("img, script, s").count() == 0
    assert "a quarter of mha's cache" in explorer.text(".lv-compare-differences")
    assert "the same tokens" in explorer.text(".lv-compare-lock")
    has_controls = explorer.find("textarea").count() == 1
    assert has_controls == (explorer.place == "lab")


@pytest.mark.parametrize(("words", "values"), [("Layer", (0, 2)), ("Head", (5, 1))])
def test_sliders_change_every_column(explorer, words, values):
    pictures = []
    for value in values:
        slide(explorer, words, value)
        pictures.append([explorer.picture(f".lv-compare-{n} {MAP}") for n in range(3)])
    assert all(one != other for one, other in zip(*pictures, strict=True))


def test_the_row_of_a_position_is_the_recorded_one(explorer, traces):
    slide(explorer, "Layer", 1)
    slide(explorer, "Head", 3)
    slide(explorer, "Position", 9)
    for number, trace in enumerate(traces):
        shades = (
            column(explorer, number)
            .locator(".lv-token")
            .evaluate_all("all => all.map(span => Number(span.style.getPropertyValue('--p')))")
        )
        recorded = trace["attention_weights"].values[1, 3, 9]
        np.testing.assert_allclose(shades[: len(recorded)], shade(recorded), atol=1e-6)


def test_a_token_is_picked_in_all_columns(explorer, traces):
    slide(explorer, "Position", 2)
    token = column(explorer, 1).locator("[data-position='6']")
    token.click()
    explorer.settle()
    for number in range(3):
        picked = column(explorer, number).locator(".lv-compare-picked")
        assert picked.get_attribute("data-position") == "6"
    explorer.press("ArrowRight", "Enter")
    assert column(explorer, 2).locator(".lv-compare-picked").get_attribute("data-position") == "7"
    label = str(traces[0]["token"].values[7])
    assert label[:8] in explorer.root.locator(".lv-spoken").inner_text()
    # The last token was written and not read: it stands for the position that wrote it.
    column(explorer, 0).locator(".lv-token").last.click()
    last = str(traces[0].sizes["position"] - 1)
    explorer.settle()
    assert column(explorer, 0).locator(".lv-compare-picked").get_attribute("data-position") == last


def test_a_head_is_picked_in_its_map_and_with_the_keys(explorer):
    slide(explorer, "Head", 0)
    before = explorer.picture(".lv-compare-2 .lv-head-map")
    heads = explorer.find(f".lv-compare-1 {HEADS}")
    box = heads.bounding_box()
    heads.click(position={"x": box["width"] * 0.3, "y": 30})
    explorer.settle()
    assert "head 1" in explorer.text(".lv-compare-2 .lv-readout")
    assert explorer.picture(".lv-compare-2 .lv-head-map") != before
    heads.focus()
    explorer.press("ArrowRight", "ArrowRight")
    assert "head 3" in explorer.text(".lv-compare-0 .lv-readout")
    assert "head 3 chosen" in heads.get_attribute("aria-label")


def test_cells_are_pointed_at_locked_and_let_go(explorer, traces):
    slide(explorer, "Layer", 2)
    slide(explorer, "Head", 4)
    canvas = explorer.find(f".lv-compare-1 {MAP}")
    cell = canvas.bounding_box()["height"] / traces[1].sizes["position"]

    def spot(query, key):
        return {"x": (key + 0.5) * cell, "y": (query + 0.5) * cell}

    canvas.hover(position=spot(8, 3))
    for number, trace in enumerate(traces):
        words = explorer.text(f".lv-compare-{number} .lv-readout")
        weight = trace["attention_weights"].values[2, 4, 8, 3]
        assert "(8) →" in words
        assert float(words.split()[-1]) == pytest.approx(weight, abs=0.0075)
        looked = column(explorer, number).locator(".lv-looked-at")
        assert looked.get_attribute("data-position") == "3"
    canvas.click(position=spot(8, 3))
    canvas.hover(position=spot(5, 2))
    assert "(8) →" in explorer.text(".lv-compare-0 .lv-readout")
    assert "locked" in explorer.text(".lv-compare-2 .lv-readout")
    picked = column(explorer, 0).locator(".lv-compare-picked")
    assert picked.get_attribute("data-position") == "8"
    canvas.focus()
    explorer.press("Escape")
    assert "locked" not in explorer.text(".lv-compare-2 .lv-readout")
    explorer.page.mouse.move(2, 2)
    explorer.press("ArrowDown", "ArrowUp", "ArrowUp", "ArrowRight", "Enter")
    assert "locked" in explorer.text(".lv-compare-0 .lv-readout")
    explorer.press("Escape")
    assert explorer.text(".lv-compare-0 .lv-readout").startswith("Strongest")


def test_the_next_tokens_are_the_models_own(explorer, traces):
    slide(explorer, "Position", 5)
    for number, trace in enumerate(traces):
        logits = trace["logits"].values[5].astype(np.float64)
        highest = np.exp(logits - logits.max()).max() / np.exp(logits - logits.max()).sum()
        first = column(explorer, number).locator(".lv-compare-next .lv-tick").first
        assert first.text_content() in ("<0.001", f"{highest:.3f}")


def test_the_cache_is_said_with_its_formula(explorer, traces):
    last = traces[0].sizes["position"] - 1
    slide(explorer, "Position", last)
    words = explorer.text(".lv-compare-cache .lv-caption")
    for name, trace in zip(MODELS, traces, strict=True):
        used = int(trace["cache_bytes_used"].values[-1].sum())
        assert f"{name}: 2 × 4 × " in words
        assert f"= {used:,}, as recorded." in words
    dots = [explorer.find(f".lv-dot-{number}").get_attribute("cx") for number in range(3)]
    slide(explorer, "Position", 1)
    moved = [explorer.find(f".lv-dot-{number}").get_attribute("cx") for number in range(3)]
    assert all(float(b) < float(a) for a, b in zip(dots, moved, strict=True))


def test_the_numbers_of_the_moment(explorer, traces):
    explorer.find(".lv-numbers-button").focus()
    explorer.press("Enter")
    header = explorer.texts(".lv-table th")
    assert header == ["", *MODELS]
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in explorer.texts(".lv-table tbody tr")}
    losses = rows["loss on the prompt, nats per token"]
    assert len({*losses}) == 3
    bars = explorer.find(".lv-compare-loss .lv-strong").all_text_contents()
    assert bars == [f"{float(loss):.2f}" for loss in losses]
    explorer.press("Enter")
    assert explorer.find(".lv-table").is_hidden()


def test_times_are_measured_apart(explorer):
    words = explorer.text(".lv-compare-time .lv-caption")
    if explorer.place == "file":
        assert words.count("tokens/s") == 3
        assert explorer.find(".lv-compare-time path").count() == 3
    else:
        assert words.startswith("Run measures them")


def test_the_page_is_narrow_enough(explorer):
    for width in (600, 1000, 1280):
        explorer.page.set_viewport_size({"width": width, "height": 1500})
        explorer.settle()
        if explorer.place == "file":
            assert explorer.page.evaluate("document.documentElement.scrollWidth") <= width
            left = [column(explorer, number).bounding_box()["x"] for number in range(2)]
            assert (left[0] == left[1]) == (width == 600)
        assert explorer.root.evaluate("root => root.scrollWidth <= root.clientWidth")


def test_a_run_streams_and_is_stopped(explorer):
    if explorer.place == "file":
        assert explorer.find("textarea, .lv-compare-run").count() == 0
        return
    prompt, run = explorer.find("textarea"), explorer.find(".lv-compare-run")
    prompt.fill("")
    run.click()
    explorer.wait("root.querySelector('.lv-alert').textContent.includes('prompt is empty')")
    # Slowly, so that there is time to look, and to stop.
    explorer.execute(
        "import time\n"
        "slow = [column.lm.model.register_forward_pre_hook(lambda *_: time.sleep(0.05))\n"
        "        for column in explorer.columns]"
    )
    prompt.fill("Once upon a time there was")
    explorer.find(".lv-new-tokens").fill("200")
    explorer.find(".lv-compare-controls select").select_option(label="in turns")
    explorer.find(".lv-temperature").fill("0.8")
    explorer.find(".lv-seed").fill("5")
    prompt.press("Control+Enter")
    explorer.wait("root.querySelector('.lv-compare-run').textContent === 'Stop'")
    # The page may still show the run before: every model of this one must have written.
    explorer.wait_in_kernel("min(column.n_positions for column in explorer.columns) > 9")
    explorer.wait("root.querySelectorAll('.lv-compare-2 .lv-token').length > 9")
    assert explorer.find("textarea").get_attribute("readonly") is not None
    assert explorer.execute("it = explorer.running") == "True"
    run.click()
    explorer.wait("root.querySelector('.lv-compare-run').textContent === 'Run'")
    assert "Stopped" in explorer.text(".lv-compare-status")
    assert explorer.text(".lv-alert") == ""
    positions = explorer.execute(
        "[handle.remove() for handle in slow]\n"
        "it = [column.n_positions for column in explorer.columns]"
    )
    for number, n in enumerate(ast.literal_eval(positions)):
        assert n < 200
        explorer.wait("root.querySelectorAll(`.lv-compare-${number} .lv-token`).length === n + 1",
                      number=number, n=n)  # fmt: skip


def test_a_run_to_its_end_is_timed(explorer):
    if explorer.place == "file":
        pytest.skip("a file runs nothing")
    explorer.find("textarea").fill("The red ball")
    explorer.find(".lv-new-tokens").fill("8")
    before = explorer.picture(".lv-compare-time")
    explorer.find(".lv-compare-run").press("Enter")
    explorer.wait("root.querySelector('.lv-compare-status').textContent.startsWith('Done')")
    explorer.wait("root.querySelectorAll('.lv-compare-time path').length === 3")
    assert explorer.picture(".lv-compare-time") != before
    assert explorer.text(".lv-compare-differences").count("ms") == 3
    tokens = explorer.execute(
        "it = [[str(token) for token in column.trace['token'].values] for column in "
        "explorer.columns]"
    )
    for number, expected in enumerate(ast.literal_eval(tokens)):
        shown = explorer.texts(f".lv-compare-{number} .lv-token")
        assert shown[:-1] == expected
    # What was picked in the page is picked in Python, and the other way round.
    slide(explorer, "Layer", 0)
    explorer.wait_for_state(layer=0)
    explorer.execute("explorer.show(layer=3, head=6, position=2); it = 0")
    explorer.wait("root.querySelector('.lv-readout').textContent.includes('layer 3, head 6')")


def test_models_of_other_sizes_and_tokenizers_are_locked_by_characters(explorer, tmp_path):
    lms = with_other_sizes()
    comparison = CompareExplorer(lms, prompt=TEXT, max_new_tokens=4)
    columns = comparison.content(whole=True)[0]["columns"]
    comparison.save(tmp_path / "page.html")
    if explorer.place == "lab":
        pytest.skip("the same page as a file")
    other = explorer.open_file(tmp_path / "page.html", "compare-explorer")
    assert "character" in other.text(".lv-compare-lock")
    assert "same relative depth" in other.text(".lv-compare-lock")
    for position in (1, 4, columns[0]["n_prompt"] - 1):
        column(other, 0).locator(f"[data-position='{position}']").click()
        other.settle()
        picked = column(other, 1).locator(".lv-compare-picked")
        reached = columns[0]["ends"][position]
        expected = next(p for p, end in enumerate(columns[1]["ends"]) if end >= reached)
        assert picked.get_attribute("data-position") == str(expected)
    slide(other, "Layer", 2)  # of five layers the middle one, as layer 1 of three
    wheres = other.texts(".lv-compare-heads .lv-compare-where")
    assert [where.split(",")[0] for where in wheres] == ["layer 1 of 3", "layer 2 of 5"]
    slide(other, "Head", 7)
    assert "head 7" in other.text(".lv-compare-0 .lv-readout")
    assert "head 3" in other.text(".lv-compare-1 .lv-readout")
    assert other.watch.errors == []
    assert other.watch.strangers == []


def test_the_theme_is_followed(explorer):
    before = explorer.picture(HEADS)
    explorer.change_theme()
    assert explorer.picture(HEADS) != before


def test_no_errors_and_no_other_host(explorer):
    assert explorer.watch.errors == []
    assert explorer.watch.strangers == []
    assert explorer.page.evaluate("typeof executed") == "undefined"
