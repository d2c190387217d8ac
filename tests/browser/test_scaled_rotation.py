"""The clocks of the generation explorer, where rotary positions are scaled: the recorded angles."""

from __future__ import annotations

import re

import numpy as np
import pytest

import llama_viz as lv
from tests.browser.explorer_page import ExplorerPage, write_notebook
from tests.reference import random_ids, random_model

CELL = """import llama_viz as lv
explorer = lv.widgets.GenerationExplorer((), trace=lv.load_trace("{kind}.nc"))
explorer"""
N_PROMPT, N_NEW = 12, 30

# The angle at which each hand stands, counter-clockwise from the right, in radians.
HANDS = """root => [...root.querySelectorAll(".lv-clocks .lv-hand")].map(hand => {
  const at = name => Number(hand.getAttribute(name));
  return Math.atan2(at("y1") - at("y2"), at("x2") - at("x1"));
})"""


@pytest.fixture(scope="module", params=["linear", "llama3", "dynamic"])
def scaled(request, lab, page, watch):
    """The explorer and its trace, recorded from a model with scaled rotary positions."""
    kind = request.param
    scaling = lv.RopeScaling(kind, factor=4.0, original_max_seq_len=8)
    lm = random_model("gqa", rope_scaling=scaling)
    trace = lv.record(lm, random_ids(lm, N_PROMPT)[0].tolist(), N_NEW)
    lv.save_trace(trace, lab.log.parent / "notebooks" / f"{kind}.nc")
    write_notebook(lab, f"{kind}.ipynb", CELL.format(kind=kind))
    lab.open(page, f"{kind}.ipynb")
    lab.run_all(page)
    explorer = ExplorerPage(page, "generation-explorer")
    explorer.wait("root.querySelectorAll('.lv-clocks .lv-hand').length > 0")
    explorer.find(".lv-scrubber").focus()
    return explorer, trace


def test_the_angles_are_not_those_without_scaling(scaled):
    _, trace = scaled
    recorded = trace["rotation_angle"].values
    plain = 10_000.0 ** (-np.arange(recorded.shape[1]) / recorded.shape[1])
    unscaled = np.arange(len(recorded))[:, None] * plain
    assert np.abs(recorded[-1] - unscaled[-1]).max() > 1


@pytest.mark.parametrize("step", [0, 1, N_NEW // 2, N_NEW - 1])
def test_every_hand_stands_at_its_recorded_angle(scaled, step):
    explorer, trace = scaled
    position = N_PROMPT - 1 + step
    for key in ["Home", *["ArrowRight"] * step]:
        explorer.page.keyboard.press(key)
    explorer.wait("root.querySelector('.lv-rotation .lv-caption').textContent.includes(words)",
                  words=f"position {position} ×")  # fmt: skip
    explorer.settle()
    recorded = trace["rotation_angle"].values[position]
    hands = np.array(explorer.root.evaluate(HANDS))
    assert hands.shape == recorded.shape
    turned = np.angle(np.exp(1j * (hands - recorded)))
    assert np.abs(turned).max() < 1e-3
    # In words: the pair in view, with its frequency and its whole angle, three digits of each.
    words = explorer.text(".lv-rotation .lv-caption")
    pair, shown_position, frequency, angle = re.match(
        r"Pair (\d+): position (\d+) × θ (\S+) = (\S+) rad", words
    ).groups()
    assert int(shown_position) == position
    assert float(angle) == pytest.approx(recorded[int(pair)], rel=5e-3)
    assert float(frequency) == pytest.approx(recorded[int(pair)] / position, rel=5e-3)


def test_no_errors_and_no_other_host(scaled, watch):
    assert watch.errors == []
    assert watch.strangers == []
