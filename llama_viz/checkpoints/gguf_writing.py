"""A model written as a GGUF file, which llama.cpp runs: float or block-quantized weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGUFWriter, RopeScalingType
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from llama_viz.checkpoints.gguf import ARCHITECTURE, IN_BLOCK, ROPE_DIVISORS, WHOLE
from llama_viz.checkpoints.loaded import expected_shapes
from llama_viz.errors import unknown_name
from llama_viz.files import written_whole
from llama_viz.tokenizers.sentence_piece import BYTE, CONTROL, NORMAL, UNKNOWN

if TYPE_CHECKING:
    from llama_viz.config import ModelConfig
    from llama_viz.language_model import LanguageModel
    from llama_viz.tokenizer import Tokenizer

# The kinds of weights that the gguf library can write; the numbers of a block share one scale.
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
KIND_OF_DTYPE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_gguf(lm: LanguageModel, path: str | Path, *, kind: str = "F32") -> None:
    """Write one file with the sizes, the tokenizer and the weights, which llama.cpp opens.

    kind is one of KINDS. Norms stay float32, as llama.cpp has them. Rows of queries and keys stand
    as they are: both turn interleaved pairs. What is written is whole or not there.

    Raises ValueError for an unknown kind, for rows that blocks do not fill, and where the format
    cannot say what the model does or how its tokenizer works.
    """
    if kind not in KINDS:
        raise unknown_name("kind of weights", kind, KINDS)
    in_block, _ = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    for name, shape in expected_shapes(lm.config):
        if len(shape) > 1 and shape[-1] % in_block:
            raise ValueError(f"{kind} takes {in_block} numbers at a time: {name} is {shape}")
    with written_whole(path) as unfinished:
        writer = GGUFWriter(unfinished, ARCHITECTURE)
        try:
            writer.add_name(lm.name)
            _add_sizes(writer, lm.config)
            if lm.tokenizer is not None:
                _add_tokenizer(writer, lm.tokenizer)
            for name, _ in expected_shapes(lm.config):
                _add_weight(writer, _their_name(name), lm.model.get_parameter(name), kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def bytes_of_kind(kind: str, n_weights: int) -> int:
    """How many bytes so many weights take, the scales of their blocks included.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of weights", kind, KINDS)
    in_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return n_weights // in_block * block_bytes


def _add_sizes(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
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
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
    elif scaling.divisors is not None:
        writer.add_tensor(ROPE_DIVISORS, np.array(scaling.divisors, np.float32))
    else:
        raise ValueError(f"a GGUF file cannot hold {scaling.kind} rope scaling as it is here")


def _add_tokenizer(writer: GGUFWriter, words: Tokenizer) -> None:
    if not hasattr(words, "scores"):
        raise ValueError(
            f"only tokenizers that merge by score are written, not one of the kind {words.kind}; "
            "save the model without it: LanguageModel(lm.model)"
        )
    pieces = [words.piece(token_id) for token_id in range(words.vocab_size)]
    control = set(words.control_ids)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(words.scores())
    writer.add_token_types(
        [CONTROL if number in control else _kind(piece) for number, piece in enumerate(pieces)]
    )
    if words.bos_id is not None:
        writer.add_bos_token_id(words.bos_id)
    if words.eos_id is not None:
        writer.add_eos_token_id(words.eos_id)
    writer.add_add_bos_token(words.add_bos)
    if words.chat_template is not None:
        writer.add_chat_template(words.chat_template)


def _kind(piece: str) -> int:
    """The kind of a piece that is no control token."""
    if piece == "<unk>":
        return UNKNOWN
    return BYTE if len(piece) == 6 and piece.startswith("<0x") and piece[-1] == ">" else NORMAL


def _add_weight(writer: GGUFWriter, name: str, weight: torch.Tensor, kind: str) -> None:
    array: Any = weight.detach().to("cpu", torch.float32).contiguous().numpy()
    if array.ndim == 1 or kind == "F32":
        writer.add_tensor(name, array)
        return
    known = GGMLQuantizationType[kind]
    writer.add_tensor(name, quantize(array, known), raw_dtype=known)


def _their_name(ours: str) -> str:
    """The name under which llama.cpp stores one of our weights."""
    if ours.startswith("blocks."):
        number, _, rest = ours.removeprefix("blocks.").partition(".")
        theirs = {ours: theirs for theirs, ours in IN_BLOCK.items()}
        return f"blk.{number}.{theirs[rest]}"
    return {ours: theirs for theirs, ours in WHOLE.items()}[ours]
