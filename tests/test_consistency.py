"""The check that a story keeps to itself: true stories pass, spoiled ones do not."""

import random
import re

import pytest

from llama_viz.training.consistency import check
from llama_viz.training.stories import tell_story
from llama_viz.training.words import CHILDREN, COLOURS

LILY = "Once there was a girl named Lily. She liked to play in the park. Lily had a red ball. "


def test_the_generators_own_stories_pass():
    for number in range(1500):
        for held_out in (False, True):
            story = tell_story(number, held_out=held_out)
            assert check(story.text).all, check(story.text).problem


@pytest.mark.parametrize(
    ("ending", "what", "problem"),
    [
        ("Ben was very happy.", "names", "Ben was not there in the beginning"),
        ("Lily took his ball.", "pronouns", "'his' in 'Lily took his ball.'"),
        ("He was happy.", "pronouns", "'He' in 'He was happy.'"),
        ("Lily put the blue ball in the well.", "colours", "the ball was red, then blue"),
        ('"What colour is your ball?" asked Mum. "It is blue," said Lily.', "colours",
         "the ball was red, but blue is said of it"),
        ("Lily had a drum. It was red. It was a big drum. It was green.", "colours",
         "the drum was red, then green"),
    ],
)  # fmt: skip
def test_what_a_story_does_not_keep_is_named(ending, what, problem):
    found = check(LILY + ending)
    assert not found.all
    assert not getattr(found, what)
    assert found.problem == problem
    others = {"names", "pronouns", "colours"} - {what}
    assert all(getattr(found, other) for other in others)


def test_what_two_people_leave_open_is_not_judged():
    text = "Lily and Ben were in the park. Lily saw Ben, and he smiled. Ben lost his hat."
    assert check(text).all
    assert not check(text + " Lily lost his hat.").pronouns


def test_grown_ups_and_other_objects_may_come_later():
    assert check(LILY + "Grandpa had a blue kite. Mum sat down.").all


def test_a_story_about_nobody_is_refused():
    with pytest.raises(ValueError, match="names none of the stories' children: 'It was a day"):
        check("It was a day. The wind blew.")


def test_a_spoiled_word_is_found():
    draw = random.Random(0)
    names = [child.name for child in CHILDREN]
    caught = {"names": 0, "pronouns": 0, "colours": 0}
    tried = dict.fromkeys(caught, 0)
    swap = {"his": "her", "her": "his", "he": "she", "she": "he"}
    for number in range(400):
        text = tell_story(number, held_out=True).text
        spoils = {
            "names": (names, lambda word, text=text: draw.choice(
                [name for name in names if name not in text])),
            "pronouns": (list(swap), swap.get),
            "colours": (COLOURS, lambda word: draw.choice(
                [colour for colour in COLOURS if colour != word])),
        }  # fmt: skip
        for what, (words, other) in spoils.items():
            found = [*re.finditer(rf"\b({'|'.join(words)})\b", text)]
            # Where a colour is told once alone, another one is as good.
            if len({match[0] for match in found}) < len(found):
                match = found[-1]
                if what == "colours" and sum(each[0] == match[0] for each in found) < 2:
                    continue
                tried[what] += 1
                spoiled = text[: match.start()] + other(match[0]) + text[match.end() :]
                caught[what] += not getattr(check(spoiled), what)
    assert min(tried.values()) > 100
    assert caught["names"] == tried["names"]
    assert caught["pronouns"] > 0.95 * tried["pronouns"]
    assert caught["colours"] > 0.95 * tried["colours"]
