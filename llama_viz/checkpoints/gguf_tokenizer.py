"""The tokenizer in the metadata of a GGUF file."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from llama_viz.checkpoints.loaded import shown
from llama_viz.errors import CheckpointError
from llama_viz.tokenizer import Settings, Tokenizer
from llama_viz.tokenizers.byte_pair import BytePairTokenizer, byte_level_file
from llama_viz.tokenizers.sentence_piece import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SentencePieceTokenizer,
    model_file,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
# How a text is cut before merging. GPT-2's rule is the one that ByteLevel has built in.
_GPT2: dict[str, Any] = {**_BYTE_LEVEL, "use_regex": True}
_DIGITS_APART: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2],
}
_LLAMA3: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {
                "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            },
            "behavior": "Isolated",
            "invert": False,
        },
        {**_BYTE_LEVEL, "use_regex": False},
    ],
}
# llama.cpp's names, as in tokenizer.ggml.pre.
SPLITTERS = {
    "gpt-2": _GPT2,
    "smollm": _DIGITS_APART,
    "starcoder": _DIGITS_APART,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


def tokenizer_from_metadata(path: Path, metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that a file's metadata describe; None, with a warning, where it is unknown.

    Raises CheckpointError where it is damaged.
    """
    if not {"tokenizer.ggml.model", "tokenizer.ggml.tokens"} <= metadata.keys():
        return None
    # As texts: in a damaged file lists may stand there.
    kind = shown(metadata["tokenizer.ggml.model"])
    splitter = shown(metadata.get("tokenizer.ggml.pre", "gpt-2"))
    unknown = None
    if kind not in ("llama", "gpt2"):
        unknown = f"of the kind {kind!r} (known: llama, gpt2)"
    elif kind == "gpt2" and splitter not in SPLITTERS:
        unknown = f"that cuts texts by the rule {splitter!r} (known: {', '.join(SPLITTERS)})"
    if unknown is not None:
        warnings.warn(
            f"{path}: has a tokenizer {unknown}: the model takes ids alone, "
            "unless another is given with tokenizer=...",
            stacklevel=5,
        )
        return None
    try:
        return _sentence_piece(metadata) if kind == "llama" else _byte_pair(metadata, splitter)
    except (CheckpointError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be used: {error}") from error


def _sentence_piece(metadata: Mapping[str, Any]) -> Tokenizer:
    tokens, kinds = _vocabulary(metadata)
    scores = _numbers(metadata, "tokenizer.ggml.scores", len(tokens), 0.0)
    starts_with_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
    model = model_file(tokens, scores, kinds, starts_with_space=bool(starts_with_space))
    return SentencePieceTokenizer(model, _settings(metadata, adds_bos=True))


def _byte_pair(metadata: Mapping[str, Any], splitter: str) -> Tokenizer:
    tokens, kinds = _vocabulary(metadata)
    merges = metadata.get("tokenizer.ggml.merges", [])
    if not _is_list_of_text(merges):
        raise CheckpointError("tokenizer.ggml.merges is not a list of texts")
    is_llama3 = SPLITTERS[splitter] is _LLAMA3
    model = byte_level_file(
        tokens,
        merges,
        control=[i for i, kind in enumerate(kinds) if kind in (CONTROL, UNKNOWN)],
        added=[i for i, kind in enumerate(kinds) if kind == USER_DEFINED],
        splitter=SPLITTERS[splitter],
        ignore_merges=is_llama3,
    )
    return BytePairTokenizer(model, _settings(metadata, adds_bos=is_llama3))


def _vocabulary(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = metadata["tokenizer.ggml.tokens"]
    if not _is_list_of_text(tokens) or not tokens:
        raise CheckpointError("tokenizer.ggml.tokens is not a list of texts")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError("tokenizer.ggml.tokens holds a token twice")
    kinds = _numbers(metadata, "tokenizer.ggml.token_type", len(tokens), NORMAL)
    return tokens, [int(kind) for kind in kinds]


def _numbers(metadata: Mapping[str, Any], name: str, n: int, otherwise: float) -> list[float]:
    if name not in metadata:
        return [otherwise] * n
    values = metadata[name]
    if not hasattr(values, "tolist") or len(values) != n:
        raise CheckpointError(f"{name} is not a list of {n} numbers, one for each token")
    return values.tolist()


def _settings(metadata: Mapping[str, Any], *, adds_bos: bool) -> Settings:
    template = metadata.get("tokenizer.chat_template")
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", adds_bos)
    return Settings(
        bos=_id(metadata, "tokenizer.ggml.bos_token_id"),
        eos=_id(metadata, "tokenizer.ggml.eos_token_id"),
        add_bos=bool(add_bos),
        chat_template=template if isinstance(template, str) else None,
    )


def _id(metadata: Mapping[str, Any], name: str) -> int | None:
    value = metadata.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise CheckpointError(f"{name} is {str(value)[:40]!r}, expected a whole number")
    return value


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
