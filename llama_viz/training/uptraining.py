"""Uptraining, small and live: pooled heads, trained on for a few steps while one looks on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama_viz.training.evaluation import HeldOut
from llama_viz.training.loop import Trainer
from llama_viz.training.recipes import GROUPS
from llama_viz.training.variants import POOLINGS, pool_heads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llama_viz.language_model import LanguageModel
    from llama_viz.tokenizer import Tokenizer

Courses = dict[str, dict[int, float]]  # held-out loss by step, of each way to pool


def losses_after_pooling(
    lm: LanguageModel, numbers: Sequence[int] = (2, 1), *, n_held_out: int = 100
) -> dict[str, float]:
    """The held-out loss right after pooling an MHA model's key/value heads, with no training.

    In nats per token, for each number of heads that is left and each way to pool: "2 heads, mean".
    """
    held_out = HeldOut(_tokenizer(lm), n_held_out)
    return {
        _named(number, pooling): held_out.score(pool_heads(lm.model, number, pooling)).loss
        for number in numbers
        for pooling in POOLINGS
    }


def held_out_loss(lm: LanguageModel, *, n_held_out: int = 100) -> float:
    """The held-out loss of a model on the same stories, in nats per token."""
    return HeldOut(_tokenizer(lm), n_held_out).score(lm.model).loss


def uptrain(
    lm: LanguageModel,
    n_kv_heads: int = 1,
    poolings: Sequence[str] = POOLINGS,
    *,
    steps: int = 12,
    rows: int = 4,
    row_length: int = 128,
    evaluate_every: int = 4,
    n_held_out: int = 12,
) -> Iterator[Courses]:
    """Pool an MHA model's heads in several ways and train each on; yields the courses so far.

    The ways take turns, so that all curves grow together. The recipe is that of the stored runs,
    with fewer steps, shorter rows, and a rate that reaches its height at once. The loss is on
    held-out stories.
    """
    stored = GROUPS["uptraining"]["mqa-mean"]
    recipes = {
        pooling: replace(
            stored, n_kv_heads=n_kv_heads, pooling=pooling, steps=steps, rows=rows,
            row_length=row_length, warmup_steps=1, answer_weight=1.0,
        )
        for pooling in poolings
    }  # fmt: skip
    held_out = HeldOut(_tokenizer(lm), n_held_out)
    trainers = {
        _named(n_kv_heads, pooling): Trainer(recipe, _tokenizer(lm), source=lm.model)
        for pooling, recipe in recipes.items()
    }
    courses: Courses = {
        name: {0: held_out.score(trainer.model).loss} for name, trainer in trainers.items()
    }
    yield courses
    while any(trainer.step < steps for trainer in trainers.values()):
        for name, trainer in trainers.items():
            for _ in range(min(evaluate_every, steps - trainer.step)):
                trainer.advance()
            courses[name][trainer.step] = held_out.score(trainer.model).loss
            yield courses


def _named(n_kv_heads: int, pooling: str) -> str:
    return f"{n_kv_heads} head{'' if n_kv_heads == 1 else 's'}, {pooling}"


def _tokenizer(lm: LanguageModel) -> Tokenizer:
    if lm.tokenizer is None:
        raise ValueError("held-out stories need a tokenizer, and this model has none")
    return lm.tokenizer
