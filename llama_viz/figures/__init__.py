"""Figures: functions that take a trace and return a picture of it; nothing is shown by itself."""

from llama_viz.figures.attention import attention_heads, attention_map, attention_stages
from llama_viz.figures.cache import cache_growth
from llama_viz.figures.check import FigureMismatch, check
from llama_viz.figures.comparison import comparison
from llama_viz.figures.next_token import candidates
from llama_viz.figures.normalization import rms
from llama_viz.figures.rotary import rotation_angles
from llama_viz.figures.text import token_probabilities
from llama_viz.figures.training import training_run

__all__ = [
    "FigureMismatch",
    "attention_heads",
    "attention_map",
    "attention_stages",
    "cache_growth",
    "candidates",
    "check",
    "comparison",
    "rms",
    "rotation_angles",
    "token_probabilities",
    "training_run",
]
