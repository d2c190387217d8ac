"""Meta's release: params.json, consolidated.NN.pth in one or several shards, and a tokenizer.

The shards are those of model-parallel training: each holds a slice of every weight, and they are
joined along the axis that was cut. Pairs of queries and keys are interleaved, as they are here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llama_viz.checkpoints.loaded import (
    LoadedCheckpoint,
    build_model,
    dtype_name,
    expected_shapes,
    one_line,
    read_json,
    shown,
)
from llama_viz.checkpoints.pickled import check_tensor, load_pickled
from llama_viz.checkpoints.rope_layout import INTERLEAVED
from llama_viz.config import ModelConfig, RopeScaling, round_up
from llama_viz.errors import CheckpointError
from llama_viz.files import folder_written_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from llama_viz.language_model import LanguageModel
    from llama_viz.shares import Share

FORMAT = "meta"
PARAMS = "params.json"
SHARD = re.compile(r"consolidated\.(\d+)\.pth")
FIRST_SHARD = "consolidated.00.pth"

# Their names, ours, and the axis along which model-parallel training cuts the weight: the rows of
# what fans out, the columns of what gathers in, and neither of a norm. The embedding was cut by
# columns up to Llama 2 and is by rows since; its shape says which.
_NAMES: dict[str, tuple[str, int | None]] = {
    "tok_embeddings.weight": ("embedding.weight", 1),
    "norm.weight": ("norm.weight", None),
    "output.weight": ("output.weight", 0),
}
_LAYER_NAMES: dict[str, tuple[str, int | None]] = {
    "attention_norm.weight": ("attention_norm.weight", None),
    "attention.wq.weight": ("attention.query.weight", 0),
    "attention.wk.weight": ("attention.key.weight", 0),
    "attention.wv.weight": ("attention.value.weight", 0),
    "attention.wo.weight": ("attention.output.weight", 1),
    "ffn_norm.weight": ("feed_forward_norm.weight", None),
    "feed_forward.w1.weight": ("feed_forward.gate.weight", 0),
    "feed_forward.w3.weight": ("feed_forward.up.weight", 0),
    "feed_forward.w2.weight": ("feed_forward.down.weight", 1),
}
_COMPUTED = "rope.freqs"  # stored in the first release, and a function of the configuration


def recognizes(path: Path) -> bool:
    """Whether the folder has shards, or a params.json that could be the release's."""
    try:
        if any(SHARD.fullmatch(file.name) for file in path.iterdir()):
            return True
        return {"dim", "n_layers", "n_heads"} <= read_json(path / PARAMS).keys()
    except (OSError, CheckpointError):
        return False


def load(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: Share | None = None,
) -> LoadedCheckpoint:
    """Read a folder; raises CheckpointError where it is damaged or a shard is missing."""
    path = Path(path)
    params = read_json(path / PARAMS)
    shards = _Shards(path)
    config, context = _config(path / PARAMS, params, shards)
    expected = dict(expected_shapes(config)) if config.n_layers <= len(shards.names) else {}
    shapes = {name: shards.joined_shape(name, expected.get(name)) for name in shards.names}

    def read(name: str) -> Tensor:
        return shards.read(name, expected[name])

    model = build_model(
        path,
        config,
        shapes,
        read,
        device=device,
        dtype=dtype,
        hint="; a shard may be missing",
        share=share,
    )
    notes = {
        "format": FORMAT,
        "rope_layout": INTERLEAVED,
        "stored_dtype": ", ".join(sorted(shards.dtypes)),
        "shards": str(len(shards.files)),
        "max_seq_len": context,
    }
    return LoadedCheckpoint(model, metadata=notes)


