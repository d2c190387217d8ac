"""Notebook 11 in a real JupyterLab: a model is trained on the page, stopped, and gone on with."""

from __future__ import annotations

import pytest

from tests.browser.explorer_page import ExplorerPage

NOTEBOOK = "11_training.ipynb"
STORIES, OWN = "LiveTraining(run", "LiveTraining(own"

# How far it is, from the words beside the button.
STEP = "Number(root.textContent.match(/Step (\\d+) of/)?.[1] ?? 0)"


@pytest.fixture(scope="module")
def opened(lab, page, watch):
    lab.open(page, NOTEBOOK)
    lab.run_all(page, timeout=240_000)
    return page


class Training:
    """A live training on the page, as a reader handles it."""

    def __init__(self, page, lab, cell):
        lab.show_cell(page, cell)
        self.page = page
        self.root = page.locator(".jp-Cell.jp-mod-active .widget-vbox")
        self.root.wait_for(timeout=60_000)
        self.button = self.root.locator("button").first
        self.image = self.root.locator("img")
        self.text = self.root.locator("textarea")

    def wait(self, condition, **arguments):
        names = ", ".join(arguments)
        self.page.wait_for_function(
            f"([root, {{ {names} }}]) => {condition}",
            arg=[self.root.element_handle(), arguments],
            timeout=60_000,
        )

    def wait_for_step(self, step):
        self.wait(f"{STEP} >= step", step=step)

    def wait_for_button(self, label):
        self.wait("root.querySelector('button').textContent === label", label=label)

    def step(self):
        return self.root.evaluate(f"root => {STEP}")

    def shown(self):
        return self.image.get_attribute("src"), self.text.input_value()

    def shown_after(self, before):
        """What is shown when both have changed; how far the training is by then, is its own."""
        self.wait(
            "root.querySelector('img').src !== picture"
            " && root.querySelector('textarea').value !== text",
            picture=before[0], text=before[1],
        )  # fmt: skip
        return self.shown()

    def stop(self):
        self.button.click()
        self.wait("root.querySelector('button').textContent !== 'Stop'")


def test_loss_and_samples_stream(opened, lab):
    training = Training(opened, lab, STORIES)
    recorded = training.shown()
    assert recorded[1].startswith("step 600: Once there was")
    assert "A recorded run." in training.root.inner_text()
    training.button.click()
    training.wait_for_button("Stop")
    seen = [recorded]
    for _ in range(3):
        seen.append(training.shown_after(seen[-1]))
    training.wait_for_step(40)
    assert training.step() < 600  # while it trains, not in the end
    assert len({picture for picture, _ in seen}) == len(seen)
    assert len({text for _, text in seen}) == len(seen)


def test_other_cells_run_meanwhile(opened, lab):
    training = Training(opened, lab, STORIES)
    training.wait_for_button("Stop")
    code = "assert run.step > 0; lv.generate(run.lm, 'Once', 2)"
    reply = opened.evaluate(
        """async code => {
          const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
          return (await kernel.requestExecute({ code }).done).content.status;
        }""",
        code,
    )
    assert reply == "ok"
    training.wait_for_button("Stop")


def test_stop_is_heard_at_once_and_start_goes_on(opened, lab, record_property):
    training = Training(opened, lab, STORIES)
    training.wait_for_button("Stop")
    seconds = training.root.evaluate("""async root => {
      const button = root.querySelector("button");
      const began = performance.now();
      button.click();
      while (button.textContent === "Stop") await new Promise(done => setTimeout(done, 1));
      return (performance.now() - began) / 1000;
    }""")
    record_property("seconds until the training has stopped", seconds)
    assert seconds < 10
    assert "Stopped." in training.root.inner_text()
    stopped = training.step()
    assert stopped < 600
    training.page.wait_for_timeout(500)
    assert training.step() == stopped
    assert training.button.inner_text() == "Go on"
    training.button.click()
    training.wait_for_step(stopped + 5)
    training.stop()
    assert training.step() < 600
    training.root.get_by_role("button", name="Begin anew").click()
    training.wait_for_button("Start")
    assert training.text.input_value().startswith("step 0: Once there was")


def test_the_readers_own_text_is_trained_on(opened, lab):
    training = Training(opened, lab, OWN)
    before = training.shown()
    training.button.click()
    training.wait_for_step(41)
    assert training.shown()[0] != before[0]
    training.stop()


def test_the_slider_goes_through_the_snapshots(opened, lab):
    lab.show_cell(opened, "TrainingExplorer(")
    explorer = ExplorerPage(opened, "training-explorer")
    explorer.wait("!root.textContent.includes('not read yet')")
    moments = []
    for snapshot in (0, 3, 9):
        explorer.find("input[aria-label=Snapshot]").evaluate(
            """(input, value) => {
              input.value = value;
              input.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            snapshot,
        )
        explorer.settle()
        moments.append((
            explorer.text(".lv-training-moment"),
            explorer.picture(".lv-training-attention"),
            explorer.picture(".lv-training-losses"),
        ))  # fmt: skip
    assert moments[0][0] == "step 0 (1 of 10)"
    assert len({words for words, _, _ in moments}) == 3
    assert len({heads for _, heads, _ in moments}) == 3
    assert len({losses for _, _, losses in moments}) == 3


def test_no_errors_and_no_other_host(opened, watch):
    assert watch.errors == []
    assert watch.strangers == []
