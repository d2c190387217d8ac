"""The errors of the package, the one for a name that is not known, and what a run warns of."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class CheckpointError(ValueError):
    """A file that should hold a model or a tokenizer cannot be loaded; names the file."""


class TraceError(ValueError):
    """A file that should hold a trace cannot be loaded; names the file."""


class MemoryLimitError(ValueError):
    """A recording would pass its memory limit; names the variables that cost most."""


def unknown_name(kind: str, name: object, choices: Iterable[object], note: str = "") -> ValueError:
    """The one error for a name that is not known: says the name, a guess and the choices."""
    names = [str(choice) for choice in choices]
    near = get_close_matches(name, names, n=1) if isinstance(name, str) else []
    guess = f" Did you mean {near[0]!r}?" if near and near[0] != name else ""
    return ValueError(f"unknown {kind} {name!r}.{guess} Choose from: {', '.join(names)}{note}")


def whole_number(name: str, value: object) -> int:
    """A whole number of Python, numpy or torch as an int; raises ValueError for another thing."""
    if not isinstance(value, bool):
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise ValueError(f"{name} must be a whole number, got {value!r}")


_collecting: ContextVar[list[str] | None] = ContextVar("collecting", default=None)


def warn(message: str, stacklevel: int) -> None:
    """Warn of something that happens in a run; see `collected_warnings`."""
    collected = _collecting.get()
    if collected is None:
        warnings.warn(message, stacklevel=stacklevel + 1)
    else:
        collected.append(message)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect what runs in this thread warn of inside the block, and let nobody else hear it.

    warnings.catch_warnings would do it for all threads: those of a cell could get lost.
    """
    collected: list[str] = []
    token = _collecting.set(collected)
    try:
        yield collected
    finally:
        _collecting.reset(token)
