"""The recorder: hooks on, a real generation, hooks off, one trace out.

Recording runs the model as every generation does, one prefill and then single tokens with the KV
cache. Its hooks copy what passes the taps into buffers that were made before the run.
"""

from __future__ import annotations

import logging
import math
import platform
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Number
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from llama_viz import __version__
from llama_viz.errors import MemoryLimitError, unknown_name, whole_number
from llama_viz.generation import (
    Sampling,
    Step,
    check_new_tokens,
    finish,
    forced_ids,
    is_several,
    run_length,
    run_steps,
)
from llama_viz.kv_cache import KVCache
from llama_viz.language_model import check_weights
from llama_viz.model import causal_mask
from llama_viz.taps import Norm, Place, find_places, norms, places
from llama_viz.trace import VARIABLES, build, region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    from torch.utils.hooks import RemovableHandle

    from llama_viz.language_model import LanguageModel
    from llama_viz.tokenizer import Tokenizer
    from llama_viz.trace_folder import TraceWriter

logger = logging.getLogger("llama_viz")

MAPS = ("attention_scores", "attention_weights")
LENS_VARIABLES = ("lens_id", "lens_probability")
SAMPLED_VARIABLES = ("sampled_id", "sampled_probability")
# What is not read at a tap: cache variables at the attention module, the rest after each pass.
CACHE_VARIABLES = ("cache_length", "cache_bytes_used", "cache_bytes_reserved")
PROBABILITY_VARIABLES = ("entropy", "candidate_id", "candidate_probability")
# One stream: what a block reads is the very tensor that the one before it wrote.
STREAM = ("residual_in", "residual_out")
# The axes of what passes one place: those of its variable, without the one that counts the places.
AXES = {name: tuple(dim for dim in variable.dims if dim not in ("layer", "norm"))
        for name, variable in VARIABLES.items()}  # fmt: skip
# Of a trace that is written as it goes, memory holds the last positions: so many, or so many bytes.
WINDOW = 256
WINDOW_BYTES = 2**26
# How far the logit lens goes at once: rows x vocabulary numbers, 32 MB in float32.
LENS_CHUNK = 2**23


class RecordedStep(NamedTuple):
    """A step of a generation and the trace of everything so far."""

    step: Step
    trace: xr.Dataset


