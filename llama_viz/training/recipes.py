"""How a model is trained, in numbers: everything that decides its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from llama_viz.config import ModelConfig

# Rehearsal before the stories: the tokens of one row of nonsense.
REHEARSAL_LENGTH = 96


@dataclass(frozen=True)
class Recipe:
    """The sizes of a model and the way it is trained.

    Each step shows `rows` rows of `row_length` tokens. The matrix_ numbers are Muon's, for the
    matrices of the blocks; the others are AdamW's, for embedding, output head and gains. Both
    learning rates rise for `warmup_steps` steps, then fall along half a cosine to `final_share` of
    their height. Two recipes with one seed see the same stories in the same order.

    What a story asks for is about one token in ten, so its loss counts `answer_weight` times for
    half of the steps; the weight then falls to 1, which the last fifth trains with: the model
    learns early to look back, and ends with the true probabilities.

    The first rehearsal_steps show no stories but nonsense, short rows in which a few tokens drawn
    at random come back again and again, and of the rows of every later step rehearsal_rows are such
    nonsense. It can be foreseen in one way alone, by finding what followed the token before;
    stories can be half foreseen without, and in trials models then never learned to look sharply.

    feed_forward is "swiglu", LLaMA's, or another of the kinds in foundations; normalization is
    "rmsnorm", "layernorm" or "none". embedding_deviation is the spread of fresh embeddings: with 1
    every word begins as a direction of its own, and in trials copying was found much sooner than
    with the usual 0.02. A recipe that is pooled_from another run starts from that run's
    model, with its key/value heads joined by `pooling`; first_batch lets it go on with stories that
    the other run has not seen.

    Raises ValueError where the numbers cannot make a run.
    """

    n_kv_heads: int
    feed_forward: str = "swiglu"
    normalization: str = "rmsnorm"
    pooled_from: str | None = None
    pooling: str | None = None
    first_batch: int = 0
    n_layers: int = 4
    n_heads: int = 8
    dim: int = 128
    hidden_dim: int = 384
    vocab_size: int = 1408
    tied_embeddings: bool = False
    embedding_deviation: float = 1.0
    max_seq_len: int = 256
    seed: int = 0
    steps: int = 4000
    rows: int = 8
    row_length: int = 256
    matrix_learning_rate: float = 0.012
    matrix_weight_decay: float = 0.05
    learning_rate: float = 6e-3
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 100
    final_share: float = 0.02
    clip_norm: float = 1.0
    answer_weight: float = 6.0
    rehearsal_steps: int = 0
    rehearsal_rows: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "row_length", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.row_length > self.max_seq_len:
            raise ValueError(
                f"row_length ({self.row_length}) must fit the context, "
                f"max_seq_len ({self.max_seq_len})"
            )
        if self.rehearsal_steps and not self.short_rows:
            raise ValueError(
                f"a step of rehearsal needs room for a row of {REHEARSAL_LENGTH} tokens, and "
                f"{self.rows} x {self.row_length} are fewer"
            )
        if not 0 <= self.rehearsal_rows <= self.rows:
            raise ValueError(
                f"rehearsal_rows must be 0 to rows ({self.rows}), got {self.rehearsal_rows}"
            )
        if self.rehearsal_steps < 0:
            raise ValueError(f"rehearsal_steps must be 0 or more, got {self.rehearsal_steps}")
        if (self.pooled_from is None) != (self.pooling is None):
            raise ValueError("pooled_from and pooling belong together: give both or neither")
        for name in ("matrix_learning_rate", "learning_rate", "clip_norm", "answer_weight"):
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
            tied_embeddings=self.tied_embeddings,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step predicts, once stories are told."""
        return self.rows * self.row_length

    @property
    def short_rows(self) -> int:
        """Rows of a step that shows nonsense alone: as many as its tokens make."""
        return self.tokens_per_step // REHEARSAL_LENGTH

    def tokens(self, steps: int) -> int:
        """Tokens that the first steps predict."""
        rehearsed = min(steps, self.rehearsal_steps)
        told = (steps - rehearsed) * self.tokens_per_step
        return rehearsed * self.short_rows * REHEARSAL_LENGTH + told

    def schedule(self, step: int) -> float:
        """The share of the learning rates that a step uses, from 0 to 1; steps count from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        passed = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        falling = 0.5 * (1 + math.cos(math.pi * min(passed, 1)))
        return self.final_share + (1 - self.final_share) * falling

    def weight(self, step: int) -> float:
        """How many times the loss of an answer counts at a step."""
        left = (0.8 - step / self.steps) / 0.3
        return 1 + (self.answer_weight - 1) * min(max(left, 0.0), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**asdict(self), "betas": list(self.betas)}


_MHA = Recipe(n_kv_heads=8, rehearsal_steps=700, rehearsal_rows=1)
_GQA = replace(_MHA, n_kv_heads=2)
_MQA = replace(_MHA, n_kv_heads=1)

# Smaller and shorter: for comparisons in which many runs count more than one good model. A gated
# feed-forward has three matrices of two thirds of the width: as many weights as two matrices.
_SMALL = Recipe(
    n_kv_heads=2, n_layers=3, n_heads=6, dim=96, hidden_dim=256, steps=1500, row_length=256
)  # fmt: skip
_TWO_MATRICES = replace(_SMALL, hidden_dim=384)
_DEEP = Recipe(n_kv_heads=4, n_layers=12, n_heads=4, dim=64, hidden_dim=176, steps=1000)


def _uptrained(n_kv_heads: int, pooling: str) -> Recipe:
    """5% of the steps, with stories that the MHA model has not seen."""
    return replace(
        _MHA,
        n_kv_heads=n_kv_heads,
        pooled_from="mha",
        pooling=pooling,
        steps=_MHA.steps // 20,
        warmup_steps=30,
        first_batch=_MHA.steps,
        rehearsal_steps=0,
    )


# Every run, by what is compared. Within a group all else is equal.
GROUPS: dict[str, dict[str, Recipe]] = {
    # The embedded models: they differ in how many key/value heads their eight query heads share.
    "attention": {"mha": _MHA, "gqa": _GQA, "mqa": _MQA},
    # The same with as many parameters as MHA: the feed-forward is wider.
    "matched": {
        "gqa-wide": replace(_GQA, hidden_dim=448),
        "mqa-wide": replace(_MQA, hidden_dim=459),
    },
    # The same for twice as many steps: what more of them bring, and what they do not.
    "longer": {
        "mha-long": replace(_MHA, steps=2 * _MHA.steps),
        "gqa-long": replace(_GQA, steps=2 * _GQA.steps),
    },
    # What more room brings: half as many heads, twice as wide, with as many parameters; more layers
    # with as many parameters; a model of twice the width, whose heads are twice as wide.
    "roomier": {
        "mha-4-heads": replace(_MHA, n_heads=4, n_kv_heads=4),
        "mha-6-layers": replace(_MHA, n_layers=6, dim=112, hidden_dim=336),
        "mha-large": replace(_MHA, dim=256, hidden_dim=768),
    },
    "feed-forward": {
        **{kind: replace(_TWO_MATRICES, feed_forward=kind) for kind in ("relu", "gelu", "swish")},
        **{kind: replace(_SMALL, feed_forward=kind)
           for kind in ("glu", "bilinear", "reglu", "geglu", "swiglu")},
    },
    "normalization": {
        f"{kind}-deep": replace(_DEEP, normalization=kind)
        for kind in ("none", "layernorm", "rmsnorm")
    },
    "uptraining": {
        f"{kind}-{pooling}": _uptrained(n_kv_heads, pooling)
        for kind, n_kv_heads in (("gqa", 2), ("mqa", 1))
        for pooling in ("mean", "first", "random")
    },
}  # fmt: skip

# How many seeds each group is trained with.
SEEDS = {
    "attention": 3, "matched": 1, "longer": 1, "roomier": 1, "feed-forward": 2,
    "normalization": 1, "uptraining": 1,
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    name: recipe for group in GROUPS.values() for name, recipe in group.items()
}

# Models that notebooks load, from seed 0, and the run whose growth they show.
EMBEDDED = ("mha", "gqa", "mqa", "gqa-mean")
GROWING = "gqa"


def group_of(name: str) -> str:
    """The group that a recipe belongs to."""
    return next(group for group, recipes in GROUPS.items() if name in recipes)
