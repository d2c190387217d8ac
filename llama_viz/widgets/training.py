"""The training explorer: snapshots of a training run on a slider; losses, heads and text emerge."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from llama_viz import figures
from llama_viz.analysis import HEAD_KINDS, head_kinds
from llama_viz.checkpoints import TOKENIZER_NAMES, load
from llama_viz.errors import CheckpointError, collected_warnings
from llama_viz.files import data_folder
from llama_viz.generation import generate
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import record_forward
from llama_viz.widgets.explorer import Choice, Explorer
from llama_viz.widgets.packing import as_bytes
from llama_viz.widgets.readings import candidates, described, prompt_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from llama_viz.config import ModelConfig
    from llama_viz.tokenizer import Tokenizer
    from llama_viz.widgets.packing import Packed
    from llama_viz.widgets.readings import Candidates

# What an induction head can be seen on: a beginning that comes again.
PROMPT = "Once there was a girl named Lily. Lily had a red ball. Once there was a girl named"
NEW_TOKENS = 40
N_CANDIDATES = 8
LOSS_COLUMNS = ("train_loss", "held_out_loss")
RECALL = "recall_"

Losses = dict[str, list[float | None]]  # columns by name; None where nothing was measured


@dataclass(frozen=True)
class Reading:
    """What one snapshot does with the prompt.

    attention is (layer, head, query, key), kinds (kind, layer, head); tokens are the continuation.
    """

    attention: np.ndarray
    kinds: np.ndarray
    likely: Candidates
    loss: dict[str, Any] | None
    text: str
    tokens: list[dict[str, Any]]


class TrainingExplorer(Explorer):
    """Move through the snapshots of a training run: losses, kinds of heads, attention, text.

    snapshots are pairs (step, checkpoint), each checkpoint a path or a loaded model of one size;
    None are those of the project's own run (see training_snapshots). losses is a CSV file with the
    column step and any of train_loss, held_out_loss and recall_...; None shows no curves, except
    for the project's own run. tokenizer is a path or a Tokenizer for snapshots that have none
    beside them; the folder above theirs is looked into as well.

    A snapshot is read when it is first shown: one pass over the prompt, the same ids for all, and
    a short continuation, the likeliest token each time. A saved page holds all of them.

    Raises ValueError for no snapshots, steps out of order, models that differ in size, and losses
    that cannot be read; CheckpointError for files that cannot be loaded.
    """

    page, title = "training", "A training run"

    def __init__(
        self,
        snapshots: Sequence[tuple[int, str | Path | LanguageModel]] | None = None,
        losses: str | Path | None = None,
        *,
        prompt: str | Sequence[int] | None = None,
        tokenizer: str | Path | Tokenizer | None = None,
        max_new_tokens: int = NEW_TOKENS,
        **state: Any,
    ) -> None:
        if snapshots is None:
            snapshots = training_snapshots()
            own = data_folder() / "training" / "losses" / "gqa-seed0.csv"
            losses = own if losses is None and own.is_file() else losses
        self.snapshots = _in_order(snapshots)
        self.losses = {} if losses is None else read_losses(losses)
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._readings: dict[int, Reading] = {}
        last = self._open(len(self.snapshots) - 1)
        self.config: ModelConfig = last.config
        self.prompt_ids = last.prompt_ids(PROMPT if prompt is None else prompt)
        self.tokens = described(self.prompt_ids, [last.label(i) for i in self.prompt_ids])
        strongest = np.nan_to_num(self.reading(len(self.snapshots) - 1).kinds[-1]).argmax()
        self._first_head = divmod(int(strongest), self.config.n_heads)
        super().__init__(**state)

    # For the reader

    @property
    def steps(self) -> list[int]:
        """The steps that the snapshots were taken at."""
        return [step for step, _ in self.snapshots]

    def reading(self, number: int) -> Reading:
        """What a snapshot does with the prompt; read once."""
        if number not in self._readings:
            self._readings[number] = self._read(number)
        return self._readings[number]

    def read_all(self) -> None:
        """Read every snapshot now, so that the picture shows all of them."""
        for number in range(len(self.snapshots)):
            self.reading(number)
        self.refresh()

    @property
    def kinds(self) -> xr.DataArray:
        """The scores of head kinds of the snapshots read so far: (step, kind, layer, head)."""
        return self._kinds_of(sorted(self._readings))

    # What the base asks for

    def fields(self) -> dict[str, Choice]:
        """What can be picked: a snapshot, a head, a position, the kind of head that is scored."""
        last = len(self.snapshots) - 1
        layer, head = self._first_head
        return {
            "snapshot": Choice(range(last + 1), last),
            "layer": Choice(range(self.config.n_layers), layer),
            "head": Choice(range(self.config.n_heads), head),
            "position": Choice(range(len(self.prompt_ids)), len(self.prompt_ids) - 1),
            "kind": Choice(HEAD_KINDS, HEAD_KINDS[-1]),
            "log_steps": Choice((False, True), True),
        }

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """The losses, the prompt, and the snapshots read so far; for a saved page, all of them."""
        readings: list[dict[str, Any] | None] = []
        arrays: dict[str, np.ndarray | Packed] = {}
        for number in range(len(self.snapshots)):
            if whole or number in self._readings:
                header, own = self.answer_snapshot(number)
                readings.append(header)
                arrays |= {f"{name} {number}": array for name, array in own.items()}
            else:
                readings.append(None)
        return {
            "steps": self.steps,
            "losses": self.losses,
            "tokens": self.tokens,
            "kinds": list(HEAD_KINDS),
            "n_layers": self.config.n_layers,
            "n_heads": self.config.n_heads,
            "kind": self.config.attention_kind,
            "readings": readings,
        }, arrays

    def answer_snapshot(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """What a snapshot does with the prompt; the first time, its model is run."""
        reading = self.reading(number)
        header = {
            "loss": reading.loss,
            "tokens": reading.tokens,
            "candidates": reading.likely.labels,
        }
        return header, {
            "attention": as_bytes(reading.attention),
            "kinds": reading.kinds.astype(np.float32),
            "candidate_id": reading.likely.ids,
            "candidate_probability": reading.likely.probabilities.astype(np.float32),
        }

    def picture(self) -> Figure:
        """Losses, scores of the chosen kind of head, and text, of the snapshots read so far."""
        numbers = sorted(self._readings)
        kind = self.state["kind"]
        return figures.training_run(
            self.losses,
            self._kinds_of(numbers).sel(kind=kind),
            [self._readings[number].text for number in numbers],
            step=self.steps[self.state["snapshot"]],
            head=(self.state["layer"], self.state["head"]),
        )

    def describe(self) -> str:
        """The run in words: its losses, and what the snapshot in view writes."""
        number = self.state["snapshot"]
        steps = self.steps
        lines = [f"Training explorer: {len(steps)} snapshots, step {steps[0]} to {steps[-1]}."]
        for name in LOSS_COLUMNS:
            known = [value for value in self.losses.get(name, []) if value is not None]
            if known:
                lines.append(f"{_words(name)}: from {known[0]:.2f} to {known[-1]:.2f} nats.")
        if number in self._readings:
            lines.append(f"Step {steps[number]} writes: {self._readings[number].text!r}")
        return "\n".join(lines)

    # Reading snapshots

    def _open(self, number: int) -> LanguageModel:
        """The model of a snapshot; it is kept no longer than it is read."""
        source = self.snapshots[number][1]
        if isinstance(source, LanguageModel):
            return source
        path = Path(source).expanduser()
        return load(path, tokenizer=self._tokenizer or _tokenizer_above(path))

    def _kinds_of(self, numbers: list[int]) -> xr.DataArray:
        """The scores of head kinds of snapshots that were read: (step, kind, layer, head)."""
        return xr.DataArray(
            np.stack([self._readings[number].kinds for number in numbers]),
            {"step": [self.steps[number] for number in numbers], "kind": list(HEAD_KINDS)},
            ("step", "kind", "layer", "head"),
            "head_kinds",
        )

    def _read(self, number: int) -> Reading:
        lm = self._open(number)
        mine, theirs = _sizes(self.config), _sizes(lm.config)
        if mine != theirs:
            raise ValueError(
                f"the snapshot of step {self.steps[number]} has {_in_words(theirs)}, the last one "
                f"{_in_words(mine)}: give snapshots of one run"
            )
        trace = record_forward(lm, self.prompt_ids, ["attention_weights", "logits"])
        likely = candidates(trace, N_CANDIDATES)
        assert likely is not None  # the logits were recorded
        new_ids, text = self._continuation(lm)
        return Reading(
            trace["attention_weights"].values,
            head_kinds(trace).values,
            likely,
            prompt_loss(trace),
            text,
            described(new_ids, [lm.label(i) for i in new_ids]),
        )

    def _continuation(self, lm: LanguageModel) -> tuple[list[int], str]:
        with collected_warnings():  # a full context is no news here: the text is short
            written = generate(lm, self.prompt_ids, self._max_new_tokens)
        return written.new_ids, written.text or " ".join(map(lm.label, written.new_ids))


def training_snapshots(name: str = "gqa", data: str | Path | None = None) -> list[tuple[int, Path]]:
    """The stored snapshots of a training run, as pairs (step, path) in the order of their steps.

    They are <name>-<step>.safetensors in the folder snapshots of the data folder (None: the
    project's own). Raises CheckpointError where there are none.
    """
    folder = (data_folder() if data is None else Path(data).expanduser()) / "snapshots"
    found = [
        (int(step), path)
        for path in folder.glob(f"{name}-*.safetensors")
        if (step := path.stem.removeprefix(f"{name}-")).isdecimal()
    ]
    if not found:
        raise CheckpointError(
            f"{folder}: holds no snapshots named {name}-<step>.safetensors; give snapshots=, pairs "
            "of a step and a checkpoint"
        )
    return sorted(found)


def read_losses(path: str | Path) -> Losses:
    """The table of losses of a run: step, and what is there of the losses and recalls.

    Raises ValueError, with the line, for a table that cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: there is no such table of losses")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = [
            name for name in reader.fieldnames or []
            if name == "step" or name in LOSS_COLUMNS or name.startswith(RECALL)
        ]  # fmt: skip
        if "step" not in names or len(names) < 2:
            raise ValueError(
                f"{path}: has the columns {', '.join(reader.fieldnames or []) or 'of nothing'}; "
                f"expected step and any of {', '.join(LOSS_COLUMNS)}, {RECALL}..."
            )
        losses: Losses = {name: [] for name in names}
        for row in reader:
            for name in names:
                losses[name].append(_number(path, reader.line_num, name, row[name]))
    if not losses["step"]:
        raise ValueError(f"{path}: the table of losses is empty")
    return losses


