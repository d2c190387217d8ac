"""GGUF, the files of llama.cpp: metadata, a tokenizer and (mostly quantized) tensors in one file.

llama.cpp turns interleaved pairs, and its converter reorders the rows of queries and keys for that:
they are taken as they stand. Block-quantized weights are dequantized by the gguf library.
"""

from __future__ import annotations

import math
import mmap
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from llama_viz.checkpoints.gguf_tokenizer import tokenizer_from_metadata
from llama_viz.checkpoints.loaded import LoadedCheckpoint, build_model, one_line, shown
from llama_viz.checkpoints.rope_layout import INTERLEAVED
from llama_viz.config import ModelConfig, RopeScaling
from llama_viz.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.shares import Share

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ARCHITECTURE = "llama"
# The largest vocabularies have a quarter of a million tokens, the largest models 1,200 tensors.
MOST_ELEMENTS = 2**24
MOST_FIELDS = 2**16
# Rows are dequantized in portions of about this many numbers: 4 MB in float32.
PORTION = 2**20

WHOLE = {
    "token_embd.weight": "embedding.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "output.weight",
}
IN_BLOCK = {
    "attn_norm.weight": "attention_norm.weight",
    "attn_q.weight": "attention.query.weight",
    "attn_k.weight": "attention.key.weight",
    "attn_v.weight": "attention.value.weight",
    "attn_output.weight": "attention.output.weight",
    "ffn_norm.weight": "feed_forward_norm.weight",
    "ffn_gate.weight": "feed_forward.gate.weight",
    "ffn_up.weight": "feed_forward.up.weight",
    "ffn_down.weight": "feed_forward.down.weight",
}
ROPE_DIVISORS = "rope_freqs.weight"

_KIND = GGMLQuantizationType
_PLAIN = {_KIND.F32: torch.float32, _KIND.F16: torch.float16, _KIND.BF16: torch.bfloat16}
_QUANTIZED = (
    _KIND.Q8_0, _KIND.Q4_0, _KIND.Q4_1, _KIND.Q5_0, _KIND.Q5_1,
    _KIND.Q2_K, _KIND.Q3_K, _KIND.Q4_K, _KIND.Q5_K, _KIND.Q6_K,
)  # fmt: skip

_SCALARS: dict[int, np.dtype[Any]] = {
    int(GGUFValueType[name.upper()]): np.dtype(name).newbyteorder("<")
    for name in (
        "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32",
        "float64",
    )
} | {int(GGUFValueType.BOOL): np.dtype(np.bool_)}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file, its type, and its shape with the rows first."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """Everything that stands before the weights."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def recognizes(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def load(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: Share | None = None,
) -> LoadedCheckpoint:
    """Read a model of llama.cpp's architecture "llama" with the tokenizer in its metadata.

    dtype None keeps float32, float16 and bfloat16, and takes float32 for quantized weights.

    Raises CheckpointError for damaged files, other architectures, and unknown kinds of weights.
    """
    header = read_header(path)
    # As a text: in a damaged file a list may stand there.
    architecture = shown(header.metadata.get("general.architecture"))
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{path}: its architecture is {architecture!r}, expected {ARCHITECTURE!r}"
        )
    tensors = dict(header.tensors)
    divisors = tensors.pop(ROPE_DIVISORS, None)
    config = _config(path, header, None if divisors is None else _read(path, divisors))
    stored = {our_name(name): tensor for name, tensor in tensors.items()}
    tokenizer = tokenizer_from_metadata(path, header.metadata)
    model = build_model(
        path,
        config,
        {name: tensor.shape for name, tensor in stored.items()},
        lambda name: _read(path, stored[name]),
        device=device,
        dtype=dtype,
        share=share,
    )
    return LoadedCheckpoint(model, tokenizer, _notes(header))


def read_header(path: Path) -> Header:
    """The metadata and the places of the tensors, with every size checked against the file's.

    Written out here because gguf.GGUFReader believes the counts in a file: one that promises 2^60
    numbers keeps it busy until the memory is full. Raises CheckpointError for what is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise CheckpointError(f"{path}: is not a GGUF file")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or one_line(error)})"
        ) from error
    try:
        with mapped:
            return _HeaderReader(mapped, size).header()
    except (_DamagedError, UnicodeDecodeError, struct.error) as error:
        raise CheckpointError(
            f"{path}: its header is damaged or cut short ({one_line(error)})"
        ) from error


class _DamagedError(ValueError):
    """What is wrong with a header; load() adds the file's name."""


