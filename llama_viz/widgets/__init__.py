"""Explorers: widgets that run a model, or open a trace, and let a reader move through it.

They need anywidget and a page; the model itself is never imported here. A trace from a file can be
explored with no weights at hand.
"""

from __future__ import annotations

from llama_viz.widgets.architecture import ArchitectureMap
from llama_viz.widgets.explorer import Explorer, link
from llama_viz.widgets.feed_forward import FeedForwardExplorer
from llama_viz.widgets.figure_browser import FigureBrowser
from llama_viz.widgets.generation import GenerationExplorer

__all__ = [
    "ArchitectureMap",
    "Explorer",
    "FeedForwardExplorer",
    "FigureBrowser",
    "GenerationExplorer",
    "link",
]
