"""Fuzzing: valid files, damaged at random, load or fail with the project's own error.

Each case is decided by its number alone, so one that fails can be run again.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

import llama_viz as lv
from llama_viz.checkpoints import gguf, llama2c
from llama_viz.tokenizers.llama2c import tokenizer_bin
from tests.reference import random_model
from tests.vocabularies import CHAT_TEMPLATE, byte_level_json, llama_json, sentence_piece_model
from tests.written import (
    GGUF_KINDS,
    write_gguf,
    write_llama2c_int8,
    write_llama2c_legacy,
    write_llama2c_pt,
)

CHECKPOINT_CASES = 120
TOKENIZER_CASES = 160
SMALL = {"n_layers": 1, "dim": 32, "hidden_dim": 32, "n_heads": 4, "n_kv_heads": 2,
         "max_seq_len": 8}  # fmt: skip
# Numbers that headers go wrong at: empty, negative, just too large, absurdly large.
NUMBERS = (0, 1, 2, 7, 127, 255, 2**15, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def small(vocab_size: int = 16) -> lv.LanguageModel:
    return random_model(vocab_size=vocab_size, tied_embeddings=True, **SMALL)


def gguf_file(path: Path, **options) -> None:
    write_gguf(small(options.pop("size", 16)), path, **options)


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "plain.gguf": lambda path: gguf_file(path),
    "quantized.gguf": lambda path: gguf_file(path, kind=GGUF_KINDS.Q4_1),
    "bpe.gguf": lambda path: gguf_file(
        path, size=330, vocabulary="gpt2", fields={"tokenizer.chat_template": CHAT_TEMPLATE}
    ),
    "spm.gguf": lambda path: gguf_file(path, size=345, vocabulary="llama"),
    "legacy.bin": lambda path: write_llama2c_legacy(small(), path),
    "one.bin": lambda path: llama2c.save(small(), path),
    "two.bin": lambda path: write_llama2c_int8(small(), path),
    "ckpt.pt": lambda path: write_llama2c_pt(small(), path),
}
TOKENIZERS: dict[str, Callable[[], bytes]] = {
    "tokenizer.model": sentence_piece_model,
    "tokenizer.bin": lambda: tokenizer_bin(lv.Tokenizer.from_bytes(sentence_piece_model())),
    "tokenizer.json": byte_level_json,
    "llama.json": llama_json,
}


@cache
def valid(name: str, folder: Path) -> bytes:
    if name in TOKENIZERS:
        return TOKENIZERS[name]()
    CHECKPOINTS[name](folder / name)
    return (folder / name).read_bytes()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """One to four random changes, most of them near the beginning, where the headers are."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        reach = chance.choice((64, 512, len(changed)))
        place = chance.randrange(max(min(reach, len(changed)), 1))
        kind = chance.randrange(7)
        if kind == 0:  # a bit
            changed[place : place + 1] = bytes([changed[place] ^ 1 << chance.randrange(8)])
        elif kind == 1:  # a number
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(NUMBERS) % 2 ** (8 * width)
            changed[place : place + width] = number.to_bytes(width, "little")
        elif kind == 2:  # random bytes
            changed[place : place + 8] = chance.randbytes(8)
        elif kind == 3:  # cut short
            del changed[place:]
        elif kind == 4:  # a part left out
            del changed[place : place + chance.choice((1, 4, 100))]
        elif kind == 5:  # a part twice
            part = changed[place : place + chance.choice((1, 8, 64))]
            changed[place:place] = part
        else:  # zeros
            changed[place : place + 32] = bytes(len(changed[place : place + 32]))
        if not changed:
            break
    return bytes(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("valid")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_damaged_checkpoint_loads_or_is_refused(name, folder, tmp_path):
    path = tmp_path / name
    outcomes = {True: 0, False: 0}
    for case in range(CHECKPOINT_CASES):
        path.write_bytes(damaged(valid(name, folder), random.Random(f"{name} {case}")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that are no numbers, unknown tokenizers
            outcomes[loads_or_is_refused(path, f"{name}, case {case}")] += 1
    assert min(outcomes.values()) > 0, "the changes are all harmless, or all fatal"


def loads_or_is_refused(path: Path, case: str) -> bool:
    read = gguf if path.suffix == ".gguf" else llama2c
    try:
        loaded = read.load(path)
        if loaded.tokenizer is not None:
            loaded.tokenizer.decode(loaded.tokenizer.encode("The dog."))
        assert isinstance(loaded.model, lv.Llama)
        assert sum(weight.nbytes for weight in loaded.model.parameters()) < 2**24
        assert all(weight.dtype != torch.int8 for weight in loaded.model.parameters())
    except lv.CheckpointError as error:
        check_message(error, path, case)
        return False
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    return True


def check_message(error: lv.CheckpointError, path: Path, case: str) -> None:
    """One line that begins with the file's name."""
    assert str(error).startswith(str(path)), case
    assert "\n" not in str(error), case


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_damaged_tokenizer_loads_or_is_refused(name, folder, tmp_path):
    path = tmp_path / name
    outcomes = {True: 0, False: 0}
    for case in range(TOKENIZER_CASES):
        path.write_bytes(damaged(valid(name, folder), random.Random(f"{name} {case}")))
        try:
            words = lv.Tokenizer.from_file(path)
            words.decode(words.encode("The dog."))
            assert all(words.label(i).isprintable() for i in range(words.vocab_size))
            outcomes[True] += 1
        except lv.CheckpointError as error:
            check_message(error, path, f"{name}, case {case}")
            outcomes[False] += 1
        except Exception as error:
            raise AssertionError(f"{name}, case {case}: {type(error).__name__}: {error}") from error
    assert min(outcomes.values()) > 0, "the changes are all harmless, or all fatal"


def test_there_are_enough_cases():
    assert len(CHECKPOINTS) * CHECKPOINT_CASES + len(TOKENIZERS) * TOKENIZER_CASES >= 1300
