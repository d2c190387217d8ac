"""Explorers: widgets that run a model, or open a trace, and let a reader move through it.

They need anywidget and a page; the model itself is never imported here. A trace from a file can be
explored with no weights at hand.
"""

from __future__ import annotations

from llama_viz.widgets.compare import CompareExplorer
from llama_viz.widgets.explorer import Explorer, link
from llama_viz.widgets.figure_browser import FigureBrowser
from llama_viz.widgets.generation import GenerationExplorer
from llama_viz.widgets.training import TrainingExplorer, training_snapshots

__all__ = [
    "CompareExplorer",
    "Explorer",
    "FigureBrowser",
    "GenerationExplorer",
    "TrainingExplorer",
    "link",
    "training_snapshots",
]
