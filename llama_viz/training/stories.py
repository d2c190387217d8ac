"""Small stories that know their own truth: who owns what, which colour it has and where it lies.

A story is told by filling sentences. A slot in braces is filled in; a slot in square brackets is
filled in and asked for: what stands there was said earlier in the story, so a reader who remembers
can name it. `"It is {x.preposition} the [place:x.place]," said {a.name}.` asks for a place.
"""

from __future__ import annotations

import math
import random
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Question:
    """A gap that the story fills: after `prompt`, one space and `answer` follow in its text.

    kind is one of KINDS: what has to be remembered.
    """

    kind: str
    prompt: str
    answer: str


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


KINDS = ("place", "colour", "owner", "count", "food", "pronoun")


@dataclass(frozen=True)
class Character:
    """Somebody in a story, with the pronouns that agree."""

    name: str
    he: str
    his: str
    him: str
    child: str

    @property
    def He(self) -> str:  # noqa: N802  (the capital letter is the meaning)
        return self.he.capitalize()

    @property
    def His(self) -> str:  # noqa: N802
        return self.his.capitalize()


@dataclass(frozen=True)
class Belonging:
    """An object of somebody's: its colour, and where it was put."""

    object: str
    colour: str
    preposition: str
    place: str

    @property
    def where(self) -> str:
        return f"{self.preposition} the {self.place}"


def _girl(name: str) -> Character:
    return Character(name, "she", "her", "her", "girl")


def _boy(name: str) -> Character:
    return Character(name, "he", "his", "him", "boy")


CHILDREN = tuple(
    _girl(name)
    for name in (
        "Amy Anna Bella Clara Daisy Ella Emma Eve Grace Hanna Ivy Jane Kate Lily Lucy Mary Maya "
        "Mia Nina Nora Rose Ruby Sara Zoe"
    ).split()
) + tuple(
    _boy(name)
    for name in (
        "Adam Ben Billy Carl Dan David Eric Finn Fred George Hugo Jack Jim Leo Mark Max Noah Oscar "
        "Paul Peter Sam Theo Tim Tom"
    ).split()
)
GROWN_UPS = (
    *(_girl(name) for name in ("Mum", "Grandma", "Aunt May")),
    *(_boy(name) for name in ("Dad", "Grandpa", "Uncle Bob")),
)

OBJECTS = tuple(
    "ball bear bell boat book brush button cap car coat coin comb cup doll drum feather flag flute "
    "glove hat horn key kite lamp letter map mask mug pen pencil plate ring robot rope scarf shell "
    "shoe sock spoon star stick stone ticket top train truck umbrella whistle".split()
)
COLOURS = tuple(
    "black blue brown golden green grey orange pink purple red silver white yellow".split()
)

# Where a story plays, and what stands there: every noun goes with several prepositions, so that the
# preposition does not give the place away.
SETTINGS: dict[str, dict[str, str]] = {
    "in the house": {
        "bed": "on under beside", "table": "on under beside", "chair": "on under behind",
        "sofa": "on under behind", "box": "in under behind", "basket": "in under behind",
        "chest": "in behind beside", "shelf": "on under beside", "door": "behind beside near",
        "rug": "on under beside", "curtain": "behind under near", "stairs": "on under beside",
    },
    "in the garden": {
        "bench": "on under behind", "bush": "in under behind", "fence": "behind beside near",
        "gate": "behind beside near", "shed": "in behind beside", "pot": "in under behind",
        "bucket": "in under behind", "tree": "under behind near", "wall": "on behind beside",
        "swing": "on under beside", "well": "in behind beside", "roses": "in under near",
    },
    "at the farm": {
        "barn": "in behind near", "hay": "in under beside", "cart": "in under behind",
        "sack": "in under behind", "barrel": "in behind beside", "ladder": "under behind beside",
        "mill": "in behind near", "stable": "in behind near", "tractor": "on under behind",
        "pump": "under behind beside", "gate": "behind beside near", "trough": "in under beside",
    },
    "by the lake": {
        "bridge": "on under near", "rock": "on behind under", "tent": "in behind beside",
        "reeds": "in behind near", "log": "on under behind", "hut": "in behind near",
        "sand": "in under on", "towel": "on under beside", "canoe": "in under beside",
        "tree": "under behind near", "steps": "on under beside", "fire": "behind beside near",
    },
    "in the woods": {
        "cave": "in behind near", "oak": "under behind near", "stump": "on behind beside",
        "leaves": "in under on", "log": "on under behind", "rock": "on under behind",
        "stream": "in beside near", "bush": "in under behind", "moss": "on under in",
        "nest": "in under beside", "hut": "in behind near", "path": "on beside near",
    },
    "at school": {
        "desk": "on under behind", "board": "under behind near", "piano": "on under behind",
        "mat": "on under beside", "window": "under beside near", "shelf": "on under beside",
        "door": "behind beside near", "box": "in under behind", "chair": "on under behind",
        "bin": "in behind beside", "globe": "under behind beside", "tank": "in behind beside",
    },
    "at the market": {
        "stall": "on under behind", "crate": "in under behind", "fountain": "in behind near",
        "statue": "behind beside near", "counter": "on under behind", "sack": "in under behind",
        "barrel": "in behind beside", "cart": "in under behind", "tent": "in behind beside",
        "bench": "on under behind", "wall": "on behind beside", "basket": "in under behind",
    },
    "in the park": {
        "slide": "on under behind", "swing": "on under beside", "pond": "in beside near",
        "hill": "on behind near", "tree": "under behind near", "bridge": "on under near",
        "statue": "behind beside near", "kiosk": "in behind beside", "bench": "on under behind",
        "tunnel": "in behind near", "bush": "in under behind", "hedge": "in under behind",
    },
}  # fmt: skip

