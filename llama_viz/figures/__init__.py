"""Figures: functions that take a trace and return a picture of it; nothing is shown by itself."""

from llama_viz.figures.architecture import architecture
from llama_viz.figures.attention import (
    attention_heads,
    attention_map,
    attention_overview,
    attention_row,
    attention_stages,
    head_kinds,
)
from llama_viz.figures.attention_parts import (
    attention_over_length,
    online_softmax,
    saturation,
    vectors,
)
from llama_viz.figures.cache import cache_growth, with_and_without_cache
from llama_viz.figures.check import FigureMismatch, check
from llama_viz.figures.comparison import comparison
from llama_viz.figures.matrices import matrices
from llama_viz.figures.next_token import candidates
from llama_viz.figures.normalization import rms
from llama_viz.figures.rotary import rotation_angles, score_by_pair
from llama_viz.figures.text import token_probabilities

__all__ = [
    "FigureMismatch",
    "architecture",
    "attention_heads",
    "attention_map",
    "attention_over_length",
    "attention_overview",
    "attention_row",
    "attention_stages",
    "cache_growth",
    "candidates",
    "check",
    "comparison",
    "head_kinds",
    "matrices",
    "online_softmax",
    "rms",
    "rotation_angles",
    "saturation",
    "score_by_pair",
    "token_probabilities",
    "vectors",
    "with_and_without_cache",
]
