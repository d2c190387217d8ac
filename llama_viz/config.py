"""What a LLaMA is made of, in numbers: the configuration, and those of the published models."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a LLaMA, with the names of the Llama 2 release.

    n_kv_heads None gives every query head its own key/value head (MHA); 1 is MQA; anything
    between, dividing n_heads, is GQA. head_dim None is dim / n_heads. hidden_dim None is the
    release's rule: two thirds of 4 x dim, rounded up to a multiple of 256. After construction all
    are whole numbers.

    Raises ValueError where the sizes cannot form a model.
    """

    n_layers: int
    n_heads: int
    dim: int
    vocab_size: int
    n_kv_heads: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    hidden_dim: int = None  # type: ignore[assignment]
    max_seq_len: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        derived = {
            "n_kv_heads": self.n_heads,
            "head_dim": self.dim // max(self.n_heads, 1),
            "hidden_dim": round_up(8 * self.dim // 3, 256),
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, got {value!r}")
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} must be finite and above 0, got {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads}): "
                "every key/value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim ({self.head_dim}) must be even: rotary positions turn features in pairs"
            )

    @property
    def attention_kind(self) -> str:
        """MHA, GQA or MQA, by how many query heads share a key/value head."""
        if self.n_kv_heads == self.n_heads:
            return "MHA"
        return "MQA" if self.n_kv_heads == 1 else "GQA"

    @property
    def heads_per_kv_head(self) -> int:
        """How many query heads read each key/value head (n_gqa in llama.cpp)."""
        return self.n_heads // self.n_kv_heads

    @property
    def kv_head_of_head(self) -> list[int]:
        """For each query head, the key/value head that it reads: neighbours share."""
        return [head // self.heads_per_kv_head for head in range(self.n_heads)]

    @property
    def n_pairs(self) -> int:
        """Pairs of features that rotary positions turn in each head."""
        return self.head_dim // 2

    @property
    def n_parameters(self) -> int:
        """Parameters of the whole model; a tied output head counts once."""
        embedding = self.vocab_size * self.dim
        norms = self.dim * (2 * self.n_layers + 1)
        attention = 2 * self.dim * self.head_dim * (self.n_heads + self.n_kv_heads)
        feed_forward = 3 * self.dim * self.hidden_dim
        heads = 1 if self.tied_embeddings else 2
        return heads * embedding + norms + self.n_layers * (attention + feed_forward)

    def kv_cache_bytes(self, positions: int, *, batch_size: int = 1, itemsize: int = 4) -> int:
        """Bytes of keys and values: 2 x layers x kv_heads x head_dim x positions x batch x item."""
        per_position = 2 * self.n_layers * self.n_kv_heads * self.head_dim
        return per_position * positions * batch_size * itemsize

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, as written into checkpoints and traces."""
        return asdict(self)


_COUNTS = (
    "n_layers", "n_heads", "n_kv_heads", "dim", "head_dim", "hidden_dim", "vocab_size",
    "max_seq_len",
)  # fmt: skip


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def _published(layers: int, heads: int, dim: int, context: int, **rest: Any) -> ModelConfig:
    rest = {"vocab_size": 32000, "norm_eps": 1e-5, **rest}
    return ModelConfig(n_layers=layers, n_heads=heads, dim=dim, max_seq_len=context, **rest)


# The published shapes: Touvron et al. 2023 (LLaMA, Llama 2), Roziere et al. 2023 (Code Llama), and
# the model cards of TinyLlama and SmolLM2. Llama 2 34B was never released: Code Llama 34B has its
# shape.
PRESETS: dict[str, ModelConfig] = {
    "llama-7b": _published(32, 32, 4096, 2048, norm_eps=1e-6),
    "llama-13b": _published(40, 40, 5120, 2048, norm_eps=1e-6),
    "llama-33b": _published(60, 52, 6656, 2048, norm_eps=1e-6),
    "llama-65b": _published(80, 64, 8192, 2048),
    "llama2-7b": _published(32, 32, 4096, 4096),
    "llama2-13b": _published(40, 40, 5120, 4096),
    "llama2-70b": _published(80, 64, 8192, 4096, n_kv_heads=8, hidden_dim=28672),
    "codellama-34b": _published(
        48, 64, 8192, 16384, n_kv_heads=8, hidden_dim=22016, rope_theta=1e6
    ),
    "tinyllama-1.1b": _published(22, 32, 2048, 2048, n_kv_heads=4, hidden_dim=5632),
    "smollm2-135m": _published(
        30, 9, 576, 8192, n_kv_heads=3, hidden_dim=1536, vocab_size=49152, rope_theta=1e5,
        tied_embeddings=True,
    ),
}  # fmt: skip