def _number(path: Path, line: int, name: str, text: str | None) -> float | None:
    """A cell of the table; None where it is empty, or no finite number was measured."""
    if not text:
        if name == "step":
            raise ValueError(f"{path}, line {line}: there is no step")
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{path}, line {line}: {name} is {text!r}, expected a number") from None
    return value if np.isfinite(value) else None


def _in_order(
    snapshots: Sequence[tuple[int, str | Path | LanguageModel]],
) -> list[tuple[int, str | Path | LanguageModel]]:
    """The snapshots, checked: whole steps that grow, each with a checkpoint."""
    pairs = list(snapshots)
    if not pairs:
        raise ValueError("give at least one snapshot: pairs of a step and a checkpoint")
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], int):
            raise ValueError(f"a snapshot is a pair of a step and a checkpoint, got {pair!r}")
    steps = [step for step, _ in pairs]
    if steps != sorted(set(steps)) or steps[0] < 0:
        raise ValueError(f"the steps of the snapshots must grow from 0 or more, got {steps}")
    return pairs


def _tokenizer_above(path: Path) -> Path | None:
    """The tokenizer in the folder above a file that has none beside it, as data/snapshots has."""
    beside = any((path.parent / name).is_file() for name in TOKENIZER_NAMES)
    if path.is_dir() or beside:
        return None
    above = [path.parent.parent / name for name in TOKENIZER_NAMES]
    return next((file for file in above if file.is_file()), None)


def _sizes(config: ModelConfig) -> tuple[int, int, int]:
    return config.n_layers, config.n_heads, config.vocab_size


def _in_words(sizes: tuple[int, int, int]) -> str:
    return "{} layers, {} heads and {} tokens".format(*sizes)


def _words(name: str) -> str:
    return {"train_loss": "Training loss", "held_out_loss": "Held-out loss"}[name]
