"""The errors of the package, and the one for a name that is not known."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class CheckpointError(ValueError):
    """A file that should hold a model or a tokenizer cannot be loaded; names the file."""


class TraceError(ValueError):
    """A file that should hold a trace cannot be loaded; names the file."""


class MemoryLimitError(ValueError):
    """A recording would pass its memory limit; names the variables that cost most."""


def unknown_name(kind: str, name: object, choices: Iterable[object], note: str = "") -> ValueError:
    """The one error for a name that is not known: says the name, a guess and the choices."""
    names = [str(choice) for choice in choices]
    near = get_close_matches(str(name), names, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{guess} Choose from: {', '.join(names)}{note}")
