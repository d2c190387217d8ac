"""Text to token ids and back, and labels in which every token can be seen."""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sentencepiece import SentencePieceProcessor

from llama_viz.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

SPACE = "\u2581"  # SentencePiece writes a space as this block


class Tokenizer:
    """A SentencePiece model: byte-pair pieces, with single bytes for what no piece covers.

    bos_id and eos_id are None where the model has no such token.
    """

    def __init__(self, model: bytes, *, add_bos: bool = True) -> None:
        self.model = model
        self.add_bos = add_bos
        self._pieces = SentencePieceProcessor()
        self._pieces.LoadFromSerializedProto(model)
        self.bos_id = _id_or_none(self._pieces.bos_id())
        self.eos_id = _id_or_none(self._pieces.eos_id())
        size = self._pieces.GetPieceSize()
        self._control = {i for i in range(size) if self._pieces.IsControl(i)}
        self._bytes = [self._bytes_of(i) for i in range(size)]

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.model; raises CheckpointError where it is damaged or none."""
        path = Path(path)
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: not a SentencePiece tokenizer, or a damaged one; "
                "expected the tokenizer.model that belongs to the checkpoint"
            ) from error

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return len(self._bytes)

    @property
    def checksum(self) -> str:
        """SHA-256 of the tokenizer's file."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, after BOS where this tokenizer adds one.

        A control token typed as text, such as <s>, is spelled out in ordinary pieces.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds half of a character at position {error.start} "
                f"({text[error.start]!r}), which cannot be written as UTF-8; remove it"
            ) from error
        ids = list(self._pieces.EncodeAsIds(text))
        return [self.bos_id, *ids] if self.add_bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, without control tokens.

        After BOS the one space is left out that SentencePiece puts in front of every text.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The text of the ids as UTF-8, which may end inside a character."""
        for token_id in ids:
            self._check(token_id)
        data = b"".join(self._bytes[token_id] for token_id in ids)
        after_bos = len(ids) > 0 and self.bos_id is not None and ids[0] == self.bos_id
        return data[1:] if after_bos and data.startswith(b" ") else data

    def piece(self, token_id: int) -> str:
        """The piece as SentencePiece writes it, such as '▁the', '<0x0A>' or '<s>'."""
        self._check(token_id)
        return self._pieces.IdToPiece(int(token_id))

    def label(self, token_id: int) -> str:
        """The piece with every character visible: what a figure writes for this token."""
        return visible(self.piece(token_id))

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(
                f"token id {token_id} is out of range: "
                f"the vocabulary has ids 0 to {self.vocab_size - 1}"
            )

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._control:
            return b""
        piece = self._pieces.IdToPiece(token_id)
        if self._pieces.IsByte(token_id):
            return bytes([int(piece[3:5], 16)])  # <0x0A>
        if self._pieces.IsUnknown(token_id):
            return " \u2047 ".encode()  # as SentencePiece shows what it does not know
        return piece.replace(SPACE, " ").encode()


@lru_cache(maxsize=65536)
def visible(text: str) -> str:
    """The text with invisible characters written out: a newline as ⏎, others as <U+200D>."""
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character == "\n":
        return "\u23ce"
    if character == " ":
        return SPACE
    # Control, format, surrogate and unassigned characters, and separators other than the space.
    if unicodedata.category(character)[0] == "C" or unicodedata.category(character) in _SEPARATORS:
        return f"<U+{ord(character):04X}>"
    return character


_SEPARATORS = ("Zl", "Zp", "Zs")


def _id_or_none(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None
