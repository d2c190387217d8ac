"""The first notebook in a real JupyterLab: the explorer is run, stopped, scrubbed and switched.

The tests go through one page from top to bottom, as a reader does; each begins with what it needs.
"""

from __future__ import annotations

import time

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "00_start_here.ipynb"
TOKENS_PER_SECOND = 1  # slow enough to look, and to stop
PANELS = {"attention", "candidates", "rms", "rotation", "cache", "time"}

# What each panel shows: the pixels of its canvas, or else its shapes.
PICTURES = """root => Object.fromEntries(
  [...root.querySelectorAll("[data-panel]")].map(panel => {
    const canvas = panel.querySelector("canvas");
    const picture = canvas ? canvas.toDataURL() : panel.querySelector("svg").innerHTML;
    return [panel.dataset.panel, picture];
  }))"""

TOKENS = """root => [...root.querySelectorAll(".lv-story [data-position]")].map(
  token => token.textContent)"""


class GenerationPage(ExplorerPage):
    """The generation explorer on the page: its prompt, its button, its story."""

    def __init__(self, page):
        super().__init__(page, "explorer")
        self.button, self.prompt = self.find(".lv-run"), self.find(".lv-prompt")
        self.scrubber = self.find(".lv-scrubber")

    def pictures(self):
        self.settle()
        return self.root.evaluate(PICTURES)

    def tokens(self):
        return self.root.evaluate(TOKENS)

    def wait_for_tokens(self, count):
        self.wait("root.querySelectorAll('.lv-story [data-position]').length >= count", count=count)

    def wait_until_idle(self):
        self.wait("root.querySelector('.lv-run').textContent === 'Run'")
        self.settle()

    def start(self, prompt, *, tokens=6, model=None, pace="", temperature=0):
        """Put everything in and press Run."""
        self.write(prompt)
        if model:
            self.find(f".lv-models input[value={model}]").check()
        self.find(".lv-new-tokens").fill(str(tokens))
        self.find(".lv-temperature").fill(str(temperature))
        self.find(".lv-pace").select_option(pace)
        self.button.click()

    def write(self, prompt):
        """As a value, since NUL has no key."""
        self.prompt.evaluate("(box, text) => { box.value = text; }", prompt)

    def run(self, prompt, **settings):
        """Run to the end."""
        before = self.root.get_attribute("data-run")
        self.start(prompt, **settings)
        self.wait("root.dataset.run !== before", before=before)
        self.wait_until_idle()


def changed(before, after):
    """The panels whose pictures differ."""
    return {name for name in before if before[name] != after[name]}


@pytest.fixture(scope="module")
def explorer(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page)
    lab.show_cell(page, "GenerationExplorer(")
    explorer = GenerationPage(page)
    explorer.wait_for_tokens(1)
    return explorer


def test_a_recorded_run_is_there_before_anything_is_clicked(explorer):
    pictures = explorer.pictures()
    assert set(pictures) == PANELS
    for name, picture in pictures.items():
        assert len(picture) > 500, f"the panel {name} is empty"
    blank = explorer.find(".lv-map").evaluate(
        """canvas => Object.assign(document.createElement("canvas"),
          { width: canvas.width, height: canvas.height }).toDataURL()"""
    )
    assert pictures["attention"] != blank
    for panel in explorer.find("[data-panel]").all():
        assert panel.locator("h4").inner_text()
        assert panel.locator("h4 small").inner_text()  # its unit
        assert panel.locator(".lv-caption").inner_text()
    models = explorer.find(".lv-model").all_inner_texts()
    assert [model.split() for model in models] == [
        ["GQA", "8", "heads,", "2", "kv", "heads"],
        ["MHA", "8", "heads,", "8", "kv", "heads"],
        ["MQA", "8", "heads,", "1", "kv", "head"],
    ]
    assert explorer.fits()