NUMBERS = tuple("one two three four five six seven eight nine".split())

# What a slot of this name draws from: LASTING ones once in a story, the others each time anew.
LASTING = ("weather", "time", "adult")
WORDS: dict[str, tuple[Any, ...]] = {
    "weather": tuple("bright cloudy cold fine foggy hot rainy snowy sunny warm windy".split()),
    "time": ("morning", "day", "afternoon", "evening"),
    "adult": GROWN_UPS,
    "weekday": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "trait": tuple("brave careful cheerful clever curious friendly funny gentle kind little merry "
                   "playful polite quiet shy young".split()),
    "happy": tuple("cheerful glad happy merry pleased proud".split()),
    "sad": tuple("cross gloomy puzzled sad unhappy worried".split()),
    "size": tuple("big fine large little new nice old pretty shiny small soft strange".split()),
    "put": ("put", "hid", "laid", "left", "placed"),
    "said": ("said", "cried", "whispered"),
    "answered": ("said", "answered", "replied"),
    "game": ("ran around", "danced", "jumped up and down", "played a game", "sang a song",
             "told a story", "drew a picture", "stood on one leg", "made a face",
             "laughed out loud"),
    "visitor": ("a bird", "a snail", "a bee", "a frog", "a cat", "a beetle", "an ant", "a mouse"),
    "change": ("the wind blew", "a cloud came by", "the birds sang", "a bell rang",
               "it was very quiet", "it grew dark", "the sun came out", "it was time to rest"),
    "animals": ("birds", "ducks", "hens", "frogs", "rabbits", "bees", "goats", "owls", "dogs",
                "cats", "ants", "pigs", "cows", "foxes"),
    "food": ("apples", "bread", "berries", "cake", "carrots", "cheese", "grapes", "honey",
             "ice cream", "jam", "nuts", "pancakes", "pears", "plums", "rice", "soup", "toast",
             "melon"),
}  # fmt: skip

HELD_OUT_SHARE = 10  # one in so many combinations


def is_held_out(name: str, thing: str, place: str) -> bool:
    """Whether this combination of name, object and place is kept for held-out stories."""
    return zlib.crc32(f"{name}/{thing}/{place}".encode()) % HELD_OUT_SHARE == 0


def tell_story(number: int, *, seed: int = 0, held_out: bool = False) -> Story:
    """Tell story `number` of a seed; the same three arguments always give the same story.

    Held-out stories are drawn from other random numbers than training stories, and each of their
    facts is a combination that no training story holds.

    Raises ValueError for a negative number.
    """
    if number < 0:
        raise ValueError(f"number must be at least 0, got {number}")
    kind = "held-out" if held_out else "training"
    telling = _Telling(random.Random(f"{kind} story {number} of seed {seed}"), held_out)
    telling.pick(PLOTS)(telling)
    return Story(telling.text, tuple(telling.questions), tuple(telling.facts), telling.nats)


