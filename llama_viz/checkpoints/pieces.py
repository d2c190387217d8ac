"""Where everything lies in a checkpoint's files, from the first byte to the last."""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_viz.checkpoints import gguf, llama2c, meta
from llama_viz.checkpoints.huggingface import our_name
from llama_viz.checkpoints.pickled import load_pickled
from llama_viz.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STORAGE = re.compile(r".*/data/(\d+)")
_LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip entry: how long its name and its extra field are


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file: a weight, by our name, or with name "" whatever is no weight."""

    file: str
    name: str
    start: int
    n_bytes: int


def pieces(path: str | Path) -> list[Piece]:
    """Every byte of a checkpoint: a file's weights where they lie, and what is between them.

    path is a file, or a folder whose files come one after another by name. Weights are looked for
    in .safetensors, .gguf, .pth and llama2.c's .bin files; any other file is one piece.

    Raises CheckpointError where a file is damaged.
    """
    path = Path(path)
    files = sorted(inside for inside in path.iterdir() if inside.is_file()) if path.is_dir() else [
        path
    ]  # fmt: skip
    return [piece for file in files for piece in _pieces_of(file)]


def _pieces_of(file: Path) -> Iterator[Piece]:
    end = 0
    for name, start, n_bytes in sorted(_weights(file), key=lambda weight: weight[1]):
        if start > end:
            yield Piece(file.name, "", end, start - end)
        yield Piece(file.name, name, start, n_bytes)
        end = start + n_bytes
    size = file.stat().st_size
    if size > end:
        yield Piece(file.name, "", end, size - end)


def _weights(file: Path) -> Iterator[tuple[str, int, int]]:
    """Our name, first byte and number of bytes of each weight in a file."""
    if file.suffix == ".safetensors":
        yield from _of_safetensors(file)
    elif file.suffix == ".pth":
        yield from _of_pickled(file)
    elif file.suffix == ".gguf":
        for theirs, tensor in gguf.read_header(file).tensors.items():
            yield gguf.our_name(theirs), tensor.start, tensor.n_bytes
    elif file.suffix == ".bin" and llama2c.recognizes(file):
        header = llama2c.read_header(file)
        for ours, stored in llama2c.places(header)[0].items():
            n = math.prod(stored.shape)
            scales = 4 * (n // header.group_size) if stored.is_int8 else 0
            yield ours, stored.start, n + scales if stored.is_int8 else 4 * n


def _of_safetensors(file: Path) -> Iterator[tuple[str, int, int]]:
    """A safetensors file is the length of its header, the header as JSON, and the numbers."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, file.stat().st_size)))
        header.pop("__metadata__", None)
        for theirs, entry in header.items():
            start, end = entry["data_offsets"]
            yield our_name(theirs), 8 + length + start, end - start
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{file}: cannot be read as a safetensors file") from error


def _of_pickled(file: Path) -> Iterator[tuple[str, int, int]]:
    """A .pth file is a zip file; the pickle in it names tensors in the order of its entries."""
    names = {meta.our_name(theirs)[0]: tensor for theirs, tensor in load_pickled(file).items()}
    with zipfile.ZipFile(file) as archive, file.open("rb") as opened:
        numbered = {
            int(found[1]): entry
            for entry in archive.infolist()
            if (found := _STORAGE.fullmatch(entry.filename))
        }
        entries = [numbered[number] for number in sorted(numbered)]
        sizes = [entry.file_size for entry in entries]
        if sizes != [tensor.nbytes for tensor in names.values()]:
            raise CheckpointError(f"{file}: its tensors share memory; none has a place of its own")
        for ours, entry in zip(names, entries, strict=True):
            opened.seek(entry.header_offset)
            header = opened.read(_LOCAL_HEADER.size)
            start = entry.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
            yield ours, start, entry.file_size
