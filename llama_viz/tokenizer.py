"""Text to token ids and back, and labels in which every token can be seen.

What all tokenizers share stands here; llama_viz.tokenizers has one module per kind.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from llama_viz.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SPACE = "\u2581"  # SentencePiece writes a space as this block
SETTINGS_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
# The largest published tokenizer takes 33 MB; what is larger is not read into memory.
MOST_BYTES = 2**28


class Settings(NamedTuple):
    """What is said about a tokenizer beside its own file; None leaves it to the file.

    bos and eos are ids or the pieces themselves.
    """

    bos: int | str | None = None
    eos: int | str | None = None
    add_bos: bool | None = None
    chat_template: str | None = None


class Tokenizer(ABC):
    """Text to token ids and back: the same surface whatever the vocabulary is made of.

    bos_id and eos_id are None where there is no such token. chat_template is the checkpoint's own
    Jinja template, None where it has none. model holds the bytes of the tokenizer's file.
    """

    file_name: ClassVar[str]
    kind: str

    def __init__(
        self,
        model: bytes,
        pieces: Sequence[bytes],
        control: Iterable[int],
        settings: Settings,
        *,
        bos_id: int | None,
        eos_id: int | None,
        add_bos: bool,
        starts_with_space: bool,
    ) -> None:
        self.model = model
        self.settings = settings
        self.chat_template = settings.chat_template
        self.bos_id = self._given_id(settings.bos, bos_id, len(pieces))
        self.eos_id = self._given_id(settings.eos, eos_id, len(pieces))
        self.add_bos = add_bos if settings.add_bos is None else settings.add_bos
        self._starts_with_space = starts_with_space
        self._control = frozenset(control)
        self._bytes = [b"" if i in self._control else piece for i, piece in enumerate(pieces)]

    @staticmethod
    def from_file(path: str | Path) -> Tokenizer:
        """Read a tokenizer.model, tokenizer.json or llama2.c's tokenizer.bin, told by its content.

        A tokenizer_config.json and a chat_template.jinja beside it are heeded. Raises
        CheckpointError where the file is damaged or none of these.
        """
        path = Path(path)
        data = read_small(path)
        try:
            if path.suffix == ".json" and data.lstrip()[:1] != b"{":
                raise CheckpointError("not a tokenizer.json: it does not begin with an object")
            return Tokenizer.from_bytes(data, settings_beside(path))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    @staticmethod
    def from_bytes(data: bytes, settings: Settings | None = None) -> Tokenizer:
        """The tokenizer that a file's bytes hold; raises CheckpointError as from_file does."""
        from llama_viz.tokenizers.byte_pair import BytePairTokenizer
        from llama_viz.tokenizers.llama2c import Llama2cTokenizer
        from llama_viz.tokenizers.sentence_piece import SentencePieceTokenizer

        settings = settings or Settings()
        if data.lstrip()[:1] == b"{":
            return BytePairTokenizer(data, settings)
        if Llama2cTokenizer.recognizes(data):
            return Llama2cTokenizer(data, settings)
        return SentencePieceTokenizer(data, settings)

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return len(self._bytes)

    @property
    def checksum(self) -> str:
        """SHA-256 of the tokenizer's file."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def control_ids(self) -> list[int]:
        """The ids of the control tokens, which stand for no text."""
        return sorted(self._control)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, after BOS where this tokenizer adds one.

        A control token typed as text, such as <s>, is spelled out in ordinary pieces.
        """
        ids = self._encode_checked(text)
        return [self.bos_id, *ids] if self.add_bos and self.bos_id is not None else ids

    def encode_with_control(self, text: str, guard: str = "") -> list[int]:
        """The ids of a text in which control tokens are written out, such as a rendered chat.

        Every control token in it becomes its id, unless a guard character stands inside it; guards
        are left out of the text. No BOS is added.
        """
        ids: list[int] = []
        for part in self._control_pattern.split(text):
            if part in self._control_by_piece:
                ids.append(self._control_by_piece[part])
            elif part:
                plain = part.replace(guard, "") if guard else part
                ids.extend(self._encode_checked(plain, continues=bool(ids)))
        return ids

    def guarded(self, text: str, guard: str) -> str:
        """The text with a guard inside each control token that is typed in it."""
        return self._control_pattern.sub(lambda found: found[0][0] + guard + found[0][1:], text)

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
        drops_space = self._starts_with_space and after_bos and data.startswith(b" ")
        return data[1:] if drops_space else data

    def piece(self, token_id: int) -> str:
        """The piece as the vocabulary writes it, such as '▁the', 'Ġthe', '<0x0A>' or '<s>'."""
        self._check(token_id)
        return self._piece(int(token_id))

    def label(self, token_id: int) -> str:
        """The piece with every character visible: what a figure writes for this token."""
        self._check(token_id)
        return visible(self._shown(int(token_id))) or f"<{token_id}>"

    def files(self) -> dict[str, bytes]:
        """What to write beside a checkpoint, by name, so that from_file finds this tokenizer."""
        files = {self.file_name: self.model}
        told = {
            "bos_token": None if self.settings.bos is None else self._name(self.bos_id),
            "eos_token": None if self.settings.eos is None else self._name(self.eos_id),
            "add_bos_token": self.settings.add_bos,
            "chat_template": self.chat_template,
        }
        if told := {name: value for name, value in told.items() if value is not None}:
            files[SETTINGS_NAME] = (json.dumps(told, indent=2) + "\n").encode()
        return files

    @abstractmethod
    def _encode(self, text: str, *, continues: bool) -> list[int]:
        """Ids of ordinary text; continues says that something stands before it."""

    @abstractmethod
    def _piece(self, token_id: int) -> str:
        """The piece of an id that is in range."""

    @abstractmethod
    def _id_of(self, piece: str) -> int | None:
        """The id of a piece, None where there is none."""

    def _shown(self, token_id: int) -> str:
        return self._piece(token_id)

    def _name(self, token_id: int | None) -> str | None:
        return None if token_id is None else self._piece(token_id)

    @cached_property
    def _control_by_piece(self) -> dict[str, int]:
        return {self._piece(token_id): token_id for token_id in self.control_ids}

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        """Finds control tokens, the longest first; as a group, so that split() keeps them."""
        pieces = sorted(filter(None, self._control_by_piece), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, pieces)) or '(?!)'})")

    def _encode_checked(self, text: str, *, continues: bool = False) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds half of a character at position {error.start} "
                f"({text[error.start]!r}), which cannot be written as UTF-8; remove it"
            ) from error
        return self._encode(text, continues=continues)

    def _given_id(self, given: int | str | None, own: int | None, size: int) -> int | None:
        token_id = self._id_of(given) if isinstance(given, str) else given
        token_id = own if token_id is None else token_id
        if token_id is not None and not 0 <= token_id < size:
            raise CheckpointError(
                f"its BOS or EOS has the id {token_id}, but the vocabulary has {size} tokens"
            )
        return token_id

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(
                f"token id {token_id} is out of range: "
                f"the vocabulary has ids 0 to {self.vocab_size - 1}"
            )


