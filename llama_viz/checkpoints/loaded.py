"""From stored tensors to a model: what every format shares once its names are translated."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llama_viz.errors import CheckpointError
from llama_viz.model import Llama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llama_viz.config import ModelConfig
    from llama_viz.shares import Share
    from llama_viz.tokenizer import Tokenizer

LARGEST_JSON = 256 * 2**20  # bytes; the largest tokenizers and indexes are a tenth of this


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds: the model, notes about it, and a tokenizer if it has one inside.

    tokenizer None leaves the search for a file beside the weights to load(). metadata becomes
    LanguageModel.notes: "format", "rope_layout" (the stored one; the model's is interleaved) and
    "stored_dtype", and what else a format knows.
    """

    model: Llama
    tokenizer: Tokenizer | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def build_model(
    path: Path,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    hint: str = "",
    share: Share | None = None,
) -> Llama:
    """Make the model and fill it weight by weight, so that only one is ever held twice.

    shapes are those of the stored tensors, by our names. read(name) gives one tensor in our layout;
    it may be a view of a mapped file, for it is copied into memory of its own. dtype None keeps the
    stored type. On the device "meta" nothing is read: the model has shapes alone. With a share the
    model is that of one process among several, and has its heads and neurons alone.

    Raises CheckpointError, with the hint behind it, where the shapes do not fit the configuration.
    Warns, once, of weights that are not finite.
    """
    check_shapes(path, config, shapes, hint)
    model = empty_model(config if share is None else share.config(config))
    if torch.device(device).type == "meta":
        return model.to(dtype).requires_grad_(False).eval()
    linear = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
    not_finite = []
    # The largest first: while one is filled its source is in memory as well.
    parameters = sorted(model.named_parameters(), key=lambda pair: -pair[1].numel())
    for name, parameter in parameters:  # a tied head is not named again
        # A Linear's weight stands column by column: a pass over one position multiplies one row by
        # it, and on a CPU that reads it in order.
        by_columns = id(parameter) in linear
        shape = tuple(reversed(parameter.shape)) if by_columns else tuple(parameter.shape)
        # Room first, then what fills it: what is read and dropped then leaves no hole behind it.
        weight = None if dtype is None else torch.empty(shape, dtype=dtype, device=device)
        stored = read(name)
        if not stored.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} is stored as {dtype_name(stored.dtype)}, "
                "expected floating-point numbers"
            )
        if weight is None:
            weight = torch.empty(shape, dtype=stored.dtype, device=device)
        if share is not None:
            stored = share.part(name, stored, config)
        weight = weight.t() if by_columns else weight
        weight.copy_(stored)
        del stored
        if not all(bound.isfinite() for bound in weight.aminmax()):
            not_finite.append(name)
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(weight, requires_grad=False))
    if config.tied_embeddings:
        model.output.weight = model.embedding.weight
    if not_finite:
        n_others = len(not_finite) - 1
        others = f", and so does {n_others} more tensor" if n_others == 1 else (
            f", and so do {n_others} more tensors" if n_others else ""
        )  # fmt: skip
        warnings.warn(
            f"{path}: {not_finite[0]} holds weights that are NaN or infinite{others}",
            stacklevel=4,
        )
    return model.requires_grad_(False).eval()


def empty_model(config: ModelConfig, kind: type[Llama] = Llama) -> Llama:
    """A model of shapes alone, on the device "meta": its weights are still to be given."""
    with torch.device("meta"), _NothingDrawn():
        return kind(config)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of first weights: on the device "meta" it loads 800 modules."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def expected_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, without making the model; a tied head counts once."""
    query_width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield "embedding.weight", (config.vocab_size, config.dim)
    yield "norm.weight", (config.dim,)
    if not config.tied_embeddings:
        yield "output.weight", (config.vocab_size, config.dim)
    for layer in range(config.n_layers):
        for name, shape in {
            "attention_norm.weight": (config.dim,),
            "attention.query.weight": (query_width, config.dim),
            "attention.key.weight": (kv_width, config.dim),
            "attention.value.weight": (kv_width, config.dim),
            "attention.output.weight": (config.dim, query_width),
            "feed_forward_norm.weight": (config.dim,),
            "feed_forward.gate.weight": (config.hidden_dim, config.dim),
            "feed_forward.up.weight": (config.hidden_dim, config.dim),
            "feed_forward.down.weight": (config.dim, config.hidden_dim),
        }.items():
            yield f"blocks.{layer}.{name}", shape


def check_shapes(
    path: Path, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], hint: str = ""
) -> None:
    """Raise CheckpointError unless exactly the model's weights are there, in its shapes."""
    if config.n_layers > len(shapes):  # before a billion names are made up
        raise CheckpointError(
            f"{path}: its configuration asks for {config.n_layers} layers, "
            f"but it holds {len(shapes)} tensors{hint}"
        )
    expected = dict(expected_shapes(config))
    missing, extra = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    wrong = [f"{name} is missing" for name in sorted(missing)]
    wrong += [f"{shown(name)} is not part of the model" for name in sorted(extra)]
    if wrong:
        others = f", and {len(wrong) - 1} more" if wrong[1:] else ""
        raise CheckpointError(
            f"{path}: the tensors do not fit its configuration: {wrong[0]}{others}{hint}"
        )
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(shapes[name])}, expected {shape}{hint}"
            )


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; raises CheckpointError where it is damaged or something else."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path}: is too large to be a JSON file of a checkpoint")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON, or is damaged ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(content).__name__}, expected an object")
    return content


def one_line(error: object) -> str:
    """The first line of an error, short enough for a message of one line."""
    lines = str(error).splitlines() or [type(error).__name__]
    return shown(lines[0])


def shown(text: object) -> str:
    """Text out of a file, made fit for one line of a message."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in str(text))
    return line if len(line) <= 200 else line[:199] + "…"


def dtype_name(dtype: torch.dtype) -> str:
    """The type without torch's name in front: float16, bfloat16, int8."""
    return str(dtype).removeprefix("torch.")
