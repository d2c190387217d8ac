"""Hugging Face folders: config.json, safetensors in one file or in shards, and a tokenizer.

Queries and keys are stored half-split; their rows are put into interleaved pairs here.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from llama_viz.checkpoints.loaded import (
    LoadedCheckpoint,
    build_model,
    dtype_name,
    expected_shapes,
    one_line,
    read_json,
    shown,
)
from llama_viz.checkpoints.mapped import StoredTensors
from llama_viz.checkpoints.rope_layout import (
    HALF_SPLIT,
    ROTATED_WEIGHTS,
    half_split_from_interleaved,
    interleaved_from_half_split,
)
from llama_viz.config import ModelConfig, RopeScaling
from llama_viz.errors import CheckpointError
from llama_viz.files import folder_written_whole

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.language_model import LanguageModel
    from llama_viz.shares import Share

FORMAT = "huggingface"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"

# Their names of the whole model's weights and of a layer's, and ours.
_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = ("model.layers.", "blocks.")
_LAYER_NAMES = {
    "input_layernorm.weight": "attention_norm.weight",
    "self_attn.q_proj.weight": "attention.query.weight",
    "self_attn.k_proj.weight": "attention.key.weight",
    "self_attn.v_proj.weight": "attention.value.weight",
    "self_attn.o_proj.weight": "attention.output.weight",
    "post_attention_layernorm.weight": "feed_forward_norm.weight",
    "mlp.gate_proj.weight": "feed_forward.gate.weight",
    "mlp.up_proj.weight": "feed_forward.up.weight",
    "mlp.down_proj.weight": "feed_forward.down.weight",
}
_COMPUTED = "rotary_emb.inv_freq"  # stored by old versions, and a function of the configuration

_SILU = ("silu", "swish")  # two names of one function

_SIZES = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "vocab_size": "vocab_size",
}


def recognizes(path: Path) -> bool:
    """Whether the folder has a config.json that names a model or an architecture."""
    try:
        fields = read_json(path / CONFIG)
    except CheckpointError:  # it is there, and damaged: loading says how
        return any((path / name).is_file() for name in (WEIGHTS, INDEX)) and _is_there(path)
    return "model_type" in fields or "architectures" in fields


def _is_there(path: Path) -> bool:
    return (path / CONFIG).exists()


def load(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: Share | None = None,
) -> LoadedCheckpoint:
    """Read a folder; raises CheckpointError where it is damaged or not a LLaMA's."""
    path = Path(path)
    config = read_config(path / CONFIG)
    file_of, shapes, dtypes = {}, {}, set()
    copy: tuple[StoredTensors, str] | None = None  # of the embedding, under the head's name
    for file in _weight_files(path):
        dtypes.add(file.dtypes)
        for theirs, shape in file.shapes.items():
            name = our_name(theirs)
            if config.tied_embeddings and name == "output.weight":
                copy = file, theirs
            elif not theirs.endswith(_COMPUTED):
                if name in file_of:
                    raise CheckpointError(f"{file.path}: {shown(theirs)} is stored twice")
                file_of[name], shapes[name] = (file, theirs), shape

    embedding = file_of.get("embedding.weight")
    is_read = torch.device(device).type != "meta"
    if copy and embedding and is_read and not _are_equal(copy, embedding):
        warnings.warn(
            f"{path}: {CONFIG} says that the output head is the embedding, but another head is "
            "stored; it is used, as transformers does",
            stacklevel=4,
        )
        config = replace(config, tied_embeddings=False)
        file_of["output.weight"], shapes["output.weight"] = copy, copy[0].shapes[copy[1]]

    def read(name: str) -> Tensor:
        file, theirs = file_of[name]
        weight = file.read(theirs)
        if name.endswith(ROTATED_WEIGHTS):
            weight = interleaved_from_half_split(weight, config.head_dim)
        return weight

    model = build_model(path, config, shapes, read, device=device, dtype=dtype, share=share)
    notes = {"format": FORMAT, "rope_layout": HALF_SPLIT, "stored_dtype": ", ".join(sorted(dtypes))}
    return LoadedCheckpoint(model, metadata=notes)


def _are_equal(one: tuple[StoredTensors, str], other: tuple[StoredTensors, str]) -> bool:
    first, second = (file.read(name) for file, name in (one, other))
    return first.dtype == second.dtype and torch.equal(first, second)


def our_name(theirs: str) -> str:
    """Our name of a stored tensor; an unknown one comes back as it is."""
    if theirs.startswith(_LAYER[0]):
        number, _, rest = theirs.removeprefix(_LAYER[0]).partition(".")
        if rest in _LAYER_NAMES:
            return f"{_LAYER[1]}{number}.{_LAYER_NAMES[rest]}"
    return _NAMES.get(theirs, theirs)