def test_text_streams_and_every_panel_follows(explorer, page):
    # Refused: the prompt is empty.
    explorer.start("", tokens=200, pace=str(TOKENS_PER_SECOND))
    explorer.wait("root.querySelector('.lv-alert').textContent.includes('the prompt is empty')")
    explorer.wait_until_idle()
    explorer.prompt.click()
    page.keyboard.type("Once upon a time there was")
    explorer.wait("root.querySelector('.lv-plan').textContent.includes('recording of at most')")
    page.keyboard.press("Control+Enter")
    explorer.wait("root.querySelector('.lv-run').textContent === 'Stop'")
    explorer.wait("root.querySelector('.lv-done').textContent.includes('of 200 tokens')")
    assert explorer.text(".lv-alert") == ""
    assert not explorer.prompt.is_editable()
    assert "stop the run" in explorer.text(".lv-hint")

    first = explorer.tokens()
    assert first[0] == "<s>"
    before = explorer.pictures()
    explorer.wait_for_tokens(len(first) + 3)
    later = explorer.tokens()
    assert later[: len(first)] == first
    assert changed(before, explorer.pictures()) == PANELS
    assert "tokens, about" in explorer.text(".lv-done")
    assert "left" in explorer.text(".lv-done")


def test_other_cells_run_meanwhile(explorer):
    assert explorer.button.inner_text() == "Stop"
    began = time.monotonic()
    explorer.execute("sum(range(10))")
    assert time.monotonic() - began < 10  # the run takes a minute and more
    assert explorer.button.inner_text() == "Stop"


def test_stop_is_quick_and_keeps_what_was_written(explorer, record_property):
    seconds, n_more = explorer.root.evaluate("""async root => {
      const button = root.querySelector(".lv-run");
      const count = () => root.querySelectorAll(".lv-story [data-position]").length;
      const [began, before] = [performance.now(), count()];
      button.click();
      while (button.textContent !== "Run") await new Promise(done => setTimeout(done, 1));
      return [(performance.now() - began) / 1000, count() - before];
    }""")
    record_property("seconds until the run has stopped", seconds)
    assert seconds < 10
    assert n_more <= 1 + TOKENS_PER_SECOND * seconds
    explorer.wait_until_idle()
    tokens = explorer.tokens()
    assert explorer.text(".lv-status").startswith("Stopped after")
    explorer.settle()
    assert explorer.tokens() == tokens
    assert explorer.prompt.is_editable()


def test_the_keyboard_scrubs_and_every_panel_follows(explorer, page):
    explorer.run("Once upon a time there was", tokens=12)
    n_cells = page.locator(".jp-Notebook .jp-Cell").count()
    last = explorer.scrubber.get_attribute("max")
    explorer.scrubber.focus()
    end = explorer.pictures()
    page.keyboard.press("Home")
    explorer.wait("root.querySelector('.lv-moment').textContent.startsWith('Step 0 ')")
    prefill = explorer.pictures()
    assert changed(end, prefill) == PANELS
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    explorer.wait("root.querySelector('.lv-moment').textContent.startsWith('Step 2 ')")
    second = explorer.pictures()
    assert changed(prefill, second) == PANELS
    assert "Step 2 of" in explorer.scrubber.get_attribute("aria-valuetext")
    assert explorer.find(".lv-story .lv-written-token").count() == 1
    page.keyboard.press("End")
    explorer.wait("root.querySelector('.lv-scrubber').value === last", last=last)
    assert explorer.pictures() == end
    # JupyterLab took none of the keys for itself: no cell was folded away, none was made.
    assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells


def test_a_click_on_a_token_is_its_step(explorer):
    tokens = explorer.find(".lv-story [data-position]")
    explorer.find(".lv-story [data-position='3']").click()
    explorer.wait("root.querySelector('.lv-moment').textContent.includes('at position 3,')")
    assert "prefill" in explorer.text(".lv-moment")
    tokens.last.click()
    last = explorer.scrubber.get_attribute("max")
    explorer.wait("root.querySelector('.lv-scrubber').value === last", last=last)
    tokens.last.press("ArrowLeft")  # the box of tokens has the focus
    explorer.wait("Number(root.querySelector('.lv-scrubber').value) === last - 1", last=int(last))


