"""The training explorer in a real browser: in JupyterLab, where snapshots are read, and as a file.

The tests go through one page from top to bottom, as a reader does, once in each place.
"""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from llama_viz.checkpoints.native import save_native
from llama_viz.training.stories import KINDS
from llama_viz.widgets import TrainingExplorer, training_snapshots
from tests.browser.places import opened, write_notebook
from tests.test_training_explorer import HOSTILE, STEPS, TABLE, tiny_model
from tests.vocabularies import sentence_piece_model


def shade(weights):
    """Weights as tokens are shaded with them: sent in steps of 1/255, drawn in 1/64."""
    return np.floor(np.rint(weights * 255) / 255 * 64 + 0.5) / 64


PROMPT = f"Once upon a time. Once upon {HOSTILE}"
HEADS, MAP = ".lv-head-maps", ".lv-head-map"
N_LAYERS, N_HEADS = 2, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Snapshots of tiny models with their losses, as training leaves them, and a notebook."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "notebooks").mkdir()
    (folder / "snapshots").mkdir()
    (folder / "tokenizer.model").write_bytes(sentence_piece_model())
    (folder / "losses.csv").write_text(TABLE)
    for seed, step in enumerate(STEPS):
        path = folder / "snapshots" / f"gqa-{step:06d}.safetensors"
        save_native(tiny_model(seed, max_seq_len=192).model, path)
    write_notebook(
        folder,
        "import llama_viz as lv\n"
        f"snapshots = lv.widgets.training_snapshots(data={str(folder)!r})\n"
        f"explorer = lv.widgets.TrainingExplorer(snapshots, {str(folder / 'losses.csv')!r}, "
        f"prompt={PROMPT!r}, max_new_tokens=8)\nexplorer",
    )
    return folder


@pytest.fixture(scope="module")
def kernel(folder):
    """The same explorer here, to compare with."""
    explorer = TrainingExplorer(
        training_snapshots(data=folder), folder / "losses.csv", prompt=PROMPT, max_new_tokens=8
    )
    explorer.save(folder / "page.html")
    return explorer


@pytest.fixture(scope="module", params=["lab", "file"])
def explorer(request, kernel, folder):
    with opened(request.param, folder, "training-explorer") as explorer:
        explorer.wait("!root.textContent.includes('not read yet')")
        yield explorer


