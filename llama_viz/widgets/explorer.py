"""What all explorers are made of: JavaScript over recorded data, with a kernel that gives the data.

An explorer's page asks once for its content, a header and some arrays, and does everything that
needs no model by itself. So it answers at once, and works as well in a file without a kernel. What
the reader picks is one synced dictionary, `state`: the same in the page and in Python.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import numpy as np
import traitlets

from llama_viz.analysis import require
from llama_viz.errors import unknown_name
from llama_viz.files import written_whole
from llama_viz.widgets.bundle import picture_bundle
from llama_viz.widgets.export import html_page
from llama_viz.widgets.modules import script, styles
from llama_viz.widgets.packing import packed_message

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from llama_viz.language_model import LanguageModel
    from llama_viz.widgets.packing import Packed

logger = logging.getLogger("llama_viz")

SUFFIXES = (".html", ".png", ".svg")

# After each part of a long answer the kernel hears others for so long. A message passes several
# turns of the event loop before it arrives, so sleep(0), one turn, would let a Stop wait.
BREATH_SECONDS = 0.001

# What an answer is: a header that JSON can hold, and arrays.
Answer = tuple[dict[str, Any], dict[str, "np.ndarray | Packed"]]


@dataclass(frozen=True)
class Choice:
    """A field of the state that is one of some values; None too, where nothing may be picked."""

    values: Collection[Any]
    start: Any
    optional: bool = False

    def checked(self, name: str, value: Any) -> Any:
        """The value as plain JSON; raises ValueError, with what was expected."""
        value = _plain(value)
        if value is None and self.optional:
            return value
        if self._holds(value):
            return value
        if isinstance(self.values, range) and len(self.values) > 0 and self.values.step == 1:
            expected = f"a whole number from {self.values[0]} to {self.values[-1]}"
            raise ValueError(f"{name} must be {expected}{self._or_none}, got {value!r}")
        raise unknown_name(name, value, self.values, self._or_none)

    def _holds(self, value: Any) -> bool:
        """Whether this is one of the values; 1 is not True, and a position is no fraction."""
        if isinstance(self.values, range):
            return type(value) is int and value in self.values
        kind = isinstance(value, bool)
        return any(own == value and isinstance(own, bool) is kind for own in self.values)

    @property
    def _or_none(self) -> str:
        return ", or None" if self.optional else ""


@dataclass(frozen=True)
class Between:
    """A field of the state that is a number from low to high, both included."""

    low: float
    high: float
    start: float

    def checked(self, name: str, value: Any) -> Any:
        """The value as a plain number; raises ValueError, with what was expected."""
        value = _plain(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            raise ValueError(
                f"{name} must be a number from {self.low} to {self.high}, got {value!r}"
            )
        return value


@dataclass(frozen=True)
class Several:
    """A field of the state that is a list of some of these values, none of them twice."""

    values: Collection[Any]
    start: Collection[Any] = ()

    def checked(self, name: str, value: Any) -> Any:
        """The values as a plain list; raises ValueError, with what was expected."""
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} must be a list, got {value!r}")
        one = Choice(self.values, None)
        chosen = [one.checked(name, own) for own in value]
        for place, own in enumerate(chosen):
            if own in chosen[:place]:
                raise ValueError(f"{name} holds {own!r} twice")
        return chosen


@dataclass(frozen=True)
class Text:
    """A field of the state that is a text of the reader's."""

    start: str = ""

    def checked(self, name: str, value: Any) -> Any:
        """The value as it is; raises ValueError where it is no text."""
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text, got {value!r}")
        return value


Field = Choice | Between | Several | Text