def their_name(ours: str) -> str:
    """The name under which Hugging Face stores one of our weights."""
    if ours.startswith(_LAYER[1]):
        number, _, rest = ours.removeprefix(_LAYER[1]).partition(".")
        theirs = {ours: theirs for theirs, ours in _LAYER_NAMES.items()}
        return f"{_LAYER[0]}{number}.{theirs[rest]}"
    return {ours: theirs for theirs, ours in _NAMES.items()}[ours]


# The configuration


def read_config(path: Path) -> ModelConfig:
    """The sizes in a config.json; raises CheckpointError unless they are a LLaMA's."""
    fields = read_json(path)
    _check_architecture(path, fields)
    missing = [name for name in _SIZES.values() if fields.get(name) is None]
    if missing:
        raise CheckpointError(f"{path}: lacks {missing[0]}")
    try:
        rope = _rope_parameters(fields)
        context = _or_default(fields, "max_position_embeddings", 2048)
        scaling = _rope_scaling(path, rope, context)
        if scaling is not None and scaling.kind == "dynamic":
            # Its context is the one that it was trained with; scaling reaches factor times as far.
            context = int(context * scaling.factor)
        return ModelConfig(
            **{ours: fields[theirs] for ours, theirs in _SIZES.items()},
            n_kv_heads=fields.get("num_key_value_heads"),  # type: ignore[arg-type]
            head_dim=fields.get("head_dim"),  # type: ignore[arg-type]
            max_seq_len=context,
            norm_eps=_or_default(fields, "rms_norm_eps", 1e-6),
            rope_theta=_or_default(rope, "rope_theta", 10000.0),
            tied_embeddings=_tied(fields),
            rope_scaling=scaling,
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path}: its configuration cannot be used: {one_line(error)}"
        ) from error


def _check_architecture(path: Path, fields: dict[str, Any]) -> None:
    """Refuse what is not a LLaMA, and what of LLaMA's options the model here does not have."""
    kind, classes = fields.get("model_type", "llama"), fields.get("architectures") or []
    classes = classes if isinstance(classes, list) else [classes]
    others = [name for name in classes if name != "LlamaForCausalLM"]
    if kind != "llama" or others:
        which = shown(others[0] if others else kind)
        raise CheckpointError(
            f"{path}: its architecture is {which} (model_type {shown(kind)!r}), "
            "expected LLaMA's, LlamaForCausalLM"
        )
    activation = fields.get("hidden_act")
    if activation is not None and activation not in _SILU:
        raise CheckpointError(
            f"{path}: hidden_act is {shown(activation)!r}, which is not supported: LLaMA has 'silu'"
        )
    for name, expected in {
        "attention_bias": False,
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "quantization_config": None,
    }.items():
        value = fields.get(name)
        if value is not None and value != expected:
            raise CheckpointError(
                f"{path}: {name} is {shown(value)!r}, which is not supported: "
                f"LLaMA has {expected!r}"
            )


def _or_default(fields: dict[str, Any], name: str, default: Any) -> Any:
    value = fields.get(name)
    return default if value is None else value


