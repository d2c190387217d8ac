"""What a checkpoint is, without its weights: in llama.cpp's terms beside ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_viz.checkpoints import load
from llama_viz.tokenizer import visible

if TYPE_CHECKING:
    from llama_viz.config import ModelConfig
    from llama_viz.language_model import LanguageModel
    from llama_viz.tokenizer import Tokenizer

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".gguf")


@dataclass(frozen=True)
class Inspection:
    """A checkpoint's sizes, (llama.cpp's name, our name, value), and facts, (name, value)."""

    name: str
    sizes: list[tuple[str, str, str]]
    facts: list[tuple[str, str]]

    def __str__(self) -> str:
        table = [("llama.cpp", "llama_viz", ""), *self.sizes]
        widths = [max(len(row[column]) for row in table) + 2 for column in range(2)]
        lines = [
            f"  {theirs:{widths[0]}}{ours:{widths[1]}}{value}".rstrip()
            for theirs, ours, value in table
        ]
        width = max(len(name) for name, _ in self.facts) + 2
        facts = [f"  {name:{width}}{value}" for name, value in self.facts]
        return "\n".join([self.name, *lines, "", *facts])


def inspect(source: str | Path) -> Inspection:
    """What load() would open, by shapes alone: no weight is read.

    Raises CheckpointError and ValueError as load() does.
    """
    lm = load(source, device="meta")
    return Inspection(lm.name, sizes(lm.config), [*_model_facts(lm), *_tokenizer_facts(lm)])


def sizes(config: ModelConfig) -> list[tuple[str, str, str]]:
    """The sizes of a model: llama.cpp's name, ours, and the value."""
    return [
        ("n_vocab", "vocab_size", f"{config.vocab_size}"),
        ("n_ctx_train", "max_seq_len", f"{config.max_seq_len}"),
        ("n_embd", "dim", f"{config.dim}"),
        ("n_layer", "n_layers", f"{config.n_layers}"),
        ("n_head", "n_heads", f"{config.n_heads}"),
        ("n_head_kv", "n_kv_heads", f"{config.n_kv_heads}"),
        ("n_gqa", "heads_per_kv_head", f"{config.heads_per_kv_head}"),
        ("n_rot", "head_dim", f"{config.head_dim}"),
        ("n_ff", "hidden_dim", f"{config.hidden_dim}"),
        ("f_norm_rms_eps", "norm_eps", f"{config.norm_eps:g}"),
        ("freq_base_train", "rope_theta", f"{config.rope_theta:g}"),
    ]


def _model_facts(lm: LanguageModel) -> list[tuple[str, str]]:
    config, notes = lm.config, lm.notes
    n = config.n_parameters
    in_files = _bytes_on_disk(lm.path)
    stored = notes.get("stored_dtype")
    facts = [
        ("architecture", "llama"),
        ("format", notes.get("format", "unknown")),
        ("parameters", f"{n:,} ({n / 1e6:.1f} million)"),
        ("bytes on disk", f"{in_files:,}" + (f" ({stored})" if stored else "")),
        ("bytes in float32", f"{4 * n:,}"),
        ("attention", _attention(config)),
        ("output head", "the embedding (tied)" if config.tied_embeddings else "its own weights"),
        (
            "KV cache per token",
            f"{config.kv_cache_bytes(1):,} bytes in float32, "
            f"{config.kv_cache_bytes(1, itemsize=2):,} in float16",
        ),
        ("RoPE layout", f"{notes.get('rope_layout', 'interleaved')} in the file"),
        ("RoPE scaling", _scaling(config)),
    ]
    return facts


def _attention(config: ModelConfig) -> str:
    heads = f"{config.n_heads} query heads"
    if config.attention_kind == "MHA":
        return f"MHA: {heads}, each with a key/value head of its own"
    return f"{config.attention_kind}: {heads} share {config.n_kv_heads} key/value " + (
        "head" if config.n_kv_heads == 1 else "heads"
    )


def _scaling(config: ModelConfig) -> str:
    scaling = config.rope_scaling
    if scaling is None:
        return "none"
    if scaling.divisors is not None:
        low, high = min(scaling.divisors), max(scaling.divisors)
        return f"each pair divided by its own number, {low:g} to {high:g}"
    origin = scaling.original_max_seq_len
    return f"{scaling.kind}, factor {scaling.factor:g}" + (
        f", first trained on {origin} positions" if origin else ""
    )


def _tokenizer_facts(lm: LanguageModel) -> list[tuple[str, str]]:
    words = lm.tokenizer
    if words is None:
        return [("tokenizer", "none: the model takes ids alone")]
    control = ", ".join(
        f"{token_id} {visible(words.piece(token_id))}" for token_id in words.control_ids[:8]
    )
    more = len(words.control_ids) - 8
    return [
        ("tokenizer", f"{words.kind}, {words.vocab_size} tokens"),
        ("BOS", _special(words, words.bos_id, words.add_bos)),
        ("EOS", _special(words, words.eos_id)),
        ("control tokens", (control or "none") + (f" and {more} more" if more > 0 else "")),
        ("chat template", "none" if lm.chat_template is None else "its own"),
    ]


def _special(words: Tokenizer, token_id: int | None, is_added: bool | None = None) -> str:
    if token_id is None:
        return "none"
    added = {None: "", True: ", put in front of every text", False: ", not put in front of a text"}
    return f"{token_id} {visible(words.piece(token_id))}{added[is_added]}"


def _bytes_on_disk(path: Path | None) -> int:
    if path is None:
        return 0
    if path.is_file():
        return path.stat().st_size
    files = [file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES]
    return sum(file.stat().st_size for file in files)
