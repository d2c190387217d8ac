"""The text moved by one: each box holds its token, and the colour is the true one's probability."""

import numpy as np
import pytest

from llama_viz import figures
from llama_viz.figures import style

TOKENS = ["<s>", "▁Dan", "▁loves", "$x$", "<img src=x onerror=alert(1)>"]
SAID = ["▁Dan", "▁had", "▁ice", "\n"]
PROBABILITY = np.array([0.9, 0.25, 0.0, 1.0])


@pytest.fixture
def figure():
    return figures.teacher_forcing(TOKENS, SAID, PROBABILITY)


def boxes(figure):
    return {patch.get_gid(): patch for patch in figure.axes[0].patches}


def words(figure, row):
    return [text for text in figure.axes[0].texts if text.get_gid() == f"token {row}"]


def test_the_target_is_the_text_moved_by_one(figure):
    shown = [style.shortened(token) for token in TOKENS]
    assert [text.get_text() for text in words(figure, "reads")] == shown[:-1]
    assert [text.get_text() for text in words(figure, "should say")] == shown[1:]
    assert [text.get_text() for text in words(figure, "says")] == ["▁Dan", "▁had", "▁ice", "⏎"]


def test_colours_are_the_probabilities_of_the_targets(figure):
    for position, probability in enumerate(PROBABILITY):
        found = boxes(figure)[f"should say {position}"].get_facecolor()
        assert found == pytest.approx(style.PROBABILITY(probability))


def test_right_guesses_are_bold(figure):
    assert [text.get_weight() for text in words(figure, "says")] == ["bold"] + ["normal"] * 3


def test_tokens_stand_in_their_boxes(figure):
    figure.draw_without_rendering()
    for row in ("reads", "should say", "says"):
        for position, text in enumerate(words(figure, row)):
            box = boxes(figure)[f"{row} {position}"].get_window_extent()
            inside = text.get_window_extent()
            assert box.x0 <= inside.x0
            assert inside.x1 <= box.x1
            assert box.y0 <= inside.y0
            assert inside.y1 <= box.y1


@pytest.mark.parametrize(
    ("tokens", "said", "probability"),
    [(TOKENS, SAID[:3], PROBABILITY), (TOKENS, SAID, PROBABILITY[:3]), (TOKENS[:1], [], [])],
)
def test_lengths_that_do_not_fit_are_refused(tokens, said, probability):
    with pytest.raises(ValueError, match="next tokens, got"):
        figures.teacher_forcing(tokens, said, probability)
