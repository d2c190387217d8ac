"""Figures: functions that take a trace and return a picture of it; nothing is shown by itself."""

from llama_viz.figures.activations import activations
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
from llama_viz.figures.branches import branches
from llama_viz.figures.cache import cache_growth, with_and_without_cache
from llama_viz.figures.cache_steps import (
    next_token_targets,
    scores_by_step,
    time_by_length,
    work_by_step,
)
from llama_viz.figures.cache_surgery import loss_by_rows_kept, next_token_after
from llama_viz.figures.check import FigureMismatch, check
from llama_viz.figures.checkpoints import differences, file_map
from llama_viz.figures.comparison import comparison
from llama_viz.figures.covariate_shift import layer_inputs, losses_by_norm
from llama_viz.figures.embedding import embedding_rows, lookup, nearest_tokens, same_token, word_map
from llama_viz.figures.feed_forward import favourite_tokens, gate_along, near_zero, neurons
from llama_viz.figures.head_wiring import head_wiring
from llama_viz.figures.learning import loss_along_step, next_token_gradient
from llama_viz.figures.logit_lens import logit_lens
from llama_viz.figures.matrices import matrices
from llama_viz.figures.model_memory import cache_over_context, what_fits
from llama_viz.figures.next_token import candidates
from llama_viz.figures.normalization import rms, vector_through_norm
from llama_viz.figures.norms import before_and_after, gains, histograms, norm_times
from llama_viz.figures.parameters import parameter_treemap
from llama_viz.figures.positions import (
    long_term_decay,
    loss_by_position,
    position_table,
    rotation_matrix,
    score_by_distance,
    turned_pair,
    wavelengths,
)
from llama_viz.figures.residual import depth, residual_stream
from llama_viz.figures.results import loss_courses, over_seeds, recall_curves, uptraining
from llama_viz.figures.roofline import memory_ratios, roofline
from llama_viz.figures.rotary import rotation_angles, score_by_pair
from llama_viz.figures.sampling import entropy_along, kept_along, sampling_distribution
from llama_viz.figures.suite import suite_map
from llama_viz.figures.tables import linear_layer, number_tables
from llama_viz.figures.teacher_forcing import teacher_forcing
from llama_viz.figures.text import token_probabilities
from llama_viz.figures.tokens import embedding_share, merges, sequence_lengths
from llama_viz.figures.training import emergence, training_course, training_run

__all__ = [
    "FigureMismatch",
    "activations",
    "architecture",
    "attention_heads",
    "attention_map",
    "attention_over_length",
    "attention_overview",
    "attention_row",
    "attention_stages",
    "before_and_after",
    "branches",
    "cache_growth",
    "cache_over_context",
    "candidates",
    "check",
    "comparison",
    "depth",
    "differences",
    "embedding_rows",
    "embedding_share",
    "emergence",
    "entropy_along",
    "favourite_tokens",
    "file_map",
    "gains",
    "gate_along",
    "head_kinds",
    "head_wiring",
    "histograms",
    "kept_along",
    "layer_inputs",
    "linear_layer",
    "logit_lens",
    "long_term_decay",
    "lookup",
    "loss_along_step",
    "loss_by_position",
    "loss_by_rows_kept",
    "loss_courses",
    "losses_by_norm",
    "matrices",
    "memory_ratios",
    "merges",
    "near_zero",
    "nearest_tokens",
    "neurons",
    "next_token_after",
    "next_token_gradient",
    "next_token_targets",
    "norm_times",
    "number_tables",
    "online_softmax",
    "over_seeds",
    "parameter_treemap",
    "position_table",
    "recall_curves",
    "residual_stream",
    "rms",
    "roofline",
    "rotation_angles",
    "rotation_matrix",
    "same_token",
    "sampling_distribution",
    "saturation",
    "score_by_distance",
    "score_by_pair",
    "scores_by_step",
    "sequence_lengths",
    "suite_map",
    "teacher_forcing",
    "time_by_length",
    "token_probabilities",
    "training_course",
    "training_run",
    "turned_pair",
    "uptraining",
    "vector_through_norm",
    "vectors",
    "wavelengths",
    "what_fits",
    "with_and_without_cache",
    "word_map",
    "work_by_step",
]
