"""What the benchmarks share: runs in turns, medians with their spread, ratios pair by pair."""

from __future__ import annotations

import random
import time
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import llama_viz as lv
from llama_viz.model import Llama, initialize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The shapes that are compared: a small one, llama2.c's 15M and SmolLM2-135M's.
SHAPES: dict[str, dict[str, Any]] = {
    "S": {"dim": 256, "n_layers": 6, "n_heads": 8, "n_kv_heads": 2, "hidden_dim": 688,
          "vocab_size": 2048},
    "M": {"dim": 288, "n_layers": 6, "n_heads": 6, "n_kv_heads": 6, "hidden_dim": 768,
          "vocab_size": 32000},
    "L": {"dim": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "hidden_dim": 1536,
          "vocab_size": 49152, "tied_embeddings": True},
}  # fmt: skip
CONTEXT = 512


def random_model(shape: str, context: int = CONTEXT) -> lv.LanguageModel:
    """A model of a shape with random weights: what the weights are makes no product slower.

    Its Linears' weights stand column by column, as load() leaves them.
    """
    config = lv.ModelConfig(max_seq_len=context, **SHAPES[shape])
    model = initialize(Llama(config), torch.Generator().manual_seed(0)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
    return lv.LanguageModel(model.requires_grad_(False), name=shape)


def in_transformers(shape: str, attention: str = "sdpa") -> Any:
    """The same shape in transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = lv.ModelConfig(max_seq_len=CONTEXT, **SHAPES[shape])
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, intermediate_size=config.hidden_dim,
        num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads, max_position_embeddings=CONTEXT,
        tie_word_embeddings=config.tied_embeddings, attn_implementation=attention,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )).eval()  # fmt: skip


def in_transformer_lens(shape: str) -> Any:
    """The same shape in TransformerLens; None where it is not installed."""
    # Not in our environment: its hooked models end with version 2, which asks for NumPy 1 (it works
    # with 2). So it is imported by name, where somebody has put it.
    if find_spec("transformer_lens") is None:
        print(
            "TransformerLens is not here. To have it in the table: pip install --no-deps "
            "transformer-lens==2.18.0, and pip install better_abc fancy_einsum jaxtyping beartype "
            "einops rich wandb datasets"
        )
        return None
    lens = import_module("transformer_lens")
    config = lv.ModelConfig(max_seq_len=CONTEXT, **SHAPES[shape])
    return lens.HookedTransformer(lens.HookedTransformerConfig(
        n_layers=config.n_layers, d_model=config.dim, n_heads=config.n_heads,
        d_head=config.head_dim, n_key_value_heads=config.n_kv_heads, d_mlp=config.hidden_dim,
        d_vocab=config.vocab_size, n_ctx=CONTEXT, act_fn="silu", gated_mlp=True,
        normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=config.head_dim,
        final_rms=True, device="cpu", seed=0,
    )).eval()  # fmt: skip


def in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round. What else the machine does meets all alike.

    A first round does not count. Each round has an order of its own, for what ran before leaves the
    processor's caches full of its numbers. A run that returns a number measured itself.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for counts in [False] + rounds * [True]:
        for name in order.sample(list(runs), len(runs)):
            began = time.perf_counter()
            own = runs[name]()
            taken = own if isinstance(own, float) else time.perf_counter() - began
            if counts:
                seconds[name].append(taken)
    return seconds


def summary(seconds: Mapping[str, list[float]], peer: str) -> dict[str, dict[str, Any]]:
    """Median seconds and, beside the peer's run of the same round, how many times faster.

    times is [lower quartile, median, upper quartile] of the pairs.
    """
    return {
        name: {
            "seconds": rounded(np.median(taken)),
            "times": [rounded(value) for value in np.percentile(
                np.array(seconds[peer]) / np.array(taken), (25, 50, 75)
            )],
        }
        for name, taken in seconds.items()
    }  # fmt: skip


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def bandwidth() -> float:
    """Bytes a second that this machine reads from memory, with all of PyTorch's threads."""
    numbers = torch.ones(2**27)  # 512 MB: far more than any cache holds
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        numbers.sum()
        taken.append(time.perf_counter() - began)
    return numbers.nbytes / min(taken)


def machine() -> dict[str, Any]:
    """What the numbers hang on, beside the processor's name."""
    return {"threads": torch.get_num_threads(), "torch": torch.__version__,
            "bytes_per_second": rounded(bandwidth())}  # fmt: skip
