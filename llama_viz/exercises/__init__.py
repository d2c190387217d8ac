"""The exercises of the notebooks, graded from the reader's own numbers; a module per notebook.

Each function takes what the exercise is about and the reader's answer, and returns a Verdict with a
reply that helps.
"""

from __future__ import annotations

from llama_viz.exercises.attention import attention_row, farthest_head, score_bytes
from llama_viz.exercises.feed_forward import (
    feed_forward_width,
    gated_product,
    neurons_below,
)
from llama_viz.exercises.grading import NOT_YET, Verdict
from llama_viz.exercises.grouped_queries import shared_head, texts_that_fit, ungrouped_cache
from llama_viz.exercises.kv_cache import batch_cache_bytes, most_missed_position, scores_computed
from llama_viz.exercises.next_token import effective_choices, times_as_likely, tokens_kept
from llama_viz.exercises.normalization import (
    largest_addition,
    rms_norm_by_hand,
    what_attention_reads,
)
from llama_viz.exercises.positions import angle_applied, strongest_pair, wavelength
from llama_viz.exercises.real_models import half_split_row, layer_that_looks_first, weight_bytes
from llama_viz.exercises.start_here import cache_bytes, head_that_looks, surprise
from llama_viz.exercises.tokens import first_merge, table_parameters, token_count
from llama_viz.exercises.training import logit_gradient, most_of_the_way, predictions_learned
from llama_viz.exercises.transformer import (
    block_parameters,
    cross_attention_scores,
    stream_after_block,
)

__all__ = [
    "NOT_YET",
    "Verdict",
    "angle_applied",
    "attention_row",
    "batch_cache_bytes",
    "block_parameters",
    "cache_bytes",
    "cross_attention_scores",
    "effective_choices",
    "farthest_head",
    "feed_forward_width",
    "first_merge",
    "gated_product",
    "half_split_row",
    "head_that_looks",
    "largest_addition",
    "layer_that_looks_first",
    "logit_gradient",
    "most_missed_position",
    "most_of_the_way",
    "neurons_below",
    "predictions_learned",
    "rms_norm_by_hand",
    "score_bytes",
    "scores_computed",
    "shared_head",
    "stream_after_block",
    "strongest_pair",
    "surprise",
    "table_parameters",
    "texts_that_fit",
    "times_as_likely",
    "token_count",
    "tokens_kept",
    "ungrouped_cache",
    "wavelength",
    "weight_bytes",
    "what_attention_reads",
]