def test_play_goes_through_the_steps(explorer, page):
    explorer.scrubber.focus()
    page.keyboard.press("Home")
    explorer.wait("root.querySelector('.lv-scrubber').value === '0'")
    explorer.find(".lv-play").click()
    last = explorer.scrubber.get_attribute("max")
    explorer.wait("root.querySelector('.lv-scrubber').value === last", last=last)
    explorer.wait("root.querySelector('.lv-play').getAttribute('aria-label') !== 'Pause'")


def test_hover_shows_click_locks_escape_unlocks(explorer, page):
    canvas = explorer.find(".lv-map")
    strongest = explorer.text(".lv-readout")
    canvas.hover(position={"x": 132, "y": 12})
    explorer.wait("root.querySelector('.lv-readout').textContent.startsWith('head 0 of')")
    assert "weight" in explorer.text(".lv-readout")
    assert explorer.find(".lv-story .lv-looked-at").count() == 1
    canvas.click(position={"x": 132, "y": 32})
    explorer.wait("root.querySelector('.lv-readout').textContent.includes('locked')")
    assert explorer.text(".lv-readout").startswith("head 1 of")
    canvas.hover(position={"x": 132, "y": 12})
    explorer.settle()
    assert explorer.text(".lv-readout").startswith("head 1 of")
    page.keyboard.press("Escape")
    page.mouse.move(2, 2)
    explorer.wait("root.querySelector('.lv-readout').textContent === strongest",
                  strongest=strongest)  # fmt: skip

    canvas.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    explorer.wait("root.querySelector('.lv-readout').textContent.includes('locked')")
    page.keyboard.press("Escape")
    explorer.wait("!root.querySelector('.lv-readout').textContent.includes('locked')")


def test_the_layer_is_chosen_with_the_keyboard(explorer, page):
    before = explorer.pictures()
    explorer.find(".lv-pills input:checked").focus()
    page.keyboard.press("ArrowLeft")
    explorer.settle()
    assert changed(before, explorer.pictures()) == {"attention"}


@pytest.mark.parametrize(
    ("model", "n_kv_heads", "words"),
    [("mha", 8, "a key/value head of its own"), ("mqa", 1, "read the one key/value head"),
     ("gqa", 2, "heads 0 to 3 read kv head 0, 4 to 7 read kv head 1")],
)  # fmt: skip
def test_a_switch_of_the_model_changes_the_grouping(explorer, model, n_kv_heads, words):
    explorer.run("Mia and Tom", model=model)
    caption = explorer.find(".lv-attention .lv-caption").inner_text()
    assert caption.startswith(model.upper())
    assert words in caption
    groups = explorer.find(".lv-attention .lv-group").all_text_contents()
    assert groups == [f"kv head {number}" for number in range(n_kv_heads)]
    assert f"× {n_kv_heads} kv head" in explorer.find(".lv-cache .lv-caption").inner_text()
    assert "as recorded" in explorer.find(".lv-cache .lv-caption").inner_text()


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("<script>executed = 1</script>", "<script>executed=1</script>"),
        ("<img src=x onerror='executed = 2'>", "<imgsrc=xonerror='executed=2'>"),
        ("$x$ &amp; <s> [a](b)", "$x$&amp;<s>[a](b)"),
        ("🙂 שלום", "🙂שלום"),
        ("a\0b\nc", "a<0x00>b⏎c"),
    ],
    ids=["script", "image", "mathematics", "emoji and right to left", "nul and newline"],
)
def test_hostile_prompts_show_as_themselves(explorer, page, prompt, shown):
    explorer.run(prompt, tokens=3, temperature=1.5)
    n_prompt = explorer.find(".lv-story .lv-prompt-token").count()
    tokens = explorer.root.evaluate(
        """root => [...root.querySelectorAll(".lv-story .lv-prompt-token")].map(token =>
          token.querySelector(".lv-character")?.textContent ?? token.textContent)"""
    )
    text = "".join(tokens[1:]).replace("▁", "")
    # Bytes of a character that is not complete yet stand before it.
    for byte in ("<0xF0>", "<0x9F>", "<0x99>", "<0xD7>"):
        text = text.replace(byte, "")
    assert text == shown
    assert n_prompt == len(tokens)
    assert explorer.prompt.input_value() == prompt
    assert page.evaluate("typeof executed") == "undefined"
    assert explorer.find("script, img, s").count() == 0


