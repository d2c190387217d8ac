"""The project's own format: one safetensors file with the configuration in its header.

Tensors carry the names of llama_viz.model; a tokenizer.model beside the file is the tokenizer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llama_viz.config import ModelConfig
from llama_viz.errors import CheckpointError
from llama_viz.files import written_whole
from llama_viz.model import Llama

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "llama_viz"


@dataclass(frozen=True)
class NativeCheckpoint:
    """What a file of this format holds: the model, and the notes in its header."""

    model: Llama
    metadata: dict[str, str]


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
    header = {**(metadata or {}), "format": FORMAT, "config": json.dumps(model.config.to_dict())}
    with written_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata=header)


def load_native(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> NativeCheckpoint:
    """Read a file written by save_native, in the stored type or in dtype.

    Raises CheckpointError where the file is damaged, cut short, or not of this format.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = dict(file.metadata() or {})
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a safetensors file ({error}); "
            "it may be cut short or damaged: fetch or save it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one written by llama_viz.save_checkpoint "
            f"(its header says format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    try:
        config = ModelConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be used: {error}") from error

    with torch.device("meta"):
        model = Llama(config)
    expected = {name: tensor.shape for name, tensor in _named_weights(model).items()}
    _compare(path, expected, {name: tensor.shape for name, tensor in stored.items()})
    if config.tied_embeddings:
        stored["output.weight"] = stored["embedding.weight"]
    if dtype is not None:
        stored = {name: tensor.to(dtype) for name, tensor in stored.items()}
    model.load_state_dict(stored, assign=True)
    if config.tied_embeddings:
        model.output.weight = model.embedding.weight
    return NativeCheckpoint(model.requires_grad_(False).eval(), metadata)


def _named_weights(model: Llama) -> dict[str, torch.Tensor]:
    """Every weight once: a tied output head is the embedding."""
    return dict(model.named_parameters(remove_duplicate=True))


def _compare(path: Path, expected: dict, stored: dict) -> None:
    missing, extra = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    if missing or extra:
        wrong = [f"{name} is missing" for name in sorted(missing)]
        wrong += [f"{name} is not part of the model" for name in sorted(extra)]
        raise CheckpointError(f"{path}: the tensors do not fit its configuration: {wrong[0]}"
                              + (f", and {len(wrong) - 1} more" if wrong[1:] else ""))  # fmt: skip
    for name, shape in expected.items():
        if stored[name] != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(stored[name])}, expected {tuple(shape)}"
            )
