"""The generation explorer: run a model live, see every signal follow, scrub through the steps."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import math
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anywidget
import torch
import traitlets

from llama_viz.analysis import config_of, require
from llama_viz.checkpoints import EMBEDDED, load, pick_device
from llama_viz.errors import collected_warnings, unknown_name
from llama_viz.generation import check_new_tokens
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import format_bytes, record_steps, recording_size
from llama_viz.trace import SIGNALS
from llama_viz.widgets.bundle import picture_bundle
from llama_viz.widgets.explorer import BREATH_SECONDS
from llama_viz.widgets.messages import PANEL_VARIABLES, describe, pack_steps
from llama_viz.widgets.modules import script, styles
from llama_viz.widgets.still import alt_text, still

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterator, Sequence

    import xarray as xr

    from llama_viz.recorder import RecordedStep

logger = logging.getLogger("llama_viz")

# Where neither the caller nor the trace says.
PROMPT = "Once there was a girl named Lily."
NEW_TOKENS = 64

# How many tokens a branch writes beyond the one that it begins with, where its run had come to its
# end already.
FURTHER_TOKENS = 16

# What the panels show, and the four signals whole, for figures that are drawn afterwards.
RECORDED = tuple(dict.fromkeys((*PANEL_VARIABLES, *SIGNALS)))

# A run that waits for its next token looks this often whether somebody pressed Stop.
WAIT_SECONDS = 0.02

REASONS = {
    "eos": "the model ended its text",
    "length": "as many tokens as asked for",
    "context": "the context is full",
}


class InUseError(RuntimeError):
    """The explorer runs its model already."""


class GenerationExplorer(anywidget.AnyWidget):
    """Generate live and see what happens inside: text, attention, norms, angles, cache, time.

    models are the choices of the model switch: names of embedded models, paths to checkpoints, or
    models that are loaded already. trace shows a recorded run at once, and Run with its settings
    makes it again. After a run, and while it goes on, `trace` is its recording so far; `lm` is the
    model that is chosen.

    At any step of a run that has ended or was stopped, `fork` (a click on a candidate) writes on
    from there with another token. Run and branches are kept until the next run; `trace` is the one
    that is shown.

    Where no kernel runs, a picture of the trace is shown instead.

    Raises ValueError for no models and no trace, and for devices that this machine does not have.
    """

    _esm = script("generation")
    _css = styles("generation")

    # For the page, which never changes them: it sends messages, and sees here what came of them.
    choices = traitlets.Dict().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    running = traitlets.Bool(False).tag(sync=True)
    # The run and what was forked from it, by their numbers; and the number of the one that is
    # shown, which the page may change.
    branches: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)

    _task: asyncio.Task[None] | None = None

    def __init__(
        self,
        models: Sequence[str | Path | LanguageModel] = ("gqa", "mha", "mqa"),
        *,
        prompt: str | None = None,
        trace: xr.Dataset | None = None,
        max_new_tokens: int | None = None,
        device: str | None = None,
    ) -> None:
        if not models and trace is None:
            raise ValueError("give at least one model to run, or a trace to show")
        self._traces: dict[int, xr.Dataset] = {} if trace is None else {1: trace}
        self._sources = _named(models)
        self._loaded: dict[tuple[str, str], LanguageModel] = {}
        self._run_number = 0 if trace is None else 1
        self._stop_asked = False
        attributes: dict[str, Any] = {} if trace is None else trace.attrs
        if max_new_tokens is None:
            max_new_tokens = attributes.get("max_new_tokens") or NEW_TOKENS
        check_new_tokens(max_new_tokens)
        model = attributes.get("model")
        if model not in self._sources:
            model = next(iter(self._sources), None)
        place = self._own_device(model) if device is None else pick_device(device)
        settings = {
            "model": model,
            "device": _place_name(place),
            "prompt": prompt if prompt is not None else attributes.get("prompt") or PROMPT,
            "max_new_tokens": max_new_tokens,
            "temperature": attributes.get("temperature", 0.0),
            "seed": attributes.get("seed", 0),
            "tokens_per_second": None,
        }
        ready = "Press Run." if trace is None else "A recorded run. Press Run to make your own."
        super().__init__(settings=settings, status=_status(ready))
        if trace is not None:
            self._begin_branch(trace, None, None)
        self.choices = self._describe_choices()
        self.on_msg(self._receive)

    # For the reader

    @property
    def trace(self) -> xr.Dataset | None:
        """The recording of the run, or of the branch of it, that is shown; None before any."""
        return self._traces.get(self.shown)

    @property
    def lm(self) -> LanguageModel:
        """The model that is chosen, loaded if it is not yet."""
        return self._load(self.settings["model"], self.settings["device"])

    def start(self, **settings: Any) -> asyncio.Task[None]:
        """Begin a run, as the Run button does, and return its task.

        settings are model, device, prompt, max_new_tokens, temperature, seed and
        tokens_per_second (None: as fast as it goes); those not given stay as they are. What is
        wrong with them is said in the widget, as is what goes wrong later.
        """
        return self._begin(self._write_anew(settings))

    def fork(self, step: int, token_id: int, *, run: int | None = None) -> asyncio.Task[None]:
        """Go back to a step, write this token there, and go on: a new branch; returns its task.

        run is the number of the branch that is gone back to (None: the one that is shown). The
        steps before are computed again, with the tokens that they wrote forced, so that the branch
        is to the bit what a run with these tokens forced is.
        """
        return self._begin(self._write_branch(step, token_id, self.shown if run is None else run))

    def _begin(self, writing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._task is not None and not self._task.done():
            writing.close()
            raise InUseError("a run is under way; stop it first")
        self._stop_asked = False
        self._task = asyncio.get_running_loop().create_task(self._run(writing))
        self.running = True
        return self._task

    def stop(self) -> None:
        """Ask the run to end after the token under way; its recording so far is kept."""
        self._stop_asked = True

    def close(self) -> None:
        """End the run, if there is one, and take the widget off the page."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget, and for a page without a kernel a picture and its description."""
        picture = None if self.trace is None else still(self.trace)
        return picture_bundle(self.model_id, alt_text(self.trace), picture), {}

    # Running

    async def _run(self, writing: Coroutine[Any, Any, None]) -> None:
        """One run to its last token; whatever goes wrong is said in one line."""
        try:
            self._say("Starting …")
            await writing
        except asyncio.CancelledError:
            self._say("Stopped.")
            raise
        except KeyboardInterrupt:
            self._say("Stopped by an interrupt of the kernel.", "notice")
        except (ValueError, OSError) as error:
            self._say(str(error), "error")
        except Exception as error:
            # Nobody expected this one: the line is for the reader, the log for whoever mends it.
            self._say(f"{type(error).__name__}: {error}", "error")
            logger.exception("the run of the generation explorer failed")
        finally:
            self.running = False

    async def _write_anew(self, changes: dict[str, Any]) -> None:
        settings = self._checked(changes)
        # In a thread, since a large checkpoint takes seconds that other cells can use.
        lm = await asyncio.to_thread(self._load, settings["model"], settings["device"])
        steps = record_steps(
            lm,
            settings["prompt"],
            settings["max_new_tokens"],
            RECORDED,
            temperature=settings["temperature"],
            seed=settings["seed"],
        )
        self.settings = settings
        self.choices = self._describe_choices()
        self._say("Reading the prompt …")
        await self._write(steps, 0, None)

    async def _write_branch(self, step: int, token_id: int, run: int) -> None:
        if run not in self._traces:
            raise unknown_name("branch", run, self._traces)
        trace = self._traces[run]
        require(trace, "sampled_id")
        written = [int(own) for own in trace["sampled_id"].values]
        if isinstance(step, bool) or step not in range(len(written)):
            raise ValueError(f"step must be from 0 to {len(written) - 1}, got {step!r}")
        if token_id == written[step]:
            raise ValueError(f"step {step} wrote this token already; choose another candidate")
        settings = self._checked({})
        lm = await asyncio.to_thread(self._load, settings["model"], settings["device"])
        attributes = trace.attrs
        if lm.name != attributes["model"] or lm.config != config_of(trace):
            raise ValueError(
                f"the run was made by {attributes['model']}, and this model is {lm.name}: "
                "branches need the run's own model"
            )
        prompt_ids, prompt = list(attributes["prompt_ids"]), attributes["prompt"]
        forced = [*written[:step], token_id]
        n_new = attributes["max_new_tokens"]
        steps = record_steps(
            lm,
            prompt if prompt and lm.prompt_ids(prompt) == prompt_ids else prompt_ids,
            n_new if n_new > len(forced) else len(forced) + FURTHER_TOKENS,
            RECORDED,
            temperature=attributes["temperature"],
            top_k=attributes["top_k"],
            top_p=attributes["top_p"],
            seed=attributes["seed"],
            forced=forced,
        )
        self._say(f"Going back to step {step} …")
        await self._write(steps, len(forced), run)

    async def _write(
        self, steps: Iterator[RecordedStep], n_forced: int, parent: int | None
    ) -> None:
        """Send one step after the other, until the last one, or until somebody pressed Stop."""
        await asyncio.sleep(BREATH_SECONDS)
        began = time.perf_counter()
        pace = self.settings["tokens_per_second"] or float("inf")
        notices: list[str] = []
        n_written, reason, run = 0, None, None
        try:
            with closing(cast("Generator[RecordedStep]", steps)):
                while not self._stop_asked:
                    recorded = _next(steps, notices)
                    if recorded is None:
                        break
                    n_written, reason = n_written + 1, recorded.step.stop_reason
                    if run is None:
                        self._run_number += 1
                        run = self._run_number
                        # A cell may look meanwhile: until the new one is shown, the old ones stay.
                        self._traces = {**self._traces, run: recorded.trace}
                        self._begin_branch(recorded.trace, parent, n_forced - 1 if parent else None)
                        if parent is None:
                            self._traces = {run: recorded.trace}
                    if n_written == n_forced + 1:
                        self._say("Writing …")
                    if n_written <= n_forced:
                        began = time.perf_counter()
                    self._traces[run] = recorded.trace
                    self._send_steps(run, recorded.step.index)
                    due = began + (n_written - n_forced) / pace
                    await self._breathe(due if reason is None else began)
        finally:
            if run is not None:
                self._end_branch(run)
        seconds = time.perf_counter() - began
        words = _outcome(max(n_written - n_forced, 0), seconds, reason, notices)
        self._say(words, "notice" if notices else "status")

    def _begin_branch(self, trace: xr.Dataset, parent: int | None, step: int | None) -> None:
        """Show a branch that begins with this trace; one without a parent is a run of its own."""
        known = [] if parent is None else self.branches
        branch: dict[str, Any] = {
            "run": self._run_number, "parent": parent, "step": step, "written": None,
            "instead": None, "n_prompt": len(trace.attrs["prompt_ids"]),
        }  # fmt: skip
        if parent is not None:
            lm, before = self.lm, self._traces[parent]
            branch["written"] = lm.label(int(trace.attrs["forced_ids"][-1]))
            branch["instead"] = str(before["sampled_token"].values[step])
        self.branches = [*known, {**branch, **_likelihood(trace)}]
        self.shown = self._run_number

    def _end_branch(self, run: int) -> None:
        """The branch has come to its end: say how likely its text is."""
        told = _likelihood(self._traces[run])
        self.branches = [
            {**branch, **told} if branch["run"] == run else branch for branch in self.branches
        ]

    @traitlets.validate("shown")
    def _check_shown(self, proposal: Any) -> int:
        if proposal["value"] not in self._traces and proposal["value"] != 0:
            raise unknown_name("branch", proposal["value"], self._traces)
        return int(proposal["value"])

    async def _breathe(self, due: float) -> None:
        """Let Stop and other cells be heard, at least a moment, and until the next token is due."""
        await asyncio.sleep(BREATH_SECONDS)
        while not self._stop_asked and (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(min(left, WAIT_SECONDS))

    def _checked(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The settings of the next run; raises ValueError where one of them cannot be."""
        for name in changes:
            if name not in self.settings:
                raise unknown_name("setting", name, self.settings)
        settings = {**self.settings, **changes}
        if settings["model"] is None:
            raise ValueError(
                "this explorer was made with models=(): it shows a trace and runs none"
            )
        if settings["model"] not in self._sources:
            raise unknown_name("model", settings["model"], self._sources)
        settings["device"] = _place_name(pick_device(settings["device"]))
        if not isinstance(settings["prompt"], str):
            raise ValueError(f"the prompt must be a text, got {settings['prompt']!r}")
        check_new_tokens(settings["max_new_tokens"])
        _check_number("temperature", settings["temperature"], (int, float))
        _check_number("seed", settings["seed"], (int,))
        if settings["tokens_per_second"] is not None:
            _check_number("tokens_per_second", settings["tokens_per_second"], (int, float))
            if settings["tokens_per_second"] <= 0:
                raise ValueError("tokens_per_second must be above 0, or None for full speed")
        return settings

    # Models and devices

    def _load(self, name: str, device: str) -> LanguageModel:
        """The model of a name on a device; loaded, or moved, once."""
        if name not in self._sources:
            raise unknown_name("model", name, self._sources)
        if (name, device) not in self._loaded:
            source = self._sources[name]
            if not isinstance(source, LanguageModel):
                lm = load(source, device=device)
            elif _place_name(source.device) == device:
                lm = source
            else:  # a copy: the reader's own model stays where it is
                lm = dataclasses.replace(source, model=copy.deepcopy(source.model).to(device))
            self._loaded.setdefault((name, device), lm)  # another thread may have loaded it too
        return self._loaded[name, device]

    def _at_hand(self, name: str) -> LanguageModel | None:
        """The model of a name where that costs next to nothing, else None."""
        source, device = self._sources[name], self.settings["device"]
        if isinstance(source, LanguageModel):
            return source
        if source in EMBEDDED:
            return self._load(name, device)
        return self._loaded.get((name, device))

    def _own_device(self, name: str | None) -> torch.device:
        source = self._sources.get(name or "")
        return source.device if isinstance(source, LanguageModel) else pick_device()

    def _describe_choices(self) -> dict[str, Any]:
        """The models with what is known of them, and the devices."""
        models = [self._describe_model(name) for name in self._sources]
        devices = _devices()
        if self.settings["device"] not in devices:
            devices.append(self.settings["device"])
        return {"models": models, "devices": devices}

    def _describe_model(self, name: str) -> dict[str, Any]:
        """Heads and cache of a model; of a checkpoint that is not loaded yet, its name alone."""
        try:
            lm = self._at_hand(name)
        except (ValueError, OSError) as error:
            return {"name": name, "problem": _one_line(error)}
        if lm is None:
            return {"name": name}
        config = lm.config
        return {
            "name": name,
            "kind": config.attention_kind,
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "context": config.max_seq_len,
            "cache_bytes_per_position": config.kv_cache_bytes(1, itemsize=lm.dtype.itemsize),
        }

    # Talking with the page

    def _receive(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """Answer a message of the page; what goes wrong is said there."""
        try:
            kind = content.get("type")
            if kind == "run":
                self.start(**content["settings"])
            elif kind == "stop":
                self.stop()
            elif kind == "fork":
                self.fork(content["step"], content["id"], run=content["run"])
            elif kind == "ask":
                is_known = content["run"] in self._traces
                run = content["run"] if is_known else self.shown
                self._send_steps(run, content["first"] if is_known else 0)
            elif kind == "plan":
                self._send_plan(content["settings"], content["view"])
        except InUseError as error:
            self._say(str(error), "error")
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", "error")
            logger.exception("the generation explorer could not answer its page")

    def _send_steps(self, run: int, first: int) -> None:
        """Send the steps of a branch from `first` on; before the first one, what the run is."""
        trace = self._traces.get(run)
        if trace is None:
            return
        packed = pack_steps(trace, first)
        content = {
            "type": "steps",
            "run": run,
            "about": describe(trace) if first == 0 else None,
            "first": first,
            "available": trace.sizes["step"],
            "steps": [step.header for step in packed],
        }
        self.send(content, [buffer for step in packed for buffer in step.buffers])

    def _send_plan(self, changes: dict[str, Any], view: str) -> None:
        """Say what a run with these settings would take, where the model is loaded already."""
        plan: dict[str, Any] = {"type": "plan", "view": view, "text": "", "problem": False}
        try:
            settings = self._checked(changes)
            lm = self._at_hand(settings["model"])
            if lm is not None:
                prompt, n_new = settings["prompt"], settings["max_new_tokens"]
                size = recording_size(lm, prompt, n_new, RECORDED)
                n_prompt = len(lm.prompt_ids(prompt))
                plan["text"] = (
                    f"prompt of {n_prompt} token{'s' * (n_prompt != 1)}, "
                    f"recording of at most {format_bytes(size.total)}"
                )
        except (ValueError, OSError) as error:
            plan |= {"text": _one_line(error), "problem": True}
        self.send(plan)

    def _say(self, text: str, level: str = "status") -> None:
        self.status = _status(text, level)


def _status(text: str, level: str = "status") -> dict[str, str]:
    """One line for the reader; level is "status", "notice" or "error"."""
    return {"level": level, "text": _one_line(text)}


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _named(
    models: Sequence[str | Path | LanguageModel],
) -> dict[str, str | Path | LanguageModel]:
    """The models under the names of the switch; a name that comes again gets a number."""
    if isinstance(models, (str, Path, LanguageModel)):
        models = [models]
    named: dict[str, str | Path | LanguageModel] = {}
    for model in models:
        name = model.name if isinstance(model, LanguageModel) else str(model)
        again = sum(known == name or known.startswith(f"{name} (") for known in named)
        named[f"{name} ({again + 1})" if again else name] = model
    return named


def _devices() -> list[str]:
    """The devices of this machine, the fastest first."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def _place_name(device: torch.device) -> str:
    """One name for each device: "cuda" is the first of its kind."""
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def _check_number(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "number" if float in kinds else "whole number"
        raise ValueError(f"{name} must be a {kind}, got {value!r}")


def _next(steps: Iterator[RecordedStep], notices: list[str]) -> RecordedStep | None:
    """The next step, None after the last; warnings on the way become notices."""
    with collected_warnings() as collected:
        recorded = next(steps, None)
    notices += [_one_line(text) for text in collected]
    return recorded


def _likelihood(trace: xr.Dataset) -> dict[str, Any]:
    """The text that was written so far, and the logarithm of each of its tokens' probability."""
    known = "sampled_probability" in trace
    probabilities = trace["sampled_probability"].values.tolist() if known else []
    return {
        "text": trace.attrs["text"],
        # The smallest float32 above 0 stands for what was rounded to 0: JSON has no infinity.
        "log_probabilities": [math.log(max(p, 1e-45)) for p in probabilities],
    }


def _outcome(n_written: int, seconds: float, reason: str | None, notices: list[str]) -> str:
    """How a run went, for the status line."""
    tokens = f"{n_written} token{'' if n_written == 1 else 's'} in {seconds:.1f} s"
    if notices:
        return f"{tokens}: {'; '.join(notices)}"
    if reason is None:
        return f"Stopped after {tokens}; the recording so far is kept."
    return f"{tokens}: {REASONS[reason]}."
