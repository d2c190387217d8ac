"""Renders one chat template, in a process of its own that has little time and memory.

A template comes with a checkpoint from anywhere. The sandbox of jinja2 keeps it from running other
code; that it ends, and how much memory it takes, only the operating system can say. Run by chat.py
as a script: a request as JSON comes in, the text or the reason why there is none goes out.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 5
MEMORY = 2**30
LONGEST = 2**22  # characters; the longest contexts of published models hold fewer


def main() -> None:
    """Answer the request on stdin: {"text": ...} or {"reason": ...} on stdout."""
    limit_this_process()
    try:
        request = json.load(sys.stdin)
        answer = {"text": render(request["template"], request["variables"])}
    except MemoryError:
        answer = {"reason": "it takes too much memory"}
    except (TemplateError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError,
            AttributeError) as error:  # fmt: skip
        answer = {"reason": f"{error or type(error).__name__}"}
    json.dump(answer, sys.stdout)


def render(template: str, variables: dict[str, Any]) -> str:
    """The text of a template, with the names that transformers gives to chat templates."""
    # Blocks leave no lines of their own, and loops may break, as transformers sets it.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = datetime.now().strftime
    text = environment.from_string(template).render(**variables)
    if len(text) > LONGEST:
        raise TemplateError(f"it writes {len(text)} characters")
    return text


def to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON as it is, where jinja2's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def refuse(message: str) -> None:
    """What a template calls where the messages do not suit it."""
    raise TemplateError(message)


def limit_this_process() -> None:
    """Let the operating system end this process where it computes or takes too much."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
