"""How good a model is on stories that it has never seen: its loss, and what it recalls.

Recall is also told apart by how much there is to remember and how far back it was said: those are
the curves in which models differ whose mean is the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from llama_viz.training.batches import story_ids
from llama_viz.training.stories import CONTEXT, KINDS, MOST_FACTS, tell_story

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama_viz.model import Llama
    from llama_viz.tokenizer import Tokenizer

ROWS = 16  # stories in one pass
IGNORED = -100  # the target of padding

# What is asked of belongings. Of these, a place and a colour are said of one thing alone, so that
# the distance to where they were told is known.
FACT_KINDS = ("place", "colour", "owner")
DISTANCE_KINDS = ("place", "colour")
DISTANCE_STEP = 25  # tokens


class Answer(NamedTuple):
    """A question that was asked of a model, and whether it was answered.

    n_facts is how many facts its story tells; distance is how many tokens back the answer was last
    said, None where it was not.
    """

    kind: str
    n_facts: int
    distance: int | None
    right: bool


@dataclass(frozen=True)
class Score:
    """Loss in nats per token, and every answer that was given."""

    loss: float
    answers: tuple[Answer, ...]

    @property
    def asked(self) -> dict[str, int]:
        """How often each kind of question was asked."""
        count = Counter(answer.kind for answer in self.answers)
        return {kind: count[kind] for kind in KINDS if count[kind]}

    @property
    def right(self) -> dict[str, int]:
        """How often each kind was answered rightly."""
        count = Counter(answer.kind for answer in self.answers if answer.right)
        return {kind: count[kind] for kind in self.asked}

    @property
    def recall(self) -> dict[str, float]:
        """The share of right answers for each kind of question that was asked."""
        return {kind: self.right[kind] / asked for kind, asked in self.asked.items()}


class _Asked(NamedTuple):
    """A question in tokens: its answer stands from `first` to before `end`."""

    kind: str
    n_facts: int
    distance: int | None
    first: int
    end: int


class HeldOut:
    """Held-out stories as tokens, with the place of every answer.

    n_facts and context are those of tell_story. bound is the information in the stories' choices in
    nats per token: about the lowest loss.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n_stories: int,
        *,
        seed: int = 0,
        n_facts: int | None = None,
        context: int = CONTEXT,
    ) -> None:
        if n_stories < 1:
            raise ValueError(f"n_stories must be at least 1, got {n_stories}")
        stories = [
            tell_story(number, seed=seed, held_out=True, n_facts=n_facts, context=context)
            for number in range(n_stories)
        ]
        self.ids = [story_ids(story.text, tokenizer) for story in stories]
        self.questions: list[list[_Asked]] = []
        for story in stories:
            asked = []
            for question in story.questions:
                first = len(tokenizer.encode(question.prompt))
                end = len(tokenizer.encode(question.prompt + question.answer))
                distance = None
                if question.told is not None:
                    before = question.prompt[: question.told].removesuffix(" ")
                    distance = first - len(tokenizer.encode(before))
                asked.append(_Asked(question.kind, len(story.facts), distance, first, end))
            self.questions.append(asked)
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
        answers: list[Answer] = []
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
                for kind, n_facts, distance, first, end in self.questions[story]:
                    right = bool(hits[row, first - 1 : end - 1].all())
                    answers.append(Answer(kind, n_facts, distance, right))
        return Score(loss / n_targets, tuple(answers))


def recall_curves(
    model: Llama, tokenizer: Tokenizer, n_stories: int, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Recall over how many facts there are to hold, 1 to 8, and over the distance to the answer.

    Each number of facts gets n_stories held-out stories. Returns rows of a table: `by` is "facts"
    or "distance", `value` the number of facts or the distance's lower end in tokens, then kind,
    asked and right.
    """
    answers: list[Answer] = []
    rows: list[dict[str, Any]] = []
    for n_facts in range(1, MOST_FACTS + 1):
        score = HeldOut(tokenizer, n_stories, seed=seed, n_facts=n_facts).score(model)
        answers += score.answers
        rows += _counted("facts", n_facts, score.answers, FACT_KINDS)
    near = {
        answer: answer.distance // DISTANCE_STEP * DISTANCE_STEP
        for answer in answers
        if answer.distance is not None
    }
    for distance in sorted(set(near.values())):
        there = [answer for answer in answers if near.get(answer) == distance]
        rows += _counted("distance", distance, there, DISTANCE_KINDS)
    return rows


def _counted(
    by: str, value: int, answers: Iterable[Answer], kinds: Iterable[str]
) -> list[dict[str, Any]]:
    """A row for each kind that was asked."""
    answers = list(answers)
    rows = []
    for kind in kinds:
        given = [answer.right for answer in answers if answer.kind == kind]
        if given:
            row = {"by": by, "value": value, "kind": kind, "asked": len(given), "right": sum(given)}
            rows.append(row)
    return rows