class _HeaderReader:
    """Goes through a header from its beginning, and never past the end of the file."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.size = size
        self.place = len(MAGIC)

    def header(self) -> Header:
        version = self.number("<I")
        if version & 0xFFFF == 0:
            raise _DamagedError("it was written for big-endian machines")
        if version not in VERSIONS:
            raise _DamagedError(f"its version is {version}, expected 2 or 3")
        n_tensors, n_fields = self.number("<Q"), self.number("<Q")
        if max(n_tensors, n_fields) > MOST_FIELDS:
            raise _DamagedError(f"it promises {n_fields} fields and {n_tensors} tensors")
        metadata: dict[str, Any] = {}
        for _ in range(n_fields):
            name = self.text()
            if name in metadata:
                raise _DamagedError(f"{shown(name)} stands there twice")
            metadata[name] = self.value(self.number("<I"))
        described = [self.tensor() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise _DamagedError(f"its alignment is {shown(alignment)}")
        first = -(-self.place // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, kind, shape, offset in described:
            if name in tensors:
                raise _DamagedError(f"the tensor {shown(name)} stands there twice")
            tensors[name] = self.stored(name, kind, shape, first + offset)
        return Header(metadata, tensors)

    def tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name, n_axes = self.text(), self.number("<I")
        if n_axes > 4:
            raise _DamagedError(f"the tensor {shown(name)} has {n_axes} axes")
        shape = tuple(self.number("<Q") for _ in range(n_axes))
        return name, self.number("<I"), shape[::-1], self.number("<Q")

    def stored(self, name: str, kind: int, shape: tuple[int, ...], start: int) -> StoredTensor:
        try:
            known = GGMLQuantizationType(kind)
        except ValueError:
            raise _DamagedError(f"the tensor {shown(name)} is of the unknown kind {kind}") from None
        in_block, block_bytes = GGML_QUANT_SIZES[known]
        if not shape or shape[-1] % in_block:
            raise _DamagedError(f"the tensor {shown(name)} has rows of a broken block")
        n_bytes = math.prod(shape) // in_block * block_bytes
        if start + n_bytes > self.size:
            raise _DamagedError(
                f"the tensor {shown(name)} ends at byte {start + n_bytes}, the file at {self.size}"
            )
        return StoredTensor(known, shape, start, n_bytes)

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.numbers(kind, 1)[0].item()
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind != GGUFValueType.ARRAY:
            raise _DamagedError(f"a value is of the unknown kind {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if count > MOST_ELEMENTS:
            raise _DamagedError(f"a list promises {count} entries")
        if inner == GGUFValueType.STRING:
            return [self.text() for _ in range(count)]
        return self.numbers(inner, count)

    def numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _SCALARS:
            raise _DamagedError(f"a list holds values of the kind {kind}")
        return np.frombuffer(self.take(count * _SCALARS[kind].itemsize), _SCALARS[kind])

    def number(self, kind: str) -> int:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        return str(self.take(self.number("<Q")), "utf-8")

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.size - self.place:
            raise _DamagedError(f"at byte {self.place} it promises {n_bytes} more")
        self.place += n_bytes
        return self.data[self.place - n_bytes : self.place]


def _config(path: Path, header: Header, divisors: Tensor | None) -> ModelConfig:
    fields = _Fields(path, header.metadata)
    n_parts = fields.number("split.count", 1)
    if n_parts > 1:
        raise CheckpointError(
            f"{path}: is one of {n_parts} parts; join them first (llama-gguf-split --merge)"
        )
    if fields.number(f"{ARCHITECTURE}.expert_count", 0) > 0:
        raise CheckpointError(f"{path}: is a mixture of experts, which LLaMA is not")
    if "token_embd.weight" not in header.tensors:
        raise CheckpointError(f"{path}: has no token_embd.weight")
    n_heads = fields.count("attention.head_count")
    dim = fields.count("embedding_length")
    head_dim = fields.count("attention.key_length", dim // max(n_heads, 1))
    n_rotated = fields.count("rope.dimension_count", head_dim)
    if {head_dim} != {n_rotated, fields.count("attention.value_length", head_dim)}:
        raise CheckpointError(
            f"{path}: turns {n_rotated} of the {head_dim} features of a head, "
            "and LLaMA turns all of them, which keys and values have the same number of"
        )
    try:
        return ModelConfig(
            n_layers=fields.count("block_count"),
            n_heads=n_heads,
            n_kv_heads=fields.count("attention.head_count_kv", n_heads),
            dim=dim,
            head_dim=head_dim,
            hidden_dim=fields.count("feed_forward_length"),
            vocab_size=header.tensors["token_embd.weight"].shape[0],
            max_seq_len=fields.count("context_length"),
            norm_eps=fields.real("attention.layer_norm_rms_epsilon", None),
            rope_theta=fields.real("rope.freq_base", 10000.0),
            tied_embeddings="output.weight" not in header.tensors,
            rope_scaling=_scaling(path, fields, divisors),
        )
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be used: {error}") from error


def _scaling(path: Path, fields: _Fields, divisors: Tensor | None) -> RopeScaling | None:
    kind = shown(fields.metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "none"))
    # Files older than scaling.type say the factor of a linear scaling alone.
    factor = fields.real("rope.scale_linear", 1.0)
    if kind == "linear":
        factor = fields.real("rope.scaling.factor", 1.0)
    elif kind != "none":
        raise CheckpointError(
            f"{path}: scales its rotary positions by {kind!r}; "
            f"known are none, linear and the divisors of {ROPE_DIVISORS}"
        )
    if divisors is not None:
        values = (divisors.double() * factor).flatten().tolist()
        is_scaled = any(value != 1.0 for value in values)
        return RopeScaling("divided", divisors=tuple(values)) if is_scaled else None
    return RopeScaling("linear", factor=factor) if factor != 1.0 else None


class _Fields:
    """The architecture's own metadata, checked for their types."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = metadata

    def count(self, name: str, otherwise: int | None = None) -> int:
        """A whole number; a list, one entry a layer, where all entries are equal."""
        return self.number(f"{ARCHITECTURE}.{name}", otherwise)

    def number(self, name: str, otherwise: int | None) -> int:
        value = self.metadata.get(name, otherwise)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, value, "a whole number")
        return value

    def real(self, name: str, otherwise: float | None) -> float:
        name = f"{ARCHITECTURE}.{name}"
        value = self.metadata.get(name, otherwise)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, value, "a number")
        # 1e-5 comes back from float32 as 9.999999747378752e-06: the shortest decimal is meant.
        return float(str(np.float32(value)))

    def _wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        what = "is missing" if value is None else f"is {shown(value)}"
        return CheckpointError(f"{self.path}: {name} {what}, expected {expected}")


