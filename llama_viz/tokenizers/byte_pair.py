"""tokenizer.json, and the byte-level BPE vocabularies of GPT-2, Llama 3 and SmolLM2."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import tokenizers

from llama_viz.errors import CheckpointError
from llama_viz.tokenizer import SPACE, Settings, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class BytePairTokenizer(Tokenizer):
    """A tokenizer.json with byte-pair merges (Sennrich et al. 2016), run by `tokenizers`.

    Pieces are either bytes under other names (GPT-2, Llama 3, SmolLM2) or written as SentencePiece
    writes them, with single bytes for what no piece covers (Llama 2, TinyLlama).
    """

    file_name = "tokenizer.json"

    def __init__(self, model: bytes, settings: Settings | None = None) -> None:
        told, self._library = _parse(model)
        settings = settings or Settings()
        # A control token typed in a text is spelled out; one in a chat template is put in by id.
        self._library.encode_special_tokens = True
        self._library.no_padding()
        self._library.no_truncation()
        self._after_control = self._without_first_space(told)
        self._is_byte_level = _mentions(told, "ByteLevel")
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self._names = _in_order(vocabulary)
        added = self._library.get_added_tokens_decoder()
        pieces = [
            name.encode(errors="replace") if token_id in added else self._bytes_of(name)
            for token_id, name in enumerate(self._names)
        ]
        self._added = frozenset(added)
        self._pieces = pieces
        self.kind = "byte-level BPE" if self._is_byte_level else "BPE with single bytes"
        first = self._put_in_front()
        super().__init__(
            model,
            pieces,
            control=(token_id for token_id, token in added.items() if token.special),
            settings=settings,
            bos_id=self._id_of("<s>") if first is None else first,
            eos_id=self._id_of("</s>"),
            add_bos=first is not None,
            starts_with_space=not self._is_byte_level,
        )

    def _encode(self, text: str, *, continues: bool) -> list[int]:
        library = self._after_control if continues else self._library
        return list(library.encode(text, add_special_tokens=False).ids)

    def _piece(self, token_id: int) -> str:
        return self._names[token_id]

    def _id_of(self, piece: str) -> int | None:
        return self._library.token_to_id(piece)

    def _shown(self, token_id: int) -> str:
        """The text of bytes under other names, and the rest as it is."""
        if not self._is_byte_level or token_id in self._added:
            return self._names[token_id]
        text = self._pieces[token_id].decode("utf-8", errors="surrogateescape")
        return "".join(
            f"<0x{ord(character) - 0xDC00:02X}>" if "\udc80" <= character <= "\udcff" else character
            for character in text
        )

    def _bytes_of(self, name: str) -> bytes:
        if self._is_byte_level:
            if all(character in BYTE_OF_CHARACTER for character in name):
                return bytes(BYTE_OF_CHARACTER[character] for character in name)
            return name.encode(errors="replace")
        byte = _BYTE.fullmatch(name)
        return bytes([int(byte[1], 16)]) if byte else name.replace(SPACE, " ").encode()

    def _put_in_front(self) -> int | None:
        """The id that this tokenizer puts in front of every text, None where it puts none."""
        plain = self._library.encode("a", add_special_tokens=False).ids
        whole = self._library.encode("a", add_special_tokens=True).ids
        n_more = len(whole) - len(plain)
        is_in_front = n_more > 0 and whole[:1] != plain[:1] and plain == whole[1 : 1 + len(plain)]
        return whole[0] if is_in_front else None

    def _without_first_space(self, told: dict[str, Any]) -> tokenizers.Tokenizer:
        """For text after a control token, where some put a space at a text's beginning alone."""
        splitter = told.get("pre_tokenizer")
        if not isinstance(splitter, dict) or splitter.get("prepend_scheme") != "first":
            return self._library
        later = {**told, "pre_tokenizer": {**splitter, "prepend_scheme": "never"}}
        _, library = _parse(json.dumps(later).encode())
        library.encode_special_tokens = True
        library.no_padding()
        library.no_truncation()
        return library


def byte_level_file(
    tokens: Sequence[str],
    merges: Sequence[str],
    *,
    control: Sequence[int],
    added: Sequence[int],
    splitter: dict[str, Any],
    ignore_merges: bool,
) -> bytes:
    """The bytes of a tokenizer.json with this byte-level vocabulary.

    control are the ids that stand for no text, added those that are found in a text before
    anything is merged, splitter the pre-tokenizer as tokenizer.json writes it.
    """
    whole = [
        {
            "id": token_id, "content": tokens[token_id], "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": is_control,
        }
        for ids, is_control in ((control, True), (added, False))
        for token_id in ids
    ]  # fmt: skip
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": sorted(whole, key=lambda token: token["id"]),
        "normalizer": None, "pre_tokenizer": splitter, "post_processor": None,
        "decoder": {"type": "ByteLevel", **byte_level},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }, ensure_ascii=False).encode()  # fmt: skip


def _parse(model: bytes) -> tuple[dict[str, Any], tokenizers.Tokenizer]:
    try:
        told = json.loads(model)
        kind = told["model"]["type"]
        if kind != "BPE":
            raise CheckpointError(
                f"a tokenizer.json of the kind {str(kind)[:40]!r}, expected BPE, "
                "as every LLaMA's is"
            )
        return told, tokenizers.Tokenizer.from_buffer(model)
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(
            f"not a tokenizer.json, or a damaged one: it lacks {error}"
        ) from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library panics at some damaged files
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"not a tokenizer.json, or a damaged one ({reason})") from error


def _in_order(vocabulary: dict[str, int]) -> list[str]:
    """The pieces by id, which must be 0, 1, 2, ... without a gap."""
    names: list[str | None] = [None] * len(vocabulary)
    for name, token_id in vocabulary.items():
        if token_id >= len(names) or names[token_id] is not None:
            raise CheckpointError(
                f"a tokenizer.json whose {len(names)} tokens are not numbered from 0 on: "
                f"one has the id {token_id}"
            )
        names[token_id] = name
    if not names:
        raise CheckpointError("a tokenizer.json without any token")
    return [name for name in names if name is not None]


def _mentions(told: dict[str, Any], kind: str) -> bool:
    """Whether the pre-tokenizer or the decoder is of a kind, or has a part of it."""
    todo = [told.get("pre_tokenizer"), told.get("decoder")]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            if part.get("type") == kind:
                return True
            todo += [*(part.get("pretokenizers") or []), *(part.get("decoders") or [])]
    return False


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character (Radford et al. 2019).

    Bytes that are printable in Latin-1 stand for themselves, the others follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    named = {chr(byte): byte for byte in printable}
    return named | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()
