"""The compare explorer: two to four models on one prompt, side by side, every position locked."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import traitlets
import xarray as xr

from llama_viz import figures
from llama_viz.analysis import ITEMSIZE, cache_bytes, config_of, require
from llama_viz.checkpoints import load
from llama_viz.errors import collected_warnings, unknown_name
from llama_viz.generation import check_new_tokens, stream
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import record, record_steps
from llama_viz.trace import load_trace
from llama_viz.widgets.explorer import BREATH_SECONDS, Choice, Explorer
from llama_viz.widgets.packing import as_bytes
from llama_viz.widgets.readings import (
    all_tokens,
    candidates,
    described,
    prompt_loss,
    text_ends,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

    from llama_viz.config import ModelConfig
    from llama_viz.generation import Step
    from llama_viz.widgets.packing import Packed

logger = logging.getLogger("llama_viz")

_Step = TypeVar("_Step")

PROMPT = "Once there was a girl named Lily."
NEW_TOKENS = 24
FEWEST, MOST = 2, 4

RECORDED = (
    "attention_weights", "logits", "cache_length", "cache_bytes_used", "sampled_id",
    "sampled_probability",
)  # fmt: skip
N_CANDIDATES = 5
ORDERS = ("one after another", "in turns")

# What a page gets at once; of more attention it asks for the layer that it shows.
ATTENTION_BYTES = 16_000_000
SAVED_ATTENTION_BYTES = 64_000_000

LAST_QUERIES = 64  # so many rows of each map decide which head is shown first

GROWN_SECONDS = 0.8  # while a model writes, its panels are brought up to date so often

HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass
class Column:
    """One of the things that are compared: a model with its latest run, or a recorded run alone.

    seconds are those of the steps of a run that nothing was recorded from; None: not measured.
    """

    name: str
    lm: LanguageModel | None = None
    trace: xr.Dataset | None = None
    prompt_ids: list[int] = field(default_factory=list)
    seconds: list[float] | None = None

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""
        return config_of(self.known_trace) if self.lm is None else self.lm.config

    @property
    def known_trace(self) -> xr.Dataset:
        """The trace of a column that has one."""
        if self.trace is None:
            raise ValueError(f"{self.name} has not run yet")
        return self.trace

    @property
    def n_positions(self) -> int:
        """How many positions have passed through the model."""
        return 0 if self.trace is None else self.trace.sizes["position"]

    @property
    def layers(self) -> list[int]:
        """The layers whose attention can be shown: of a model all, of a trace those it has."""
        if self.lm is not None:
            return list(range(self.lm.config.n_layers))
        if self.trace is None or "attention_weights" not in self.trace:
            return []
        return [int(layer) for layer in self.trace["layer"].values]

    @property
    def itemsize(self) -> int | None:
        """Bytes of one number of the cache."""
        if self.lm is not None:
            return self.lm.dtype.itemsize
        return ITEMSIZE.get(self.known_trace.attrs["dtype"])

    @property
    def bytes_per_position(self) -> int | None:
        """Bytes that each position adds to the cache, by the formula."""
        itemsize = self.itemsize
        return None if itemsize is None else self.config.kv_cache_bytes(1, itemsize=itemsize)

    @property
    def text(self) -> str | None:
        """The prompt and what was written after it; None where the trace has no text."""
        if self.trace is None or self.trace.attrs.get("prompt") is None:
            return None
        return str(self.trace.attrs["prompt"]) + str(self.trace.attrs["text"])

    @property
    def decode_seconds(self) -> float | None:
        """The median of the measured steps after the prefill."""
        return None if not self.seconds or len(self.seconds) < 2 else median(self.seconds[1:])


class CompareExplorer(Explorer):
    """Compare two to four models on one prompt: text, wiring, attention, cache, time, loss.

    sources are models (names of embedded ones, paths to checkpoints, loaded models), which write
    after the prompt, or traces (recorded ones, paths of their files), which need no model and no
    prompt. Positions are locked together; layers and heads stand at the same relative depth where
    the models differ in size. Unless a layer and a head are given, it opens where attention looks
    back most: at the head whose largest weight between the first token and the query itself, mean
    over the last 64 queries and summed over the columns, is the greatest (of equals the first).

    Models run once when the explorer is made, and whenever Run is pressed. Steps are timed apart,
    in a run that nothing is recorded from: after every Run, or with `measure_times()`.

    Raises ValueError for fewer than two or more than four sources, and for models among traces.
    """

    page, title = "compare", "Models compared"

    running = traitlets.Bool(False).tag(sync=True)
    # One line for the reader, how far a run is from 0 to 1, and whether something went wrong.
    status = traitlets.Dict().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)

    _task: asyncio.Task[None] | None = None

    def __init__(
        self,
        sources: Sequence[str | Path | LanguageModel | xr.Dataset] = ("mha", "gqa", "mqa"),
        *,
        prompt: str | Sequence[int] | None = None,
        max_new_tokens: int = NEW_TOKENS,
        temperature: float = 0.0,
        seed: int = 0,
        **state: Any,
    ) -> None:
        self.columns = _columns(sources)
        self._stop_asked = False
        self._run_number = 1
        self._ids: list[int] | None = None  # the prompt, where it was given as ids
        settings: dict[str, Any] = {
            "prompt": PROMPT if prompt is None else prompt,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "order": ORDERS[0],
        }
        if self.runs_models:
            check_new_tokens(max_new_tokens)
            if not isinstance(settings["prompt"], str):
                self._ids = self._models[0][1].prompt_ids(settings["prompt"])
                settings["prompt"] = str(self._ids)
            for column, lm in self._models:
                column.prompt_ids = lm.prompt_ids(self._prompt(settings))
                column.trace = record(
                    lm, self._prompt(settings), max_new_tokens, RECORDED,
                    temperature=temperature, seed=seed,
                )  # fmt: skip
        elif prompt is not None:
            raise ValueError("traces hold their own texts; leave out the prompt")
        self._opens_at = self._looks_back_most()
        super().__init__(**state)
        self.settings = settings

    # For the reader

    @property
    def runs_models(self) -> bool:
        """Whether there are models to run, not traces alone."""
        return all(column.lm is not None for column in self.columns)

    @property
    def traces(self) -> dict[str, xr.Dataset]:
        """The runs that are shown, by the names of their columns."""
        return {one.name: one.trace for one in self.columns if one.trace is not None}

    @property
    def differences(self) -> list[str]:
        """What tells the columns apart, in words."""
        return differences(self.columns)

    def measure_times(self) -> dict[str, float | None]:
        """Let each model write its text once more, unrecorded, and time every step.

        Returns the median seconds of a decode step by column. Raises ValueError without models.
        """
        self._need_models()
        for column, lm in self._models:
            column.seconds = [step.seconds for step in self._unrecorded(column, lm)]
        self.refresh()
        return {column.name: column.decode_seconds for column in self.columns}

    def start(self, **settings: Any) -> asyncio.Task[None]:
        """Begin a run of all models, as the Run button does, and return its task.

        settings are prompt, max_new_tokens, temperature, seed and order ("one after another" or
        "in turns", a token each); those not given stay as they are. Raises ValueError for what
        cannot be run, RuntimeError while a run is under way.
        """
        self._need_models()
        checked = self._checked_settings(settings)
        is_same = "prompt" not in settings or settings["prompt"] == str(self._ids)
        ids = self._ids if is_same else None
        prompts = [lm.prompt_ids(checked["prompt"] if ids is None else ids)
                   for _, lm in self._models]  # fmt: skip
        if self._task is not None and not self._task.done():
            raise RuntimeError("a run is under way; stop it first")
        self._stop_asked, self._ids = False, ids
        self._task = asyncio.get_running_loop().create_task(self._run())
        self.settings = checked
        self.running = True
        self._begin(prompts)
        return self._task

    def stop(self) -> None:
        """Ask the run to end after the token under way; what was recorded so far is kept."""
        self._stop_asked = True

    def close(self) -> None:
        """End the run, if there is one, and take the widget off the page."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        super().close()

    # What the base asks for

    def fields(self) -> dict[str, Choice]:
        """What can be picked; layer and head are numbers of the models that have most of them."""
        n_prompt = max(len(column.prompt_ids) for column in self.columns)
        n_positions = max(n_prompt, *(column.n_positions for column in self.columns))
        return {
            "column": Choice(range(len(self.columns)), 0),
            "position": Choice(range(n_positions), n_prompt - 1),
            "layer": Choice(range(max(self._n_layers, 1)), self._opens_at[0]),
            "head": Choice(range(self._n_heads), self._opens_at[1]),
        }

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Every column, what they have in common, and how their positions are locked."""
        arrays: dict[str, np.ndarray | Packed] = {}
        headers, now = [], self._now
        for number, column in enumerate(now):
            header, own = self._describe(column, whole=whole)
            headers.append(header)
            arrays |= {f"{name} {number}": array for name, array in own.items()}
        return {**_shared(now), "columns": headers, "runs": self.runs_models}, arrays

    def answer_column(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """One column as it is now, which may be in the middle of a run."""
        now = self._now
        header, arrays = self._describe(now[number], whole=False)
        return {**_shared(now), "column": header}, arrays

    def answer_attention(
        self, number: int, layer: int, version: str
    ) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Attention of one more layer; by the version the page tells its recordings apart."""
        trace = self.columns[number].known_trace
        require(trace, "attention_weights")
        weights = trace["attention_weights"].sel(layer=[layer]).values
        return {"version": version}, {"attention": as_bytes(weights)}

    def answer_run(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The Run button."""
        try:
            self.start(**settings)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return {}, {}

    def answer_stop(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The Stop button."""
        self.stop()
        return {}, {}

    def picture(self) -> Figure:
        """Wiring, one head of each, cache and loss, as a figure."""
        ran = [one for one in self._now if one.trace is not None]
        if not ran:
            raise ValueError("nothing has run yet; there is nothing to draw")
        places = [
            (one.layers[_same_depth(self.state["layer"], self._n_layers, len(one.layers))],
             _same_depth(self.state["head"], self._n_heads, one.config.n_heads))
            if one.layers else None
            for one in ran
        ]  # fmt: skip
        return figures.comparison({one.name: one.known_trace for one in ran}, places)

    def describe(self) -> str:
        """The columns and their differences."""
        names = ", ".join(column.name for column in self.columns)
        return "\n".join([f"Compare explorer: {names}.", *self.differences])

    # What the page is told

    @property
    def _n_layers(self) -> int:
        return max(len(column.layers) for column in self.columns)

    @property
    def _n_heads(self) -> int:
        return max(column.config.n_heads for column in self.columns)

    def _looks_back_most(self) -> tuple[int, int]:
        """The layer and head to open on, as the state counts them."""
        total = np.zeros((max(self._n_layers, 1), self._n_heads))
        for column in self.columns:
            if column.layers:
                found = _looking_back(column.known_trace)
                layers, heads = (
                    [_same_depth(place, count, other) for place in range(count)]
                    for count, other in zip(total.shape, found.shape, strict=True)
                )
                total += found[np.ix_(layers, heads)]
        layer, head = np.unravel_index(total.argmax(), total.shape)
        return int(layer), int(head)

    @property
    def _models(self) -> list[tuple[Column, LanguageModel]]:
        return [(column, column.lm) for column in self.columns if column.lm is not None]

    @property
    def _now(self) -> list[Column]:
        """The columns as they are now: a run may go on in another thread."""
        return [copy(column) for column in self.columns]

    def _describe(
        self, column: Column, *, whole: bool
    ) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """What the page shows of a column; what its trace lacks is said in `missing`."""
        config, trace = column.config, column.trace
        header: dict[str, Any] = {
            "run": self._run_number,
            "name": column.name,
            "kind": config.attention_kind,
            "n_layers": config.n_layers,
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "kv_head_of_head": config.kv_head_of_head,
            "item_bytes": column.itemsize,
            "layers": column.layers,
            "n_prompt": len(column.prompt_ids),
            "n_positions": column.n_positions,
            "seconds": column.seconds,
        }
        if trace is None:
            labels = [column.lm.label(i) for i in column.prompt_ids] if column.lm else []
            tokens = described(column.prompt_ids, labels)
            return {**header, "tokens": tokens, "ends": [], "sent_layers": [], "step_of": [],
                    "cache": None, "formula": None, "loss": None, "candidates": None,
                    "missing": {}}, {}  # fmt: skip
        tokens = all_tokens(trace)
        likely = candidates(trace, N_CANDIDATES)
        sent = self._sent_layers(column, whole)
        arrays: dict[str, np.ndarray | Packed] = {}
        if sent:
            arrays["attention"] = as_bytes(trace["attention_weights"].sel(layer=sent).values)
        if likely is not None:
            arrays["candidate_id"] = likely.ids
            arrays["candidate_probability"] = likely.probabilities.astype(np.float32)
        header |= {
            "tokens": tokens,
            "ends": text_ends(tokens, column.text or ""),
            "sent_layers": sent,
            "step_of": trace["step_of_position"].values.tolist(),
            "cache": _over_steps(trace, "cache_bytes_used"),
            "formula": None if column.itemsize is None else cache_bytes(trace).sum("layer").values
            .tolist(),
            "loss": prompt_loss(trace),
            "candidates": None if likely is None else likely.labels,
            "missing": _missing(trace),
        }  # fmt: skip
        return header, arrays

    def _sent_layers(self, column: Column, whole: bool) -> list[int]:
        """The layers whose attention goes to the page at once: all, or the one in view."""
        layers = column.layers
        if column.trace is None or "attention_weights" not in column.trace:
            return []
        n_cells = column.config.n_heads * column.n_positions**2
        most = (SAVED_ATTENTION_BYTES if whole else ATTENTION_BYTES) // len(self.columns)
        if n_cells * len(layers) <= most:
            return layers
        return [layers[_same_depth(self.state["layer"], self._n_layers, len(layers))]]

    # Running

    def _need_models(self) -> None:
        if not self.runs_models:
            raise ValueError("these are recorded runs: there is no model here that could run")

    def _prompt(self, settings: Mapping[str, Any]) -> str | list[int]:
        return settings["prompt"] if self._ids is None else self._ids

    def _checked_settings(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        for name in changes:
            if name not in self.settings:
                raise unknown_name("setting", name, self.settings)
        settings = {**self.settings, **changes}
        check_new_tokens(settings["max_new_tokens"])
        if settings["order"] not in ORDERS:
            raise unknown_name("order", settings["order"], ORDERS)
        for name, kinds in (("temperature", (int, float)), ("seed", (int,))):
            value = settings[name]
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{name} must be a number, got {value!r}")
        return settings

    async def _run(self) -> None:
        """Record all models, then time them; whatever goes wrong is said in one line."""
        try:
            await self._write()
            if not self._stop_asked:
                await self._time()
            self._say("Stopped; what was written is kept." if self._stop_asked else self._done, 1.0)
        except asyncio.CancelledError:
            self._say("Stopped.", 1.0)
            raise
        except (ValueError, OSError) as error:
            self._say(str(error), 1.0, problem=True)
        except Exception as error:
            # Nobody expected this one: the line is for the reader, the log for whoever mends it.
            self._say(f"{type(error).__name__}: {error}", 1.0, problem=True)
            logger.exception("the run of the compare explorer failed")
        finally:
            self.running = False

    @property
    def _done(self) -> str:
        full = [
            f"the context of {one.name} is full" for one in self.columns
            if one.known_trace.attrs["stop_reason"] == "context"
        ]  # fmt: skip
        return f"Done; {', '.join(full)}." if full else "Done."

    def _begin(self, prompts: list[list[int]]) -> None:
        """Clear all columns, so that nothing of another prompt stands beside the new one."""
        self._run_number += 1
        for column, ids in zip(self.columns, prompts, strict=True):
            column.trace, column.seconds, column.prompt_ids = None, None, ids
        self.show(position=self.fields()["position"].start)
        for number in range(len(self.columns)):
            self._tell("column", number)

    async def _write(self) -> None:
        """One token after another, of one model after another, or of all in turns."""
        settings = self.settings
        n_new = settings["max_new_tokens"]
        runs = {
            number: _quietly(record_steps(
                lm, self._prompt(settings), n_new, RECORDED,
                temperature=settings["temperature"], seed=settings["seed"],
            ))
            for number, (_, lm) in enumerate(self._models)
        }  # fmt: skip
        waiting = list(runs)
        n_written, n_steps = 0, 2 * n_new * len(runs)  # written once, and once more to be timed
        told = dict.fromkeys(runs, 0.0)
        try:
            while waiting and not self._stop_asked:
                number = waiting[0]
                column = self.columns[number]
                recorded = next(runs[number], None)
                if recorded is None:
                    waiting.remove(number)
                    self._tell("column", number)
                    continue
                column.trace = recorded.trace
                n_written += 1
                self._tell_token(number, column, recorded.step)
                if time.monotonic() - told[number] > GROWN_SECONDS:
                    self._tell("column", number)
                    told[number] = time.monotonic()
                words = f"{column.name} writes token {recorded.step.index + 1} of {n_new}."
                self._say(words, n_written / n_steps)
                if settings["order"] == ORDERS[1]:
                    waiting.append(waiting.pop(0))
                await asyncio.sleep(BREATH_SECONDS)
        finally:
            for steps in runs.values():
                steps.close()
            for number in waiting:
                self._tell("column", number)

    async def _time(self) -> None:
        """The same texts once more, without hooks, one model after another."""
        for number, (column, lm) in enumerate(self._models):
            n_models = len(self.columns)
            seconds: list[float] = []
            for step in self._unrecorded(column, lm):
                seconds.append(step.seconds)
                self._say(
                    f"{column.name} writes once more, unrecorded, to be timed.",
                    0.5 + 0.5 * (number + len(seconds) / self._n_steps(column)) / n_models,
                )
                await asyncio.sleep(BREATH_SECONDS)
                if self._stop_asked:
                    return
            column.seconds = seconds
            self._tell("column", number)

    def _unrecorded(self, column: Column, lm: LanguageModel) -> Generator[Step]:
        settings = self.settings
        return _quietly(
            stream(
                lm, column.prompt_ids, self._n_steps(column),
                temperature=settings["temperature"], seed=settings["seed"],
            )
        )  # fmt: skip

    def _n_steps(self, column: Column) -> int:
        return column.known_trace.sizes["step"]

    def _tell_token(self, number: int, column: Column, step: Step) -> None:
        """A token as soon as it is written; its place says where, so that it may come twice."""
        token = all_tokens(column.known_trace)[-1]
        place = len(column.prompt_ids) + step.index
        self._tell("token", number, place=place, token=token)

    def _tell(self, kind: str, number: int, **more: Any) -> None:
        self.send({"type": kind, "run": self._run_number, "number": number, **more})

    def _say(self, text: str, share: float, *, problem: bool = False) -> None:
        self.status = {"text": _one_line(text), "share": min(share, 1.0), "problem": problem}


def _shared(columns: Sequence[Column]) -> dict[str, Any]:
    """What the page is told with every column."""
    return {"lock": _lock(columns), "differences": differences(columns)}


def _looking_back(trace: xr.Dataset) -> np.ndarray:
    """(layer, head): the largest weight between the first token and the query, mean over queries.

    What a head gives to the first token is often what it has no other use for, and what it gives to
    the query itself looks nowhere.
    """
    weights = trace["attention_weights"]
    first = max(2, weights.sizes["query_position"] - LAST_QUERIES)  # nothing lies between before
    queries = np.arange(first, weights.sizes["query_position"])
    keys = np.arange(weights.sizes["key_position"])
    between = (keys > 0) & (keys < queries[:, None])
    found = np.zeros((weights.sizes["layer"], weights.sizes["head"]))
    for row, means in enumerate(found if len(queries) else ()):
        here = np.nan_to_num(weights[row, :, first:].values)  # dropped rows are NaN
        means[:] = np.where(between, here, 0).max(axis=-1).mean(axis=-1, dtype=np.float64)
    return found


def differences(columns: Sequence[Column]) -> list[str]:
    """What tells columns apart, in words: sharing, cache, loss, text and time, as far as known."""
    lines = [_sharing(columns), _caches(columns)]
    ran = [column for column in columns if column.trace is not None]
    if len(ran) == len(columns):
        lines += [_losses(columns), _texts(columns)]
    lines.append(_times(columns))
    return [line for line in lines if line]


def _sharing(columns: Sequence[Column]) -> str:
    parts = [
        f"{one.name} keeps {_count(one.config.n_kv_heads, 'key/value head')} for its "
        f"{_count(one.config.n_heads, 'query head')}"
        for one in columns
    ]
    return f"{'; '.join(parts)}."


def _caches(columns: Sequence[Column]) -> str:
    """Each cache as a part of the largest."""
    sizes = {one.name: one.bytes_per_position for one in columns}
    if any(size is None for size in sizes.values()):
        return ""
    known = cast("dict[str, int]", sizes)
    largest = max(known, key=lambda name: known[name])
    each = ", ".join(f"{name} {size:,}" for name, size in known.items())
    smaller = {
        name: share_in_words(size, known[largest])
        for name, size in known.items()
        if size < known[largest]
    }
    said = ", ".join(
        f"{name} {share}" if number else f"{name} keeps {share} of {largest}'s cache"
        for number, (name, share) in enumerate(smaller.items())
    )
    said = said or "All keep caches of one size"
    return f"{said} (bytes for each position: {each})."


def _losses(columns: Sequence[Column]) -> str:
    losses = [prompt_loss(one.known_trace) for one in columns]
    if any(loss is None for loss in losses):
        return ""
    known = cast("list[dict[str, Any]]", losses)
    alike = len({tuple(one.prompt_ids) for one in columns}) == 1
    per, unit = ("nats", "nats per token")
    if not alike:
        if any(loss["per_character"] is None for loss in known):
            return ""
        per, unit = ("per_character", "nats per character, since their tokens differ")
    written = [f"{loss[per]:.3f}" for loss in known]  # what is not seen apart is not told apart
    least = min(written, key=float)
    best = [one.name for one, loss in zip(columns, written, strict=True) if loss == least]
    if len(best) == len(columns) > 1:
        return f"{'All' if len(columns) > 2 else 'Both'} expect this prompt alike: {least} {unit}."
    said = f"{' and '.join(best)} {'expects' if len(best) == 1 else 'expect'} this prompt best"
    values = ", ".join(f"{one.name} {loss}" for one, loss in zip(columns, written, strict=True))
    return f"{said}: {values} {unit}."


def _texts(columns: Sequence[Column]) -> str:
    """How far each text goes along with the first one's."""
    first = columns[0]
    told = [_written(one) for one in columns]
    if any(not text for text in told):
        return ""
    if all(text == told[0] for text in told):
        return "All write the same text." if len(columns) > 2 else "Both write the same text."
    parts = []
    for one, text in zip(columns[1:], told[1:], strict=True):
        common = next(
            (i for i, (a, b) in enumerate(zip(told[0], text, strict=False)) if a != b),
            min(len(text), len(told[0])),
        )
        parts.append(
            f"{one.name} writes the same text as {first.name}" if text == told[0]
            else f"{one.name} parts from {first.name} after {_count(common, 'character')}"
        )  # fmt: skip
    return f"{'; '.join(parts)}."


def _written(column: Column) -> str:
    return str(column.known_trace.attrs["text"])


def _times(columns: Sequence[Column]) -> str:
    times = {one.name: one.decode_seconds for one in columns}
    if any(seconds is None for seconds in times.values()):
        return ""
    each = ", ".join(f"{name} {1000 * cast('float', s):.3g} ms" for name, s in times.items())
    return f"A decode step took {each} (median of a run of its own, with nothing recorded)."


_SHARES = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 7: "a seventh",
           8: "an eighth", 9: "a ninth", 10: "a tenth", 16: "a sixteenth",
           32: "a thirty-second"}  # fmt: skip


def share_in_words(part: int, whole: int) -> str:
    """A part of a whole, such as "a quarter", "three quarters" or "37%"."""
    share = Fraction(part, whole)
    if share == Fraction(3, 4):
        return "three quarters"
    if share.numerator == 1 and share.denominator in _SHARES:
        return _SHARES[share.denominator]
    return "all" if share == 1 else f"{float(share):.3g}" if share < 0.01 else f"{float(share):.0%}"


def _quietly(steps: Iterator[_Step]) -> Generator[_Step]:
    """The steps without the warning of a full context, which the status line tells."""
    with closing(cast("Generator[_Step]", steps)):
        while True:
            with collected_warnings():
                step = next(steps, None)
            if step is None:
                return
            yield step


def _lock(columns: Sequence[Column]) -> dict[str, str]:
    """How positions of the columns belong together, for the page and in words."""
    prompts = {tuple(one.prompt_ids) for one in columns}
    if len(prompts) == 1:
        words = "Positions are locked: all read the same tokens of the prompt."
        return {"kind": "ids", "words": words}
    texts = {None if one.trace is None else one.trace.attrs.get("prompt") for one in columns}
    if len(texts) == 1 and None not in texts:
        words = (
            "Their tokenizers cut the prompt differently: positions are locked by the character "
            "of the text that they reach."
        )
        return {"kind": "characters", "words": words}
    words = "Their prompts differ: positions are locked by their number alone."
    return {"kind": "number", "words": words}


def _same_depth(number: int, count: int, other: int) -> int:
    """The place among `other` that lies as deep as place `number` of `count`; as in the page."""
    return int(number / max(count - 1, 1) * (other - 1) + 0.5)


def _over_steps(trace: xr.Dataset, name: str) -> list[int] | None:
    """Bytes of all layers after each step."""
    return trace[name].sum("layer").values.tolist() if name in trace else None


def _missing(trace: xr.Dataset) -> dict[str, str]:
    """What was not recorded, with the way to record it."""
    needs = {"attention": "attention_weights", "logits": "logits", "cache": "cache_bytes_used"}
    missing = {}
    for what, name in needs.items():
        try:
            require(trace, name)
        except ValueError as error:
            missing[what] = f"{str(error)[0].upper()}{str(error)[1:]}."
    return missing


def _columns(sources: Sequence[Any]) -> list[Column]:
    """A column for each source; a name that comes again gets a number."""
    if isinstance(sources, (str, Path, LanguageModel, xr.Dataset)):
        sources = [sources]
    if not FEWEST <= len(sources) <= MOST:
        raise ValueError(
            f"compare two to four models or traces, got {len(sources)}; one alone is shown by "
            "GenerationExplorer"
        )
    columns: list[Column] = []
    for source in sources:
        opened = _opened(source)
        is_trace = isinstance(opened, xr.Dataset)
        name = str(opened.attrs["model"]) if isinstance(opened, xr.Dataset) else opened.name
        again = sum(one.name == name or one.name.startswith(f"{name} (") for one in columns)
        column = Column(f"{name} ({again + 1})" if again else name)
        if isinstance(opened, xr.Dataset):
            require(opened)
            column.trace, column.prompt_ids = opened, list(opened.attrs["prompt_ids"])
        else:
            column.lm = opened
        columns.append(column)
        if is_trace != (columns[0].trace is not None):
            raise ValueError(
                "give models or traces, not both: a model is run on the prompt, a trace is not"
            )
    return columns


def _opened(source: Any) -> LanguageModel | xr.Dataset:
    """A loaded model or a trace; files are told apart by their content."""
    if isinstance(source, (LanguageModel, xr.Dataset)):
        return source
    if not isinstance(source, (str, Path)):
        raise TypeError(
            "compare takes names and paths of models, loaded models, traces and paths of traces, "
            f"got {type(source).__name__}"
        )
    path = Path(source).expanduser()
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(HDF5)) == HDF5:
                return load_trace(path)
    return load(source)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