@dataclass(frozen=True)
class RecordingSize:
    """How many bytes a recording will take: in all and by variable."""

    by_variable: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all variables."""
        return sum(self.by_variable.values())

    def __str__(self) -> str:
        costly = sorted(self.by_variable.items(), key=lambda item: -item[1])[:3]
        most = ", ".join(f"{name} {format_bytes(size)}" for name, size in costly)
        return f"{format_bytes(self.total)} (most: {most})"


def record(
    lm: LanguageModel,
    prompt: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int = 64,
    taps: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    memory_limit: str | int | None = "1GB",
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    n_candidates: int = 10,
    half_precision: bool = False,
    progress: bool = False,
    forced: Sequence[int] | Sequence[Sequence[int]] = (),
    path: str | Path | None = None,
) -> xr.Dataset:
    """Generate as generate() does and return the trace of the run.

    taps are names of trace variables (None: all; lv.SIGNALS: the four signals), layers the numbers
    of the layers to keep (None: all), n_candidates how many of the likeliest tokens to keep.
    half_precision keeps what fills memory (all but angles, RMS and what is kept by the step) in
    float16. progress shows a bar with the tokens written and the time left. forced are the ids
    that the first steps write, as in generate().

    A list of prompts is recorded in one run: the trace has the leading dimension prompt, and
    lv.select_prompt gives the trace of each alone. forced then has one list of ids for each prompt.

    With a path, a name ending in .zarr, the trace is written into a folder while it is recorded,
    and opened there: memory_limit then counts what is held until it is written, and values are read
    when they are asked for. Nothing is left behind where the recording fails.

    One block's residual_out is the next one's residual_in: where both are recorded and nobody
    changes the stream between them, they share memory. Copy a trace before you write into it.

    Raises MemoryLimitError, before anything runs, where the trace could pass memory_limit (bytes,
    or a text such as "500MB"; None: no limit), and ValueError for unknown taps or layers.
    """
    sampling = Sampling(temperature, top_k, top_p, seed)
    if is_several(prompt):
        from llama_viz.prompts import record_prompts

        if path is not None:
            raise ValueError("path= is for a single prompt; record one by one")
        return record_prompts(
            lm, prompt, max_new_tokens, taps, layers, memory_limit, n_candidates, sampling,  # type: ignore[arg-type]
            forced, half_precision=half_precision, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    prompt_ids = lm.prompt_ids(prompt)  # type: ignore[arg-type]
    max_new_tokens = check_new_tokens(max_new_tokens)

    def run(folder: Path | None) -> Recorder:
        recorder = Recorder(
            lm, prompt, prompt_ids, max_new_tokens, taps, layers, memory_limit, n_candidates,  # type: ignore[arg-type]
            sampling, forced_ids(lm, forced, max_new_tokens),  # type: ignore[arg-type]
            half_precision=half_precision, folder=folder,
        )  # fmt: skip
        steps = recorder.run()
        for _ in tqdm(steps, "recording", max_new_tokens, unit="token", disable=not progress):
            pass
        return recorder

    return _recorded(run, path)


def record_steps(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    max_new_tokens: int = 64,
    taps: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    memory_limit: str | int | None = "1GB",
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    n_candidates: int = 10,
    half_precision: bool = False,
    forced: Sequence[int] = (),
) -> Iterator[RecordedStep]:
    """The same as record, one step at a time: each step with the trace so far.

    The hooks come off when the iterator ends, is closed, or is dropped.
    """
    prompt_ids = lm.prompt_ids(prompt)
    max_new_tokens = check_new_tokens(max_new_tokens)
    sampling = Sampling(temperature, top_k, top_p, seed)
    recorder = Recorder(
        lm, prompt, prompt_ids, max_new_tokens, taps, layers, memory_limit, n_candidates, sampling,
        forced_ids(lm, forced, max_new_tokens), half_precision=half_precision,
    )  # fmt: skip
    return (RecordedStep(step, recorder.trace()) for step in recorder.run())


def record_forward(
    lm: LanguageModel,
    text_or_ids: str | Sequence[int],
    taps: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    memory_limit: str | int | None = "1GB",
    *,
    n_candidates: int = 10,
    half_precision: bool = False,
    path: str | Path | None = None,
) -> xr.Dataset:
    """Pass a text through the model once, writing no new token, and return the trace.

    It has one step; sampled_id and sampled_probability are absent. half_precision and path are
    those of record().
    """
    prompt_ids = lm.prompt_ids(text_or_ids)

    def run(folder: Path | None) -> Recorder:
        recorder = Recorder(
            lm, text_or_ids, prompt_ids, 0, taps, layers, memory_limit, n_candidates, Sampling(),
            half_precision=half_precision, folder=folder,
        )  # fmt: skip
        recorder.run_forward()
        return recorder

    return _recorded(run, path)


def _recorded(run: Callable[[Path | None], Recorder], path: str | Path | None) -> xr.Dataset:
    """The trace of a run, in memory, or opened in the folder where it was written."""
    if path is None:
        return run(None).trace()
    from llama_viz.trace_folder import open_trace_folder, trace_written_whole

    with trace_written_whole(path) as unfinished:
        run(unfinished).finish()
    return open_trace_folder(path)


def recording_size(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    max_new_tokens: int = 64,
    taps: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    *,
    n_candidates: int = 10,
    half_precision: bool = False,
) -> RecordingSize:
    """The bytes that record() with the same arguments takes at most; nothing runs.

    max_new_tokens 0 is record_forward(). Raises ValueError for what they refuse.
    """
    n_prompt = len(lm.prompt_ids(prompt))
    if max_new_tokens != 0:
        check_new_tokens(max_new_tokens)
    plan = _Plan.make(lm, n_prompt, max_new_tokens, taps, layers, n_candidates, half_precision)
    return plan.size


@dataclass(frozen=True)
class TapContext:
    """Where a changed value comes from.

    axes name the value's axes after the batch axis; its positions are start to end of the run (of
    several prompts, which are padded on the left: of the longest).
    """

    name: str
    variable: str
    layer: int | None
    axes: tuple[str, ...]
    start: int
    end: int


@contextmanager
def intervene(
    lm: LanguageModel, changes: Mapping[str, Callable[[Tensor, TapContext], Tensor]]
) -> Iterator[LanguageModel]:
    """Change the values of taps in every pass inside the block.

    changes maps a tap's name, such as "blocks.2.attention.weights", or a trace variable (then in
    all layers) to fn(value, context) -> value of the same shape. Recordings see the changed values
    and say so in attrs["edited"]. Of nested blocks the innermost changes first.
    """
    model = lm.model
    found = [(place, change) for name, change in changes.items()
             for place in find_places(name, lm.config.n_layers)]  # fmt: skip
    names = [place.name for place, _ in found]
    passing = _PassingPositions()
    handles: list[RemovableHandle] = []
    try:
        # Positions are known when the pass begins.
        handles.append(model.rotary.register_forward_pre_hook(passing, prepend=True))
        for place, change in found:
            module = model.get_submodule(place.path)
            # Before every other hook, so that a recorder that is already listening sees the
            # changed value.
            hook = _changing_hook(place, change, lm.config.to_dict(), passing)
            if place.before:
                handles.append(module.register_forward_pre_hook(hook, prepend=True))
            else:
                handles.append(module.register_forward_hook(hook, prepend=True))
        model.interventions.extend(names)
        yield lm
    finally:
        for handle in handles:
            handle.remove()
        for name in names:
            if name in model.interventions:
                model.interventions.remove(name)


class _PassingPositions(threading.local):
    """Which positions the pass under way computes; every thread has a pass of its own."""

    start = end = 0

    def __call__(self, rotary: Any, args: tuple) -> None:
        self.start, self.end = args[:2]


def _changing_hook(
    place: Place,
    change: Callable[[Tensor, TapContext], Tensor],
    sizes: Mapping[str, Any],
    passing: _PassingPositions,
) -> Callable[..., Any]:
    joined = len(place.dims) > len(place.axes)
    layer = place.row if place.variable != "rms" else None

    def changed(value: Tensor) -> Tensor:
        context = TapContext(
            place.name, place.variable, layer, place.dims, passing.start, passing.end
        )
        before = value.unflatten(-1, (-1, sizes["head_dim"])) if joined else value
        after = change(before, context)
        if not isinstance(after, Tensor) or after.shape != before.shape:
            got = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise ValueError(
                f"the change of {place.name} returned {got}, expected a tensor of shape "
                f"{tuple(before.shape)}: (batch, {', '.join(place.dims)})"
            )
        return after.to(value).reshape(value.shape)

    if place.before:
        return lambda module, args: (changed(args[0]), *args[1:])
    return lambda module, args, output: changed(output)


@dataclass(frozen=True)
class _Plan:
    """What will be recorded and how large each dimension can get."""

    variables: tuple[str, ...]
    layers: tuple[int, ...]
    norms: tuple[Norm, ...]
    sizes: dict[str, int]
    half_precision: bool = False
    window: int | None = None  # how many positions memory holds, where not all

    @classmethod
    def make(
        cls,
        lm: LanguageModel,
        n_prompt: int,
        max_new_tokens: int,
        taps: Iterable[str] | None,
        layers: Iterable[int] | None,
        n_candidates: int,
        half_precision: bool = False,
    ) -> _Plan:
        config = lm.config
        n_candidates = whole_number("n_candidates", n_candidates)
        if n_candidates < 1:
            raise ValueError(f"n_candidates must be at least 1, got {n_candidates}")
        variables = _chosen("tap", taps, tuple(VARIABLES))
        kept_layers = _chosen("layer", layers, tuple(range(config.n_layers)))
        kept_norms = tuple(
            norm for norm in norms(config.n_layers) if layers is None or norm.layer in kept_layers
        )
        n_positions = run_length(lm, n_prompt, max_new_tokens) if max_new_tokens else n_prompt
        sizes = {
            "layer": len(kept_layers),
            "norm": len(kept_norms),
            "position": n_positions,
            "query_position": n_positions,
            "key_position": n_positions,
            "head": config.n_heads,
            "key_value_head": config.n_kv_heads,
            "head_feature": config.head_dim,
            "pair": config.n_pairs,
            "feature": config.dim,
            "neuron": config.hidden_dim,
            "vocabulary": config.vocab_size,
            "step": n_positions - n_prompt + 1,
            "rank": min(n_candidates, config.vocab_size),
        }
        if not max_new_tokens:
            variables = tuple(name for name in variables if name not in SAMPLED_VARIABLES)
        return cls(variables, kept_layers, kept_norms, sizes, half_precision)

    def shape(self, variable: str) -> tuple[int, ...]:
        return tuple(self.sizes[dim] for dim in VARIABLES[variable].dims)

    def held_shape(self, variable: str) -> tuple[int, ...]:
        """The shape of what memory holds of a variable."""
        sizes = self.sizes
        if self.window is not None:
            sizes = {**sizes, **dict.fromkeys(("position", "query_position"), self.window)}
        return tuple(sizes[dim] for dim in VARIABLES[variable].dims)

    def windowed(self, n_prompt: int) -> _Plan:
        """The same, holding no more positions than can wait to be written."""
        one = sum(replace(self, window=1).held.by_variable[name] for name in self.by_position)
        n_single = max(1, self.sizes["position"] - n_prompt)
        return replace(self, window=max(1, min(WINDOW, n_single, WINDOW_BYTES // max(1, one))))

    @property
    def by_position(self) -> list[str]:
        """The variables that grow with the text."""
        return [name for name in self.variables
                if {"position", "query_position"} & {*VARIABLES[name].dims}]  # fmt: skip

    def dtype(self, variable: str) -> str:
        """The numpy type that a variable is kept in."""
        stored = VARIABLES[variable]
        # Half precision has three digits: enough for a value, not for an angle of many turns.
        fills_memory = bool({"layer", "vocabulary", "feature"} & set(stored.dims))
        if self.half_precision and stored.dtype == "float32" and fills_memory:
            return "float16"
        return stored.dtype

    @property
    def size(self) -> RecordingSize:
        return self._bytes(self.shape)

    @property
    def held(self) -> RecordingSize:
        """What memory holds at once."""
        return self._bytes(self.held_shape)

    def _bytes(self, shape: Callable[[str], tuple[int, ...]]) -> RecordingSize:
        return RecordingSize({
            name: math.prod(shape(name)) * np.dtype(self.dtype(name)).itemsize
            for name in self.variables
        })  # fmt: skip


class Recorder:
    """One recording of one run: the buffers, the hooks that fill them, and the trace."""

    def __init__(
        self,
        lm: LanguageModel,
        prompt: str | Sequence[int],
        prompt_ids: list[int],
        max_new_tokens: int,
        taps: Iterable[str] | None,
        layers: Iterable[int] | None,
        memory_limit: str | int | None,
        n_candidates: int,
        sampling: Sampling,
        forced: Sequence[int] = (),
        batch_row: int = 0,
        padding: int = 0,
        half_precision: bool = False,
        folder: Path | None = None,
    ) -> None:
        check_weights(lm)
        self.lm = lm
        self.plan = _Plan.make(
            lm, len(prompt_ids), max_new_tokens, taps, layers, n_candidates, half_precision
        )
        if folder is not None:
            self.plan = self.plan.windowed(len(prompt_ids))
        limit = None if memory_limit is None else parse_bytes(memory_limit)
        size = self.plan.held
        if limit is not None and size.total > limit:
            what = "the trace" if folder is None else "what waits to be written"
            raise MemoryLimitError(
                f"{what} would take {size}, more than the memory limit of "
                f"{format_bytes(limit)}; choose taps= or layers=, write fewer tokens, or raise "
                "memory_limit=" + ("" if folder else "; record(path='run.zarr') needs less of it")
            )
        logger.info("recording takes at most %s", size)
        self.prompt_ids = prompt_ids
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.forced = list(forced)
        self.steps: list[Step] = []
        self.edited: list[str] = []
        self._prompt_text = prompt if isinstance(prompt, str) else None
        self._attributes: dict[str, Any] | None = None
        self.batch_row, self.padding = batch_row, padding
        self._has_more_passes = max_new_tokens > 1
        self._writer = None if folder is None else self._make_writer(folder)
        self._first = 0  # the position that the buffers begin with
        self._buffers = {name: self._buffer(name) for name in self.plan.variables}
        self._shares_stream = self._share_stream()
        self._stream: Tensor | None = None  # the residual stream, as it was heard last
        self._nan_ahead: Tensor | None = None  # (position, position): what scores are marked with
        # The same memory seen by numpy, which writes single numbers sooner: what a step leaves.
        self._numbers = {name: buffer.numpy() for name, buffer in self._buffers.items()
                         if VARIABLES[name].dims[0] == "step"}  # fmt: skip
        # Values of the pass under way that are needed after it: variable -> row -> tensor.
        self._passed: dict[str, dict[int, Tensor]] = {}
        self._place_of: dict[tuple[str, int], Place] = {}
        self._cache: KVCache | None = None
        self._bounds: tuple[int, int] | None = None
        self._collects = False
        self._thread = 0
        self._n_passes = 0
        self._n_positions = 0
        self._step_of_position = np.zeros(self.plan.sizes["position"], dtype=np.int64)

    # Running

    def run(self) -> Iterator[Step]:
        """Generate with the hooks on; each step is handed out when it is recorded."""
        cache = KVCache(self.lm.config, capacity=self.plan.sizes["position"])
        with self.listening():
            for step in run_steps(
                self.lm, self.prompt_ids, self.max_new_tokens, self.sampling, cache, self._forward,
                self.forced,
            ):  # fmt: skip
                self.keep_step(step)
                yield step

    def run_forward(self) -> None:
        """Pass the prompt once, with the hooks on."""
        cache = KVCache(self.lm.config, capacity=self.plan.sizes["position"])
        with self.listening(), torch.inference_mode():
            self._forward(torch.tensor([self.prompt_ids], device=self.lm.device), cache)

    def _forward(self, ids: Tensor, cache: KVCache) -> Tensor:
        """One pass of this run."""
        with self.passing(cache.length, cache.length + ids.shape[1]):
            logits = self.lm.model(ids, cache=cache)
        return logits

    @contextmanager
    def passing(self, start: int, end: int) -> Iterator[None]:
        """Record the pass inside, over these positions of the text.

        Hooks record inside it alone, and in this thread: others may use the model between.
        """
        began = time.perf_counter()
        changed = list(self.lm.model.interventions)
        self._thread, self._bounds = threading.get_ident(), (start, end)
        self._stream = self._nan_ahead = None
        # A changed value may change again, in place, farther on: then it is copied where it passes.
        is_one_column = end - start == 1 and (start > 0 or not self.padding)
        self._collects = is_one_column and not changed
        if changed:
            self._part_stream()
        if self._writer is not None and end - start > 1:
            self._write_held(start)
        try:
            yield
            self._after_pass(start, end)
        finally:
            self._bounds = self._stream = None
            for rows in self._passed.values():
                rows.clear()
        assert self._cache is not None
        # Of another thread, an intervention may begin or end in the midst of a pass.
        for name in (*changed, *self.lm.model.interventions, *self._cache.operations):
            if name not in self.edited:
                self.edited.append(name)
        if self._writer is not None:
            if end - start > 1:
                self._first = end  # longer passes are written where they are heard
            elif end - self._first == self.plan.window or end % WINDOW == 0:
                self._write_held(end)
        self._step_of_position[start:end] = self._n_passes
        self._put_step("step_positions", end - start)
        self._put_step("step_seconds", time.perf_counter() - began)
        self._n_passes += 1
        self._n_positions = end

    def keep_step(self, step: Step) -> None:
        """Add what the pass before has written."""
        self.steps.append(step)
        for name, value in (
            ("sampled_id", step.id),
            ("sampled_probability", step.probability),
            ("step_seconds", step.seconds),
        ):
            if name in self._numbers:
                self._numbers[name][step.index] = value

    # Listening

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks on inside the block, off after it, whatever happens."""
        handles: list[RemovableHandle] = []
        modules = dict(self.lm.model.named_modules(remove_duplicate=False))
        try:
            for place in places(self.lm.config.n_layers):
                row = self._row(place)
                if row is None:
                    continue
                module = modules[place.path]
                hear = self._listener(place, row)
                if place.before:
                    handles.append(module.register_forward_pre_hook(
                        lambda module, args, hear=hear: hear(module, args, args[0])))  # fmt: skip
                else:
                    handles.append(module.register_forward_hook(hear))
            handles.append(self.lm.model.register_forward_hook(self._hear_model, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._bounds = None

    def _row(self, place: Place) -> int | None:
        """Where a place goes in its buffer; None where nothing of it is wanted."""
        wanted = place.variable in self._buffers or self._needed_after(place.variable)
        if not wanted:
            return None
        if place.variable == "rms":
            indices = [norm.index for norm in self.plan.norms]
            return indices.index(place.row) if place.row in indices else None
        if place.row is None:
            return -1
        return self.plan.layers.index(place.row) if place.row in self.plan.layers else None

    def _needed_after(self, variable: str) -> bool:
        if variable == "residual_out":
            return any(name in self._buffers for name in LENS_VARIABLES)
        return variable == "head_output" and "head_contribution_norm" in self._buffers

    def _bounds_of_my_pass(self) -> tuple[int, int] | None:
        """Start and end of the pass under way; None where it is not this recording's."""
        return self._bounds if threading.get_ident() == self._thread else None

    def _listener(self, place: Place, row: int) -> Callable[[Any, Any, Tensor], None]:
        """What hears the values of one place.

        A pass over one position is short and goes through every place: it collects what it hears,
        and copies afterwards, all layers at once. A longer pass copies at once: what all layers
        made would not have to stand in memory twice.
        """
        self._place_of[place.variable, row] = place
        passed = self._passed.setdefault(place.variable, {})
        is_kept = place.variable in self._buffers
        is_needed_after = self._needed_after(place.variable)

        def hear(module: Any, args: Any, value: Tensor) -> None:
            bounds = self._bounds_of_my_pass()
            if bounds is None:
                return
            if self._collects or is_needed_after:
                passed[row] = value
            if is_kept and not self._collects:
                self._keep(place, row, value, *bounds)

        return hear

    def _hear_model(self, module: Any, args: tuple, *heard: Any) -> None:
        # PyTorch leaves the keywords out in a pass of another thread that meets this hook as it
        # comes off.
        if self._bounds_of_my_pass() is not None:
            kwargs, output = heard
            self._last_logits = output[self.batch_row, -1]
            self._cache = args[1] if len(args) > 1 else kwargs.get("cache")

    def _keep(self, place: Place, row: int, value: Tensor, start: int, end: int) -> None:
        """Copy the values of one place into its buffer, unless they are there."""
        if self._shares_stream and self._is_written(place.variable, row, value):
            return
        value = self._of_this_text(place, value, start, end)
        if place.variable == "attention_scores" and end - start > 1:
            if self._nan_ahead is None:  # one for all layers; adding is much faster than filling
                ahead = ~causal_mask(end - start, end, value.device)
                self._nan_ahead = torch.zeros_like(ahead, dtype=torch.float32)
                self._nan_ahead.masked_fill_(ahead, float("nan"))
            value = value + self._nan_ahead
        buffer = self._buffers[place.variable]
        is_whole = value.shape == buffer.shape and value.dtype == buffer.dtype
        if place.variable == "logits" and is_whole and self._writer is None:
            # The only pass has made them, and nothing comes after them: they need no copy.
            self._buffers["logits"] = value.detach().cpu()
        else:
            self._put(place.variable, value, start, end, row)

    def _is_written(self, variable: str, row: int, value: Tensor) -> bool:
        """Whether a value of the shared stream was written where it came from.

        A residual_in that is another tensor was changed on its way: then the buffers part.
        """
        if variable not in ("embedding", *STREAM):
            return False
        before, self._stream = self._stream, value
        if variable != "residual_in" or before is None:
            return False
        if value is before:
            return True
        self._part_stream()
        return False

    def _keep_collected(self, start: int, end: int) -> None:
        """Copy what a pass over one position has collected, each variable in one go."""
        if self._shares_stream:
            read, wrote = (self._passed[name] for name in STREAM)
            sources = {row + 1: value for row, value in wrote.items()}
            if self._passed.get("embedding"):
                sources[0] = self._passed["embedding"][-1]
            if all(value is sources.get(row, value) for row, value in read.items()):
                for row in sources:
                    read.pop(row, None)  # it is written as its source
            else:
                self._part_stream()
        for variable, values in self._passed.items():
            if variable not in self._buffers or not values:
                continue
            places = [self._place_of[variable, row] for row in values]
            shapes = {value.shape for value in values.values()}
            if len(values) == len(self._buffers[variable]) and len(shapes) == 1:
                # All rows, in their order: the layers pass one after the other.
                first = self._of_this_text(places[0], next(iter(values.values())), start, end)
                together = torch.stack(list(values.values()))
                together = together.flatten(2)[:, min(self.batch_row, together.shape[1] - 1)]
                padded = together.view(len(values), *first.shape[:-1], -1)
                self._put(variable, padded[..., -first.shape[-1] :], start, end)
            else:
                for place, (row, value) in zip(places, values.items(), strict=True):
                    self._keep(place, row, value, start, end)

    def _of_this_text(self, place: Place, value: Tensor, start: int, end: int) -> Tensor:
        """A value without batch axis and padding, its axes apart; checked against its place."""
        dims = AXES[place.variable]
        now = {"position": end - start, "query_position": end - start, "key_position": end}
        sizes = padded = [now.get(dim) or self.plan.sizes[dim] for dim in dims]
        if self.padding:
            # A first pass begins with the padding; later ones only have it among their keys.
            has_padding = ("key_position",) if start else tuple(now)
            padded = [
                size + self.padding * (dim in has_padding)
                for dim, size in zip(dims, sizes, strict=True)
            ]
        row = min(self.batch_row, value.shape[0] - 1)  # what is the same for all has one row
        if value[row].numel() != math.prod(padded):
            raise ValueError(
                f"{place.name} gave the shape {tuple(value.shape)}, but its axes are "
                f"(batch, {', '.join(dims)}) with the sizes {(1, *sizes)}"
            )
        value = value[row].reshape(padded)
        return value[tuple(slice(-size, None) for size in sizes)] if self.padding else value

    def _put(
        self, name: str, value: Any, start: int, end: int, row: int | slice = slice(None)
    ) -> None:
        """Write positions start to end of a variable, in one row (a layer, a norm) or in all."""
        if self._writer is not None and end - start > 1:
            kept = value.detach().to("cpu", self._buffers[name].dtype)
            self._writer.put(name, kept.numpy(), start, end, row)
        else:
            self._buffers[name][region(name, start, end, row, self._first)] = value

    # After each pass: what was collected, and what is computed from its values and the weights

    def _after_pass(self, start: int, end: int) -> None:
        if self._collects:
            self._keep_collected(start, end)
        if any(name in self._buffers for name in LENS_VARIABLES):
            self._keep_lens(start, end)
        if "head_contribution_norm" in self._buffers:
            self._keep_head_contributions(start, end)
        self._keep_cache(start, end)
        self._keep_probabilities()

    def _keep_cache(self, start: int, end: int) -> None:
        if not any(name in self._buffers for name in (*CACHE_VARIABLES, *MAPS)):
            return
        assert self._cache is not None
        for row, layer in enumerate(self.plan.layers):
            cache = self._cache.layers[layer]
            if cache.dropped is not None:
                self._mark_dropped(row, cache.dropped, start, end)
            for name, value in (
                ("cache_length", cache.length - self.padding),
                ("cache_bytes_used", cache.row_bytes(cache.length - self.padding)),
                ("cache_bytes_reserved", cache.row_bytes(cache.capacity - self.padding)),
            ):
                if name in self._numbers:
                    self._numbers[name][self._n_passes, row] = value

    def _mark_dropped(self, row: int, dropped: Tensor, start: int, end: int) -> None:
        """Rows that attention did not see are NaN in its maps."""
        by_head = dropped[self.lm.config.kv_head_of_head, None].cpu()
        for name in MAPS:
            if name in self._buffers:
                seen = self._buffers[name][region(name, start, end, row, self._first)]
                seen.masked_fill_(by_head, float("nan"))

    def _keep_probabilities(self) -> None:
        """What the logits of the last position say of the next token."""
        if not any(name in self._buffers for name in PROBABILITY_VARIABLES):
            return
        probabilities = self._last_logits.float().softmax(dim=-1)
        if "entropy" in self._buffers:
            self._put_step("entropy", float(torch.special.entr(probabilities).sum()))
        candidates = probabilities.topk(self.plan.sizes["rank"])
        self._put_step("candidate_id", candidates.indices.cpu().numpy())
        self._put_step("candidate_probability", candidates.values.cpu().numpy())

    def _put_step(self, name: str, value: Any) -> None:
        if name in self._numbers:
            self._numbers[name][self._n_passes] = value

    def _keep_lens(self, start: int, end: int) -> None:
        """Let the final norm and the output head read every block's residual_out."""
        model = self.lm.model
        stream = torch.cat(self._of_all_layers("residual_out", start, end))
        chunk = max(1, LENS_CHUNK // self.lm.config.vocab_size)
        ids: list[Tensor] = []
        probabilities: list[Tensor] = []
        for part in stream.split(chunk):
            # The functions, not the modules: nobody's hooks hear these passes.
            normed = F.rms_norm(part, (part.shape[-1],), model.norm.weight, model.norm.eps)
            likely = F.linear(normed, model.output.weight).float().softmax(dim=-1)
            best = torch.topk(likely, self.plan.sizes["rank"])
            ids.append(best[1])
            probabilities.append(best[0])
        shape = (len(self.plan.layers), end - start, -1)
        for name, parts in (("lens_id", ids), ("lens_probability", probabilities)):
            if name in self._buffers:
                self._put(name, torch.cat(parts).view(shape), start, end)

    def _of_all_layers(self, variable: str, start: int, end: int) -> list[Tensor]:
        values = self._passed[variable]
        return [
            self._of_this_text(self._place_of[variable, row], values[row], start, end)
            for row in range(len(self.plan.layers))
        ]

    def _keep_head_contributions(self, start: int, end: int) -> None:
        """The length of W_output of one head times its output, for each head and position."""
        n_heads = self.lm.config.n_heads
        outputs = self._of_all_layers("head_output", start, end)
        for row, layer in enumerate(self.plan.layers):
            weight = self.lm.model.get_parameter(f"blocks.{layer}.attention.output.weight")
            by_head = weight.unflatten(1, (n_heads, -1))  # (feature, head, head_feature)
            added = torch.einsum("phf,dhf->hpd", outputs[row], by_head).float()
            self._put("head_contribution_norm", added.norm(dim=-1), start, end, row)

    # The trace

    def _buffer(self, name: str) -> Tensor:
        """Room for a variable. What nobody will write, as above the diagonal, holds something."""
        shape, dtype = self.plan.held_shape(name), getattr(torch, self.plan.dtype(name))
        if name == "norm_gain":
            model = self.lm.model
            weights = [model.get_parameter(f"{norm.path}.weight") for norm in self.plan.norms]
            if weights:
                return torch.stack([weight.detach().to(dtype).cpu() for weight in weights])
        fills_rows = not self._has_more_passes and self._writer is None
        if name == "attention_scores" and not fills_rows:
            return torch.full(shape, float("nan"), dtype=dtype)
        if "position" in VARIABLES[name].dims or (name in MAPS and fills_rows):
            return torch.empty(shape, dtype=dtype)
        return torch.zeros(shape, dtype=dtype)

    def _share_stream(self) -> bool:
        """Let residual_in and residual_out of all layers, and embedding, share memory."""
        n_layers = self.lm.config.n_layers
        is_recorded = len(self.plan.layers) == n_layers and {*STREAM} <= {*self._buffers}
        if not is_recorded or self._writer is not None:
            return False
        shape = (n_layers + 1, *self.plan.shape("residual_in")[1:])
        stream = torch.empty(shape, dtype=self._buffers["residual_in"].dtype)
        self._buffers["residual_in"], self._buffers["residual_out"] = stream[:-1], stream[1:]
        if "embedding" in self._buffers:
            self._buffers["embedding"] = stream[0]
        return True

    def _part_stream(self) -> None:
        """Give up sharing: from now on somebody changes the stream between two blocks."""
        if self._shares_stream:
            self._shares_stream = False
            for name in ("embedding", "residual_in"):
                if name in self._buffers:
                    self._buffers[name] = self._buffers[name].clone()

    def trace(self) -> xr.Dataset:
        """Everything recorded so far; the arrays are views of the buffers, which only grow."""
        values = self._values(self._buffers)
        return build(values, self._coordinates(values), self._describe())

    def _sizes_now(self) -> dict[str, int]:
        return {
            **self.plan.sizes,
            "step": self._n_passes,
            **dict.fromkeys(("position", "query_position", "key_position"), self._n_positions),
        }

    def _values(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """What memory holds of these variables, as far as it is recorded."""
        now = self._sizes_now()
        return {
            name: self._buffers[name].numpy()[
                tuple(slice(now[dim]) for dim in VARIABLES[name].dims)
            ]
            for name in names
        }

    # A trace that is written as it goes

    def _make_writer(self, folder: Path) -> TraceWriter:
        from llama_viz.trace_folder import TraceWriter

        names = self.plan.by_position
        return TraceWriter(
            folder,
            {name: self.plan.shape(name) for name in names},
            {name: self.plan.dtype(name) for name in names},
        )

    def _write_held(self, end: int) -> None:
        """Write the positions that wait, up to end, and make room for the next ones."""
        assert self._writer is not None
        for name in self.plan.by_position if end > self._first else ():
            held = self._buffers[name]
            part = held[region(name, self._first, end, first=self._first)]
            self._writer.put(name, part.numpy(), self._first, end)
            if name in MAPS:
                held.fill_(float("nan") if name == "attention_scores" else 0)
        self._first = end

    def finish(self) -> None:
        """Complete the trace that was written: what still waits, coordinates and attributes."""
        assert self._writer is not None
        self._write_held(self._n_positions)
        small = self._values(name for name in self._buffers if name not in self.plan.by_position)
        coordinates = self._coordinates({name: small.get(name) for name in self._buffers})
        self._writer.finish(
            self._sizes_now(), small, coordinates, self._describe(), _labels(self.lm)
        )

    def _coordinates(self, values: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
        config, plan = self.lm.config, self.plan
        new_ids = [step.id for step in self.steps]
        ids = np.array([*self.prompt_ids, *new_ids][: self._n_positions])
        tokens = self._label(ids)
        positions = np.arange(self._n_positions)
        coordinates: dict[str, Any] = {
            "position": positions,
            "token_id": ("position", ids),
            "token": ("position", tokens),
            "step_of_position": ("position", self._step_of_position[: self._n_positions].copy()),
            "step": np.arange(self._n_passes),
            "layer": list(plan.layers),
            "head": np.arange(config.n_heads),
            "kv_head_of_head": ("head", config.kv_head_of_head),
            "norm": [norm.index for norm in plan.norms],
            "norm_layer": ("norm", [norm.layer for norm in plan.norms]),
            "norm_kind": ("norm", np.array([norm.kind for norm in plan.norms], dtype=str)),
        }
        if self.steps:
            coordinates["sampled_token"] = ("step", self._label(np.array(new_ids)))
        dims = {dim for name in values for dim in VARIABLES[name].dims}
        for side in ("query", "key"):
            if f"{side}_position" in dims:
                coordinates[f"{side}_position"] = positions
                coordinates[f"{side}_token"] = (f"{side}_position", tokens)
        for dim in ("key_value_head", "pair", "rank"):
            if dim in dims:
                coordinates[dim] = np.arange(plan.sizes[dim])
        for kind in ("candidate", "lens"):
            chosen = values.get(f"{kind}_id")
            if chosen is not None:
                coordinates[f"{kind}_token"] = (VARIABLES[f"{kind}_id"].dims, self._label(chosen))
        if "vocabulary" in dims:
            coordinates["vocabulary_token"] = ("vocabulary", _labels(self.lm).copy())
        return coordinates

    def _label(self, ids: np.ndarray) -> np.ndarray:
        return _labels(self.lm)[ids.astype(np.int64)]

    def _describe(self) -> dict[str, Any]:
        if self._attributes is None:
            self._attributes = self._describe_once()
        done = finish(self.lm, self.prompt_ids, self.steps)
        return {
            **self._attributes,
            "text": done.text,
            "stop_reason": done.stop_reason if self.steps else None,
            "edited": list(self.edited),
        }

    def _describe_once(self) -> dict[str, Any]:
        lm = self.lm
        prompt = self._prompt_text
        if prompt is None and lm.tokenizer is not None:
            prompt = lm.decode(self.prompt_ids)
        return {
            "model": lm.name,
            "config": lm.config.to_dict(),
            "prompt": prompt,
            "prompt_ids": list(self.prompt_ids),
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "seed": self.sampling.seed,
            "forced_ids": list(self.forced),
            "dtype": str(lm.dtype).removeprefix("torch."),
            "device": str(lm.device),
            "rope_layout": "interleaved",
            "checkpoint_sha256": lm.checksum,
            "bytes_planned": self.plan.size.total,
            "versions": {
                "llama_viz": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }


def _labels(lm: LanguageModel) -> np.ndarray:
    """The label of every token of a vocabulary, made once for each tokenizer."""
    return _labels_of(lm.tokenizer, lm.config.vocab_size)


@lru_cache(maxsize=8)
def _labels_of(tokenizer: Tokenizer | None, vocab_size: int) -> np.ndarray:
    label = str if tokenizer is None else tokenizer.label
    return np.array([label(token_id) for token_id in range(vocab_size)], dtype=str)


def _chosen(kind: str, names: Any, choices: tuple) -> tuple:
    """The choices that were named, in their own order; all for None."""
    if names is None:
        return choices
    asked = [names] if isinstance(names, (str, Number)) else list(names)
    for name in asked:
        if name not in choices or isinstance(name, bool):
            raise unknown_name(kind, name, choices)
    if not asked:
        raise ValueError(f"{kind}s= is empty; name at least one or leave it out for all")
    return tuple(choice for choice in choices if choice in asked)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def parse_bytes(size: str | int) -> int:
    """A number of bytes from a whole number or a text such as "500MB" or "1.5GiB".

    Raises ValueError for what cannot be read so.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"cannot read {size!r} as a size; write a number of bytes or '500MB'")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_bytes(size: int) -> str:
    """Bytes in a unit that reads well: 812 B, 1.5 MB, 18.0 GB."""
    if size < 1000:
        return f"{size} B"
    in_unit, unit = size / 1000, "kB"
    for larger in ("MB", "GB"):
        if round(in_unit, 1) >= 1000:
            in_unit, unit = in_unit / 1000, larger
    return f"{in_unit:.1f} {unit}"