_SLOT = re.compile(r"\{(?P<plain>[\w.]+)\}|\[(?P<kind>\w+):(?P<asked>[\w.]+)\]")


@dataclass
class _Telling:
    """A story while it is told: its text so far, its questions, and who and what is in it."""

    random: random.Random
    held_out: bool
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

    def tell(self, *templates: str, **roles: str) -> None:
        """Append one of the sentences, filled in; b="adult" lets the adult play the role of b."""
        template = self.pick(templates)
        if self.text:
            self.text += " "
        end = 0
        for slot in _SLOT.finditer(template):
            self.text += template[end : slot.start()]
            end = slot.end()
            value = self._fill(slot["plain"] or slot["asked"], roles)
            if slot["kind"]:
                self.questions.append(Question(slot["kind"], self.text.removesuffix(" "), value))
            if value[0] in "aeiou" and re.search(r"\b[Aa] $", self.text):
                self.text = self.text[:-1] + "n "
            sentence_begins = not self.text or self.text.endswith(". ")
            self.text += value[0].upper() + value[1:] if sentence_begins else value
        self.text += template[end:]

    def _fill(self, name: str, roles: dict[str, str]) -> str:
        """What a slot's name stands for: an attribute of somebody or something, or a word."""
        first, *attributes = name.split(".")
        first = roles.get(first, first)
        if first == "somewhere":  # where nothing lies
            return self._put("", "", self.pick(self._free_places())).where
        value = self.slots[first] if first in self.slots else self.pick(WORDS[first])
        if first in LASTING:
            self.slots[first] = value
        for attribute in attributes:
            value = getattr(value, attribute)
        return str(value)

    def set_scene(self, *letters: str) -> None:
        """Give the story a setting, and each letter a child of its own."""
        self.slots["here"] = self.pick(tuple(SETTINGS))
        for letter in letters:
            self.slots[letter] = self.pick(self._strangers())

    def _strangers(self) -> list[Character]:
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
        children, places = self._strangers(), self._free_places()
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


# Sentences that several plots share. The letters are those of the slots: children a and b, an
# object x.


def _open_alone(story: _Telling) -> None:
    story.tell(
        "One {weather} {time}, {a.name} was playing {here}.",
        "Once there was a {trait} {a.child} named {a.name}. One {time} {a.he} was {here}.",
        "{a.name} was a {trait} {a.child}. {a.He} liked to play {here}.",
        "It was a {weather} {time}. {a.name} was {here}, all alone.",
        "On {weekday}, {a.name} was {here} all {time} long.",
    )


def _open_together(story: _Telling) -> None:
    story.tell(
        "One {weather} {time}, {a.name} and {b.name} were playing {here}.",
        "{a.name} and {b.name} were good friends. On {weekday} they played {here}.",
        "{a.name} was {here} with {a.his} {trait} friend {b.name}.",
        "Once there were two {trait} friends, {a.name} and {b.name}. They often played {here}.",
        "It was a {weather} {time}. {a.name} and {b.name} were {here}.",
    )


def _show(story: _Telling, a: str, x: str) -> None:
    """Somebody owns an object of some colour."""
    story.tell(
        "{a.name} had a {x.colour} {x.object}.",
        "{a.name} had a {size} {x.object}. It was {x.colour}.",
        "{a.name} had brought [pronoun:a.his] {x.colour} {x.object}.",
        "{a.name} loved [pronoun:a.his] {size} {x.colour} {x.object}.",
        "The {x.colour} {x.object} belonged to {a.name}.",
        a=a,
        x=x,
    )


def _put_away(story: _Telling, a: str, x: str) -> None:
    """Somebody puts the object somewhere."""
    story.tell(
        "{a.name} {put} the {x.object} {x.where}.",
        "{a.name} {put} {a.his} {x.object} {x.where}.",
        "Then {a.name} {put} the {x.object} {x.where}.",
        "The {x.object} was {x.where}, where {a.name} {put} it.",
        "{a.name} wanted to keep the {x.object} safe, so {a.he} {put} it {x.where}.",
        a=a,
        x=x,
    )


