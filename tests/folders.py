"""Checkpoint folders as others write them, to load and to damage."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llama_viz as lv
from tests.reference import KV_HEADS

ROPE_SCALINGS = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip


def random_in_transformers(kind: str = "gqa", scaling: str = "none", **sizes) -> LlamaForCausalLM:
    """A random model that transformers made: nothing of ours has touched its weights."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{
        "vocab_size": 120, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": KV_HEADS[kind], "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "initializer_range": 0.2,
        "rope_parameters": {**ROPE_SCALINGS[scaling], "rope_theta": 5000.0},
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        "attn_implementation": "eager", **sizes,
    })).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # a gain of 1 everywhere would hide a norm that forgets its gain
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def greedy_in_transformers(model: LlamaForCausalLM, ids: torch.Tensor, n: int) -> list[int]:
    """The ids of a greedy continuation, the prompt included."""
    done = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0
    )
    return done[0].tolist()


_META_NAMES = {
    "embedding.weight": "tok_embeddings.weight",
    "attention.query": "attention.wq",
    "attention.key": "attention.wk",
    "attention.value": "attention.wv",
    "attention.output": "attention.wo",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "feed_forward.w1",
    "feed_forward.down": "feed_forward.w2",
    "feed_forward.up": "feed_forward.w3",
    "blocks.": "layers.",
}
# Cut by rows: what fans out, and the output head. By columns: what gathers in.
_BY_ROWS = ("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight", "output.weight")
_BY_COLUMNS = ("wo.weight", "w2.weight")


def meta_tensors(lm: lv.LanguageModel) -> dict[str, torch.Tensor]:
    """The weights by the names of Meta's release."""
    tensors = {}
    for name, weight in lm.model.named_parameters():
        for ours, theirs in _META_NAMES.items():
            name = name.replace(ours, theirs)
        tensors[name] = weight.detach()
    return tensors


def meta_shard(
    name: str, weight: torch.Tensor, number: int, n_shards: int, *, embedding_axis: int = 1
) -> torch.Tensor:
    """What one process of model-parallel training held of a weight."""
    if name == "tok_embeddings.weight":
        axis = embedding_axis
    elif name.endswith(_BY_COLUMNS) and not name.startswith("output"):
        axis = 1
    elif name.endswith(_BY_ROWS):
        axis = 0
    else:
        return weight.clone()
    return weight.chunk(n_shards, dim=axis)[number].clone()


def save_meta(
    lm: lv.LanguageModel,
    folder: Path,
    *,
    n_shards: int = 1,
    embedding_axis: int = 1,
    dtype: torch.dtype = torch.float32,
    **params,
) -> Path:
    """Write a folder as Meta's release has it."""
    config = lm.config
    folder.mkdir(parents=True, exist_ok=True)
    known = {
        "dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads, "vocab_size": -1, "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "multiple_of": config.hidden_dim,
        "ffn_dim_multiplier": 0.05,
    }  # fmt: skip
    (folder / "params.json").write_text(json.dumps(known | params))
    for number in range(n_shards):
        torch.save(
            {
                name: meta_shard(
                    name, weight.to(dtype), number, n_shards, embedding_axis=embedding_axis
                )
                for name, weight in meta_tensors(lm).items()
            },
            folder / f"consolidated.{number:02}.pth",
        )
    return folder