class Explorer(anywidget.AnyWidget):
    """The base of all explorers; see the module.

    A subclass gives its `page` (the name of its .js and .css), and the methods `fields`, `content`,
    `picture` and `describe`; a method `answer_<name>` answers what the page asks for later. One
    that runs a model is a generator: it yields a line of progress after each part, where others are
    heard and the page may stop it, and returns its answer. One that computes for long is `async`
    and sleeps between its slices, so that a kernel hears others too.
    """

    page: ClassVar[str]
    title: ClassVar[str]

    # Not echoed: while a page picks faster than the kernel answers, an echo of an earlier state
    # would undo the latest.
    state = traitlets.Dict().tag(sync=True, echo_update=False)
    # The page loads its content anew when this number changes.
    revision = traitlets.Int(0).tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "page" in cls.__dict__:
            cls._esm, cls._css = script(cls.page), styles(cls.page)
        super().__init_subclass__(**kwargs)

    def __init__(self, **state: Any) -> None:
        start = {name: field.start for name, field in self.fields().items()}
        start |= {name: list(field.start) for name, field in self.fields().items()
                  if isinstance(field, Several)}  # fmt: skip
        self._answering: dict[str, asyncio.Task[None]] = {}
        super().__init__(state=self._checked(start, state))
        self.on_msg(self._receive)

    def close(self) -> None:
        """End what is still being answered, and take the widget off the page."""
        # Called also when one goes whose making failed.
        for task in [*getattr(self, "_answering", {}).values()]:  # a thread may be answering
            task.cancel()
        super().close()

    # What a subclass gives

    def fields(self) -> Mapping[str, Field]:
        """The state's fields: what each can be, and where it begins."""
        raise NotImplementedError

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """What the page shows: a header that JSON can hold, and arrays by name.

        whole is True for a page without a kernel, which can ask for nothing later.
        """
        raise NotImplementedError

    def picture(self) -> Figure:
        """The present state as a figure."""
        raise NotImplementedError

    def describe(self) -> str:
        """The picture in words."""
        raise NotImplementedError

    # For the reader

    def show(self, **state: Any) -> None:
        """Pick what is shown, as in the page: explorer.show(layer=2, head=5).

        Raises ValueError, with the choices, for a field or a value that is not there.
        """
        self.state = self._checked(self.state, state)

    def refresh(self) -> None:
        """Let every page ask for the content anew."""
        self.revision += 1

    def still(self) -> bytes:
        """A PNG of the present state."""
        return _drawn(self.picture(), "png")

    def save(self, path: str | Path) -> None:
        """Write the explorer to a file: .html is the explorer itself, .png and .svg a picture.

        The HTML file holds everything: it opens without a kernel and without a network. Raises
        ValueError for another suffix, OSError where the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise unknown_name("suffix", path.suffix, SUFFIXES, f"; got the path {str(path)!r}")
        if suffix == ".html":
            header, arrays = self.content(whole=True)
            text = html_page(self.page, self.title, self.state, header, arrays)
            data = text.encode("utf-8")
        else:
            data = _drawn(self.picture(), suffix[1:])
        with written_whole(path) as unfinished:
            unfinished.write_bytes(data)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget, and for a page without a kernel a picture and its description."""
        return picture_bundle(self.model_id, self.describe(), self.still()), {}

    # The state

    @traitlets.validate("state")
    def _check_state(self, proposal: Any) -> dict[str, Any]:
        """Whoever sets it, the page or Python: all fields, and each one possible."""
        return self._checked(self.state, proposal["value"])

    def _checked(self, state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        fields = self.fields()
        checked = dict(state)
        for name, value in changes.items():
            if name not in fields:
                raise unknown_name("field", name, fields)
            checked[name] = fields[name].checked(name, value)
        return checked

    # Talking with the page

    def answer_content(self) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """What the page asks for when it opens."""
        return self.content(whole=False)

    def _receive(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """Answer a request of the page, or stop answering; what goes wrong is said there."""
        request = str(content.get("request"))
        if content.get("type") == "stop" and request in self._answering:
            self._answering.pop(request).cancel()
            self._refuse(request, "stopped")
        if content.get("type") != "ask":
            return
        try:
            answer = self._answerer(content.get("name"))(**content.get("parameters", {}))
            if isinstance(answer, Generator):
                self._work(request, self._answer_by_parts(request, answer))
            elif inspect.iscoroutine(answer):
                self._work(request, self._answer_later(request, answer))
            else:
                self._reply(request, answer)
        except Exception as error:
            self._refuse(request, error)

    def _work(self, request: str, answering: Coroutine[Any, Any, None]) -> None:
        """Answer beside whatever else the kernel does; where no kernel runs, at once."""
        try:
            self._answering[request] = asyncio.get_running_loop().create_task(answering)
        except RuntimeError:
            asyncio.run(answering)

    async def _answer_later(self, request: str, answer: Coroutine[Any, Any, Answer]) -> None:
        """Give an answer that takes longer and lets others be heard meanwhile."""
        try:
            self._reply(request, await answer)
        except Exception as error:
            self._refuse(request, error)
        finally:
            self._answering.pop(request, None)

    async def _answer_by_parts(self, request: str, parts: Generator[str, None, Answer]) -> None:
        """Give an answer that runs a model, part by part, with a breath after each."""
        try:
            with closing(parts):
                while True:
                    try:
                        words = next(parts)
                    except StopIteration as end:
                        self._reply(request, end.value)
                        return
                    self.send({"type": "progress", "request": request, "text": words})
                    await asyncio.sleep(BREATH_SECONDS)
        except KeyboardInterrupt:
            self._refuse(request, "stopped by an interrupt of the kernel")
        except Exception as error:
            self._refuse(request, error)
        finally:
            self._answering.pop(request, None)

    def _reply(self, request: str, answer: Answer) -> None:
        header, arrays = answer
        specs, buffers = packed_message(arrays)
        self.send(
            {"type": "answer", "request": request, "header": header, "arrays": specs}, buffers
        )

    def _refuse(self, request: str, error: Exception | str) -> None:
        """Say in one line why there is no answer."""
        words = str(error)
        if not isinstance(error, (ValueError, OSError, str)):
            # Nobody expected this one: the line is for the reader, the log for whoever mends it.
            words = f"{type(error).__name__}: {error}"
            logger.error("%s could not answer its page", type(self).__name__, exc_info=error)
        self.send({"type": "answer", "request": request, "error": _one_line(words)})

    def _answerer(self, name: Any) -> Callable[..., Any]:
        known = sorted(
            one.removeprefix("answer_") for one in dir(self) if one.startswith("answer_")
        )
        if name not in known:
            raise unknown_name("request", name, known)
        return getattr(self, f"answer_{name}")


class Link:
    """Explorers that show the same fields of their states, until `unlink`."""

    def __init__(self, explorers: Sequence[Explorer], fields: Sequence[str]) -> None:
        self.explorers, self.fields = tuple(explorers), tuple(fields)
        for explorer in self.explorers:
            explorer.observe(self._follow, names="state")

    def unlink(self) -> None:
        """Let each explorer go its own way again."""
        for explorer in self.explorers:
            explorer.unobserve(self._follow, names="state")

    def _follow(self, change: Any) -> None:
        picked = {
            name: change["new"][name]
            for name in self.fields
            if change["new"][name] != change["old"].get(name)
        }
        for explorer in self.explorers:
            if explorer is not change["owner"]:
                explorer.show(**_possible(explorer, picked))


def link(*explorers_and_fields: Explorer | str) -> Link:
    """Keep fields of several explorers together: link(one, other, "layer", "head").

    Without names, every field that all of them have. What one shows and another cannot (a layer
    that its model does not have) stays as it is there. All take over what the first one shows.

    Raises ValueError for fewer than two explorers, and for a field that one of them lacks.
    """
    explorers = [one for one in explorers_and_fields if isinstance(one, Explorer)]
    names = [one for one in explorers_and_fields if isinstance(one, str)]
    if len(explorers) + len(names) < len(explorers_and_fields):
        raise TypeError("link takes explorers and the names of fields")
    if len(explorers) < 2:
        raise ValueError("link needs at least two explorers")
    common = [
        name for name in explorers[0].fields() if all(name in one.fields() for one in explorers)
    ]
    for name in names:
        if name not in common:
            raise unknown_name("common field", name, common)
    if not (names or common):
        raise ValueError("these explorers have no field in common")
    made = Link(explorers, names or common)
    for explorer in explorers[1:]:
        first = {name: explorers[0].state[name] for name in made.fields}
        explorer.show(**_possible(explorer, first))
    return made


def trace_of(
    source: xr.Dataset | LanguageModel, prompt: str | Sequence[int] | None, taps: Iterable[str]
) -> xr.Dataset:
    """A trace as it is, or that of one pass of a model over a prompt, with these variables.

    Raises ValueError for a model without a prompt and a trace with one, TypeError for what is
    neither a model nor a trace.
    """
    from llama_viz.language_model import LanguageModel
    from llama_viz.recorder import record_forward

    if isinstance(source, LanguageModel):
        if prompt is None:
            raise ValueError("a model needs a prompt: give a text or token ids as well")
        return record_forward(source, prompt, taps)
    if prompt is not None:
        raise ValueError("a trace holds its own text; leave out the prompt")
    require(source)
    return source


def _possible(explorer: Explorer, picked: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the picked values that an explorer can show."""
    possible = {}
    for name, value in picked.items():
        try:
            possible[name] = explorer.fields()[name].checked(name, value)
        except ValueError:
            continue
    return possible


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, which JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _drawn(figure: Figure, form: str) -> bytes:
    buffer = BytesIO()
    # Nothing that differs from day to day: the same state gives the same bytes.
    metadata = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