def _tied(fields: dict[str, Any]) -> bool:
    tied = _or_default(fields, "tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise ValueError(f"tie_word_embeddings must be true or false, got {tied!r}")
    return tied


def _rope_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """Base and scaling of rotary positions: rope_parameters, or the two keys of older files."""
    for name in ("rope_scaling", "rope_parameters"):
        if fields.get(name) and not isinstance(fields[name], dict):
            raise ValueError(f"{name} must be an object or null, got {fields[name]!r}")
    old = {"rope_theta": fields.get("rope_theta")}
    given = {**(fields.get("rope_scaling") or {}), **(fields.get("rope_parameters") or {})}
    return old | {name: value for name, value in given.items() if value is not None}


def _rope_scaling(path: Path, rope: dict[str, Any], context: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if _or_default(rope, "partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(f"{path}: turns only a part of each head, which is not supported")
    if kind == "default":
        return None
    required = ("factor", "low_freq_factor", "high_freq_factor")[: 3 if kind == "llama3" else 1]
    if kind not in ("linear", "dynamic", "llama3"):
        raise CheckpointError(
            f"{path}: rope scaling {shown(kind)!r} is not supported; "
            "known are default, linear, dynamic, llama3"
        )
    for name in required:
        if name not in rope:
            raise CheckpointError(f"{path}: its rope scaling {kind!r} lacks {name}")
    if kind == "linear":
        return RopeScaling("linear", rope["factor"])
    if kind == "dynamic":
        return RopeScaling("dynamic", rope["factor"], context)
    return RopeScaling(
        "llama3",
        rope["factor"],
        _or_default(rope, "original_max_position_embeddings", context),
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )


# The files


def _weight_files(folder: Path) -> list[StoredTensors]:
    """The files that hold the weights: one, or the shards that the index names."""
    if (folder / WEIGHTS).exists():
        return [StoredTensors(folder / WEIGHTS)]
    index = folder / INDEX
    if not index.exists():
        there = sorted(folder.glob("*.safetensors"))
        if len(there) == 1:
            return [StoredTensors(there[0])]
        pickles = sorted(folder.glob("pytorch_model*.bin"))
        also = f"; {pickles[0].name} must be converted to safetensors first" if pickles else ""
        what = f"{len(there)} .safetensors files, but no {INDEX}" if there else f"no {WEIGHTS}"
        raise CheckpointError(f"{folder}: holds {what}{also}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map that says which file holds which tensor")
    files = {}
    for file in weight_map.values():
        if isinstance(file, str) and file in files:
            continue
        # Checked on every system: a backslash or a drive leads outside on one of them.
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\:\0]*\.safetensors", file):
            raise CheckpointError(
                f"{index}: names the file {shown(file)!r}, which is not a .safetensors file in its "
                "folder: refused"
            )
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / shown(file)}: is missing, but {INDEX} names it")
        files[file] = StoredTensors(folder / file)
    for name, file in weight_map.items():
        if name not in files[file].shapes:
            raise CheckpointError(
                f"{folder / file}: lacks {shown(name)}, which {INDEX} says it holds"
            )
    return list(files.values())


# Writing


def save_huggingface(
    lm: LanguageModel, path: str | Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write a folder that transformers.AutoModelForCausalLM opens, with the tokenizer in it.

    dtype None keeps the type of the weights. The folder appears when it is whole; one that was
    written before is replaced.

    Raises FileExistsError where the folder holds anything else, ValueError where the format cannot
    say what the model does.
    """
    config = lm.config
    description = _description(lm, dtype or lm.dtype)
    known = {CONFIG, WEIGHTS, TOKENIZER_CONFIG, CHAT_TEMPLATE, "tokenizer.model", "tokenizer.json"}
    with folder_written_whole(path, known) as unfinished:
        tensors = {}
        for name, _ in expected_shapes(config):
            weight = lm.model.get_parameter(name).detach()
            if name.endswith(ROTATED_WEIGHTS):
                weight = half_split_from_interleaved(weight, config.head_dim)
            tensors[their_name(name)] = weight.to("cpu", dtype or weight.dtype).contiguous()
        save_file(tensors, unfinished / WEIGHTS, metadata={"format": "pt"})
        write = partial(json.dumps, indent=2)
        (unfinished / CONFIG).write_text(write(description) + "\n", encoding="utf-8")
        _save_tokenizer(lm, unfinished)


def _description(lm: LanguageModel, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of a model, with the keys of old and new versions of transformers."""
    config, scaling = lm.config, lm.config.rope_scaling
    context = config.max_seq_len
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        if scaling.kind == "divided":
            raise ValueError("a Hugging Face folder cannot hold rope scaling with a divisor a pair")
        rope = {"rope_type": scaling.kind, "factor": float(scaling.factor)}
        if scaling.kind == "dynamic":
            context = scaling.original_max_seq_len or context
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": float(scaling.low_frequency_factor),
                "high_freq_factor": float(scaling.high_frequency_factor),
                "original_max_position_embeddings": scaling.original_max_seq_len,
            }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": float(config.rope_theta),
        "rope_scaling": None if scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": float(config.rope_theta)},
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None if lm.tokenizer is None else lm.tokenizer.bos_id,
        "eos_token_id": None if lm.tokenizer is None else lm.tokenizer.eos_id,
        "torch_dtype": dtype_name(dtype),
    }


def _save_tokenizer(lm: LanguageModel, folder: Path) -> None:
    words = lm.tokenizer
    if words is None:
        return
    (folder / words.file_name).write_bytes(words.model)
    if words.chat_template is not None:
        (folder / CHAT_TEMPLATE).write_text(words.chat_template, encoding="utf-8")
    names = {"bos_token": words.bos_id, "eos_token": words.eos_id}
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": words.add_bos and words.bos_id is not None,
        "add_eos_token": False,
        **{name: words.piece(number) for name, number in names.items() if number is not None},
    }
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
