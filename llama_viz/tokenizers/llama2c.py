"""llama2.c's tokenizer.bin: pieces with scores, merged greedily."""

from __future__ import annotations

import heapq
import math
import re
import struct

from llama_viz.errors import CheckpointError
from llama_viz.tokenizer import SPACE, Settings, Tokenizer
from llama_viz.tokenizers.sentence_piece import SentencePieceTokenizer

# Fixed in run.c: <unk>, <s> and </s> come first, then the 256 bytes.
UNKNOWN_ID, BOS_ID, EOS_ID, FIRST_BYTE_ID = range(4)
_CONTROL_NAMES = {UNKNOWN_ID: "<unk>", BOS_ID: "<s>", EOS_ID: "</s>"}
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")


class Llama2cTokenizer(Tokenizer):
    """A tokenizer.bin, encoded and decoded as llama2.c's run.c does it."""

    file_name = "tokenizer.bin"
    kind = "llama2.c (merged by score)"

    def __init__(self, model: bytes, settings: Settings | None = None) -> None:
        entries = _entries(model)
        if entries is None:
            raise CheckpointError("not a tokenizer.bin of llama2.c, or a damaged one")
        if len(entries) < FIRST_BYTE_ID + 256:
            raise CheckpointError(
                f"a tokenizer.bin of llama2.c with {len(entries)} tokens, "
                f"but <unk>, <s>, </s> and 256 bytes alone are {FIRST_BYTE_ID + 256}"
            )
        self._scores = [score for score, _ in entries]
        self._texts = [text for _, text in entries]
        self._ids: dict[bytes, int] = {}
        for token_id, text in enumerate(self._texts):
            self._ids.setdefault(text, token_id)
        super().__init__(
            model,
            [_plain(text) for text in self._texts],
            control=(BOS_ID, EOS_ID),
            settings=settings or Settings(),
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            add_bos=True,
            starts_with_space=True,
        )

    @staticmethod
    def recognizes(data: bytes) -> bool:
        """Whether a file is one: its records fill it exactly."""
        return _entries(data) is not None

    def scores(self) -> list[float]:
        """The score of each piece: of two possible merges the one with the higher comes first."""
        return list(self._scores)

    def _encode(self, text: str, *, continues: bool) -> list[int]:
        ids = [self._ids[b" "]] if text and b" " in self._ids else []
        for character in text:
            data = character.encode()
            known = self._ids.get(data)
            ids += [byte + FIRST_BYTE_ID for byte in data] if known is None else [known]
        return self._merged(ids)

    def _merged(self, ids: list[int]) -> list[int]:
        """Join neighbours while a joined piece exists: the best score first, then the leftmost."""
        after = [*range(1, len(ids)), -1]
        before = list(range(-1, len(ids) - 1))
        alive = [True] * len(ids)
        waiting: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left]
            joined = self._ids.get(self._texts[ids[left]] + self._texts[ids[right]])
            if joined is not None:
                score = -self._scores[joined]
                heapq.heappush(waiting, (score, left, ids[left], ids[right], joined))

        for left in range(len(ids) - 1):
            offer(left)
        while waiting:
            _, left, left_id, right_id, joined = heapq.heappop(waiting)
            right = after[left]
            if not alive[left] or right < 0 or (ids[left], ids[right]) != (left_id, right_id):
                continue  # one of the two has been joined to another meanwhile
            ids[left] = joined
            alive[right] = False
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
                offer(left)
            if before[left] >= 0:
                offer(before[left])
        return [token_id for token_id, is_alive in zip(ids, alive, strict=True) if is_alive]

    def _piece(self, token_id: int) -> str:
        if token_id in _CONTROL_NAMES:
            return _CONTROL_NAMES[token_id]
        return self._texts[token_id].decode("utf-8", errors="replace").replace(" ", SPACE)

    def _id_of(self, piece: str) -> int | None:
        named = {name: token_id for token_id, name in _CONTROL_NAMES.items()}
        return named.get(piece, self._ids.get(piece.replace(SPACE, " ").encode()))


def tokenizer_bin(tokenizer: Tokenizer) -> bytes:
    """The bytes of a tokenizer.bin with the vocabulary of another tokenizer.

    Raises ValueError where the tokenizer does not merge by score, or numbers its first tokens in
    another way than llama2.c expects.
    """
    if isinstance(tokenizer, Llama2cTokenizer):
        return tokenizer.model
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise ValueError(
            f"llama2.c merges by score, and a tokenizer of the kind {tokenizer.kind} does not; "
            "save the model without it: LanguageModel(lm.model)"
        )
    pieces = [tokenizer.piece(token_id) for token_id in range(tokenizer.vocab_size)]
    bytes_in_order = [f"<0x{byte:02X}>" for byte in range(256)]
    is_numbered_so = (tokenizer.bos_id, tokenizer.eos_id) == (BOS_ID, EOS_ID)
    if not is_numbered_so or pieces[FIRST_BYTE_ID : FIRST_BYTE_ID + 256] != bytes_in_order:
        raise ValueError(
            "llama2.c expects <unk>, <s>, </s> and the 256 bytes as the first tokens, in this "
            "order, and this tokenizer numbers them in another way"
        )
    texts = [piece.replace(SPACE, " ").encode() for piece in pieces]
    # Written with newlines by llama2.c, so that no text can be merged into them.
    texts[BOS_ID], texts[EOS_ID] = b"\n<s>\n", b"\n</s>\n"
    records = (
        struct.pack("<fI", score, len(text)) + text
        for score, text in zip(tokenizer.scores(), texts, strict=True)
    )
    return struct.pack("<I", max(map(len, texts))) + b"".join(records)


def _entries(data: bytes) -> list[tuple[float, bytes]] | None:
    """(score, text) of each token; None where the records do not fill the file exactly."""
    if len(data) < 4:
        return None
    (longest,) = struct.unpack_from("<I", data)
    entries = []
    place = 4
    while place + 8 <= len(data):
        score, length = struct.unpack_from("<fI", data, place)
        place += 8 + length
        if length > longest or place > len(data) or math.isnan(score):
            return None
        entries.append((score, data[place - length : place]))
    return entries if entries and place == len(data) else None


def _plain(text: bytes) -> bytes:
    """The bytes that a piece stands for: <0x0A> is one."""
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text