def test_enter_begins_a_new_line_in_the_prompt(explorer, page):
    n_cells = page.locator(".jp-Notebook .jp-Cell").count()
    explorer.prompt.fill("Mia")
    for key in ("Enter", "T", "o", "m"):
        page.keyboard.press(key)
    assert explorer.prompt.input_value() == "Mia\nTom"
    assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells


def test_what_is_wrong_is_said_in_one_line(explorer):
    before = explorer.tokens()
    explorer.start("word " * 400)
    explorer.wait("root.querySelector('.lv-alert').textContent.includes('shorten the prompt')")
    explorer.wait_until_idle()
    assert explorer.tokens() == before
    explorer.run("The red ball")
    assert explorer.text(".lv-alert") == ""


def test_a_switch_of_the_device(explorer):
    device = explorer.find(".lv-device")
    assert device.is_visible() == (device.locator("option").count() > 1)
    explorer.execute(
        "devices = explorer.choices['devices']\n"
        "explorer.choices = {**explorer.choices, 'devices': [*devices, 'cuda:99']}"
    )
    explorer.wait("root.querySelector('.lv-device').options.length > 1")
    device.select_option("cuda:99")
    explorer.start("The red ball")
    explorer.wait("root.querySelector('.lv-alert').textContent.includes('there is no device')")
    explorer.wait_until_idle()
    explorer.execute("explorer.choices = {**explorer.choices, 'devices': devices}")
    explorer.wait("![...root.querySelectorAll('.lv-device option')].some("
                  "option => option.value === 'cuda:99')")  # fmt: skip
    explorer.run("The red ball")
    assert explorer.text(".lv-alert") == ""


def test_a_run_at_full_speed_fills_the_context(explorer):
    explorer.run("Once upon a time", tokens=250, temperature=3)
    n_steps = int(explorer.scrubber.get_attribute("max")) + 1
    n_prompt = explorer.find(".lv-story .lv-prompt-token").count()
    assert len(explorer.tokens()) == n_prompt + n_steps
    assert explorer.fits()


def test_the_theme_is_followed(explorer, page):
    before = explorer.pictures()
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', "
                  "{ theme: 'JupyterLab Dark' })")  # fmt: skip
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    explorer.settle()
    assert changed(before, explorer.pictures()) == {"attention"}


def test_a_second_view_shows_the_whole_run(explorer, page):
    page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    page.wait_for_function("document.querySelectorAll('.lv-explorer').length === 2")
    second = page.locator(".lv-explorer").last
    page.wait_for_function(
        "([first, second]) => second.querySelectorAll('.lv-story [data-position]').length"
        " === first.querySelectorAll('.lv-story [data-position]').length",
        arg=[explorer.root.element_handle(), second.element_handle()],
    )
    assert second.evaluate(TOKENS) == explorer.tokens()


def test_a_page_that_is_opened_again_gets_the_run(explorer, lab, page):
    tokens = explorer.tokens()
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context?.model?.dirty")
    lab.open(page, NOTEBOOK)
    lab.show_cell(page, "GenerationExplorer(")
    again = GenerationPage(page)
    again.wait_for_tokens(len(tokens))
    assert again.tokens() == tokens


def test_no_errors_and_no_other_host(explorer, watch):
    assert watch.errors == []
    assert watch.strangers == []
