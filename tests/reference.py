"""Random models, and the same model in an independent implementation to compare with."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llama_viz as lv
from llama_viz.model import Llama, initialize

KV_HEADS = {"mha": 8, "gqa": 2, "mqa": 1}


def random_model(kind: str = "gqa", *, seed: int = 0, **sizes) -> lv.LanguageModel:
    """A small model with random weights, large enough that attention is far from uniform."""
    config = lv.ModelConfig(**{
        "n_layers": 3, "n_heads": 8, "n_kv_heads": KV_HEADS[kind], "dim": 64, "hidden_dim": 96,
        "vocab_size": 120, "max_seq_len": 96, **sizes,
    })  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    model = initialize(Llama(config), generator).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(10.0)
        else:  # a gain of 1 everywhere would hide a norm that forgets its gain
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return lv.LanguageModel(model, name=f"random {kind}")


def random_ids(lm: lv.LanguageModel, n: int, *, seed: int = 1, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, lm.config.vocab_size, (batch, n), generator=generator)


def halves_from_pairs(features: torch.Tensor) -> torch.Tensor:
    """The last axis from interleaved pairs (ours) to halves (transformers): evens, then odds."""
    return torch.cat([features[..., 0::2], features[..., 1::2]], dim=-1)


def in_transformers(lm: lv.LanguageModel) -> LlamaForCausalLM:
    """The model in transformers, written out (eager) so that it can return attention weights."""
    config = lm.config
    rope = {"rope_type": "default"} if config.rope_scaling is None else {
        "rope_type": config.rope_scaling.kind,
        "factor": config.rope_scaling.factor,
        "low_freq_factor": config.rope_scaling.low_frequency_factor,
        "high_freq_factor": config.rope_scaling.high_frequency_factor,
        "original_max_position_embeddings": config.rope_scaling.original_max_seq_len,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, intermediate_size=config.hidden_dim,
        num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads, head_dim=config.head_dim,
        max_position_embeddings=config.max_seq_len, rms_norm_eps=config.norm_eps,
        rope_parameters={**rope, "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tied_embeddings,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, attn_implementation="eager",
    )).eval()  # fmt: skip
    weights = {}
    for name, weight in lm.model.state_dict().items():
        if name.endswith(("attention.query.weight", "attention.key.weight")):
            heads = weight.unflatten(0, (-1, config.head_dim)).transpose(-1, -2)
            weight = halves_from_pairs(heads).transpose(-1, -2).flatten(0, 1)
        weights[_their_name(name)] = weight
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def _their_name(name: str) -> str:
    whole = {
        "embedding.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in whole:
        return whole[name]
    for ours, theirs in {
        "blocks.": "model.layers.",
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    }.items():
        name = name.replace(ours, theirs)
    return name


def n_hooks(model: torch.nn.Module) -> int:
    """How many hooks hang anywhere on a model."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )
