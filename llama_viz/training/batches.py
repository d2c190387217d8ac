"""What a model sees while it is trained: rows of tokens, decided by seed and step alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama_viz.training.stories import tell_story

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.recipes import Recipe


def story_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a whole story: BOS, its text, EOS."""
    assert tokenizer.eos_id is not None
    return [*tokenizer.encode(text), tokenizer.eos_id]


def batch(recipe: Recipe, step: int, tokenizer: Tokenizer) -> Tensor:
    """The ids of one step, (row, position), one more than the row length: the last is a target.

    A row is story after story, from the first one's beginning to wherever the row ends. A row that
    began inside a story would ask for what nobody said, and teach the model not to look back.
    """
    rows = []
    for row in range(recipe.rows):
        first = (step * recipe.rows + row) * (recipe.row_length + 1)  # a story has a token at least
        ids: list[int] = []
        number = first
        while len(ids) <= recipe.row_length:
            ids += story_ids(tell_story(number, seed=recipe.seed).text, tokenizer)
            number += 1
        rows.append(ids[: recipe.row_length + 1])
    return torch.tensor(rows)
