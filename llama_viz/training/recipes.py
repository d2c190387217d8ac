"""How a model is trained, in numbers: everything that decides its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from llama_viz.config import ModelConfig


@dataclass(frozen=True)
class Recipe:
    """The sizes of a model and the way it is trained.

    Each step shows `rows` rows of `row_length` tokens. The matrix_ numbers are Muon's, for the
    matrices of the blocks; the others are AdamW's, for embedding, output head and gains. Both
    learning rates rise for `warmup_steps` steps, then fall along half a cosine to `final_share` of
    their height. Two recipes with one seed see the same stories in the same order.

    Raises ValueError where the numbers cannot make a run.
    """

    n_kv_heads: int
    n_layers: int = 4
    n_heads: int = 8
    dim: int = 128
    hidden_dim: int = 384
    vocab_size: int = 768
    max_seq_len: int = 256
    seed: int = 0
    steps: int = 3000
    rows: int = 8
    row_length: int = 256
    matrix_learning_rate: float = 0.02
    matrix_weight_decay: float = 0.05
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 100
    final_share: float = 0.02
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "row_length", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.row_length > self.max_seq_len:
            raise ValueError(
                f"row_length ({self.row_length}) must fit the context, "
                f"max_seq_len ({self.max_seq_len})"
            )
        for name in ("matrix_learning_rate", "learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def config(self) -> ModelConfig:
        """The model that this recipe trains."""
        return ModelConfig(
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            dim=self.dim,
            hidden_dim=self.hidden_dim,
            vocab_size=self.vocab_size,
            max_seq_len=self.max_seq_len,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step predicts."""
        return self.rows * self.row_length

    def schedule(self, step: int) -> float:
        """The share of the learning rates that a step uses, from 0 to 1; steps count from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        passed = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        falling = 0.5 * (1 + math.cos(math.pi * min(passed, 1)))
        return self.final_share + (1 - self.final_share) * falling

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**asdict(self), "betas": list(self.betas)}


_MHA = Recipe(n_kv_heads=8)

# The embedded models: they differ in how many key/value heads their eight query heads share.
RECIPES: dict[str, Recipe] = {
    "mha": _MHA,
    "gqa": replace(_MHA, n_kv_heads=2),
    "mqa": replace(_MHA, n_kv_heads=1),
}