def read_small(path: Path) -> bytes:
    """The bytes of a file that is no larger than a tokenizer may be; else CheckpointError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path}: too large for a tokenizer (over {MOST_BYTES} bytes)")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def settings_beside(path: Path) -> Settings:
    """What tokenizer_config.json and chat_template.jinja say that lie beside a tokenizer's file."""
    beside, template_file = path.with_name(SETTINGS_NAME), path.with_name(TEMPLATE_NAME)
    told: dict[str, object] = {}
    if beside.is_file():
        try:
            told = json.loads(read_small(beside))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{beside}: not the settings of a tokenizer ({error})") from error
        if not isinstance(told, dict):
            raise CheckpointError(f"{beside}: not the settings of a tokenizer")
    template = told.get("chat_template")
    if isinstance(template, list):  # several by name: the one for plain chats
        named = {entry.get("name"): entry for entry in template if isinstance(entry, dict)}
        template = named.get("default", {}).get("template")
    if template_file.is_file():
        template = read_small(template_file).decode("utf-8", errors="replace")
    add_bos = told.get("add_bos_token")
    return Settings(
        bos=_content(told.get("bos_token")),
        eos=_content(told.get("eos_token")),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=template if isinstance(template, str) else None,
    )


def _content(token: object) -> str | None:
    """The text of a token, written plainly or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


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
