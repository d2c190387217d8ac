"""Chats: messages written out by a checkpoint's own template, as token ids."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_viz.tokenizer import Tokenizer

SANDBOX = Path(__file__).with_name("chat_sandbox.py")
SECONDS = 20  # the sandbox stops itself after fewer; starting Python may take a while
# Characters that no text has: Unicode keeps them free for use inside a program.
GUARDS = tuple(map(chr, range(0xFDD0, 0xFDF0)))


def chat_ids(
    tokenizer: Tokenizer,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The ids of messages, each with a "role" and a "content", as the template writes them.

    The template's control tokens become their ids. One that is typed inside a message is spelled
    out in ordinary pieces: nobody ends a turn, or begins another's, by writing it.

    Raises ValueError where the template is broken, takes too long, or refuses the messages.
    """
    plain = _checked(messages)
    guard = next((g for g in GUARDS if g not in json.dumps(plain, ensure_ascii=False)), "")
    variables = {
        "messages": _guarded(plain, tokenizer, guard),
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
    }
    for name, token_id in {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}.items():
        variables[name] = "" if token_id is None else tokenizer.piece(token_id)
    return tokenizer.encode_with_control(render(template, variables), guard)


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text of a Jinja template, made in a process of its own.

    Such a process takes about a tenth of a second, and what a hostile template can do is bounded.
    Raises ValueError that says why there is no text.
    """
    request = json.dumps({"template": template, "variables": variables})
    try:
        # -P: the folder of the script is the package's, whose modules are not Python's own.
        done = subprocess.run(
            [sys.executable, "-P", str(SANDBOX)],
            input=request,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise ValueError("the chat template takes too long") from error
    except (OSError, ValueError) as error:  # ended by the system, and nothing was written
        raise ValueError("the chat template takes too much time or memory") from error
    if "text" not in answer:
        reason = " ".join(str(answer.get("reason")).split())[:300]
        raise ValueError(f"the chat template cannot write these messages: {reason}")
    return answer["text"]


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    is_list = isinstance(messages, Sequence) and not isinstance(messages, str)
    if not is_list or not messages:
        raise ValueError('messages must be a list such as [{"role": "user", "content": "Hello"}]')
    for message in messages:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise ValueError('every message needs a "role" and a "content", both texts')
    try:
        return json.loads(json.dumps([dict(message) for message in messages]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"messages hold what is no text, number or list: {error}") from error


def _guarded(value: Any, tokenizer: Tokenizer, guard: str) -> Any:
    """The messages with a guard inside every control token that is typed in one of their texts."""
    if isinstance(value, str):
        return tokenizer.guarded(value, guard)
    if isinstance(value, list):
        return [_guarded(part, tokenizer, guard) for part in value]
    if isinstance(value, dict):
        return {name: _guarded(part, tokenizer, guard) for name, part in value.items()}
    return value
