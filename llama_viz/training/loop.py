"""The training loop: step by step, resumable at every one."""

from __future__ import annotations

import csv
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from llama_viz.checkpoints.native import save_native
from llama_viz.files import written_whole
from llama_viz.model import Attention, Llama
from llama_viz.training.batches import batch
from llama_viz.training.evaluation import HeldOut
from llama_viz.training.stories import KINDS
from llama_viz.training.variants import build, pool_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.batches import Batch
    from llama_viz.training.corpus import Corpus
    from llama_viz.training.recipes import Recipe

Row = dict[str, float]  # one line of the table of losses

COLUMNS = (
    "step", "tokens", "seconds", "learning_rate", "train_loss", "held_out_loss",
    *(f"recall_{kind}" for kind in KINDS),
)  # fmt: skip


class Trainer:
    """A model while it is trained; `step` is how many steps it has taken.

    bfloat16 computes matrix products in half precision, compile lets PyTorch fuse the model (it
    needs a C++ compiler); neither changes what is trained, but both change its last digits. source
    is the model that a pooled recipe starts from. Rows come from the stories, or from a corpus.

    Raises ValueError where the tokenizer is not the recipe's size, or the source is missing.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        *,
        source: Llama | None = None,
        corpus: Corpus | None = None,
        bfloat16: bool = False,
        compile: bool = False,
    ) -> None:
        if tokenizer.vocab_size != recipe.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the recipe {recipe.vocab_size}"
            )
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.corpus = corpus
        self.bfloat16 = bfloat16
        self.step = 0
        self.seconds = 0.0  # spent on steps
        self.table: list[Row] = []
        self._losses: list[float] = []  # since the table's last row
        if recipe.pooling is None:
            self.model = build(recipe)
        elif source is None:
            raise ValueError(f"this recipe starts from the trained {recipe.pooled_from}: give it")
        else:
            self.model = pool_heads(source, recipe.n_kv_heads, recipe.pooling, seed=recipe.seed)
        if bfloat16:
            for module in self.model.modules():
                if isinstance(module, Attention):
                    module._attend_fused = _in_float32(module._attend_fused)  # type: ignore[method-assign]
        self._forward: Callable[..., Any] = torch.compile(self.model) if compile else self.model
        # Muon for the matrices of the blocks, AdamW for the rest (Jordan et al. 2024). In trials
        # AdamW alone took several times as many steps to find what was said earlier.
        matrices = {name for name, weight in self.model.blocks.named_parameters(prefix="blocks")
                    if weight.dim() > 1}  # fmt: skip
        named = dict(self.model.named_parameters())
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                [named[name] for name in named if name in matrices],
                lr=recipe.matrix_learning_rate,
                weight_decay=recipe.matrix_weight_decay,
                adjust_lr_fn="original",
            ),
            torch.optim.AdamW(
                [named[name] for name in named if name not in matrices],
                lr=recipe.learning_rate,
                betas=recipe.betas,
                weight_decay=0.0,
                fused=True,
            ),
        )

    def batch(self, step: int) -> Batch:
        """The rows of a step."""
        if self.corpus is not None:
            return self.corpus.batch(self.recipe, step)
        return batch(self.recipe, step, self.tokenizer)

    def advance(self) -> float:
        """Take one step and return its loss before any weighting, in nats per token."""
        began = time.perf_counter()
        ids, is_answer = self.batch(self.recipe.first_batch + self.step)
        weight = torch.where(is_answer[:, 1:].flatten(), self.recipe.weight(self.step), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self.recipe.schedule(self.step)
            optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self._forward(ids[:, :-1])
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        ((losses * weight).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._losses.append(losses.mean().item())
        self.seconds += time.perf_counter() - began
        return self._losses[-1]

    def log(self, held_out: HeldOut | None = None) -> Row:
        """Add a row to the table: the mean training loss since the last, and the score if asked."""
        row: Row = {
            "step": self.step,
            "tokens": self.recipe.tokens(self.step),
            "seconds": self.seconds,
            "learning_rate": self.recipe.learning_rate
            * self.recipe.schedule(max(self.step - 1, 0)),
        }
        if self._losses:
            row["train_loss"] = sum(self._losses) / len(self._losses)
        self._losses = []
        if held_out is not None:
            score = held_out.score(self.model)
            row["held_out_loss"] = score.loss
            row |= {f"recall_{kind}": share for kind, share in score.recall.items()}
        self.table.append(row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, and the table so far."""
        return {
            "recipe": self.recipe.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "table": self.table,
            "losses": self._losses,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raises ValueError where it belongs to another recipe."""
        theirs, ours = state["recipe"], self.recipe.to_dict()
        different = [name for name in ours if theirs.get(name) != ours[name]]
        if different:
            raise ValueError(
                "the saved run had another recipe: "
                + ", ".join(
                    f"{name} {theirs.get(name)!r}, not {ours[name]!r}" for name in different
                )
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.table, self._losses = list(state["table"]), list(state["losses"])


def train(
    trainer: Trainer,
    *,
    state: Path | None = None,
    log_every: int = 10,
    evaluate_every: int = 200,
    n_held_out: int = 100,
    save_every: int = 200,
    snapshots: Path | None = None,
    snapshot_every: int = 100,
    progress: bool = True,
    description: str = "training",
) -> None:
    """Take the recipe's remaining steps; the losses gather in trainer.table, a row per `log_every`.

    Where the file `state` exists, the run goes on from it; it is written every `save_every` steps
    and at the end. Into the folder `snapshots` goes the model itself, before the first step and
    every `snapshot_every`. An interrupt (Ctrl-C) lets the step finish, saves, and then raises
    KeyboardInterrupt.
    """
    if state is not None and state.exists():
        trainer.load_state_dict(torch.load(state, weights_only=True))
    recipe = trainer.recipe
    held_out = HeldOut(trainer.tokenizer, n_held_out, seed=recipe.seed)
    bar = tqdm(
        total=recipe.steps,
        initial=trainer.step,
        desc=description,
        unit="step",
        mininterval=0.2 if sys.stderr.isatty() else 30,  # a log file needs few lines
        disable=not progress,
    )
    with bar, _interrupt_deferred() as interrupted:
        if trainer.step == 0:  # what it starts from: a pooled model knows something already
            trainer.log(held_out)
            _snap(trainer, snapshots)
        while trainer.step < recipe.steps:
            loss = trainer.advance()
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            last = trainer.step == recipe.steps
            evaluate = last or trainer.step % evaluate_every == 0
            if evaluate or trainer.step % log_every == 0:
                row = trainer.log(held_out if evaluate else None)
                if evaluate and progress:
                    bar.write(_summary(row))
            if state is not None and (last or interrupted() or trainer.step % save_every == 0):
                state.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(state) as unfinished:
                    torch.save(trainer.state_dict(), unfinished)
            if last or trainer.step % snapshot_every == 0:
                _snap(trainer, snapshots)
            if interrupted():
                raise KeyboardInterrupt


def write_table(table: list[Row], path: Path) -> None:
    """Write the table of losses as CSV; where no score was taken its columns are empty."""
    with written_whole(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


def _snap(trainer: Trainer, snapshots: Path | None) -> None:
    if snapshots is not None:
        snapshots.mkdir(parents=True, exist_ok=True)
        path = snapshots / f"{trainer.step:06d}.safetensors"
        save_native(trainer.model, path, dtype=torch.float16)


def _in_float32(attend: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Keep attention out of autocast: on CPUs its backward pass is slower in half precision."""

    def attend_in_float32(*tensors: torch.Tensor, **rest: Any) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            wide = (
                tensor.float() if tensor is not None and tensor.is_floating_point() else tensor
                for tensor in tensors
            )  # fmt: skip
            return attend(*wide, **rest)

    return attend_in_float32


def _summary(row: Row) -> str:
    recall = ", ".join(
        f"{name.removeprefix('recall_')} {value:.0%}"
        for name, value in row.items()
        if name.startswith("recall_")
    )
    return (
        f"step {row['step']:,.0f}: training loss {row['train_loss']:.3f}, "
        f"held-out loss {row['held_out_loss']:.3f}; recall: {recall}"
    )


@contextmanager
def _interrupt_deferred() -> Iterator[Callable[[], bool]]:
    """Within the block an interrupt is only noted, so that no step is left half-done.

    Gives a function that says whether one came. Signals can be caught in the main thread only.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    previous = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