def _meanwhile(story: _Telling, a: str = "a") -> None:
    """Something happens that has nothing to do with it."""
    story.tell(
        "Then {change}.",
        "Then {change}, and {a.name} {game}.",
        "{a.name} {game}, and then {a.he} {game}.",
        "{a.name} washed [pronoun:a.his] hands and ate some {food}.",
        "{a.name} opened [pronoun:a.his] eyes and saw {visitor}.",
        "After that, {adult.name} gave {a.name} some {food}.",
        '{visitor} came by. "Hello," {said} {a.name}.',
        "{a.name} saw {visitor} {somewhere}.",
        "{a.name} was {happy} and {game}.",
        '"It is a {weather} {time}," {said} {a.name}.',
        a=a,
    )


def _ask_place(story: _Telling, a: str, x: str, b: str) -> None:
    """The owner a or somebody else, b, asks where the object is."""
    story.tell(
        '"Where is your {x.object}?" asked {b.name}. '
        '"It is {x.preposition} the [place:x.place]," {answered} {a.name}.',
        '"Where is my {x.object}?" asked {a.name}. '
        '"It is {x.preposition} the [place:x.place]," {answered} {b.name}.',
        '"I cannot see my {x.object}," {said} {a.name}. '
        '"You {put} it [place:x.where]," {answered} {b.name}.',
        "Where was the {x.object}? It was still {x.preposition} the [place:x.place].",
        "{b.name} asked for the {x.object}, so they looked {x.preposition} the [place:x.place].",
        "At last {a.name} needed [pronoun:a.his] {x.object}. "
        "{a.He} found it {x.preposition} the [place:x.place].",
        a=a,
        b=b,
        x=x,
    )


def _ask_colour(story: _Telling, a: str, x: str, b: str) -> None:
    """Somebody, b, asks which colour the object has."""
    story.tell(
        '"What colour is your {x.object}?" asked {b.name}. '
        '"It is [colour:x.colour]," {answered} {a.name}.',
        '"Which {x.object} is yours?" asked {b.name}. '
        '"The [colour:x.colour] one," {answered} {a.name}.',
        "{b.name} did not know the {x.object} of {a.name}. "
        '"Look for something [colour:x.colour]," {said} {a.name}.',
        "What colour was the {x.object}? It was [colour:x.colour].",
        a=a,
        b=b,
        x=x,
    )


def _ask_owner(story: _Telling, a: str, x: str, b: str) -> None:
    """Somebody asks, b or a grown-up, whose the object is."""
    story.tell(
        '{b.name} picked up the {x.object}. "Whose {x.object} is this?" {b.he} asked. '
        '"It belongs to [owner:a.name]," {answered} {adult.name}.',
        '"Whose {x.object} is this?" asked {adult.name}. '
        '"It belongs to [owner:a.name]," {answered} {b.name}.',
        '"Is this {x.object} yours?" {adult.name} asked {b.name}. '
        '"No, the {x.object} belongs to [owner:a.name]," {answered} {b.name}.',
        "Whose was the {x.object}? It belonged to [owner:a.name].",
        a=a,
        b=b,
        x=x,
    )


def _end_alone(story: _Telling) -> None:
    story.tell(
        "{a.name} was very {happy}.",
        "{a.name} took the {x.object} and smiled.",
        "Then {a.name} went home with [pronoun:a.his] {x.object}.",
        '"Thank you," {said} {a.name}, and {a.he} hugged {adult.name}.',
        "{a.name} clapped [pronoun:a.his] hands. What a {happy} {time}!",
        "That night {a.name} slept well, and the {x.object} lay beside {a.him}.",
    )


def _end_together(story: _Telling) -> None:
    story.tell(
        "{a.name} and {b.name} were very {happy}.",
        '"Thank you," {said} {b.name}. They laughed and played until {adult.name} came.',
        "Then they went home together, and {a.name} carried [pronoun:a.his] {x.object}.",
        '"You are my best friend," {said} {a.name}, and {b.name} smiled.',
        "They {game} until {adult.name} called them.",
        "{a.name} held [pronoun:a.his] {x.object} and was {happy}.",
    )


# The plots.


