"""What a LLaMA is made of, in numbers: the configuration, and those of the published models."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from llama_viz.errors import unknown_name


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched beyond the context that a model was first trained with.

    kind is one of:

    - "linear": every frequency is divided by factor (Chen et al. 2023, position interpolation).
    - "llama3": slow pairs, whose wave is longer than original_max_seq_len / low_frequency_factor,
      are divided by factor; fast ones, whose wave is shorter than original_max_seq_len /
      high_frequency_factor, stay; between the two is a smooth passage (the Llama 3.1 release).
    - "dynamic": up to original_max_seq_len positions nothing changes; beyond, theta grows with the
      number of positions (bloc97 and emozilla 2023, NTK-aware). Keys that are already cached then
      keep the angle that they were given, so a generation differs from one pass over its text.
    - "divided": each pair has a divisor of its own (rope_freqs in GGUF files).

    Raises ValueError where the numbers make no sense.
    """

    kind: str
    factor: float = 1.0
    original_max_seq_len: int | None = None
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    divisors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALINGS:
            raise unknown_name("rope scaling", self.kind, ROPE_SCALINGS)
        for name in ("factor", "low_frequency_factor", "high_frequency_factor"):
            _check_number(f"rope_scaling.{name}", getattr(self, name))
        if self.kind in ("dynamic", "llama3"):
            _check_count("rope_scaling.original_max_seq_len", self.original_max_seq_len)
        if self.kind == "dynamic" and self.factor < 1:
            raise ValueError(f"rope_scaling.factor must be at least 1, got {self.factor!r}")
        if self.kind == "llama3" and self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                f"rope_scaling.high_frequency_factor ({self.high_frequency_factor}) must be above "
                f"low_frequency_factor ({self.low_frequency_factor})"
            )
        if (self.divisors is not None) != (self.kind == "divided"):
            raise ValueError('rope_scaling.divisors belong to the kind "divided", and only to it')
        if self.divisors is not None:
            object.__setattr__(self, "divisors", tuple(self.divisors))
            for divisor in self.divisors:
                _check_number("rope_scaling.divisors", divisor)


ROPE_SCALINGS = ("linear", "dynamic", "llama3", "divided")


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a LLaMA, with the names of the Llama 2 release.

    n_kv_heads None gives every query head its own key/value head (MHA); 1 is MQA; anything
    between, dividing n_heads, is GQA. head_dim None is dim / n_heads. hidden_dim None is the
    release's rule: two thirds of 4 x dim, rounded up to a multiple of 256. After construction all
    are whole numbers. rope_scaling may be given as a dict of its fields, as to_dict() writes it.

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
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "dim", "vocab_size"):  # the others come from these
            _check_count(name, getattr(self, name))
        derived = {
            "n_kv_heads": self.n_heads,
            "head_dim": self.dim // self.n_heads,
            "hidden_dim": round_up(8 * self.dim // 3, 256),
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        for name in ("norm_eps", "rope_theta"):
            _check_number(name, getattr(self, name))
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads}): "
                "every key/value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim ({self.head_dim}) must be even: rotary positions turn features in pairs"
            )
        self._check_rope_scaling()

    def _check_rope_scaling(self) -> None:
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        scaling = self.rope_scaling
        if scaling is None:
            return
        if not isinstance(scaling, RopeScaling):
            raise ValueError(f"rope_scaling must be a RopeScaling or None, got {scaling!r}")
        if scaling.kind == "dynamic" and self.head_dim < 4:
            raise ValueError("dynamic rope_scaling needs a head_dim of at least 4")
        if scaling.divisors is not None and len(scaling.divisors) != self.n_pairs:
            raise ValueError(
                f"rope_scaling has {len(scaling.divisors)} divisors for {self.n_pairs} pairs"
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
        """All fields as values of JSON, as written into checkpoints and traces."""
        fields = asdict(self)
        if self.rope_scaling is not None and self.rope_scaling.divisors is not None:
            fields["rope_scaling"]["divisors"] = list(self.rope_scaling.divisors)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelConfig:
        """The configuration that to_dict() wrote; raises ValueError where it is another thing."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def rotation_frequencies(self, pair: Any, n_positions: int = 0) -> Any:
        """By how much each pair of features turns from one position to the next, in radians."""
        return rotation_frequencies(
            pair, self.head_dim, self.rope_theta, self.rope_scaling, n_positions
        )


def rotation_frequencies(
    pair: Any, head_dim: int, theta: float, scaling: RopeScaling | None, n_positions: int = 0
) -> Any:
    """Radians per position: theta^(-2 pair / head_dim) (Su et al. 2021), with RopeScaling applied.

    pair is an array (numpy or torch) of the pairs' numbers; the result is of its kind and shape.
    n_positions, the positions seen so far, matters to dynamic scaling alone.
    """
    original = (scaling and scaling.original_max_seq_len) or 0
    if scaling is not None and scaling.kind == "dynamic" and n_positions > original:
        growth = scaling.factor * n_positions / original - (scaling.factor - 1)
        theta *= growth ** (head_dim / (head_dim - 2))
    frequency = theta ** (-2 * pair / head_dim)
    if scaling is None or scaling.kind == "dynamic":
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.divisors is not None:
        for number, divisor in enumerate(scaling.divisors):
            frequency[pair == number] /= divisor
        return frequency
    waves = original * frequency / (2 * math.pi)  # how many turns in the original context
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((waves - low) / (high - low)).clip(0, 1)  # 0 for slow pairs, 1 for fast ones
    return frequency * (kept + (1 - kept) / scaling.factor)


_COUNTS = (
    "n_layers", "n_heads", "n_kv_heads", "dim", "head_dim", "hidden_dim", "vocab_size",
    "max_seq_len",
)  # fmt: skip


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not 0 < value < math.inf or value > 1e300:  # a whole number may be too large for a float
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")


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
