"""The exercises of the notebooks, graded from the reader's own numbers; a module per notebook.

Each function takes what the exercise is about and the reader's answer, and returns a Verdict with a
reply that helps.
"""

from __future__ import annotations

from llama_viz.exercises.attention import attention_row, farthest_head, score_bytes
from llama_viz.exercises.grading import NOT_YET, Verdict
from llama_viz.exercises.grouped_queries import shared_head, texts_that_fit, ungrouped_cache
from llama_viz.exercises.normalization import (
    largest_addition,
    rms_norm_by_hand,
    what_attention_reads,
)
from llama_viz.exercises.positions import angle_applied, strongest_pair, wavelength
from llama_viz.exercises.start_here import cache_bytes, head_that_looks, surprise
from llama_viz.exercises.tokens import first_merge, table_parameters, token_count

__all__ = [
    "NOT_YET",
    "Verdict",
    "angle_applied",
    "attention_row",
    "cache_bytes",
    "farthest_head",
    "first_merge",
    "head_that_looks",
    "largest_addition",
    "rms_norm_by_hand",
    "score_bytes",
    "shared_head",
    "strongest_pair",
    "surprise",
    "table_parameters",
    "texts_that_fit",
    "token_count",
    "ungrouped_cache",
    "wavelength",
    "what_attention_reads",
]
