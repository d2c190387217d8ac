"""The cache explorer in a real browser: in JupyterLab, and as a file without a kernel."""

from __future__ import annotations

import re

import numpy as np
import pytest

import llama_viz as lv
from llama_viz.figures.cache import multiply_adds
from llama_viz.widgets import CacheExplorer
from tests.browser.places import opened, write_notebook

HOSTILE = [
    "<s>", "<0x0A>", "⏎", "▁leading", "$x$", "<img src=x onerror=alert(1)>", "&amp;", "the", "the",
    "שלום", "🙂", "</script><script>alert(1)</script>",
]  # fmt: skip
PANELS = ["cache-without", "cache-with", "cache-work", "cache-bytes"]
CELL = """import llama_viz as lv
from llama_viz.widgets import CacheExplorer
lm = lv.load("gqa")
explorer = CacheExplorer(lv.load_trace("run.nc"), lm=lm)
explorer"""


@pytest.fixture(scope="module")
def trace(family):
    """A recorded run; its first tokens are given labels that a page might mistake for markup."""
    trace = lv.record(family["gqa"], "Once upon a time there was a girl named Lily.", 14)
    labels = [str(label) for label in trace["token"].values]
    labels[: len(HOSTILE)] = HOSTILE
    dims = trace["token"].dims
    return trace.assign_coords({"token": (dims, np.array(labels, dtype=object))})


@pytest.fixture(scope="module")
def folder(trace, tmp_path_factory):
    """A notebook with the explorer, the trace that it opens, and the same explorer as a file."""
    folder = tmp_path_factory.mktemp("cache")
    write_notebook(folder, CELL)
    lv.save_trace(trace, folder / "notebooks" / "run.nc")
    CacheExplorer(trace).save(folder / "page.html")
    return folder


@pytest.fixture(scope="module", params=["lab", "file"])
def explorer(request, folder):
    with opened(request.param, folder, "cache-explorer") as explorer:
        yield explorer


@pytest.fixture
def page(explorer):
    return explorer.page


def pictures(explorer):
    """What each panel shows."""
    explorer.settle()
    return {
        name: explorer.find(f"[data-panel={name}]").evaluate(
            "panel => (panel.querySelector('canvas')?.toDataURL() ?? '')"
            " + panel.querySelector('svg').innerHTML"
        )
        for name in PANELS
    }


def step(explorer, number):
    """Put the slider there, as a drag does."""
    explorer.find(".lv-scrubber").evaluate(
        "(input, step) => { input.value = step; input.dispatchEvent(new Event('input')); }",
        number,
    )
    explorer.settle()


def menu(explorer, name):
    return explorer.find(f".lv-cache-{name}")


def changed(before, after):
    """The panels whose pictures differ."""
    return {name for name in before if before[name] != after[name]}


def test_both_ways_are_there_at_once(explorer, trace):
    n_prompt = len(trace.attrs["prompt_ids"])
    assert f"decode: position {n_prompt}" in explorer.text(".lv-moment")
    without = explorer.text(".lv-cache-without .lv-caption")
    assert without.startswith(f"{n_prompt + 1} query rows")
    assert f"The scores are {n_prompt + 1} × {n_prompt + 1}" in without
    cached = explorer.text(".lv-cache-with .lv-caption")
    assert cached.startswith("1 query row, 1 key and value computed and appended")
    assert f"{n_prompt} keys and values read from the cache" in cached
    assert "as recorded at every step" in explorer.text(".lv-cache-bytes .lv-caption")
    for picture in pictures(explorer).values():
        assert len(picture) > 500
    assert explorer.fits()
    words = explorer.text(".lv-cache-flow")
    assert "the token that step 0 drew" in words
    assert "This token is fed back, not an output of attention." in words


def test_tokens_show_as_themselves(explorer):
    shown = explorer.root.evaluate(
        "root => [...root.querySelectorAll('.lv-story [data-position]')].map(t => t.textContent)"
    )
    for expected, token in zip(HOSTILE, shown, strict=False):
        assert token.startswith(expected)
    assert explorer.find("img, script, s").count() == 0


