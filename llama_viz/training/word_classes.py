"""The words of the stories by what they name: names, places, colours, objects, animals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_viz.tokenizer import SPACE
from llama_viz.training.words import ANIMALS, CHILDREN, COLOURS, OBJECTS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama_viz.tokenizer import Tokenizer


def words_by_class() -> dict[str, list[str]]:
    """Every word of these classes; one that belongs to two stands in the first."""
    places = [place for stands in SETTINGS.values() for place in stands]
    prepositions = [
        word for stands in SETTINGS.values() for words in stands.values() for word in words.split()
    ]
    classes: dict[str, Iterable[str]] = {
        "girls": (child.name for child in CHILDREN if child.child == "girl"),
        "boys": (child.name for child in CHILDREN if child.child == "boy"),
        "places": places,
        "colours": COLOURS,
        "objects": OBJECTS,
        "animals": (animal for pair in ANIMALS for animal in pair),
        "prepositions": prepositions,
    }
    taken: set[str] = set()
    by_class: dict[str, list[str]] = {}
    for name, words in classes.items():
        by_class[name] = [word for word in dict.fromkeys(words) if word not in taken]
        taken.update(by_class[name])
    return by_class


def tokens_by_class(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The token ids of those words that are one token, with the space before them, by class.

    Classes of which no word is one token are left out.
    """
    ids = {tokenizer.piece(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    by_class = {
        name: [ids[SPACE + word] for word in words if SPACE + word in ids]
        for name, words in words_by_class().items()
    }
    return {name: found for name, found in by_class.items() if found}
