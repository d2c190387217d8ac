"""Models written to files of other formats by other code than the project's own."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import llama_viz as lv
from tests.reference import in_transformers
from tests.vocabularies import byte_level_library, sentence_piece_model

# llama.cpp's names of what transformers calls otherwise.
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_KINDS = gguf.GGMLQuantizationType


def write_gguf(
    lm: lv.LanguageModel,
    path: Path,
    *,
    kind: GGUF_KINDS = GGUF_KINDS.F32,
    vocabulary: str | None = None,
    architecture: str = "llama",
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
) -> Path:
    """Write a model as llama.cpp's converter does from the weights in transformers.

    fields and tensors come in addition, or instead where the name is there already; a tensor None
    is left out.
    """
    config = lm.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    if vocabulary == "gpt2":
        add_byte_level(writer, config.vocab_size)
    elif vocabulary == "llama":
        add_sentence_piece(writer, config.vocab_size)
    for name, value in (fields or {}).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
               str: writer.add_string, list: writer.add_array}[type(value)]  # fmt: skip
        for part in writer.kv_data:
            part.pop(name, None)
        add(name, value)
    weights: dict[str, np.ndarray | None] = {**gguf_weights(lm), **(tensors or {})}
    for name, array in weights.items():
        if array is None:
            continue
        if array.ndim == 1 or kind == GGUF_KINDS.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_in_transformers(path: Path, n_layers: int) -> LlamaForCausalLM:
    """The model of a GGUF file as transformers reads it (what from_pretrained does for them)."""
    with torch.device("meta"):  # they take the names of the weights from a model
        names = LlamaForCausalLM(LlamaConfig(num_hidden_layers=n_layers))
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=names)
    model = LlamaForCausalLM(LlamaConfig(**read["config"], attn_implementation="eager"))
    missing, extra = model.load_state_dict(read["tensors"], strict=False)
    assert not extra
    assert set(missing) <= {"lm_head.weight"}  # which is the embedding then
    model.generation_config.eos_token_id = None
    return model.float().eval().requires_grad_(False)


def gguf_weights(lm: lv.LanguageModel) -> dict[str, np.ndarray]:
    """The weights by llama.cpp's names, out of transformers and reordered as its converter does."""
    weights = {}
    for name, weight in in_transformers(lm).state_dict().items():
        array = weight.numpy().astype(np.float32)
        n_heads = {"q_proj": lm.config.n_heads, "k_proj": lm.config.n_kv_heads}
        for part, n in n_heads.items():
            if part in name:
                # rows (head, half, pair) become (head, pair, half)
                array = array.reshape(n, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        weights[name] = np.ascontiguousarray(array)
    if lm.config.tied_embeddings:
        weights.pop("output.weight", None)
    return weights


def add_byte_level(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    import json

    told = json.loads(byte_level_library().to_str())
    tokens = sorted(told["model"]["vocab"], key=told["model"]["vocab"].__getitem__)
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3)
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab_size)]
    kinds += [gguf.TokenType.UNUSED] * (vocab_size - len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in told["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def add_sentence_piece(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor()
    pieces.LoadFromSerializedProto(sentence_piece_model())
    ids = range(pieces.GetPieceSize())
    kinds = [
        2 if pieces.IsUnknown(i) else 3 if pieces.IsControl(i) else 6 if pieces.IsByte(i) else 1
        for i in ids
    ]
    more = vocab_size - len(ids)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.IdToPiece(i) for i in ids] + [f"[PAD{i}]" for i in range(more)])
    writer.add_token_scores([pieces.GetScore(i) for i in ids] + [-1000.0] * more)
    writer.add_token_types(kinds + [5] * more)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


# llama2.c: the order of the weights in each kind of file, written down once more.

_LEGACY = "embedding {attention_norm} {attention.query} {attention.key} {attention.value} " \
    "{attention.output} {feed_forward_norm} {feed_forward.gate} {feed_forward.down} " \
    "{feed_forward.up} norm"  # fmt: skip
_INT8_NORMS = "{attention_norm} {feed_forward_norm} norm"
_INT8_REST = "embedding {attention.query} {attention.key} {attention.value} {attention.output} " \
    "{feed_forward.gate} {feed_forward.down} {feed_forward.up}"  # fmt: skip


def llama2c_sizes(config: lv.ModelConfig) -> tuple[int, ...]:
    return (config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads,
            config.vocab_size, config.max_seq_len)  # fmt: skip


def arrays(lm: lv.LanguageModel, order: str) -> list[np.ndarray]:
    found = []
    for word in order.split():
        names = [f"{word}.weight"]
        if word.startswith("{"):
            names = [f"blocks.{i}.{word[1:-1]}.weight" for i in range(lm.config.n_layers)]
        found += [lm.model.get_parameter(name).detach().numpy().astype("<f4") for name in names]
    return found


def write_llama2c_legacy(lm: lv.LanguageModel, path: Path) -> Path:
    config = lm.config
    *sizes, vocab_size, context = llama2c_sizes(config)
    vocab_size = vocab_size if config.tied_embeddings else -vocab_size
    angles = np.zeros((2, context, config.head_dim // 2), "<f4")
    parts = [*arrays(lm, _LEGACY), angles]
    if not config.tied_embeddings:
        parts += arrays(lm, "output")
    data = struct.pack("<7i", *sizes, vocab_size, context)
    path.write_bytes(data + b"".join(part.tobytes() for part in parts))
    return path


def write_llama2c_int8(lm: lv.LanguageModel, path: Path, group_size: int = 32) -> Path:
    """Version 2; also sets the weights of lm to what the file holds."""
    config = lm.config
    start = struct.pack("<Ii7iBi", 0x616B3432, 2, *llama2c_sizes(config),
                        config.tied_embeddings, group_size)  # fmt: skip
    data = start.ljust(256, b"\0") + b"".join(p.tobytes() for p in arrays(lm, _INT8_NORMS))
    order = _INT8_REST if config.tied_embeddings else f"{_INT8_REST} output"
    for array in arrays(lm, order):
        groups = array.reshape(-1, group_size)
        scales = np.abs(groups).max(1, keepdims=True) / 127
        numbers = np.round(groups / scales).astype(np.int8)
        data += numbers.tobytes() + scales.astype("<f4").tobytes()
    path.write_bytes(data)
    for parameter in lm.model.parameters():
        if parameter.dim() == 2:
            groups = parameter.view(-1, group_size)
            scales = groups.abs().amax(1, keepdim=True) / 127
            parameter.copy_(((groups / scales).round() * scales).view_as(parameter))
    return path


def write_llama2c_pt(lm: lv.LanguageModel, path: Path, prefix: str = "_orig_mod.") -> Path:
    config = lm.config
    names = {
        "embedding": "tok_embeddings", "blocks": "layers", "attention.query": "attention.wq",
        "attention.key": "attention.wk", "attention.value": "attention.wv",
        "attention.output": "attention.wo", "feed_forward_norm": "ffn_norm",
        "feed_forward.gate": "feed_forward.w1", "feed_forward.down": "feed_forward.w2",
        "feed_forward.up": "feed_forward.w3",
    }  # fmt: skip
    weights = {}
    for name, weight in lm.model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[prefix + name] = weight
    sizes = {
        "dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads, "vocab_size": config.vocab_size, "multiple_of": 32,
        "max_seq_len": config.max_seq_len, "dropout": 0.0,
    }  # fmt: skip
    torch.save({"model": weights, "model_args": sizes, "iter_num": 3, "config": {}}, path)
    return path