# What people with a deficiency see of (red, green, blue) light (Machado 2009, severity 1).
SEEN = {
    "all": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def seen_with(deficiency, colour):
    """A colour as "rgb(0, 114, 178)", as someone sees it: three numbers from 0 to 255."""
    levels = np.array([int(level) for level in re.findall(r"\d+", colour)[:3]]) / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light = np.clip(SEEN[deficiency] @ light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("is_light", [True, False], ids=["light", "dark"])
def test_no_two_kinds_of_questions_look_alike(explorer, is_light):
    looks = explorer.root.evaluate(
        """(root, [count, isLight]) => {
          const theme = document.body.dataset.jpThemeLight;
          document.body.dataset.jpThemeLight = String(isLight);
          const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
          root.append(svg);
          const looks = Array.from({ length: count }, (_, index) => {
            const path = document.createElementNS(svg.namespaceURI, "path");
            path.setAttribute("class", `lv-curve lv-look-${index}`);
            svg.append(path);
            const { stroke, strokeDasharray } = getComputedStyle(path);
            return [stroke, strokeDasharray];
          });
          svg.remove();
          document.body.dataset.jpThemeLight = theme;
          return looks;
        }""",
        [len(KINDS), is_light],
    )
    assert len({tuple(look) for look in looks}) == len(KINDS)
    for deficiency in SEEN:
        for (first, dashes), (second, others) in combinations(looks, 2):
            apart = np.abs(seen_with(deficiency, first) - seen_with(deficiency, second)).max()
            assert dashes != others or apart > 60, (deficiency, first, second, dashes)


def slide(explorer, snapshot):
    explorer.find("input[aria-label=Snapshot]").evaluate(
        """(input, value) => {
          input.value = value;
          input.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        snapshot,
    )
    explorer.settle()


def moment(explorer):
    return explorer.text(".lv-training-moment")


def test_it_opens_on_the_last_snapshot_with_all_of_them_read(explorer, kernel):
    assert moment(explorer) == "step 200 (4 of 4)"
    assert explorer.find(".lv-training-reading").is_hidden()
    explorer.check_labels()
    shown = explorer.find(".lv-story .lv-token").evaluate_all(
        "all => all.map(span => [...span.childNodes].filter(node => "
        "!node.classList?.contains('lv-character')).map(node => node.textContent).join(''))"
    )
    assert shown == [token["label"] for token in kernel.tokens]
    assert explorer.find("img, script, s").count() == 0
    assert explorer.find(".lv-training-row").count() == len(STEPS)


def test_the_slider_moves_everything(explorer, kernel):
    panels = [".lv-training-losses", ".lv-training-recall", ".lv-training-kinds",
              ".lv-training-attention", ".lv-training-next"]  # fmt: skip
    before = {}
    for snapshot in (1, 2):
        slide(explorer, snapshot)
        for name in panels:
            picture = explorer.picture(name)
            assert picture != before.get(name), name
            before[name] = picture
        text = explorer.find(".lv-training-text span").last.text_content()
        row = explorer.find(".lv-training-row-text").nth(snapshot).text_content()
        assert (text.strip() or "(nothing)") == row
        written = kernel.reading(snapshot).tokens
        assert len(written) == 8
        current = explorer.find(".lv-training-row[aria-current=true] strong")
        assert current.inner_text() == f"step {STEPS[snapshot]}"
    assert "training loss 4.25 (at step 20), held-out loss 4.50 (at step 20)" in explorer.text(
        ".lv-training-losses .lv-caption"
    )


def test_the_keys_move_the_slider(explorer):
    explorer.find("input[aria-label=Snapshot]").focus()
    explorer.press("Home")
    assert moment(explorer) == "step 0 (1 of 4)"
    explorer.press("ArrowRight", "ArrowRight")
    assert moment(explorer) == "step 40 (3 of 4)"
    slider = explorer.find("input[aria-label=Snapshot]")
    assert slider.get_attribute("aria-valuetext") == "step 40 (3 of 4)"
    explorer.press("End")
    assert moment(explorer) == "step 200 (4 of 4)"


def test_a_row_and_a_chart_go_to_a_snapshot(explorer):
    explorer.find(".lv-training-row").nth(1).click()
    assert moment(explorer) == "step 10 (2 of 4)"
    explorer.find(".lv-training-row").nth(2).press("Enter")
    assert moment(explorer) == "step 40 (3 of 4)"
    chart = explorer.find(".lv-training-losses svg")
    box = chart.bounding_box()
    chart.click(position={"x": box["width"] - 14, "y": 60})
    assert moment(explorer) == "step 200 (4 of 4)"
    chart.click(position={"x": 40, "y": 60})
    assert moment(explorer) == "step 0 (1 of 4)"


def test_the_axis_is_logarithmic_or_not(explorer):
    slide(explorer, 1)
    now = ".lv-training-losses .lv-training-now"
    box = explorer.find("input[type=checkbox]")
    assert box.is_checked()
    at = float(explorer.find(now).get_attribute("x1"))
    box.uncheck()
    explorer.settle()
    width = explorer.find(".lv-training-losses svg").bounding_box()["width"]
    linear = float(explorer.find(now).get_attribute("x1"))
    assert linear == pytest.approx(36 + 10 / 200 * (width - 12 - 36), abs=1)
    assert linear < at
    box.focus()
    explorer.press("Space")
    assert float(explorer.find(now).get_attribute("x1")) == at


@pytest.mark.parametrize("kind", ["previous", "first", "induction"])
def test_scores_are_those_of_the_snapshots(explorer, kernel, kind):
    explorer.find(".lv-training-kinds").get_by_label(kind).check()
    slide(explorer, 2)
    cells = explorer.find(".lv-training-table")
    cells.focus()
    explorer.press("ArrowUp", *["ArrowLeft"] * N_HEADS, "ArrowDown", "ArrowRight", "ArrowRight")
    scores = kernel.kinds.sel(kind=kind, layer=1, head=2).values
    words = explorer.text(".lv-training-kinds .lv-caption")
    assert f"layer 1, head 2 has {scores[2]:.2f}." in words
    best = kernel.kinds.sel(kind=kind).values[2]
    assert f"with {best.max():.2f};" in words
    assert f"layer 1, head 2: {scores[2]:.2f}" in cells.get_attribute("aria-label")
    heights = explorer.find(".lv-training-lines circle").evaluate_all(
        "all => all.map(node => Number(node.getAttribute('cy')))"
    )
    # Lower on the page is less: heights and scores lie on one falling line.
    fit = np.polyfit(scores, heights, 1)
    np.testing.assert_allclose(np.polyval(fit, scores), heights, atol=0.2)
    assert fit[0] < 0
    cells.click(position={"x": 50 + 5, "y": 5})
    assert "layer 0, head 0 has" in explorer.text(".lv-training-kinds .lv-caption")


def test_attention_is_that_of_the_snapshot(explorer, kernel):
    slide(explorer, 1)
    explorer.find(".lv-training-attention select").select_option(index=1)
    explorer.find(HEADS).focus()
    explorer.press(*["ArrowLeft"] * N_HEADS, "ArrowRight")
    assert "head 1 large" in explorer.text(".lv-training-attention .lv-caption")
    weights = kernel.reading(1).attention[1, 1]
    n = len(kernel.prompt_ids)
    canvas = explorer.find(MAP)
    cell = canvas.bounding_box()["height"] / n

    def spot(query, key):
        return {"x": (key + 0.5) * cell, "y": (query + 0.5) * cell}

    canvas.hover(position=spot(9, 4))
    words = explorer.text(".lv-training-attention .lv-readout")
    assert f"(9) → {kernel.tokens[4]['label']}" in words
    assert float(words.split()[-1]) == pytest.approx(weights[9, 4], abs=0.0075)
    canvas.click(position=spot(9, 4))
    assert "locked" in explorer.text(".lv-training-attention .lv-readout")
    slide(explorer, 3)  # what is locked stays, over the snapshots
    other = kernel.reading(3).attention[1, 1]
    locked = explorer.text(".lv-training-attention .lv-readout")
    shown = float(locked.split("weight ")[1].split()[0])
    assert shown == pytest.approx(other[9, 4], abs=0.0075)
    canvas.focus()
    explorer.press("Escape")
    assert "locked" not in explorer.text(".lv-training-attention .lv-readout")
    explorer.page.mouse.move(2, 2)
    explorer.press("ArrowDown", "ArrowUp", "Enter")
    assert "(8) →" in explorer.text(".lv-training-attention .lv-readout")
    explorer.press("Escape")
    box = explorer.find(HEADS).bounding_box()
    explorer.find(HEADS).click(position={"x": box["width"] * 0.02 + 5, "y": 30})
    assert "head 0 large" in explorer.text(".lv-training-attention .lv-caption")


def test_a_token_is_picked_in_the_prompt(explorer, kernel):
    slide(explorer, 3)
    explorer.find(".lv-training-attention select").select_option(index=1)
    explorer.find(HEADS).focus()
    explorer.press(*["ArrowLeft"] * N_HEADS)
    explorer.find(".lv-story [data-position='4']").click()
    explorer.settle()
    picked = explorer.find(".lv-training-picked")
    assert picked.get_attribute("data-position") == "4"
    reading = kernel.reading(3)
    first = explorer.find(".lv-training-next .lv-tick").first.text_content()
    highest = reading.likely.probabilities[4, 0]
    assert first == (f"{highest:.3f}" if highest >= 0.0005 else "<0.001")
    explorer.press("ArrowRight", "Enter")
    assert picked.get_attribute("data-position") == "5"
    assert "(5) at step 200" in explorer.text(".lv-training-next .lv-caption")
    shades = explorer.find(".lv-story .lv-token").evaluate_all(
        "all => all.map(span => Number(span.style.getPropertyValue('--p')))"
    )
    recorded = reading.attention[1, 0, 5]
    np.testing.assert_allclose(shades, shade(recorded), atol=1e-6)


def test_play_goes_through_all_snapshots(explorer):
    slide(explorer, 3)
    explorer.root.evaluate("""root => {
      const moment = root.querySelector(".lv-training-moment");
      window.seen = [];
      new MutationObserver(() => window.seen.push(moment.textContent)).observe(
        moment, { childList: true, characterData: true, subtree: true });
    }""")
    explorer.find(".lv-training-play").press("Enter")  # from the end it begins anew
    label = "root.querySelector('.lv-training-play').getAttribute('aria-label')"
    explorer.wait(f"window.seen.length >= 4 && {label} !== 'Pause'")
    assert explorer.page.evaluate("window.seen") == [
        f"step {step} ({number + 1} of 4)" for number, step in enumerate(STEPS)
    ]


def test_play_pauses(explorer):
    slide(explorer, 0)
    before, after, label = explorer.root.evaluate("""async root => {
      const play = root.querySelector(".lv-training-play");
      const moment = root.querySelector(".lv-training-moment");
      const wait = time => new Promise(done => setTimeout(done, time));
      play.click();
      await wait(100);
      play.click();
      await wait(200);  // what was picked before is drawn
      await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      const before = moment.textContent;
      await wait(1000);
      return [before, moment.textContent, play.getAttribute("aria-label")];
    }""")
    assert before == after
    assert label == "Play the snapshots"


def test_without_motion_play_is_one_step(explorer):
    explorer.page.emulate_media(reduced_motion="reduce")
    slide(explorer, 1)
    play = explorer.find(".lv-training-play")
    play.press("Enter")
    assert moment(explorer) == "step 40 (3 of 4)"
    assert play.get_attribute("aria-label") == "Next snapshot"
    explorer.page.wait_for_timeout(900)
    assert moment(explorer) == "step 40 (3 of 4)"
    explorer.page.emulate_media(reduced_motion="no-preference")


def test_the_numbers_of_every_snapshot(explorer, kernel):
    explorer.find(".lv-numbers-button").press("Enter")
    rows = [row.split("\t") for row in explorer.texts(".lv-table tbody tr")]
    assert [row[0].removeprefix("▸ ") for row in rows] == [str(step) for step in STEPS]
    for number, row in enumerate(rows):
        assert float(row[3]) == pytest.approx(kernel.reading(number).loss["nats"], abs=1e-3)
    explorer.find(".lv-numbers-button").press("Enter")
    assert explorer.find(".lv-table").is_hidden()


def test_the_page_is_narrow_enough(explorer):
    for width in (600, 1280):
        explorer.page.set_viewport_size({"width": width, "height": 1500})
        explorer.settle()
        assert explorer.root.evaluate("root => root.scrollWidth <= root.clientWidth")


def test_reading_can_be_stopped(explorer):
    if explorer.place == "file":
        assert explorer.find(".lv-training-reading").is_hidden()
        return
    # Slowly, so that there is time to press the button.
    explorer.execute(
        "import time\n"
        "read, known = explorer.reading, {3: explorer.reading(3)}\n"
        "def slowly(number):\n"
        "    time.sleep(0 if number in explorer._readings else 2)\n"
        "    return read(number)\n"
        "explorer._readings, explorer.reading = known, slowly\n"
        "explorer.refresh()"
    )
    explorer.wait("root.querySelector('.lv-training-reading').textContent.includes('of 4')")
    # Pressed when everything is drawn that has come: one snapshot is under way.
    unread = explorer.root.evaluate("""async root => {
      await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      root.querySelector(".lv-training-reading button").click();
      return [...root.querySelectorAll(".lv-training-row-text")].filter(
        row => row.textContent === "not read yet").length;
    }""")
    explorer.wait(
        "root.querySelector('.lv-training-reading').textContent.includes('Read the rest')"
    )
    explorer.wait("[...root.querySelectorAll('.lv-training-row-text')].filter("
                  "row => row.textContent === 'not read yet').length === unread - 1",
                  unread=unread)  # fmt: skip
    assert unread > 1
    explorer.page.wait_for_timeout(3000)  # one that goes on would show
    assert explorer.texts(".lv-training-row-text").count("not read yet") == unread - 1
    explorer.find(".lv-training-reading button").click()
    explorer.wait("root.querySelector('.lv-training-reading').hidden")
    explorer.execute("explorer.show(snapshot=0, layer=1, head=3); it = 0")
    explorer.wait("root.querySelector('.lv-training-moment').textContent.startsWith('step 0')")


def test_the_theme_is_followed(explorer):
    before = explorer.picture(HEADS)
    explorer.change_theme()
    assert explorer.picture(HEADS) != before


def test_no_errors_and_no_other_host(explorer):
    assert explorer.watch.errors == []
    assert explorer.watch.strangers == []
    assert explorer.page.evaluate("typeof executed") == "undefined"
