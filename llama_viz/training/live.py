"""A small training run to look on at: one step at a time, with its losses, heads and texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llama_viz.analysis import HEAD_KINDS, head_kinds
from llama_viz.checkpoints import load
from llama_viz.generation import generate
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import record_forward
from llama_viz.training.batches import story_ids
from llama_viz.training.corpus import all_alike, frequency_loss
from llama_viz.training.emergence import answer_attention
from llama_viz.training.evaluation import HeldOut
from llama_viz.training.loop import Trainer
from llama_viz.training.recipes import Recipe
from llama_viz.training.stories import tell_story

if TYPE_CHECKING:
    from llama_viz.training.corpus import Corpus

# Small enough for a thousand steps in half a minute on one core.
LIVE = Recipe(
    n_kv_heads=2, n_layers=2, n_heads=4, dim=64, hidden_dim=176, steps=600, rows=4, row_length=128,
    warmup_steps=20, answer_weight=1.0,
)  # fmt: skip

PROMPT = "Once there was"
NEW_TOKENS = 24
TEMPERATURE = 0.7
MEASURED_EVERY = 20
N_HELD_OUT = 12
N_ASKED = 6  # stories whose questions are watched
N_COUNTED = 200  # stories whose tokens are counted


@dataclass
class Course:
    """What a run has come to so far: everything by step, losses in nats per token.

    train is the mean loss of the steps since the last measurement, heads the score of the best head
    of each kind on a held-out text (see analysis.head_kinds; on stories also "answer", see
    emergence.answer_attention), texts what the model writes after the
    prompt. references are losses to compare with, by name.
    """

    name: str
    steps: int
    prompt: str
    references: dict[str, float]
    train: dict[int, float] = field(default_factory=dict)
    held_out: dict[int, float] = field(default_factory=dict)
    heads: dict[str, dict[int, float]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Course:
        """From plain values, also from JSON, whose keys are texts."""

        def by_step(values: dict[Any, Any]) -> dict[int, Any]:
            return {int(step): value for step, value in values.items()}

        return cls(
            name=stored["name"], steps=stored["steps"], prompt=stored["prompt"],
            references=dict(stored["references"]), train=by_step(stored["train"]),
            held_out=by_step(stored["held_out"]),
            heads={kind: by_step(scores) for kind, scores in stored["heads"].items()},
            texts=by_step(stored["texts"]),
        )  # fmt: skip


class LiveRun:
    """A small model while it is trained, step by step; `course` is what was measured so far.

    It learns from the project's stories, or from a corpus. recipe gives its sizes and steps (a
    corpus brings its own number of tokens along). Every `measured_every` steps it is scored on what
    it does not learn from, and writes on from the prompt. `lm` is the model, which can be used like
    any other between two steps.

    Raises ValueError for a corpus that is too short for the recipe's rows.
    """

    def __init__(
        self,
        corpus: Corpus | None = None,
        recipe: Recipe = LIVE,
        *,
        prompt: str = PROMPT,
        measured_every: int = MEASURED_EVERY,
        new_tokens: int = NEW_TOKENS,
    ) -> None:
        if measured_every < 1:
            raise ValueError(f"measured_every must be at least 1, got {measured_every}")
        self.corpus, self.prompt = corpus, prompt
        self.measured_every, self.new_tokens = measured_every, new_tokens
        if corpus is None:
            tokenizer = load("gqa").tokenizer
            assert tokenizer is not None  # an embedded model has one
            held_out = HeldOut(tokenizer, N_HELD_OUT, seed=recipe.seed)
            self.name, self._held_out = "stories", held_out
            counted = [
                torch.tensor(story_ids(tell_story(number, seed=recipe.seed).text, tokenizer)[1:])
                for number in range(N_COUNTED)
            ]
            asked = torch.cat([torch.tensor(ids[1:]) for ids in held_out.ids])
            by_frequency = frequency_loss(torch.cat(counted), asked, tokenizer.vocab_size)
            self._text = held_out.ids[0]
            references = {"the stories' choices": held_out.bound}
        else:
            tokenizer = corpus.tokenizer
            recipe = replace(recipe, vocab_size=tokenizer.vocab_size)
            corpus.check_rows(recipe.row_length)
            self.name, by_frequency, references = corpus.name, corpus.by_frequency(), {}
            assert tokenizer.bos_id is not None
            self._text = [tokenizer.bos_id, *corpus.held_out[: recipe.row_length - 1].tolist()]
        self.recipe, self.tokenizer = recipe, tokenizer
        self._references = {
            "all tokens alike": all_alike(tokenizer.vocab_size),
            "how frequent each is": by_frequency,
            **references,
        }
        self.restart()

    def restart(self) -> None:
        """Throw the model away and begin anew, from the same fresh weights."""
        self.trainer = Trainer(self.recipe, self.tokenizer, corpus=self.corpus)
        self.lm = LanguageModel(self.trainer.model, self.tokenizer, name="live")
        self.course = Course(self.name, self.recipe.steps, self.prompt, dict(self._references))
        self._measure()

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return self.trainer.step

    @property
    def done(self) -> bool:
        """Whether the recipe's steps are all taken."""
        return self.step >= self.recipe.steps

    def advance(self) -> bool:
        """Take one step; True where it was measured after it."""
        with torch.enable_grad():  # a reader may have switched it off
            self.trainer.advance()
        is_due = self.done or self.step % self.measured_every == 0
        if is_due:
            self._measure()
        return is_due

    def train(self, steps: int | None = None) -> Course:
        """Take so many steps, or all that are left, at once; returns the course."""
        last = self.recipe.steps if steps is None else min(self.step + steps, self.recipe.steps)
        while self.step < last:
            self.advance()
        return self.course

    def _measure(self) -> None:
        step, course = self.step, self.course
        row = self.trainer.log()
        if "train_loss" in row:
            course.train[step] = row["train_loss"]
        course.held_out[step] = self._held_out_loss()
        scores = head_kinds(record_forward(self.lm, self._text, ["attention_weights"]))
        for kind in HEAD_KINDS:
            best = scores.sel(kind=kind).values
            if np.isfinite(best).all():  # no token comes again in some short texts
                course.heads.setdefault(kind, {})[step] = float(best.max())
        if self.corpus is None:
            looks = answer_attention(self.lm, self._held_out, n_stories=N_ASKED)
            course.heads.setdefault("answer", {})[step] = float(looks.max())
        course.texts[step] = generate(
            self.lm, self.prompt, self.new_tokens, temperature=TEMPERATURE, seed=self.recipe.seed
        ).text

    def _held_out_loss(self) -> float:
        if self.corpus is not None:
            return self.corpus.held_out_loss(self.lm.model, self.recipe.row_length)
        return self._held_out.score(self.lm.model).loss
