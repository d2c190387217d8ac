"""What a model can do at each snapshot of its training: its loss, its heads, its copying."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from llama_viz.analysis import HEAD_KINDS, head_kinds
from llama_viz.checkpoints import load
from llama_viz.recorder import intervene, record_forward
from llama_viz.training.batches import story_ids
from llama_viz.training.evaluation import DISTANCE_KINDS, FACT_KINDS, HeldOut
from llama_viz.training.stories import tell_story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from llama_viz.language_model import LanguageModel
    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.evaluation import Score

STORY = 0  # the number of the held-out story on which heads are scored
N_REPEATED = 20
SEEDS = (0, 1, 2)  # of the random tokens


class Found(NamedTuple):
    """What a model does at one moment of its training.

    loss is on held-out stories, in nats per token; recall is the share of right answers to
    questions of place, colour and owner, answer_loss their mean loss for the whole answer. heads is
    (text, kind, layer, head): head_kinds of a story and of random tokens that come twice; answers
    is (layer, head), see answer_attention. first and second are the losses on the two copies.
    """

    loss: float
    recall: float
    answer_loss: float
    heads: np.ndarray
    answers: np.ndarray
    first: float
    second: float

    def best(self, text: str, kind: str) -> float:
        """The score of the head that is most of a kind."""
        return float(self.heads[TEXTS.index(text), HEAD_KINDS.index(kind)].max())


TEXTS = ("story", "random tokens")


def repeated_ids(lm: LanguageModel, *, count: int = N_REPEATED, seed: int = 0) -> list[int]:
    """BOS, `count` different tokens in a random order, and the same tokens again.

    Nothing but the first copy tells what comes in the second (Olsson et al. 2022). Control tokens
    and single bytes are left out. Raises ValueError where the vocabulary has too few others.
    """
    tokenizer = _tokenizer(lm)
    ordinary = [
        token for token in range(tokenizer.vocab_size) if not lm.label(token).startswith("<")
    ]
    if len(ordinary) < count:
        raise ValueError(f"count must be at most {len(ordinary)}, got {count}")
    generator = torch.Generator().manual_seed(seed)
    chosen = [ordinary[i] for i in torch.randperm(len(ordinary), generator=generator)[:count]]
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [*start, *chosen, *chosen]


@torch.no_grad()
def copy_losses(
    lm: LanguageModel, edits: Mapping[str, Any] | None = None, *, seeds: Sequence[int] = SEEDS
) -> tuple[float, float]:
    """The mean loss on random tokens when they come first, and when they come again.

    The first token of the second copy is left out: nothing says that the copy begins. edits are
    those of intervene. In nats per token.
    """
    first, second = [], []
    for seed in seeds:
        ids = torch.tensor([repeated_ids(lm, seed=seed)])
        count = N_REPEATED
        with intervene(lm, dict(edits or {})):
            logits = lm.model(ids[:, :-1])[0].float()
        losses = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        first.append(losses[:-count].mean().item())
        second.append(losses[1 - count :].mean().item())
    return float(np.mean(first)), float(np.mean(second))


def find(lm: LanguageModel, held_out: HeldOut) -> Found:
    """Measure one model."""
    score = held_out.score(lm.model)
    story = story_ids(tell_story(STORY, held_out=True).text, _tokenizer(lm))
    texts = [[story], [repeated_ids(lm, seed=seed) for seed in SEEDS]]
    heads = [
        np.mean(
            [head_kinds(record_forward(lm, ids, ["attention_weights"])).values for ids in several],
            axis=0,
        )
        for several in texts
    ]
    return Found(
        score.loss, recall(score), answer_loss(lm, held_out), np.stack(heads),
        answer_attention(lm, held_out), *copy_losses(lm),
    )  # fmt: skip


def recall(score: Score) -> float:
    """The share of right answers to questions of place, colour and owner, all together."""
    return float(np.mean([answer.right for answer in score.answers if answer.kind in FACT_KINDS]))


@torch.no_grad()
def answer_loss(lm: LanguageModel, held_out: HeldOut) -> float:
    """How surprised the model is by the true answers to questions of place, colour and owner.

    -log of the probability of a whole answer, given what stands before it; the mean, in nats.
    """
    losses = []
    for ids, questions in zip(held_out.ids, held_out.questions, strict=True):
        logits = lm.model(torch.tensor([ids[:-1]]))[0].float()
        each = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        losses += [
            float(each[asked.first - 1 : asked.end - 1].sum())
            for asked in questions
            if asked.kind in FACT_KINDS
        ]
    return float(np.mean(losses))


def answer_attention(
    lm: LanguageModel, held_out: HeldOut, *, n_stories: int | None = None
) -> np.ndarray:
    """How much each head looks at the answer, from the position that must give it: (layer, head).

    The mean attention weight, over the questions of place and colour, from the position before the
    answer to where its first token was last said. Answers that begin with another token than they
    had there (a capital, a preposition) are left out. n_stories takes the first ones only.
    """
    rows = []
    for ids, questions in zip(held_out.ids[:n_stories], held_out.questions, strict=False):
        weights = record_forward(lm, ids, ["attention_weights"])["attention_weights"].values
        rows += [
            weights[:, :, asked.first - 1, asked.first - asked.distance]
            for asked in questions
            if asked.kind in DISTANCE_KINDS
            and asked.distance is not None
            and ids[asked.first - asked.distance] == ids[asked.first]
        ]
    if not rows:
        raise ValueError("these stories ask for no place and no colour; take more of them")
    return np.mean(rows, axis=0)


def along(
    snapshots: Sequence[tuple[int, str | Path]], tokenizer: Tokenizer, *, n_held_out: int = 24
) -> dict[int, Found]:
    """What each snapshot of a run does, by its step."""
    held_out = HeldOut(tokenizer, n_held_out)
    return {step: find(load(path, tokenizer=tokenizer), held_out) for step, path in snapshots}


def first_above(found: Mapping[int, float], level: float) -> int | None:
    """The first step at which a score is above a level; None where it never is."""
    return next((step for step in sorted(found) if found[step] > level), None)


def largest_move(curve: Mapping[int, float], *, since: int = 0) -> tuple[float, int, int]:
    """Between which two neighbours a curve moves most, from the step `since` on.

    Returns the share of its whole way, from the first to the last, and the steps of the two. Raises
    ValueError where there is no way: fewer than two steps, or no difference.
    """
    steps = [step for step in sorted(curve) if step >= since]
    way = abs(curve[steps[-1]] - curve[steps[0]]) if len(steps) > 1 else 0.0
    if not way:
        raise ValueError(f"the curve has no way to go from step {since} on")
    moves = [abs(curve[after] - curve[before]) for before, after in pairwise(steps)]
    most = int(np.argmax(moves))
    return moves[most] / way, steps[most], steps[most + 1]


def without_heads(heads: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Changes for intervene: these heads, each a (layer, head), hand nothing on."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def silence(silenced: list[int]) -> Callable[[torch.Tensor, object], torch.Tensor]:
        def change(value: torch.Tensor, context: object) -> torch.Tensor:
            value = value.clone()
            value[:, :, silenced] = 0  # (batch, position, head, feature)
            return value

        return change

    return {
        f"blocks.{layer}.attention.head_output": silence(silenced)
        for layer, silenced in by_layer.items()
    }


def strongest(scores: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The heads with the highest scores, as (layer, head), the highest first."""
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    return [(int(place) // scores.shape[1], int(place) % scores.shape[1]) for place in order]


def _tokenizer(lm: LanguageModel) -> Tokenizer:
    if lm.tokenizer is None:
        raise ValueError("this needs a tokenizer, and the model has none")
    return lm.tokenizer
