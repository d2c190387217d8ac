"""Does a story keep to itself? Names, pronouns and colours, checked by program in any text.

Written for texts that a model generated, in the words of the stories; it needs no knowledge of how
a text came about. The generator's own stories pass, all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llama_viz.training.words import CHILDREN, COLOURS, GROWN_UPS, OBJECTS, Character

_CHILDREN = {child.name: child for child in CHILDREN}
_PEOPLE = {person.name: person for person in (*CHILDREN, *GROWN_UPS)}


def _one_of(words: object) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(words)})\b")  # type: ignore[arg-type]


_CHILD = _one_of(_CHILDREN)
_PERSON = _one_of(_PEOPLE)
_OBJECT = _one_of(OBJECTS)
_COLOUR = _one_of(COLOURS)
_COLOURED = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(OBJECTS)})\b")
_PRONOUN = re.compile(r"\b([Hh]e|[Hh]is|[Hh]im|[Ss]he|[Hh]er)\b")
_SENTENCE = re.compile(r'[^.!?]+[.!?]+"?')

# The children of a story are named in its first two sentences.
OPENING = 2


@dataclass(frozen=True)
class Consistency:
    """What a story keeps from beginning to end, and the first thing that it does not.

    names: no child appears who was not there in the opening. pronouns: he and she agree with the
    one person of the sentence, or of the story. colours: no object changes its colour, and no
    answer names a colour that was not told.
    """

    names: bool
    pronouns: bool
    colours: bool
    problem: str = ""

    @property
    def all(self) -> bool:
        return self.names and self.pronouns and self.colours


def check(text: str) -> Consistency:
    """Check a whole story, its prompt included.

    Raises ValueError where no child is named in its opening: nobody could be kept.
    """
    problems = {
        "names": _stranger(text),
        "pronouns": _wrong_pronoun(text),
        "colours": _wrong_colour(text),
    }
    first = next(filter(None, problems.values()), "")
    return Consistency(**{name: not found for name, found in problems.items()}, problem=first)


def _stranger(text: str) -> str:
    """A child who was not in the opening."""
    sentences = [match[0] for match in _SENTENCE.finditer(text)]
    there = set(_CHILD.findall(" ".join(sentences[:OPENING])))
    if not there:
        raise ValueError(f"the opening names none of the stories' children: {text[:60]!r}")
    late = [name for name in _CHILD.findall(text) if name not in there]
    return f"{late[0]} was not there in the beginning" if late else ""


def _wrong_pronoun(text: str) -> str:
    """A pronoun that agrees with nobody whom it can mean.

    It means the person of its sentence where there is one alone, else the last one before it. Two
    people of both kinds leave it open, and it is not judged.
    """
    everybody = {_PEOPLE[name].child for name in _CHILD.findall(text)}
    before: list[Character] = []
    for sentence in (match[0] for match in _SENTENCE.finditer(text)):
        here = [_PEOPLE[name] for name in _PERSON.findall(sentence)]
        meant = {person.child for person in here} or {person.child for person in before[-1:]}
        if len(everybody) == 1:
            meant = meant & everybody or everybody
        if len(meant) == 1:
            he = "he" if meant == {"boy"} else "she"
            for pronoun in _PRONOUN.findall(sentence):
                if (pronoun.lower() in ("he", "his", "him")) != (he == "he"):
                    return f"{pronoun!r} in {sentence.strip()!r}"
        before += here
    return ""


def _wrong_colour(text: str) -> str:
    """An object of two colours, or an answer with a colour that nothing has."""
    told: dict[str, str] = {}
    for match in re.finditer(
        rf"{_COLOURED.pattern}|\b(?P<plain>{'|'.join(OBJECTS)})\. It was (?P<later>"
        rf"{'|'.join(COLOURS)})\b",
        text,
    ):
        thing = match["plain"] or match[2]
        colour = match["later"] or match[1]
        if told.setdefault(thing, colour) != colour:
            return f"the {thing} was {told[thing]}, then {colour}"
    last = None  # the object that was spoken of
    for word in re.finditer(rf"\b({'|'.join((*OBJECTS, *COLOURS))})\b", text):
        if word[0] in OBJECTS:
            last = word[0]
        elif last in told and not _belongs_to_next(text, word.end()) and told[last] != word[0]:
            return f"the {last} was {told[last]}, but {word[0]} is said of it"
    return ""


def _belongs_to_next(text: str, end: int) -> bool:
    """Whether an object follows a colour at once: then the colour is that object's."""
    return bool(re.match(rf" ({'|'.join(OBJECTS)})\b", text[end:]))
