"""Tensors out of a .pt or .pth file, which is a zip file around a pickle, without running code."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from llama_viz.checkpoints.loaded import one_line, shown
from llama_viz.errors import CheckpointError


def pickle_bytes(path: Path) -> bytes | None:
    """The pickle in a zip file, as torch.save writes them, unread; None where there is none.

    What is stored can be told from the names in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if not names or archive.getinfo(names[0]).file_size > path.stat().st_size:
                return None
            return archive.read(names[0])
    except Exception:  # a damaged zip file raises nearly anything
        return None


def load_pickled(path: Path) -> Any:
    """What torch.save stored, with its tensors mapped from the file and not yet read.

    Only tensors and plain containers are accepted: a pickle can name any function of Python and
    call it, so weights_only stays on. Raises CheckpointError for everything else.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        # Mapped tensors are stored as they are: a packed entry can only be a bomb.
        if any(entry.compress_type or entry.file_size > size for entry in entries):
            raise CheckpointError(f"{path}: is damaged (an entry that is larger than the file)")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise CheckpointError(
                f"{path}: refused, it is not tensors alone: its pickle names {shown(code[1])}, "
                "which could run code"
            ) from error
        raise CheckpointError(
            f"{path}: cannot be read as a file of torch.save ({one_line(error)}); "
            "it may be cut short or damaged: fetch or save it again"
        ) from error


def check_tensor(path: Path, name: str, tensor: object) -> torch.Tensor:
    """The tensor itself; raises CheckpointError unless it is plain and all of it is stored."""
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise CheckpointError(f"{path}: {shown(name)} is a {kind}, expected a tensor")
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {shown(name)} is not stored whole")
    return tensor
