"""The project's own format: one safetensors file with the configuration in its header.

Tensors carry the names of llama_viz.model; a tokenizer.model beside the file is the tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from llama_viz.checkpoints import huggingface
from llama_viz.checkpoints.loaded import LoadedCheckpoint, build_model, one_line
from llama_viz.checkpoints.mapped import StoredTensors
from llama_viz.checkpoints.rope_layout import INTERLEAVED
from llama_viz.config import ModelConfig
from llama_viz.errors import CheckpointError
from llama_viz.files import written_whole
from llama_viz.model import Llama

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_viz.shares import Share

FORMAT = "llama_viz"


def recognizes(path: Path) -> bool:
    """Whether the file is a safetensors file with our mark in its header."""
    if path.suffix != ".safetensors":  # what people name otherwise they name to load()
        return False
    try:
        return StoredTensors(path).metadata.get("format") == FORMAT
    except CheckpointError:
        return False


def save_native(
    model: Llama,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the model to one file, as it is or in dtype; metadata are notes for its header."""
    tensors = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, tensor in _named_weights(model).items()
    }
    header = {
        **(metadata or {}),
        "format": FORMAT,
        "rope_layout": INTERLEAVED,
        "config": json.dumps(model.config.to_dict()),
    }
    with written_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata=header)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: Share | None = None,
) -> LoadedCheckpoint:
    """Read a file written by save_native, in the stored type or in dtype.

    Raises CheckpointError where the file is damaged, cut short, or not of this format.
    """
    path = Path(path)
    stored = StoredTensors(path)
    metadata = stored.metadata
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one written by llama_viz.save_checkpoint "
            f"(its header says format {metadata.get('format')!r}, expected {FORMAT!r}); "
            + _advice(path)
        )
    try:
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its configuration cannot be used: {one_line(error)}"
        ) from error
    model = build_model(
        path, config, stored.shapes, stored.read, device=device, dtype=dtype, share=share
    )
    notes = {**metadata, "rope_layout": INTERLEAVED, "stored_dtype": stored.dtypes}
    return LoadedCheckpoint(model, metadata=notes)


load_native = load


def _advice(path: Path) -> str:
    """What to do with a safetensors file of somebody else: most are part of a folder."""
    if not (path.parent / huggingface.CONFIG).is_file():
        return "a Hugging Face model needs its config.json beside it"
    if huggingface.recognizes(path.parent):
        return "name its folder"
    return "the config.json beside it names no model_type"


def _named_weights(model: Llama) -> dict[str, torch.Tensor]:
    """Every weight once: a tied output head is the embedding."""
    return dict(model.named_parameters(remove_duplicate=True))
