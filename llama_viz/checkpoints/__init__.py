"""Models on disk: load() and save_checkpoint(), with one module per format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llama_viz.checkpoints.native import load_native, save_native
from llama_viz.errors import CheckpointError, unknown_name
from llama_viz.files import data_folder, written_whole
from llama_viz.language_model import LanguageModel
from llama_viz.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

EMBEDDED = ("mha", "gqa", "mqa")
TOKENIZER_NAME = "tokenizer.model"


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
) -> LanguageModel:
    """Load an embedded model ("mha", "gqa", "mqa") or a checkpoint from a path.

    device None is CUDA, then MPS, then the CPU, whichever is there first. dtype None is float32 on
    a CPU and for the embedded models, so that their figures agree everywhere, else the stored type.
    tokenizer is a path or a Tokenizer; None takes the one that lies beside the checkpoint.

    Raises CheckpointError for files that cannot be loaded, ValueError for unknown names or devices.
    """
    embedded = str(source) in EMBEDDED
    path = data_folder() / f"{source}.safetensors" if embedded else Path(source).expanduser()
    place = pick_device(device)
    if not path.exists():
        if embedded or _looks_like_a_path(source):
            raise CheckpointError(f"{path}: there is no such file")
        raise unknown_name("model", str(source), [*EMBEDDED, "a path to a checkpoint"])
    if path.is_dir():
        path = _only_checkpoint_in(path)
    if dtype is None and (embedded or place.type == "cpu"):
        dtype = torch.float32
    loaded = load_native(path, device=place, dtype=dtype)
    found = _tokenizer(tokenizer, path)
    if found is not None and found.vocab_size != loaded.model.config.vocab_size:
        raise CheckpointError(
            f"{path}: its vocabulary has {loaded.model.config.vocab_size} tokens, "
            f"but the tokenizer has {found.vocab_size}; give the tokenizer it was trained with"
        )
    lm = LanguageModel(loaded.model, found, path.stem, path, loaded.metadata)
    return lm.optimize()


def save_checkpoint(
    lm: LanguageModel, path: str | Path, format: str = "llama_viz", dtype: torch.dtype | None = None
) -> None:
    """Write a model, and its tokenizer beside it, so that load(path) opens it again.

    format "llama_viz" is one safetensors file. dtype None keeps the type of the weights.
    """
    writers: dict[str, Callable[..., None]] = {"llama_viz": _save_native}
    if format not in writers:
        raise unknown_name("format", format, writers)
    writers[format](lm, Path(path).expanduser(), dtype)


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, else CUDA, MPS or the CPU, whichever is there first.

    Raises ValueError where the one asked for is not on this machine.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device is None:
        return torch.device(next(name for name, is_there in there.items() if is_there))
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise unknown_name("device", device, there) from error
    number = asked.index or 0
    count = torch.cuda.device_count() if asked.type == "cuda" else 1
    if not there.get(asked.type, asked.type == "meta") or number >= count:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise ValueError(f"there is no device {str(asked)!r} on this machine; it has: {usable}")
    return asked


def _looks_like_a_path(source: str | Path) -> bool:
    text = str(source)
    return isinstance(source, Path) or "/" in text or "\\" in text or Path(text).suffix != ""


def _only_checkpoint_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    what = f"{len(files)} .safetensors files" if files else "no .safetensors file"
    raise CheckpointError(f"{folder}: holds {what}, expected one; name the file itself")


def _tokenizer(given: str | Path | Tokenizer | None, checkpoint: Path) -> Tokenizer | None:
    if isinstance(given, Tokenizer):
        return given
    if given is not None:
        return Tokenizer.from_file(Path(given).expanduser())
    beside = checkpoint.parent / TOKENIZER_NAME
    return Tokenizer.from_file(beside) if beside.is_file() else None


def _save_native(lm: LanguageModel, path: Path, dtype: torch.dtype | None) -> None:
    beside = path.parent / TOKENIZER_NAME
    if lm.tokenizer is not None and beside.is_file() and beside.read_bytes() != lm.tokenizer.model:
        raise ValueError(f"{beside} is another model's tokenizer; save to a folder of its own")
    save_native(lm.model, path, dtype=dtype, metadata=lm.notes)
    if lm.tokenizer is not None and not beside.is_file():
        with written_whole(beside) as unfinished:
            unfinished.write_bytes(lm.tokenizer.model)