def _find_again(story: _Telling) -> None:
    """A child puts an object away, and somebody asks for it."""
    story.set_scene("a")
    story.own("a", "x")
    _open_alone(story)
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _meanwhile(story)
    if story.toss():
        _meanwhile(story)
    story.tell(
        "Soon {adult.name} came.", "Then {adult.name} came to help.", "{adult.name} sat down."
    )
    _ask_place(story, "a", "x", "adult")
    if story.toss():
        _ask_colour(story, "a", "x", "adult")
    _end_alone(story)


def _two_owners(story: _Telling) -> None:
    """Two children, two objects, two places: which was where, which colour, and whose?"""
    story.set_scene("a", "b")
    story.own("a", "x")
    story.own("b", "y")
    _open_together(story)
    _show(story, "a", "x")
    _show(story, "b", "y")
    turns = [("a", "x", "b"), ("b", "y", "a")]
    for owner, thing, _ in turns if story.toss() else turns[::-1]:
        _put_away(story, owner, thing)
    _meanwhile(story, story.pick("ab"))
    for owner, thing, other in turns if story.toss() else turns[::-1]:
        story.pick((_ask_place, _ask_colour, _ask_owner))(story, owner, thing, other)
    _end_together(story)


def _lost_and_found(story: _Telling) -> None:
    """Somebody finds a lost object, and it goes back to its owner."""
    story.set_scene("a", "b")
    story.own("a", "x")
    story.own("b", "y")
    _open_together(story)
    turns = [("a", "x"), ("b", "y")]
    for owner, thing in turns if story.toss() else turns[::-1]:
        _show(story, owner, thing)
    _put_away(story, "b", "y")
    story.tell(
        "Then {a.name} lost the {x.object}. {a.He} looked {somewhere}, but it was not there.",
        "But {a.name} dropped [pronoun:a.his] {x.object} and did not see it fall.",
        "But where was the {x.object}? {a.name} was {sad}.",
    )
    _meanwhile(story, "b")
    story.tell(
        "{b.name} looked {x.where} and found a {x.object}.",
        "There was a {x.object} {x.where}.",
        "{adult.name} saw a {x.object} {x.where}.",
    )
    _ask_owner(story, "a", "x", "b")
    story.pick((_ask_place, _ask_colour))(story, "b", "y", "a")
    _end_together(story)


def _moved(story: _Telling) -> None:
    """An object is put somewhere, then somewhere else: the last place is the right one."""
    story.set_scene("a", "b")
    story.own("a", "x", "z")
    _open_together(story)
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _meanwhile(story)
    story.tell(
        "{b.name} took the {x.object} and {put} it {z.where}.",
        "When nobody looked, {b.name} moved the {x.object}. Now it was {z.where}.",
        '"I will play a trick," {said} {b.name}, and {put} the {x.object} {z.where}.',
    )
    story.tell(
        "{a.name} looked {x.preposition} the [place:x.place], but the {x.object} was gone.",
        "The {x.object} was no longer {x.preposition} the [place:x.place].",
        '{a.name} was {sad}. "I {put} it {x.preposition} the [place:x.place]," {a.he} said.',
    )
    story.tell(
        '"Look {z.preposition} the [place:z.place]," {said} {b.name}.',
        '"Now it is {z.preposition} the [place:z.place]," {said} {b.name}.',
        "Then {a.name} found it {z.preposition} the [place:z.place].",
    )
    if story.toss():
        _ask_colour(story, "a", "x", "adult")
    _end_together(story)


def _hide_and_seek(story: _Telling) -> None:
    """One child counts, another one hides."""
    story.set_scene("a")
    story.own("a", "x")
    story.hide("a", "b", "h")
    story.count(9)
    _open_together(story)
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    story.tell(
        '"Let us play hide and seek," {said} {b.name}.',
        "They wanted to play hide and seek.",
        '"Can you find me?" asked {b.name}.',
    )
    story.tell(
        '"{counting}," {a.name} counted, and {b.name} hid {h.where}.',
        '{b.name} hid {h.where}. {a.name} closed [pronoun:a.his] eyes. "{counting}!"',
    )
    story.tell(
        "{a.name} looked {somewhere}, but {b.name} was not there.",
        "Where was {b.name}? {a.name} looked {somewhere}.",
        '"Are you {somewhere}?" asked {a.name}. Nobody was there.',
    )
    story.tell(
        '"I see you, {b.name}! You are {h.preposition} the [place:h.place]."',
        "At last {a.name} found {b.name} {h.preposition} the [place:h.place].",
        '"Come out," {said} {a.name}. "You are {h.preposition} the [place:h.place]."',
    )
    story.pick((_ask_place, _ask_owner))(story, "a", "x", "b")
    _end_together(story)


