"""The exercises of the notebooks, graded from the reader's own numbers; a module per notebook.

Each function takes what the exercise is about and the reader's answer, and returns a Verdict with a
reply that helps.
"""

from __future__ import annotations

from llama_viz.exercises.grading import NOT_YET, Verdict
from llama_viz.exercises.normalization import (
    largest_addition,
    rms_norm_by_hand,
    what_attention_reads,
)
from llama_viz.exercises.start_here import cache_bytes, head_that_looks, surprise

__all__ = [
    "NOT_YET",
    "Verdict",
    "cache_bytes",
    "head_that_looks",
    "largest_addition",
    "rms_norm_by_hand",
    "surprise",
    "what_attention_reads",
]
