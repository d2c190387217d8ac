"""Tensors of a safetensors file, mapped into memory and read one by one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from llama_viz.checkpoints.loaded import one_line
from llama_viz.errors import CheckpointError

# As the header writes them; the rest cannot be weights of a model.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class StoredTensors:
    """The header of a safetensors file: shapes and types by name, and a way to read one tensor.

    Raises CheckpointError where the file is damaged, cut short, or not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        dtypes = []
        try:
            with safe_open(path, framework="pt") as file:
                self.metadata = dict(file.metadata() or {})
                for name in file.keys():  # noqa: SIM118
                    entry = file.get_slice(name)
                    self.shapes[name] = tuple(entry.get_shape())
                    dtypes.append(_DTYPES.get(entry.get_dtype(), entry.get_dtype()))
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(error) from error
        self.dtypes = ", ".join(sorted(set(dtypes)))

    def read(self, name: str) -> torch.Tensor:
        """One tensor, a view of the file. When it is let go of, its pages leave the memory.

        The file is opened anew each time: a mapping holds on to every page that was ever read.
        Raises CheckpointError where it is damaged.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: cannot be read as a safetensors file ({one_line(error)}); "
            "it may be cut short or damaged: fetch or save it again"
        )