def _picnic(story: _Telling) -> None:
    """Each child has a favourite food, and each gets it."""
    story.set_scene("a", "b")
    story.own("a", "x")
    story.slots["f"] = story.pick(WORDS["food"])
    story.slots["g"] = story.pick([food for food in WORDS["food"] if food != story.slots["f"]])
    _open_together(story)
    story.tell(
        "{a.name} loves {f}, and {b.name} loves {g}.",
        "{a.name} liked {f} best. {b.name} liked {g} best.",
        "{b.name} was fond of {g}. {a.name} was fond of {f}.",
    )
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _meanwhile(story, story.pick("ab"))
    story.tell(
        "When it was time to eat, {a.name} took the [food:f] and {b.name} took the [food:g].",
        '"Are you hungry?" asked {adult.name}. '
        "{b.name} ate the [food:g], and {a.name} ate the [food:f].",
        '"{a.name}, take the [food:f]," said {adult.name}. "{b.name}, take the [food:g]."',
    )
    story.pick((_ask_place, _ask_colour, _ask_owner))(story, "a", "x", "b")
    _end_together(story)


def _gift(story: _Telling) -> None:
    """A grown-up gives a child an object, and asks about it later."""
    story.set_scene("a")
    story.own("a", "x")
    story.count(9)
    story.slots["things"] = story.pick(WORDS["animals"])
    _open_alone(story)
    story.tell(
        "{adult.name} gave {a.him} a {x.colour} {x.object}.",
        "It was the birthday of {a.name}. {adult.name} gave {a.him} a {x.colour} {x.object}.",
        "{adult.name} had a gift for {a.him}: a {size} {x.object}. It was {x.colour}.",
    )
    _put_away(story, "a", "x")
    story.tell(
        'Then {a.he} saw some {things}. "{counting}," {a.he} counted. '
        "There were [count:number] {things}.",
        'Then {a.he} met some {things}. "{counting}!" {said} {a.name}. '
        '"I see [count:number] {things}!"',
        "{number} {things} came by. {a.name} counted them: {counting}. "
        '"Hello," {a.he} said to all [count:number].',
    )
    _meanwhile(story)
    story.tell("After dinner {adult.name} came back.", "Later {adult.name} wanted to see it.")
    _ask_place(story, "a", "x", "adult")
    _ask_colour(story, "a", "x", "adult")
    _end_alone(story)


def _errand(story: _Telling) -> None:
    """A child goes for an object; on the way there is much to see."""
    story.set_scene("a")
    story.own("a", "x")
    story.count(9)
    story.slots["things"] = story.pick(WORDS["animals"])
    _open_alone(story)
    story.tell(
        '"You left your {x.colour} {x.object} {x.where}," said {adult.name}. "Please bring it."',
        '"Bring your {x.object}," said {adult.name}. "It is the {x.colour} one {x.where}."',
        "{a.name} wanted {a.his} {x.colour} {x.object}. It lay {x.where}.",
    )
    story.tell(
        "On the way {a.he} saw {number} {things}.",
        "On the way {a.he} counted {number} {things}.",
        "There were {number} {things} on the way.",
    )
    _meanwhile(story)
    story.tell(
        "{a.name} looked {x.preposition} the [place:x.place], "
        "and there was the [colour:x.colour] {x.object}.",
        "Then {a.name} went to look {x.preposition} the [place:x.place]. The {x.object} was there.",
        "{a.name} found the {x.object} {x.preposition} the [place:x.place]. "
        "It was [colour:x.colour].",
    )
    story.tell(
        '"How many {things} did you see?" asked {adult.name}. '
        '"I saw [count:number]," {answered} {a.name}.',
        "{a.name} told {adult.name} about the [count:number] {things}.",
        '"I saw [count:number] {things}," {said} {a.name}.',
    )
    _end_alone(story)


PLOTS = (
    _find_again, _two_owners, _lost_and_found, _moved, _hide_and_seek, _picnic, _gift, _errand,
)  # fmt: skip
