"""What a model sees while it is trained: rows of tokens, decided by seed and step alone."""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch

from llama_viz.training.recipes import REHEARSAL_LENGTH
from llama_viz.training.stories import tell_story

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.recipes import Recipe
    from llama_viz.training.stories import Story


# Rehearsal: how many different tokens are repeated, and the first piece that is neither a control
# token nor a byte.
REPEATED = (8, 24)
FIRST_PIECE = 259


class Batch(NamedTuple):
    """The rows of one step, both (row, position) and one longer than a row: the last is a target.

    is_answer is True where the token belongs to the answer of a story's question.
    """

    ids: Tensor
    is_answer: Tensor


def story_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a whole story: BOS, its text, EOS."""
    assert tokenizer.eos_id is not None
    return [*tokenizer.encode(text), tokenizer.eos_id]


def answer_mask(story: Story, ids: list[int], tokenizer: Tokenizer) -> list[bool]:
    """For each token of a whole story, whether it belongs to an answer.

    Tokens are found by counting characters: a story is written in pieces, none of them bytes.
    """
    # The first piece begins with the space that SentencePiece puts in front.
    letters = _letters(tokenizer)
    lengths = [letters[token_id] for token_id in ids[1:-1]]
    ends = [end - 1 for end in accumulate(lengths)]
    mask = [False] * len(ids)
    place = 0
    for question in story.questions:
        start, stop = len(question.prompt), len(question.prompt) + len(question.answer)
        while ends[place] <= start:
            place += 1
        while place < len(ends) and ends[place] - lengths[place] < stop:
            mask[1 + place] = True
            place += 1
    return mask


@lru_cache(maxsize=4)
def _letters(tokenizer: Tokenizer) -> list[int]:
    """How many characters each token stands for."""
    return [len(tokenizer.label(token_id)) for token_id in range(tokenizer.vocab_size)]


def nonsense(seed: str, length: int, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """BOS and some tokens drawn at random, over and over; whether each is a repeat."""
    chance = random.Random(f"nonsense {seed}")
    drawn = chance.sample(range(FIRST_PIECE, tokenizer.vocab_size), chance.randint(*REPEATED))
    assert tokenizer.bos_id is not None
    ids = [tokenizer.bos_id] + drawn * (length // len(drawn) + 1)
    is_repeat = [False] * (1 + len(drawn)) + [True] * length
    return ids[:length], is_repeat[:length]


def batch(recipe: Recipe, step: int, tokenizer: Tokenizer) -> Batch:
    """The rows of one step.

    A row is story after story, from the first one's beginning to wherever the row ends. A row that
    began inside a story would ask for what nobody said, and teach the model not to look back.
    Rehearsal's rows are nonsense, short ones where they are alone.
    """
    seed = f"{recipe.seed} {step}"
    if step < recipe.rehearsal_steps:
        pairs = [
            nonsense(f"{seed} {row}", REHEARSAL_LENGTH + 1, tokenizer)
            for row in range(recipe.short_rows)
        ]
        return Batch(*(torch.tensor(part) for part in zip(*pairs, strict=True)))
    rows, masks = [], []
    for row in range(recipe.rehearsal_rows):
        rows.append(nonsense(f"{seed} {row}", recipe.row_length + 1, tokenizer)[0])
        masks.append([False] * len(rows[-1]))  # it goes on beside the stories, it does not lead
    for row in range(recipe.rehearsal_rows, recipe.rows):
        first = (step * recipe.rows + row) * (recipe.row_length + 1)  # a story has a token at least
        ids: list[int] = []
        mask: list[bool] = []
        number = first
        while len(ids) <= recipe.row_length:
            story = tell_story(number, seed=recipe.seed)
            added = story_ids(story.text, tokenizer)
            ids += added
            mask += answer_mask(story, added, tokenizer)
            number += 1
        rows.append(ids[: recipe.row_length + 1])
        masks.append(mask[: recipe.row_length + 1])
    return Batch(torch.tensor(rows), torch.tensor(masks))
