"""A model with its tokenizer: what load() returns and every run starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llama_viz.chat import chat_ids
from llama_viz.errors import whole_number
from llama_viz.files import checksum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama_viz.config import ModelConfig
    from llama_viz.model import Llama
    from llama_viz.tokenizer import Tokenizer


@dataclass
class LanguageModel:
    """A model, its tokenizer (None: it takes ids only), and where both came from."""

    model: Llama
    tokenizer: Tokenizer | None = None
    name: str = "llama"
    path: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.model.embedding.weight.dtype

    @property
    def checksum(self) -> str | None:
        """SHA-256 of the checkpoint's file or folder; None for a model that was made here."""
        return None if self.path is None else checksum(self.path)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, after BOS where the tokenizer adds one."""
        return self._needs_tokenizer("encode text").encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without control tokens."""
        return self._needs_tokenizer("decode ids").decode(ids)

    def label(self, token_id: int) -> str:
        """What a figure writes for a token: its visible piece, or its id where no tokenizer is."""
        return str(token_id) if self.tokenizer is None else self.tokenizer.label(token_id)

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's own Jinja template for chats; None where it has none."""
        of_tokenizer = None if self.tokenizer is None else self.tokenizer.chat_template
        return of_tokenizer or self.notes.get("chat_template")

    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a chat, written as the checkpoint's own template writes it.

        messages are dicts with a "role" and a "content"; add_generation_prompt ends with the
        beginning of the answer. A control token typed inside a message is spelled out.

        Raises ValueError where the checkpoint has no template, or the template refuses.
        """
        tokenizer = self._needs_tokenizer("write a chat")
        if self.chat_template is None:
            raise ValueError(
                f"{self.name} has no chat template: it continues texts, give it a text instead"
            )
        try:
            return chat_ids(
                tokenizer,
                self.chat_template,
                messages,
                add_generation_prompt=add_generation_prompt,
            )
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a prompt: a text encoded, a list of ids exactly as given.

        Raises ValueError where it is empty, longer than the context, or holds an unknown id.
        """
        is_text = isinstance(prompt, str)
        ids = self.encode(str(prompt)) if is_text else whole_numbers(prompt)
        if not ids or (is_text and not prompt):
            raise ValueError("the prompt is empty; give at least one character or one token id")
        if len(ids) > self.config.max_seq_len:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and the context holds "
                f"{self.config.max_seq_len}; shorten the prompt"
            )
        for token_id in ids:
            if not 0 <= token_id < self.config.vocab_size:
                raise ValueError(
                    f"token id {token_id} is out of range: "
                    f"the vocabulary has ids 0 to {self.config.vocab_size - 1}"
                )
        return ids

    def optimize(self, dtype: torch.dtype | None = None, *, packed: bool = False) -> LanguageModel:
        """Lay the model out for writing one token after the other, in place, and return self.

        dtype also changes the type of the weights: torch.float16 and torch.bfloat16 halve the bytes
        that every token reads, and round. On a CPU float16 is the faster and the more exact of the
        two; bfloat16 holds larger numbers (float16 up to 65,504). packed keeps bfloat16 weights a
        second time, in the order that a CPU's kernel reads: faster, in the memory of float32.
        Without dtype results keep within rounding of float32. Every tap stays.

        Raises ValueError where weights cannot be packed, or the type has no point.
        """
        from llama_viz.optimization import optimize

        optimize(self.model, dtype, packed=packed)
        return self

    def _needs_tokenizer(self, purpose: str) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                f"{self.name} has no tokenizer to {purpose}: give token ids, "
                "or load it with tokenizer=..."
            )
        return self.tokenizer


def check_weights(lm: LanguageModel) -> None:
    """Raise ValueError where a model has shapes alone, and nothing to compute with or to save."""
    if lm.device.type == "meta":
        raise ValueError(
            f"{lm.name} was opened by its shapes alone, on the device 'meta': it has no weights; "
            "load it on another device"
        )


def whole_numbers(ids: Any, what: str = "a prompt") -> list[int]:
    """A flat list of ids from a list, an array or a tensor, or from numbers of theirs in a list.

    Raises ValueError, with what they are for, where they are something else.
    """
    found = ids.tolist() if hasattr(ids, "tolist") else ids
    # The bytes of a text would pass for ids.
    if isinstance(found, (str, bytes, bytearray)) or not isinstance(found, Iterable):
        raise ValueError(
            f"{what} of ids must be a flat list of whole numbers, got {type(ids).__name__}"
        )
    try:
        return [whole_number("an id", token_id) for token_id in found]
    except ValueError as error:
        raise ValueError(f"{what} of ids must be a flat list of whole numbers: {error}") from error
