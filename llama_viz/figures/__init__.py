"""Figures: functions that take a trace and return a picture of it; nothing is shown by itself."""

from llama_viz.figures.architecture import architecture
from llama_viz.figures.attention import attention_heads, attention_map, attention_stages
from llama_viz.figures.cache import cache_growth, with_and_without_cache
from llama_viz.figures.check import FigureMismatch, check
from llama_viz.figures.comparison import comparison
from llama_viz.figures.covariate_shift import layer_inputs, losses_by_norm
from llama_viz.figures.next_token import candidates
from llama_viz.figures.normalization import rms, vector_through_norm
from llama_viz.figures.norms import before_and_after, gains, histograms, norm_times
from llama_viz.figures.rotary import rotation_angles, score_by_pair
from llama_viz.figures.tables import linear_layer, number_tables
from llama_viz.figures.text import token_probabilities

__all__ = [
    "FigureMismatch",
    "architecture",
    "attention_heads",
    "attention_map",
    "attention_stages",
    "before_and_after",
    "cache_growth",
    "candidates",
    "check",
    "comparison",
    "gains",
    "histograms",
    "layer_inputs",
    "linear_layer",
    "losses_by_norm",
    "norm_times",
    "number_tables",
    "rms",
    "rotation_angles",
    "score_by_pair",
    "token_probabilities",
    "vector_through_norm",
    "with_and_without_cache",
]