class _Shards:
    """The shards of a release: which weights are in them, and how they are joined."""

    def __init__(self, folder: Path) -> None:
        self.files = _shard_files(folder)
        self.names: dict[str, tuple[str, int | None]] = {}  # our name -> their name, the cut axis
        self.shapes: list[dict[str, tuple[int, ...]]] = []  # by shard and our name
        self.dtypes: set[str] = set()
        self._n_bytes = sum(file.stat().st_size for file in self.files)
        self._n_read = 0
        self._opened: dict[Path, Mapping[str, Any]] = {}
        for file in self.files:
            names, shapes = {}, {}
            for theirs, tensor in _tensors(file).items():
                ours, axis = our_name(theirs)
                names[ours] = (theirs, axis)
                shapes[ours] = tuple(check_tensor(file, theirs, tensor).shape)
                self.dtypes.add(dtype_name(tensor.dtype))
            if self.shapes and shapes.keys() != self.names.keys():
                odd = min(shapes.keys() ^ self.names.keys())
                raise CheckpointError(
                    f"{file}: does not belong to {self.files[0].name}: only one has {shown(odd)}"
                )
            self.names = names
            self.shapes.append(shapes)

    def joined_shape(self, name: str, expected: tuple[int, ...] | None) -> tuple[int, ...]:
        """The shape of a weight once its slices are joined as well as they can be."""
        slices = [shapes[name] for shapes in self.shapes]
        axis, step = self._cut(name, expected)
        if axis is None:
            return slices[0]
        chosen = slices[::step]
        if any(len(shape) <= axis for shape in slices):
            return slices[0]
        if any(_without(shape, axis) != _without(slices[0], axis) for shape in slices):
            odd = next(s for s in slices if _without(s, axis) != _without(slices[0], axis))
            raise CheckpointError(
                f"{self.files[slices.index(odd)]}: {shown(name)} has shape {odd}, which does not "
                f"go with {slices[0]} in {self.files[0].name}"
            )
        whole = list(slices[0])
        whole[axis] = sum(shape[axis] for shape in chosen)
        return tuple(whole)

    def read(self, name: str, expected: tuple[int, ...]) -> Tensor:
        """One weight, joined.

        Files are opened anew from time to time: a mapping holds on to every page that was read.
        """
        if self._n_read > self._n_bytes // 16:
            self._opened.clear()
            self._n_read = 0
        theirs, _ = self.names[name]
        axis, step = self._cut(name, expected)
        files = self.files[:1] if axis is None else self.files[::step]
        for file in files:
            if file not in self._opened:
                self._opened[file] = _tensors(file)
        slices = [check_tensor(file, theirs, self._opened[file].get(theirs)) for file in files]
        self._n_read += sum(part.nbytes for part in slices)
        return slices[0] if len(slices) == 1 else torch.cat(slices, dim=axis or 0)

    def _cut(self, name: str, expected: tuple[int, ...] | None) -> tuple[int | None, int]:
        """The axis along which a weight is cut, and 1, or n where n shards repeat each slice."""
        axis = self.names[name][1]
        n_shards, first = len(self.files), self.shapes[0][name]
        if n_shards == 1 or axis is None:
            return None, 1
        if name == "embedding.weight" and expected is not None and first[1:] == expected[1:]:
            axis = 0
        if expected is None or len(first) != len(expected):
            return axis, 1
        # Where there are fewer key/value heads than shards, each is in several of them.
        repeats, rest = divmod(first[axis] * n_shards, expected[axis])
        return axis, 1 if rest else max(repeats, 1)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _shard_files(folder: Path) -> list[Path]:
    """consolidated.00.pth and so on, without a gap."""
    numbered = sorted(
        (int(match[1]), file)
        for file in folder.iterdir()
        if (match := SHARD.fullmatch(file.name)) is not None
    )
    if not numbered:
        raise CheckpointError(f"{folder / FIRST_SHARD}: is missing")
    for expected, (number, file) in enumerate(numbered):
        if number != expected:
            missing = f"consolidated.{expected:02}.pth"
            raise CheckpointError(f"{folder / missing}: is missing, but {file.name} is there")
    return [file for _, file in numbered]


def _tensors(file: Path) -> Mapping[str, Any]:
    content = load_pickled(file)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        kind = type(content).__name__
        raise CheckpointError(f"{file}: holds a {kind}, expected a dict of tensors by name")
    return {name: tensor for name, tensor in content.items() if name != _COMPUTED}


def our_name(theirs: str) -> tuple[str, int | None]:
    """Our name of a stored tensor and the axis it is cut along; an unknown one as it is."""
    if theirs.startswith("layers."):
        number, _, rest = theirs.removeprefix("layers.").partition(".")
        if rest in _LAYER_NAMES:
            ours, axis = _LAYER_NAMES[rest]
            return f"blocks.{number}.{ours}", axis
    return _NAMES.get(theirs, (theirs, None))


# The configuration


