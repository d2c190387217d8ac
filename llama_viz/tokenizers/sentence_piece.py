"""SentencePiece models: pieces merged by score, with single bytes for what no piece covers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from sentencepiece import SentencePieceProcessor

from llama_viz.errors import CheckpointError
from llama_viz.tokenizer import SPACE, Settings, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

# The kinds of pieces, numbered as in sentencepiece_model.proto (and in GGUF).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


class SentencePieceTokenizer(Tokenizer):
    """A tokenizer.model (Kudo and Richardson 2018), run by the sentencepiece library."""

    file_name = "tokenizer.model"
    kind = "SentencePiece"

    def __init__(self, model: bytes, settings: Settings | None = None) -> None:
        self._pieces = SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
            size = self._pieces.GetPieceSize()
            pieces = [self._bytes_of(token_id) for token_id in range(size)]
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                "not a SentencePiece tokenizer, or a damaged one; "
                "expected the tokenizer.model that belongs to the checkpoint"
            ) from error
        if not pieces:
            raise CheckpointError("not a SentencePiece tokenizer: it has no pieces")
        super().__init__(
            model,
            pieces,
            control=(token_id for token_id in range(size) if self._pieces.IsControl(token_id)),
            settings=settings or Settings(),
            bos_id=_id_or_none(self._pieces.bos_id()),
            eos_id=_id_or_none(self._pieces.eos_id()),
            add_bos=True,
            starts_with_space=True,
        )

    def scores(self) -> list[float]:
        """The score of each piece: of two possible merges the one with the higher comes first."""
        return [self._pieces.GetScore(token_id) for token_id in range(self.vocab_size)]

    def _encode(self, text: str, *, continues: bool) -> list[int]:
        return list(self._pieces.EncodeAsIds(text))

    def _piece(self, token_id: int) -> str:
        return self._pieces.IdToPiece(token_id)

    def _id_of(self, piece: str) -> int | None:
        token_id = self._pieces.PieceToId(piece)
        return token_id if self._pieces.IdToPiece(token_id) == piece else None

    def _bytes_of(self, token_id: int) -> bytes:
        piece = self._pieces.IdToPiece(token_id)
        if self._pieces.IsByte(token_id):
            return bytes([int(piece[3:5], 16)])  # <0x0A>
        if self._pieces.IsUnknown(token_id):
            return " \u2047 ".encode()  # as SentencePiece shows what it does not know
        return piece.replace(SPACE, " ").encode()


def model_file(
    pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, starts_with_space: bool
) -> bytes:
    """The bytes of a tokenizer.model with this vocabulary, merged by score.

    The format is the protocol buffer of sentencepiece_model.proto, of which few fields are needed.
    """
    vocabulary = b"".join(
        _field(1, _field(1, piece.encode()) + _float(2, score) + _number(3, kind))
        for piece, score, kind in zip(pieces, scores, kinds, strict=True)
    )
    has_all_bytes = sum(kind == BYTE for kind in kinds) == 256
    byte_pair_encoding = 2
    trainer = _number(3, byte_pair_encoding) + _number(35, has_all_bytes)
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    normalizer = _number(3, starts_with_space) + _number(4, False) + _number(5, True)
    return vocabulary + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(int(value))


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _id_or_none(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None
