"""Beyond the trained length: long texts, the same weights with other angles, loss by position."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from llama_viz.checkpoints.loaded import empty_model
from llama_viz.language_model import LanguageModel
from llama_viz.training.batches import story_ids
from llama_viz.training.stories import CONTEXT, tell_story

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.config import RopeScaling
    from llama_viz.model import Llama
    from llama_viz.tokenizer import Tokenizer


def held_out_rows(tokenizer: Tokenizer, n_rows: int, length: int, *, seed: int = 0) -> Tensor:
    """Held-out stories, one after another: ids of shape (row, position).

    A row begins with a story and ends wherever its length is reached. Raises ValueError for no
    rows or no positions.
    """
    if n_rows < 1 or length < 1:
        raise ValueError(f"there must be at least 1 row and 1 position, got {n_rows} and {length}")
    rows, number = [], 0
    for _ in range(n_rows):
        ids: list[int] = []
        while len(ids) < length:
            ids += story_ids(
                tell_story(number, seed=seed, held_out=True, context=max(CONTEXT, length)).text,
                tokenizer,
            )
            number += 1
        rows.append(ids[:length])
    return torch.tensor(rows)


def with_positions(
    lm: LanguageModel,
    max_seq_len: int,
    *,
    theta: float | None = None,
    scaling: RopeScaling | None = None,
) -> LanguageModel:
    """The same weights, shared and not copied, with another context and other rotary angles.

    theta None keeps the model's own; scaling None turns by plain positions. Nothing is trained:
    what the model makes of angles that it has not met is for the reader to measure.
    """
    config = replace(
        lm.config,
        max_seq_len=max_seq_len,
        rope_theta=lm.config.rope_theta if theta is None else theta,
        rope_scaling=scaling,
    )
    model = empty_model(config)
    model.load_state_dict(lm.model.state_dict(), assign=True)
    if config.tied_embeddings:
        model.output.weight = model.embedding.weight
    model = model.requires_grad_(False).eval()
    return LanguageModel(model, lm.tokenizer, lm.name, notes=dict(lm.notes))


@torch.inference_mode()
def loss_by_position(model: Llama, ids: Tensor) -> Tensor:
    """The mean loss over the rows at each position that has a next token: (position), in nats.

    ids is (row, position); the entry at position p is the loss of the token at p + 1.
    """
    losses = torch.zeros(ids.shape[1] - 1)
    for row in ids:  # one at a time: logits of long rows are large
        logits = model(row[None, :-1].to(model.embedding.weight.device))[0].float().cpu()
        losses += F.cross_entropy(logits, row[1:], reduction="none")
    return losses / len(ids)
