"""llama2.c: .bin files, legacy and versioned, and the .pt checkpoints of its training.

A .bin file is a header of whole numbers and then every weight in a fixed order. Queries and keys
are interleaved, as they are here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llama_viz.checkpoints.loaded import (
    LoadedCheckpoint,
    build_model,
    dtype_name,
    one_line,
    shown,
)
from llama_viz.checkpoints.pickled import check_tensor, load_pickled, pickle_bytes
from llama_viz.checkpoints.rope_layout import INTERLEAVED
from llama_viz.config import ModelConfig
from llama_viz.errors import CheckpointError
from llama_viz.files import written_whole
from llama_viz.tokenizers.llama2c import Llama2cTokenizer, tokenizer_bin

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.language_model import LanguageModel
    from llama_viz.shares import Share

MAGIC = b"24ka"  # the number 0x616b3432 as a little-endian file holds it
HEADER = struct.Struct(
    "<7i"
)  # dim, hidden_dim, layers, heads, key/value heads, vocabulary, context
LEGACY, FLOAT32, INT8 = range(3)
VERSIONED_HEADER_BYTES = 256
# Above the largest published models by far; a header with more is no header.
MOST = {"dim": 2**17, "hidden_dim": 2**19, "n_layers": 2**10, "n_heads": 2**12}
MOST_TOKENS = MOST_POSITIONS = 2**24

# Each name stands for one tensor a layer, all layers together.
_PER_LAYER = {
    "attention_norm": "attention_norm", "ffn_norm": "feed_forward_norm",
    "attention.wq": "attention.query", "attention.wk": "attention.key",
    "attention.wv": "attention.value", "attention.wo": "attention.output",
    "feed_forward.w1": "feed_forward.gate", "feed_forward.w2": "feed_forward.down",
    "feed_forward.w3": "feed_forward.up",
}  # fmt: skip
_WHOLE = {"tok_embeddings": "embedding", "norm": "norm", "output": "output"}
ANGLES = "angles"  # the legacy file's cosines and sines, which the model computes itself
_LEGACY_ORDER = (
    "tok_embeddings", "attention_norm", "attention.wq", "attention.wk", "attention.wv",
    "attention.wo", "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "norm",
    ANGLES, "output",
)  # fmt: skip
_ORDER = (
    "attention_norm", "ffn_norm", "norm", "tok_embeddings", "attention.wq", "attention.wk",
    "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
    "output",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What the beginning of a .bin file says; group_size only where weights are int8."""

    version: int
    config: ModelConfig
    group_size: int = 0

    @property
    def n_bytes(self) -> int:
        """Where the weights begin."""
        return HEADER.size if self.version == LEGACY else VERSIONED_HEADER_BYTES


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a .bin file, and whether it is int8 with a scale for each group."""

    start: int
    shape: tuple[int, ...]
    is_int8: bool = False


def recognizes(path: Path) -> bool:
    """Whether a file is a .bin with a sensible header, or a .pt of llama2.c's training."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] == b"PK":
            return b"model_args" in (pickle_bytes(path) or b"")
        read_header(path)
    except (OSError, CheckpointError):
        return False
    return True