def test_the_slider_the_keys_and_play_go_through_the_steps(explorer, page, trace):
    step(explorer, 1)
    before = pictures(explorer)
    explorer.find(".lv-scrubber").focus()
    explorer.press("ArrowRight", "ArrowRight")
    assert explorer.text(".lv-moment").startswith("Step 3 of 13")
    assert explorer.find(".lv-scrubber").get_attribute("aria-valuetext").startswith("Step 3 of 13")
    assert changed(before, pictures(explorer)) == set(PANELS)
    so_far = [int(multiply_adds(trace, use_cache=way)[:4].sum()) for way in (False, True)]
    words = explorer.text(".lv-cache-work .lv-caption")
    assert f"{float(f'{so_far[0] / so_far[1]:.3g}'):g} times the work" in words
    explorer.press("Home")
    assert "prefill" in explorer.text(".lv-moment")
    assert "the same both ways" in explorer.text(".lv-moment")
    explorer.find(".lv-play").click()
    explorer.wait("root.querySelector('.lv-scrubber').value === '13'")
    explorer.settle()
    explorer.wait("root.querySelector('.lv-play').getAttribute('aria-label') === 'Play the steps'")
    assert "was not fed back" in explorer.text(".lv-cache-flow")
    explorer.find(".lv-play").focus()
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-play').getAttribute('aria-label') === 'Pause'")
    page.keyboard.press("Enter")
    assert explorer.find(".lv-play").get_attribute("aria-label") == "Play the steps"


def test_a_token_is_its_step(explorer, trace):
    n_prompt = len(trace.attrs["prompt_ids"])
    explorer.find(f".lv-story [data-position='{n_prompt + 4}']").click()
    assert explorer.text(".lv-moment").startswith("Step 5 ")
    explorer.find(".lv-story [data-position='2']").click()
    assert explorer.text(".lv-moment").startswith("Step 0 ")
    explorer.press("End", "Enter")
    assert explorer.text(".lv-moment").startswith("Step 13 ")


def test_layer_and_head_change_the_tensors_alone(explorer):
    step(explorer, 6)
    before = pictures(explorer)
    menu(explorer, "layer").select_option(index=3)
    explorer.settle()
    assert changed(before, pictures(explorer)) == {"cache-without", "cache-with", "cache-bytes"}
    assert "only the last row goes on" in explorer.text(".lv-cache-without .lv-caption")
    before = pictures(explorer)
    menu(explorer, "head").focus()
    explorer.press("ArrowDown")
    assert changed(before, pictures(explorer)) == {"cache-without", "cache-with"}
    menu(explorer, "layer").select_option(index=0)
    assert "lower layers need every row" in explorer.text(".lv-cache-without .lv-caption")
    if explorer.place == "lab":
        explorer.wait_for_state(step=6, layer=0, head=1)
        explorer.execute("explorer.show(step=2, layer=1)")
        explorer.wait("root.querySelector('.lv-moment').textContent.startsWith('Step 2 ')")


def test_hover_shows_click_locks_escape_unlocks(explorer, page, trace):
    step(explorer, 6)
    n = trace.sizes["position"]
    canvas = explorer.find(".lv-cache-without canvas")
    box = canvas.bounding_box()
    side = box["height"] - 20
    place = {"x": 30, "y": 16 + (3.5 / n) * side}
    canvas.hover(position=place)
    assert "at position 3: computed again" in explorer.text(".lv-readout")
    assert explorer.find(".lv-story .lv-looked-at").count() == 1
    assert explorer.find(".lv-cache-with .lv-cursor").count() > 0
    canvas.click(position=place)
    page.mouse.move(2, 2)
    assert "locked" in explorer.text(".lv-readout")
    explorer.press("ArrowDown")
    assert "at position 4: computed again" in explorer.text(".lv-readout")
    explorer.press("Escape")
    assert explorer.text(".lv-readout").startswith("Point at a row")
    explorer.find(".lv-cache-with canvas").focus()
    explorer.press("ArrowUp", "Enter")
    words = explorer.text(".lv-readout")
    assert "new in this step, both ways" in words
    row = trace["attention_weights"].values[explorer_layer(explorer), 1, :, :]
    end = len(trace.attrs["prompt_ids"]) + 6
    weight = float(re.search(r"gives it (\d\.\d\d) of", words)[1])
    assert weight == pytest.approx(row[end - 1, end - 1], abs=0.5 / 255 + 0.0051)
    explorer.press("Escape")


