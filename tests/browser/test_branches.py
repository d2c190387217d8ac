"""A run that is forked in a real JupyterLab: a click on a candidate, and two texts side by side."""

from __future__ import annotations

import nbformat
import pytest
from playwright.sync_api import sync_playwright

from tests.browser.browser import launch
from tests.browser.lab import Watch, jupyterlab
from tests.browser.test_start_here import GenerationPage

NOTEBOOK = "branches.ipynb"
CELL = """import llama_viz as lv
from llama_viz.widgets import GenerationExplorer
lm = lv.load("gqa")
trace = lv.record(lm, "Once upon a time there was", 10)
explorer = GenerationExplorer([lm], trace=trace)
explorer"""


class Explorer(GenerationPage):
    """The generation explorer with a kernel that can be asked."""

    def execute_value(self, expression):
        """What the kernel prints for an expression."""
        return self.page.evaluate(
            """async code => {
              const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
              const future = kernel.requestExecute({ code });
              let text = "";
              future.onIOPub = ({ content }) => { text += content.text ?? ""; };
              await future.done;
              return text.trim();
            }""",
            f"print({expression})",
        )


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branches")
    (folder / "notebooks").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "notebooks" / NOTEBOOK)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.set_default_timeout(20_000)
        page.on("dialog", lambda dialog: dialog.accept())
        with jupyterlab(folder) as lab:
            watch = Watch(page, lab)
            lab.open(page, NOTEBOOK)
            lab.run_all(page)
            explorer = Explorer(page)
            explorer.watch = watch
            explorer.wait_for_tokens(1)
            yield explorer
        browser.close()


def to_step(explorer, step):
    explorer.scrubber.evaluate(
        "(input, step) => { input.value = step; input.dispatchEvent(new Event('input')); }", step
    )
    explorer.settle()


def wait_for_branch(explorer, count):
    explorer.wait(
        "root.querySelectorAll('.lv-branch').length === count"
        " && root.querySelector('.lv-run').textContent === 'Run'",
        count=count,
    )
    explorer.settle()


def test_candidates_are_buttons_that_say_what_they_do(explorer):
    to_step(explorer, 3)
    assert explorer.root.locator(".lv-branches").is_hidden()
    forks = explorer.root.locator(".lv-fork")
    assert forks.count() >= 9
    written = explorer.execute_value("str(trace['sampled_token'].values[3])")
    for number in range(3):
        label = forks.nth(number).get_attribute("aria-label")
        assert label.startswith("continue with ")
        assert label.endswith(f", instead of {written}")
    assert (
        "Click another to go on from there"
        in explorer.root.locator(".lv-candidates .lv-caption").inner_text()
    )


def test_a_click_writes_a_branch_and_all_panels_show_it(explorer):
    to_step(explorer, 3)
    before, tokens = explorer.pictures(), explorer.tokens()
    label = explorer.root.locator(".lv-fork").first.get_attribute("aria-label")
    explorer.click(explorer.root.locator(".lv-fork").first)
    wait_for_branch(explorer, 2)
    n_prompt = explorer.root.locator(".lv-story .lv-prompt-token").count()
    later = explorer.tokens()
    assert later[: n_prompt + 3] == tokens[: n_prompt + 3]
    assert later[n_prompt + 3] != tokens[n_prompt + 3]
    assert f"continue with {later[n_prompt + 3]}," in label
    parted = explorer.root.locator(".lv-story .lv-parted")
    assert parted.count() == 1
    assert parted.get_attribute("data-position") == str(n_prompt + 3)
    names = explorer.root.locator(".lv-branch strong").all_inner_texts()
    assert names[0] == "the run"
    assert names[1].startswith("└ step 3: ")
    assert explorer.root.locator(".lv-branch[aria-pressed=true]").get_attribute("data-run") == "2"
    words = explorer.text(".lv-branch-words")
    assert f"at step 3, position {n_prompt + 3}" in words
    assert "likely to the model" in words
    assert all("log probability −" in text or "log probability -" in text
               for text in explorer.root.locator(".lv-branch small").all_inner_texts())  # fmt: skip
    to_step(explorer, 3)
    assert before.keys() == explorer.pictures().keys()
    explorer.branch_tokens = later


def test_switching_shows_the_other_in_all_panels(explorer):
    to_step(explorer, 6)
    branch = explorer.pictures()
    explorer.root.locator(".lv-branch").first.focus()
    explorer.page.keyboard.press("Enter")
    explorer.wait("root.dataset.run === '1'")
    explorer.settle()
    run = explorer.pictures()
    assert explorer.scrubber.input_value() == "6"  # the reader stays at this step
    for name in ("attention", "candidates", "rms"):
        assert run[name] != branch[name], name
    assert explorer.tokens() != explorer.branch_tokens
    assert explorer.root.locator(".lv-story .lv-parted").count() == 1
    explorer.wait_in_kernel("explorer.shown == 1 and explorer.trace is trace")
    explorer.execute("explorer.shown = 2")
    explorer.wait("root.dataset.run === '2'")
    explorer.settle()
    assert explorer.tokens() == explorer.branch_tokens
    assert explorer.pictures() == branch


def test_a_branch_of_a_branch_with_the_keyboard(explorer):
    to_step(explorer, 5)
    explorer.root.locator(".lv-fork").nth(1).press("Enter")
    wait_for_branch(explorer, 3)
    names = explorer.root.locator(".lv-branch strong").all_inner_texts()
    assert [name.lstrip("└ ").split(":")[0] for name in names] == ["the run", "step 3", "step 5"]
    assert explorer.root.locator(".lv-story .lv-parted").count() == 2
    assert explorer.root.evaluate("root => root.scrollWidth <= root.clientWidth")


def test_while_a_run_goes_on_nothing_can_be_forked(explorer):
    explorer.start("Once upon a time", tokens=60, pace="4")
    explorer.wait("root.querySelector('.lv-run').textContent === 'Stop'")
    explorer.wait("root.querySelectorAll('.lv-fork').length === 0")
    explorer.wait_for_tokens(8)
    with pytest.raises(AssertionError, match="a run is under way; stop it first"):
        explorer.execute("explorer.fork(1, 5)")
    explorer.button.click()
    explorer.wait_until_idle()
    assert explorer.root.locator(".lv-branches").is_hidden()
    to_step(explorer, 1)
    explorer.click(explorer.root.locator(".lv-fork").first)
    wait_for_branch(explorer, 2)
    assert explorer.text(".lv-alert") == ""


def test_a_page_that_is_opened_again_has_the_branches(explorer):
    explorer.page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    explorer.page.wait_for_function("document.querySelectorAll('.lv-explorer').length === 2")
    second = explorer.page.locator(".lv-explorer").last
    second.locator(".lv-branch").first.wait_for()
    assert second.locator(".lv-branch").count() == 2
    second.locator(".lv-branch").first.click()
    explorer.page.wait_for_function(
        "document.querySelectorAll('.lv-branch[data-run]').length === 4"
        " && [...document.querySelectorAll('.lv-explorer')].every("
        "root => root.querySelector('.lv-branch').getAttribute('aria-pressed') === 'true')"
    )


def test_no_errors_and_no_other_host(explorer):
    assert explorer.watch.errors == []
    assert explorer.watch.strangers == []
