"""Figures: functions that take a trace and return a picture of it; nothing is shown by itself."""

from llama_viz.figures.architecture import architecture
from llama_viz.figures.attention import attention_heads, attention_map, attention_stages
from llama_viz.figures.cache import cache_growth
from llama_viz.figures.check import FigureMismatch, check
from llama_viz.figures.feed_forward import neurons
from llama_viz.figures.next_token import candidates
from llama_viz.figures.normalization import rms
from llama_viz.figures.rotary import rotation_angles
from llama_viz.figures.text import token_probabilities

__all__ = [
    "FigureMismatch",
    "architecture",
    "attention_heads",
    "attention_map",
    "attention_stages",
    "cache_growth",
    "candidates",
    "check",
    "neurons",
    "rms",
    "rotation_angles",
    "token_probabilities",
]