def explorer_layer(explorer):
    return int(menu(explorer, "layer").evaluate("menu => menu.selectedIndex"))


def test_the_numbers_are_a_table(explorer, trace):
    explorer.find(".lv-numbers-button").focus()
    explorer.press("Enter")
    rows = explorer.find(".lv-table tbody tr")
    assert rows.count() == trace.sizes["step"]
    cells = rows.nth(5).locator("td").all_inner_texts()
    work = [f"{multiply_adds(trace, use_cache=way)[5]:,}" for way in (False, True)]
    assert cells[4:6] == work
    used = f"{int(trace['cache_bytes_used'].values[5].sum()):,}"
    assert cells[7:9] == [used, used]
    explorer.press("Enter")
    assert not explorer.find(".lv-table").is_visible()


def test_surgery(explorer):
    step(explorer, 4)
    if explorer.place == "file":
        assert "open this explorer in a notebook" in explorer.text(".lv-cache-surgery .lv-caption")
        assert explorer.find(".lv-cache-operate").count() == 0
        return
    assert explorer.find(".lv-cache-result").is_hidden()
    menu(explorer, "more").fill("6")
    explorer.find(".lv-cache-operate").click()
    explorer.wait("!root.querySelector('.lv-cache-result').hidden")
    words = explorer.text(".lv-cache-surgery .lv-caption")
    assert "KL divergence of" in words
    for name in ("before", "after"):
        assert 1 <= explorer.find(f".lv-cache-text-{name} .lv-token").count() <= 6
    assert explorer.find(".lv-cache-result rect.lv-cache-after").count() >= 8
    assert explorer.text(".lv-spoken").startswith("After") or "KL" in words
    seen = set()
    for operation, fields in [
        ("blank", {}), ("rounded", {"bits": "1"}), ("window", {"size": "2"}),
        ("first_and_window", {"first": "1", "size": "3"}),
    ]:  # fmt: skip
        index = ["drop", "blank", "rounded", "window", "first_and_window"].index(operation)
        menu(explorer, "operation").select_option(index=index)
        for label, value in fields.items():
            menu(explorer, label).fill(value)
        before = explorer.text(".lv-cache-surgery .lv-caption")
        explorer.find(".lv-cache-operate").focus()
        explorer.press("Enter")
        explorer.wait("root.querySelector('.lv-cache-surgery .lv-caption').textContent !== before",
                      before=before)  # fmt: skip
        seen.add(explorer.text(".lv-cache-surgery .lv-caption"))
    assert len(seen) == 4
    menu(explorer, "kv-heads").select_option(index=1)
    menu(explorer, "layers").select_option(index=1)
    explorer.find(".lv-cache-surgery [type=checkbox]").uncheck()
    explorer.find(".lv-cache-operate").click()
    explorer.wait("root.querySelector('.lv-cache-busy').textContent === ''")
    assert explorer.text(".lv-cache-surgery .lv-caption") not in seen
    menu(explorer, "size").fill("-1")
    explorer.find(".lv-cache-operate").click()
    explorer.wait("root.querySelector('.lv-alert').textContent.includes('size must be')")
    menu(explorer, "size").fill("4")
    explorer.find(".lv-cache-operate").click()
    explorer.wait("root.querySelector('.lv-cache-busy').textContent === ''")
    assert explorer.text(".lv-alert") == ""
    explorer.execute("assert not lm.model._forward_pre_hooks and not lm.model.interventions")
    step(explorer, 5)
    assert explorer.find(".lv-cache-result").is_hidden()