def load(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: Share | None = None,
) -> LoadedCheckpoint:
    """Read a .bin or .pt file; dtype None keeps the stored type, and takes float32 for int8.

    int8 weights are dequantized: llama2.c's runq.c also rounds what passes between the layers, so
    its text may differ. Raises CheckpointError where the file is damaged or of another kind.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    read = _load_pt if is_zip or path.suffix in (".pt", ".pth") else _load_bin
    return read(path, device, dtype, share)


def save(lm: LanguageModel, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a .bin of version 1 (float32), and the tokenizer as tokenizer.bin beside it.

    Raises ValueError where llama2.c cannot run the model: it knows one base of the rotary
    positions, one epsilon, no scaling and no head_dim of its own; nothing is written then.
    """
    config = lm.config
    wanted = {
        "head_dim": (config.head_dim, config.dim // config.n_heads),
        "norm_eps": (config.norm_eps, 1e-5),
        "rope_theta": (config.rope_theta, 10000.0),
        "rope_scaling": (config.rope_scaling, None),
    }
    for name, (has, needs) in wanted.items():
        if has != needs:
            raise ValueError(f"llama2.c cannot run {name} {has}: it has {needs} built in")
    if dtype not in (None, torch.float32):
        raise ValueError(f"llama2.c reads float32 weights, not {dtype}")
    beside = path.with_name(Llama2cTokenizer.file_name)
    words = None if lm.tokenizer is None else tokenizer_bin(lm.tokenizer)
    if words is not None and beside.is_file() and beside.read_bytes() != words:
        raise ValueError(f"{beside} is another model's tokenizer; save to a folder of its own")
    numbers = HEADER.pack(
        config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads,
        config.vocab_size, config.max_seq_len,
    )  # fmt: skip
    start = MAGIC + struct.pack("<i", FLOAT32) + numbers + bytes([config.tied_embeddings])
    with written_whole(path) as unfinished, unfinished.open("wb") as file:
        file.write(start.ljust(VERSIONED_HEADER_BYTES, b"\0"))
        for name, _ in _in_order(Header(FLOAT32, config)):
            weight = lm.model.get_parameter(name).detach().to("cpu", torch.float32)
            file.write(weight.contiguous().numpy().astype("<f4", copy=False).data)
    if words is not None and not beside.is_file():
        with written_whole(beside) as unfinished:
            unfinished.write_bytes(words)


def read_header(path: Path) -> Header:
    """The header of a .bin file; raises CheckpointError where its numbers make no sense."""
    try:
        with path.open("rb") as file:
            start = file.read(VERSIONED_HEADER_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    version, place = LEGACY, 0
    if start[:4] == MAGIC:
        if len(start) < VERSIONED_HEADER_BYTES:
            raise CheckpointError(f"{path}: is cut short: its header is not whole")
        (version,) = struct.unpack_from("<i", start, 4)
        place = 8
        if version not in (FLOAT32, INT8):
            raise CheckpointError(f"{path}: is a llama2.c file of version {version}, not 1 or 2")
    elif len(start) < HEADER.size:
        raise CheckpointError(f"{path}: is cut short, or not a file of llama2.c")
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, context = HEADER.unpack_from(
        start, place
    )
    # The legacy format says with a negative vocabulary that the output head is its own.
    tied = vocab_size > 0 if version == LEGACY else start[place + HEADER.size] != 0
    sizes = {"dim": dim, "hidden_dim": hidden_dim, "n_layers": n_layers, "n_heads": n_heads}
    too_many = [name for name, most in MOST.items() if sizes[name] > most]
    if too_many or abs(vocab_size) > MOST_TOKENS or context > MOST_POSITIONS:
        raise CheckpointError(f"{path}: is not a file of llama2.c: its header makes no sense")
    try:
        if dim % max(n_heads, 1):
            raise ValueError(f"dim ({dim}) must be a multiple of n_heads ({n_heads})")
        config = ModelConfig(
            **sizes,
            n_kv_heads=n_kv_heads,
            vocab_size=abs(vocab_size) if version == LEGACY else vocab_size,
            max_seq_len=context,
            tied_embeddings=tied,
        )
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: is damaged, or not a file of llama2.c: its header says {error}"
        ) from error
    if version != INT8:
        return Header(version, config)
    (group_size,) = struct.unpack_from("<i", start, place + HEADER.size + 1)
    if group_size < 1 or any(size % group_size for size in (dim, hidden_dim)):
        raise CheckpointError(f"{path}: its groups of {group_size} numbers do not fill its rows")
    return Header(version, config, group_size)


def _load_bin(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, share: Share | None
) -> LoadedCheckpoint:
    header = read_header(path)
    stored, end = places(header)
    size = path.stat().st_size
    if size != end:
        what = "it is cut short" if size < end else "or it is another kind of file"
        raise CheckpointError(f"{path}: has {size} bytes, but its header describes {end}; {what}")

    def read(name: str) -> Tensor:
        tensor = stored[name]
        n = math.prod(tensor.shape)
        # Mapped privately, one by one: each leaves memory when it has been copied.
        if not tensor.is_int8:
            return torch.from_numpy(np.memmap(path, "<f4", "c", tensor.start, tensor.shape))
        numbers = np.memmap(path, np.int8, "r", tensor.start, (n // header.group_size,
                                                               header.group_size))  # fmt: skip
        scales = np.memmap(path, "<f4", "r", tensor.start + n, (n // header.group_size, 1))
        return torch.from_numpy(np.multiply(numbers, scales, dtype=np.float32)).view(tensor.shape)

    shapes = {name: tensor.shape for name, tensor in stored.items()}
    model = build_model(path, header.config, shapes, read, device=device, dtype=dtype, share=share)
    kind = "int8" if header.version == INT8 else "float32"
    return LoadedCheckpoint(model, None, _notes(kind, header.version))


def _load_pt(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, share: Share | None
) -> LoadedCheckpoint:
    content = load_pickled(path)
    sizes, weights = (
        (content.get("model_args"), content.get("model")) if isinstance(content, dict) else (0, 0)
    )
    if not isinstance(sizes, dict) or not isinstance(weights, dict):
        raise CheckpointError(
            f"{path}: is not a checkpoint of llama2.c: it holds no model_args and model"
        )
    # torch.compile puts a word in front of every name.
    named = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    stored = {_our_name(name): check_tensor(path, name, t) for name, t in named.items()}
    if sum(tensor.nbytes for tensor in stored.values()) > 2 * path.stat().st_size:
        raise CheckpointError(f"{path}: its tensors are larger than the file")
    config = _pt_config(path, sizes, stored)
    if config.tied_embeddings:
        del stored["output.weight"]
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    model = build_model(
        path, config, shapes, stored.__getitem__, device=device, dtype=dtype, share=share
    )
    kind = dtype_name(stored["embedding.weight"].dtype)
    return LoadedCheckpoint(model, None, _notes(kind, None))


def _pt_config(path: Path, sizes: dict[str, Any], stored: dict[str, Tensor]) -> ModelConfig:
    embedding, output = stored.get("embedding.weight"), stored.get("output.weight")
    gate = stored.get("blocks.0.feed_forward.gate.weight")
    if embedding is None or output is None or gate is None:
        raise CheckpointError(f"{path}: lacks an embedding, an output head or a layer")
    tied = embedding.shape == output.shape and (
        embedding.data_ptr() == output.data_ptr() or torch.equal(embedding, output)
    )
    try:
        return ModelConfig(
            n_layers=sizes["n_layers"],
            n_heads=sizes["n_heads"],
            n_kv_heads=sizes.get("n_kv_heads"),  # type: ignore[arg-type]
            dim=sizes["dim"],
            hidden_dim=gate.shape[0],
            vocab_size=embedding.shape[0],
            max_seq_len=sizes.get("max_seq_len", 2048),
            norm_eps=sizes.get("norm_eps", 1e-5),
            tied_embeddings=tied,
        )
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: its model_args cannot be used: {one_line(error)}"
        ) from error


def _our_name(name: str) -> str:
    """Our name of a weight; one that is unknown stays as it is, to be refused by name."""
    kind = name.removesuffix(".weight")
    if kind in _WHOLE and name.endswith(".weight"):
        return f"{_WHOLE[kind]}.weight"
    layer, _, rest = kind.removeprefix("layers.").partition(".")
    if name.endswith(".weight") and layer.isdecimal() and rest in _PER_LAYER:
        return f"blocks.{layer}.{_PER_LAYER[rest]}.weight"
    return shown(name)


def _in_order(header: Header) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Our names, with their shapes, in the order in which a .bin file holds the weights."""
    config = header.config
    kv_width = config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings": (config.vocab_size, config.dim),
        "output": (config.vocab_size, config.dim),
        ANGLES: (2, config.max_seq_len, config.n_pairs),
        "attention.wq": (config.dim, config.dim),
        "attention.wk": (kv_width, config.dim),
        "attention.wv": (kv_width, config.dim),
        "attention.wo": (config.dim, config.dim),
        "feed_forward.w1": (config.hidden_dim, config.dim),
        "feed_forward.w2": (config.dim, config.hidden_dim),
        "feed_forward.w3": (config.hidden_dim, config.dim),
    }
    for name in _LEGACY_ORDER if header.version == LEGACY else _ORDER:
        shape = shapes.get(name, (config.dim,))
        if name == ANGLES:
            yield ANGLES, shape
        elif name in _PER_LAYER:
            for layer in range(config.n_layers):
                yield f"blocks.{layer}.{_PER_LAYER[name]}.weight", shape
        elif name != "output" or not config.tied_embeddings:
            yield f"{_WHOLE[name]}.weight", shape


def places(header: Header) -> tuple[dict[str, StoredTensor], int]:
    """Where each weight lies by our names, and where the file must end."""
    stored: dict[str, StoredTensor] = {}
    place = header.n_bytes
    for name, shape in _in_order(header):
        n = math.prod(shape)
        is_int8 = header.version == INT8 and len(shape) == 2
        stored[name] = StoredTensor(place, shape, is_int8)
        place += n + 4 * (n // header.group_size) if is_int8 else 4 * n
    stored.pop(ANGLES, None)
    return stored, place


def _notes(kind: str, version: int | None) -> dict[str, str]:
    variant = ".pt" if version is None else (".bin, legacy", ".bin, version 1", ".bin, version 2")[
        version
    ]  # fmt: skip
    return {
        "format": f"llama2.c ({variant})", "rope_layout": INTERLEAVED, "stored_dtype": kind
    }  # fmt: skip