def our_name(name: str) -> str:
    """Our name of a tensor; one that LLaMA has not is left as it is, to be refused by name."""
    layer, _, rest = name.removeprefix("blk.").partition(".")
    if name.startswith("blk.") and layer.isdecimal() and rest in IN_BLOCK:
        return f"blocks.{layer}.{IN_BLOCK[rest]}"
    return WHOLE.get(name, shown(name))


def _read(path: Path, stored: StoredTensor) -> Tensor:
    """One tensor: a view of the file where it is stored plainly, else dequantized.

    Each tensor has a mapping of its own, so that its part of the file leaves memory with it.
    """
    if stored.kind not in _PLAIN and stored.kind not in _QUANTIZED:
        known = ", ".join(kind.name for kind in (*_PLAIN, *_QUANTIZED))
        raise CheckpointError(f"{path}: holds {stored.kind.name} weights; known are {known}")
    if not stored.n_bytes:
        return torch.empty(stored.shape)
    try:
        # "c" maps privately: torch wants to be able to write, and the file stays as it is.
        data = np.memmap(path, np.uint8, "c", offset=stored.start, shape=(stored.n_bytes,))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error
    if stored.kind in _PLAIN and sys.byteorder == "little":
        return torch.from_numpy(data).view(_PLAIN[stored.kind]).view(stored.shape)
    rows = data.reshape(math.prod(stored.shape[:-1]), -1)
    weights = np.empty((len(rows), stored.shape[-1]), np.float32)
    step = max(PORTION // stored.shape[-1], 1)
    for start in range(0, len(rows), step):
        # As one long row: the library goes through an array sixteen rows at a time.
        portion = np.ascontiguousarray(rows[start : start + step])
        numbers = dequantize(portion.reshape(1, -1), stored.kind)
        weights[start : start + step] = numbers.reshape(len(portion), -1)
    return torch.from_numpy(weights).view(stored.shape)


def _notes(header: Header) -> dict[str, str]:
    kinds = [tensor.kind.name for tensor in header.tensors.values() if len(tensor.shape) > 1]
    notes = {
        "format": "gguf",
        "rope_layout": INTERLEAVED,
        "stored_dtype": ", ".join(sorted(set(kinds), key=kinds.count, reverse=True)),
    }
    name = header.metadata.get("general.name")
    if isinstance(name, str):
        notes["name"] = shown(name)
    return notes
