"""Fuzzing: valid files, damaged at random, load or fail with the project's own error.

Each case is decided by its number alone, so one that fails can be run again.
"""

from __future__ import annotations

import io
import json
import random
import re
import resource
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import llama_viz as lv
from tests.folders import random_in_transformers, save_meta
from tests.reference import random_model

ROOM = 2 * 2**30  # bytes that a case may take, thousands of times what its files hold
SIZES = {"n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "dim": 16, "hidden_dim": 16,
         "vocab_size": 12, "max_seq_len": 32}  # fmt: skip
THEIR_SIZES = {
    "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 16,
    "vocab_size": 12, "max_position_embeddings": 32,
}  # fmt: skip
# What fields go wrong at: other types, empty, negative, just too large, absurdly large.
ODD = (None, True, "", "16", "\n\x1b[31m", [], [16], {}, {"a": 1}, 0, 1, -1, 3, 17, 0.5, 2**31,
       2**63, 10**30, 1e308, 1e-320, float("nan"), float("inf"))  # fmt: skip


# Ways to damage bytes and JSON


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with flipped bits, a cut, a hole, a swap, or a number that promises too much."""
    content = bytearray(data)
    kind = chance.choice(["flip", "flip", "cut", "hole", "swap", "insert", "number"])
    place = chance.randrange(len(content))
    near = min(len(content), place + chance.randint(1, 64))
    if kind == "flip":
        for _ in range(chance.choice([1, 1, 3, 30])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "hole":
        del content[place:near]
    elif kind == "swap":
        other = chance.randrange(len(content))
        size = min(near - place, len(content) - other)
        content[place : place + size], content[other : other + size] = (
            content[other : other + size],
            content[place : place + size],
        )
    elif kind == "insert":
        content[place:place] = chance.randbytes(chance.randint(1, 64))
    else:
        number = chance.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1])
        content[place : place + 8] = struct.pack("<Q", number)[: len(content) - place]
    return bytes(content)


def edited(content: Any, chance: random.Random) -> Any:
    """A JSON value in which one thing is left out, replaced, renamed or swapped with another."""
    if not isinstance(content, (dict, list)) or not content:
        return chance.choice(ODD)
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = chance.choice(keys)
    kind = chance.choice(["inside", "odd", "odd", "drop", "swap", "rename"])
    changed = content.copy()
    if kind == "inside":
        changed[key] = edited(content[key], chance)
    elif kind == "odd":
        changed[key] = chance.choice(ODD)
    elif kind == "drop":
        del changed[key]
    elif kind == "swap":
        other = chance.choice(keys)
        changed[key], changed[other] = content[other], content[key]
    elif isinstance(changed, dict):
        changed[f"{key}s"] = changed.pop(key)
    return changed


def damage_file(path: Path, chance: random.Random) -> None:
    path.write_bytes(damaged(path.read_bytes(), chance))


def edit_json(path: Path, chance: random.Random) -> None:
    content = json.loads(path.read_text())
    for _ in range(chance.choice([1, 1, 2])):
        content = edited(content, chance)
    path.write_text(json.dumps(content))


def edit_header(path: Path, chance: random.Random) -> None:
    """Change the JSON header of a safetensors file, and keep its length right."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = edited(json.loads(data[8 : 8 + length]), chance)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and chance.random() < 0.5:
        config = metadata.get("config")
        if isinstance(config, str):
            metadata["config"] = json.dumps(edited(json.loads(config), chance))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def edit_pickle(path: Path, chance: random.Random) -> None:
    """Damage the pickle inside a .pth file, and keep the zip file around it valid."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = damaged(data, chance)
            new.writestr(entry.filename, data)
    path.write_bytes(packed.getvalue())


# What is damaged


def write_native(folder: Path) -> None:
    folder.mkdir()
    lv.save_checkpoint(random_model("gqa", **SIZES), folder / "model.safetensors")


def write_huggingface(folder: Path) -> None:
    random_in_transformers("gqa", "llama3", **THEIR_SIZES).save_pretrained(folder)


def write_sharded(folder: Path) -> None:
    theirs = random_in_transformers("gqa", "dynamic", **THEIR_SIZES)
    theirs.save_pretrained(folder, max_shard_size="4KB")


def write_meta(folder: Path) -> None:
    save_meta(random_model("gqa", **SIZES), folder)


def write_meta_shards(folder: Path) -> None:
    save_meta(random_model("gqa", **SIZES), folder, n_shards=2)


CASES = {
    "native bytes": (120, write_native, "model.safetensors", damage_file),
    "native header": (120, write_native, "model.safetensors", edit_header),
    "huggingface bytes": (100, write_huggingface, "model.safetensors", damage_file),
    "huggingface header": (100, write_huggingface, "model.safetensors", edit_header),
    "huggingface config": (200, write_huggingface, "config.json", edit_json),
    "huggingface config bytes": (50, write_huggingface, "config.json", damage_file),
    "huggingface index": (100, write_sharded, "model.safetensors.index.json", edit_json),
    "meta bytes": (100, write_meta, "consolidated.00.pth", damage_file),
    "meta pickle": (200, write_meta, "consolidated.00.pth", edit_pickle),
    "meta shard": (60, write_meta_shards, "consolidated.01.pth", edit_pickle),
    "meta params": (150, write_meta_shards, "params.json", edit_json),
}


@pytest.fixture
def bounded_memory():
    """No more address space than there is now and ROOM: a promise of terabytes cannot be kept."""
    now = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", CASES)
def test_every_damaged_checkpoint_loads_or_is_refused(what, tmp_path, bounded_memory):
    n_cases, write, name, damage = CASES[what]
    write(tmp_path / "valid")
    valid = (tmp_path / "valid" / name).read_bytes()
    n_refused = 0
    for number in range(n_cases):
        (tmp_path / "valid" / name).write_bytes(valid)
        n_refused += is_refused(tmp_path / "valid", name, damage, f"{what} {number}")
    assert n_refused > n_cases // 5  # or else nothing was damaged


def is_refused(
    folder: Path, name: str, damage: Callable[[Path, random.Random], None], case: str
) -> bool:
    """Damage one file and load the folder; anything but CheckpointError fails the test."""
    damage(folder / name, random.Random(case))
    try:
        lm = lv.load(folder)
    except lv.CheckpointError as error:
        message = str(error)
        assert message.isprintable(), f"{case}: {message!r}"
        assert str(folder) in message, f"{case}: {message!r}"
        return True
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    with torch.inference_mode():
        assert lm.model(torch.zeros(1, 1, dtype=torch.long)).shape[-1] == lm.config.vocab_size
    return False


def test_the_valid_files_load(tmp_path):
    for number, (_, write, _, _) in enumerate(CASES.values()):
        write(tmp_path / str(number))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lv.load(tmp_path / str(number))
        shutil.rmtree(tmp_path / str(number))


def test_there_are_enough_cases():
    assert sum(n_cases for n_cases, *_ in CASES.values()) >= 1000