def _config(path: Path, params: dict[str, Any], shards: _Shards) -> tuple[ModelConfig, str]:
    """The sizes in a params.json, and where the context was taken from, which it does not tell."""
    try:
        missing = [name for name in ("dim", "n_layers", "n_heads") if params.get(name) is None]
        if missing:
            raise CheckpointError(f"{path}: lacks {missing[0]}")
        dim, theta = params["dim"], params.get("rope_theta") or 10000.0
        # Llama 2's files say -1: the tokenizer decides, and the weights know as well.
        vocab_size = params.get("vocab_size", -1)
        if vocab_size == -1:
            if "output.weight" not in shards.names:
                raise CheckpointError(f"{path.parent}: output.weight is missing")
            vocab_size = sum(shards.joined_shape("output.weight", None)[:1])
        context, source = _context(params)
        return ModelConfig(
            n_layers=params["n_layers"],
            n_heads=params["n_heads"],
            dim=dim,
            vocab_size=vocab_size,
            n_kv_heads=params.get("n_kv_heads"),  # type: ignore[arg-type]
            hidden_dim=hidden_dim(
                dim, params.get("multiple_of", 256), params.get("ffn_dim_multiplier")
            ),
            max_seq_len=context,
            norm_eps=params.get("norm_eps", 1e-5),
            rope_theta=theta,
            rope_scaling=_rope_scaling(params),
        ), source
    except CheckpointError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path}: its configuration cannot be used: {one_line(error)}"
        ) from error


def hidden_dim(dim: int, multiple_of: int, multiplier: float | None = None) -> int:
    """The release's width of the feed-forward: 2/3 of 4 dim, times multiplier, rounded up."""
    width = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return round_up(width, multiple_of)


def _rope_scaling(params: dict[str, Any]) -> RopeScaling | None:
    """Llama 3.1's scaling, whose numbers stand in the release's code and not in its files."""
    if not params.get("use_scaled_rope"):
        return None
    factor = params.get("rope_scaling_factor") or 8.0
    return RopeScaling("llama3", factor, 8192, 1.0, params.get("rope_high_freq_factor") or 4.0)


def _context(params: dict[str, Any]) -> tuple[int, str]:
    """The longest text, told by what distinguishes the releases; params.json may say it."""
    if params.get("max_seq_len") is not None:
        return params["max_seq_len"], "given in params.json"
    theta = params.get("rope_theta")
    if params.get("use_scaled_rope"):
        return 131072, "that of Llama 3.1 (scaled positions)"
    if theta == 500000:
        return 8192, "that of Llama 3 (rope_theta 500000)"
    if theta == 1000000:
        return 16384, "that of Code Llama (rope_theta 1000000)"
    if params.get("norm_eps") == 1e-6:
        return 2048, "that of Llama 1 (norm_eps 1e-6)"
    return 4096, "that of Llama 2"


# Writing


def save_meta(lm: LanguageModel, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a folder as Meta's release has it, in one shard, with the tokenizer in it.

    dtype None keeps the type of the weights. A tied output head is written out, since the release
    knows no other. max_seq_len stands in params.json only where it is not the release's own; Meta's
    code takes that number as an argument, and would be given it twice.

    Raises FileExistsError where the folder holds anything else, ValueError where the format cannot
    say what the model does.
    """
    params = _params(lm.config)
    weights = {
        _their_name(name): weight.detach().to("cpu", dtype or weight.dtype).contiguous()
        for name, weight in lm.model.named_parameters(remove_duplicate=False)
    }
    files = {} if lm.tokenizer is None else lm.tokenizer.files()
    with folder_written_whole(path, {PARAMS, FIRST_SHARD, *files}) as unfinished:
        (unfinished / PARAMS).write_text(json.dumps(params) + "\n", encoding="utf-8")
        torch.save(weights, unfinished / FIRST_SHARD)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)


def _params(config: ModelConfig) -> dict[str, Any]:
    """The params.json of a model: the release tells the feed-forward's width by its rule."""
    if config.head_dim * config.n_heads != config.dim:
        raise ValueError(f"Meta's format has no head_dim of its own, and this is {config.head_dim}")
    if config.rope_scaling is not None:
        raise ValueError("a folder as Meta's release has it cannot hold rope scaling")
    multiple_of = config.hidden_dim & -config.hidden_dim  # the largest power of two that divides it
    params: dict[str, Any] = {
        "dim": config.dim,
        "multiple_of": multiple_of,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "n_layers": config.n_layers,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
    }
    if hidden_dim(config.dim, multiple_of) != config.hidden_dim:
        # Half a number more: the rule drops what is left of a whole one.
        params["ffn_dim_multiplier"] = (config.hidden_dim + 0.5) / hidden_dim(config.dim, 1)
    if config.rope_theta != 10000.0:
        params["rope_theta"] = config.rope_theta
    if _context(params)[0] != config.max_seq_len:
        params["max_seq_len"] = config.max_seq_len
    return params


def _their_name(ours: str) -> str:
    """The name under which the release stores one of our weights."""
    if ours.startswith("blocks."):
        number, _, rest = ours.removeprefix("blocks.").partition(".")
        theirs = {ours: theirs for theirs, (ours, _) in _LAYER_NAMES.items()}
        return f"layers.{number}.{theirs[rest]}"
    return {ours: theirs for theirs, (ours, _) in _NAMES.items()}[ours]