def test_surgery_is_stopped(explorer, record_property):
    if explorer.place == "file":
        pytest.skip("a saved page runs no model")
    step(explorer, 4)
    explorer.execute(
        """import time
passes = []
def slow(module, args):
    passes.append(time.time())
    time.sleep(0.1)
handle = lm.model.register_forward_pre_hook(slow)""",
    )
    menu(explorer, "operation").select_option(index=0)
    menu(explorer, "more").fill("64")
    before = explorer.text(".lv-cache-surgery .lv-caption")
    explorer.find(".lv-cache-operate").click()
    assert explorer.find(".lv-cache-operate").inner_text() == "Stop"
    explorer.wait("/as it was: token \\d+ of 64/.test("
                  "root.querySelector('.lv-cache-busy').textContent)")  # fmt: skip
    # Another cell runs in the meantime, on a model that nothing is done to.
    explorer.execute("assert lv.generate(lm, [3, 4, 5], max_new_tokens=1) and explorer._answering")
    assert explorer.find(".lv-cache-operate").inner_text() == "Stop"
    taken = explorer.root.evaluate("""async root => {
      const button = root.querySelector(".lv-cache-operate");
      const began = performance.now();
      button.click();
      while (button.textContent !== "Operate") await new Promise(done => setTimeout(done, 1));
      return performance.now() - began;
    }""")
    record_property("milliseconds until surgery has stopped", taken)
    assert taken < 6000  # a token takes 100 and more, 128 of them twice as long
    assert explorer.text(".lv-cache-busy") == "Stopped; nothing was compared."
    assert explorer.text(".lv-alert") == ""
    assert explorer.text(".lv-cache-surgery .lv-caption") == before
    explorer.wait_in_kernel("not explorer._answering")
    explorer.execute(
        """n_passes = len(passes)
time.sleep(0.3)
handle.remove()
assert len(passes) == n_passes, "it went on"
assert not lm.model._forward_pre_hooks and not lm.model.interventions""",
    )
    menu(explorer, "more").fill("3")
    explorer.find(".lv-cache-operate").focus()
    explorer.press("Enter")
    explorer.wait("root.querySelector('.lv-cache-busy').textContent === ''")
    assert explorer.text(".lv-alert") == ""
    assert explorer.find(".lv-cache-result").is_visible()


def test_a_step_is_redrawn_quickly(explorer, record_property):
    taken = explorer.root.evaluate("""async root => {
      const input = root.querySelector(".lv-scrubber");
      const taken = [];
      for (const step of [3, 9, 1, 12, 6]) {
        const [before, began] = [root.dataset.drawn, performance.now()];
        input.value = step;
        input.dispatchEvent(new Event("input"));
        while (root.dataset.drawn === before) await new Promise(requestAnimationFrame);
        taken.push(performance.now() - began);
      }
      return Math.min(...taken);  // the machine may be busy with something else
    }""")
    record_property("milliseconds from an event to the redrawn frame", taken)
    assert taken < 1000  # benchmarks/explorer_latency.py measures it on a quiet machine


def test_the_dark_theme_and_a_narrow_page(explorer, page):
    before = pictures(explorer)
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert {"cache-without", "cache-with"} <= changed(before, pictures(explorer))
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    # JupyterLab's own side bar takes a part of the page.
    page.set_viewport_size({"width": 600 if explorer.place == "file" else 960, "height": 1600})
    explorer.settle()
    assert explorer.fits()
    page.set_viewport_size({"width": 1280, "height": 1600})
    explorer.settle()


def test_every_control_has_a_name(explorer):
    nameless = explorer.root.evaluate("""root =>
      [...root.querySelectorAll("button, select, input, [tabindex='0']")].filter(node =>
        !node.getAttribute("aria-label") && !node.labels?.length && !node.textContent.trim()
      ).map(node => node.outerHTML)""")
    assert nameless == []


def test_no_errors_and_no_other_host(explorer):
    assert explorer.watch.errors == []
    assert explorer.watch.strangers == []
