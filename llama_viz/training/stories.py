"""Small stories that know their own truth: who owns what, which colour it has and where it lies.

A story is told by filling sentences. A slot in braces is filled in; a slot in square brackets is
filled in and asked for: what stands there follows from what was said earlier in the story, so a
reader who remembers can name it. `"It is {x.preposition} the [place:x.place]," said {a.name}.` asks
for a place, and `[quote:,"]` for the punctuation itself. The plots stand in plots.py, the words in
words.py.
"""

from __future__ import annotations

import math
import random
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from llama_viz.errors import unknown_name
from llama_viz.training.words import (
    ANIMALS,
    CHILDREN,
    COLOURS,
    NUMBERS,
    OBJECTS,
    SETTINGS,
    WORDS,
    Animals,
    Belonging,
    Character,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Choice = TypeVar("Choice")

CONTEXT = 256  # tokens that an ordinary story fits into
MOST_FACTS = 8
# A story counts its letters, since it knows no tokenizer. Tokens are longer than this on average.
LETTERS_PER_TOKEN = 3.9


@dataclass(frozen=True)
class Question:
    """A gap that the story fills: its text begins with `prompt`, and `answer` follows at once.

    kind is one of KINDS: what has to be remembered. An answer that is a word of its own begins with
    the space before it. told is where in the text the answer was last said before, as a number of
    characters; None where it was not.
    """

    kind: str
    prompt: str
    answer: str

    @property
    def is_due(self) -> bool:
        """Whether the text so far can go on with nothing but an answer of this kind.

        An answer that opens a speech is not due: another speech could begin there as well.
        """
        return not self.prompt.endswith('"')

    @property
    def told(self) -> int | None:
        said = rf"\b{re.escape(self.answer.strip())}\b"
        found = [*re.finditer(said, self.prompt, re.IGNORECASE)]
        return found[-1].start() if found else None


@dataclass(frozen=True)
class Story:
    """A story's text, the questions that it answers, and who put which object where.

    facts are (name, object, place). nats is the information in the choices that made the story.
    As nearly every choice can be read off the text, its mean is a tight upper bound of the text's
    entropy: the total loss of a reader who knows the generator but not the choices.
    """

    text: str
    questions: tuple[Question, ...]
    facts: tuple[tuple[str, str, str], ...]
    nats: float
    plot: str


KINDS = (
    "place", "colour", "owner", "food", "deed", "count", "order", "plural", "pair", "refrain",
    "pronoun", "quote",
)  # fmt: skip

# Words that keep their value for a whole story; the others are drawn anew each time.
LASTING = ("weather", "time", "adult")

HELD_OUT_SHARE = 10  # one in so many combinations


def is_held_out(name: str, thing: str, place: str) -> bool:
    """Whether this combination of name, object and place is kept for held-out stories."""
    return zlib.crc32(f"{name}/{thing}/{place}".encode()) % HELD_OUT_SHARE == 0


def tell_story(
    number: int,
    *,
    seed: int = 0,
    held_out: bool = False,
    plot: str | None = None,
    n_facts: int | None = None,
    context: int = CONTEXT,
) -> Story:
    """Tell story `number` of a seed; equal arguments always give the same story.

    Held-out stories are drawn from other random numbers than training stories, and each of their
    facts is a combination that no training story holds. plot is one of PLOTS, None draws one.
    n_facts, from 1 to 8, asks for a story that must remember so many belongings with their places
    (the plot "belongings"). context is how many tokens the story may take; with more than 256 the
    answers lie further back, about half the context.

    Raises ValueError for numbers and plots that there are not.
    """
    from llama_viz.training.plots import PLOTS

    if number < 0:
        raise ValueError(f"number must be at least 0, got {number}")
    if context < CONTEXT:
        raise ValueError(f"context must be at least {CONTEXT}, got {context}")
    if n_facts is not None:
        if not 1 <= n_facts <= MOST_FACTS:
            raise ValueError(f"n_facts must be from 1 to {MOST_FACTS}, got {n_facts}")
        if plot not in (None, "belongings"):
            raise ValueError(f"n_facts is for the plot 'belongings', not for {plot!r}")
        plot = "belongings"
    if plot is not None and plot not in PLOTS:
        raise unknown_name("plot", plot, PLOTS)
    kind = "held-out" if held_out else "training"
    telling = Telling(
        random.Random(f"{kind} story {number} of seed {seed}"), held_out, context, n_facts
    )
    if plot is None:
        plot = telling.weighted({name: weight for name, (weight, _) in PLOTS.items()})
    PLOTS[plot][1](telling)
    return Story(telling.text, tuple(telling.questions), tuple(telling.facts), telling.nats, plot)


_SLOT = re.compile(r"\{(?P<plain>[\w.]+)\}|\[(?P<kind>\w+):(?P<asked>[^\]]+)\]")


@dataclass
class Telling:
    """A story while it is told: its text so far, its questions, and who and what is in it."""

    random: random.Random
    held_out: bool
    context: int
    n_facts: int | None
    text: str = ""
    nats: float = 0.0
    questions: list[Question] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    slots: dict[str, Any] = field(default_factory=dict)

    def pick(self, options: Sequence[Choice]) -> Choice:
        """One of the options, all equally likely."""
        self.nats += math.log(len(options))
        return self.random.choice(options)

    def toss(self) -> bool:
        """True or False, as a coin falls."""
        return self.pick((True, False))

    def weighted(self, weights: dict[Choice, float]) -> Choice:
        """One of the keys, as likely as its weight is large."""
        total = sum(weights.values())
        (chosen,) = self.random.choices(list(weights), list(weights.values()))
        self.nats -= math.log(weights[chosen] / total)
        return chosen

    def several(self, options: Sequence[Choice], count: int) -> list[Choice]:
        """So many of the options in an order, no two the same."""
        self.nats += math.log(math.perm(len(options), count))
        return self.random.sample(options, count)

    def tell(self, *templates: str, **roles: str) -> None:
        """Append one of the sentences, filled in; b="adult" lets the adult play the role of b."""
        template = self.pick(templates)
        if self.text:
            self.text += " "
        end = 0
        for slot in _SLOT.finditer(template):
            self.text += template[end : slot.start()]
            end = slot.end()
            prompt = self.text.removesuffix(" ")
            self._append(
                slot["asked"] if slot["kind"] == "quote"
                else self._fill(slot["plain"] or slot["asked"], roles)
            )  # fmt: skip
            if slot["kind"]:
                answer = self.text.removeprefix(prompt)
                self.questions.append(Question(slot["kind"], prompt, answer))
        self.text += template[end:]

    def _append(self, value: str) -> None:
        """Append a word, with the article before it and its first letter as they must be."""
        if value[0] in "aeiou" and re.search(r"\b[Aa] $", self.text):
            self.text = self.text[:-1] + "n "
        sentence_begins = not self.text or self.text.endswith((". ", '. "', '! "', '? "', ': "'))
        self.text += value[0].upper() + value[1:] if sentence_begins else value

    def _fill(self, name: str, roles: dict[str, str]) -> str:
        """What a slot's name stands for: an attribute of somebody or something, or a word."""
        first, *attributes = name.split(".")
        first = roles.get(first, first)
        if first == "somewhere":  # where nothing lies
            return self._put("", "", self.pick(self._free_places())).where
        if first == "visitor":
            return f"a {self.pick(ANIMALS)[0]}".replace("a a", "an a").replace("a o", "an o")
        value = self.slots[first] if first in self.slots else self.pick(WORDS[first])
        if first in LASTING:
            self.slots[first] = value
        for attribute in attributes:
            value = getattr(value, attribute)
        return str(value)

    def room(self, share: float = 1.0) -> bool:
        """Whether the text is still shorter than this share of the context."""
        return len(self.text) < share * LETTERS_PER_TOKEN * self.context

    def set_scene(self, *letters: str) -> None:
        """Give the story a setting, and each letter a child of its own."""
        self.slots["here"] = self.pick(tuple(SETTINGS))
        for letter in letters:
            self.slots[letter] = self.pick(self.strangers())

    def strangers(self) -> list[Character]:
        """The children who are not in the story yet."""
        return [child for child in CHILDREN if child not in self.slots.values()]

    def _things(self) -> list[Belonging]:
        return [slot for slot in self.slots.values() if isinstance(slot, Belonging)]

    def _free_places(self) -> list[str]:
        taken = {thing.place for thing in self._things()}
        return [place for place in SETTINGS[self.slots["here"]] if place not in taken]

    def _put(self, thing: str, colour: str, place: str) -> Belonging:
        prepositions = SETTINGS[self.slots["here"]][place].split()
        return Belonging(thing, colour, self.pick(prepositions), place)

    def own(self, owner: str, *letters: str) -> None:
        """Give the owner a new object; each letter is the same object in another place."""
        name = self.slots[owner].name
        taken = {word for thing in self._things() for word in (thing.object, thing.colour)}
        objects = [word for word in OBJECTS if word not in taken]
        places = self._free_places()
        # Which combinations are held out is not for a reader to know: each choice counts in full.
        self.nats += math.log(len(objects) * math.perm(len(places), len(letters)))
        while True:
            thing = self.random.choice(objects)
            chosen = self.random.sample(places, len(letters))
            if all(is_held_out(name, thing, place) == self.held_out for place in chosen):
                break
        colour = self.pick([word for word in COLOURS if word not in taken])
        for letter, place in zip(letters, chosen, strict=True):
            self.facts.append((name, thing, place))
            self.slots[letter] = self._put(thing, colour, place)

    def hide(self, seeker: str, hider: str, letter: str) -> None:
        """Bring in a child who hides from the seeker; the letter is where."""
        name = self.slots[seeker].name
        children, places = self.strangers(), self._free_places()
        self.nats += math.log(len(children) * len(places))
        while True:
            child, place = self.random.choice(children), self.random.choice(places)
            if is_held_out(child.name, name, place) == self.held_out:
                break
        self.facts.append((child.name, name, place))
        self.slots[hider] = child
        self.slots[letter] = self._put("", "", place)

    def count(self, up_to: int) -> None:
        """Choose a number from two to `up_to`: slots `number`, and `counting`: One, two, ..."""
        length = self.pick(range(2, up_to + 1))
        self.slots["number"] = NUMBERS[length - 1]
        self.slots["counting"] = ", ".join(NUMBERS[:length]).capitalize()

    def meet(self, kind: tuple[str, str], letter: str) -> None:
        """Let the letter be a number of animals of one kind, from one to nine."""
        number = self.pick(range(len(NUMBERS)))
        self.slots[letter] = (
            Animals(NUMBERS[number], kind[1], "were")
            if number
            else Animals(NUMBERS[number], kind[0], "was")
        )
