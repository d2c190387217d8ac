"""How good a model is on stories that it has never seen: its loss, and what it recalls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from llama_viz.training.batches import story_ids
from llama_viz.training.stories import KINDS, tell_story

if TYPE_CHECKING:
    from llama_viz.model import Llama
    from llama_viz.tokenizer import Tokenizer

ROWS = 16  # stories in one pass
IGNORED = -100  # the target of padding


@dataclass(frozen=True)
class Score:
    """Loss in nats per token, and for each kind of question the answers given and those right."""

    loss: float
    asked: dict[str, int]
    right: dict[str, int]

    @property
    def recall(self) -> dict[str, float]:
        """The share of right answers for each kind of question that was asked."""
        return {kind: self.right[kind] / self.asked[kind] for kind in KINDS if kind in self.asked}


class HeldOut:
    """Held-out stories as tokens, with the place of every answer.

    bound is the information in the stories' choices in nats per token: about the lowest loss.
    """

    def __init__(self, tokenizer: Tokenizer, n_stories: int, *, seed: int = 0) -> None:
        if n_stories < 1:
            raise ValueError(f"n_stories must be at least 1, got {n_stories}")
        stories = [tell_story(number, seed=seed, held_out=True) for number in range(n_stories)]
        self.ids = [story_ids(story.text, tokenizer) for story in stories]
        self.answers = [  # for each story: kind, first token of the answer, first token after it
            [
                (
                    question.kind,
                    len(tokenizer.encode(question.prompt)),
                    len(tokenizer.encode(f"{question.prompt} {question.answer}")),
                )
                for question in story.questions
            ]
            for story in stories
        ]
        n_targets = sum(len(ids) - 1 for ids in self.ids)
        self.bound = sum(story.nats for story in stories) / n_targets

    @torch.no_grad()
    def score(self, model: Llama) -> Score:
        """Continue every story greedily where an answer is due, and measure the loss everywhere.

        An answer is right when each of its tokens is the model's first choice, given those before.

        Raises ValueError where a story is longer than the model's context.
        """
        longest = max(len(ids) for ids in self.ids) - 1
        if longest > model.config.max_seq_len:
            raise ValueError(
                f"a held-out story of {longest} tokens does not fit the model's context of "
                f"{model.config.max_seq_len}"
            )
        device = next(model.parameters()).device
        asked: Counter[str] = Counter()
        right: Counter[str] = Counter()
        loss, n_targets = 0.0, 0
        order = sorted(range(len(self.ids)), key=lambda story: len(self.ids[story]))
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            width = max(len(self.ids[story]) for story in chosen) - 1
            ids = torch.zeros(len(chosen), width, dtype=torch.long)
            targets = torch.full((len(chosen), width), IGNORED)
            for row, story in enumerate(chosen):
                tokens = torch.tensor(self.ids[story])
                ids[row, : len(tokens) - 1] = tokens[:-1]
                targets[row, : len(tokens) - 1] = tokens[1:]
            logits = model(ids.to(device)).float().cpu()
            loss += F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
            n_targets += int((targets != IGNORED).sum())
            hits = logits.argmax(dim=-1) == targets
            for row, story in enumerate(chosen):
                for kind, first, end in self.answers[story]:
                    asked[kind] += 1
                    right[kind] += bool(hits[row, first - 1 : end - 1].all())
        return Score(loss / n_targets, dict(asked), {kind: right[kind] for kind in asked})
