"""Explorers: widgets that run a model, or open a trace, and let a reader move through it.

They need anywidget and a page; the model itself is never imported here. A trace from a file can be
explored with no weights at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_viz.widgets.architecture import ArchitectureMap
from llama_viz.widgets.attention import AttentionExplorer
from llama_viz.widgets.cache import CacheExplorer
from llama_viz.widgets.compare import CompareExplorer
from llama_viz.widgets.explorer import Explorer, link
from llama_viz.widgets.feed_forward import FeedForwardExplorer
from llama_viz.widgets.figure_browser import FigureBrowser
from llama_viz.widgets.generation import GenerationExplorer
from llama_viz.widgets.live_training import LiveTraining
from llama_viz.widgets.norms import NormsExplorer
from llama_viz.widgets.rotary import RotaryExplorer
from llama_viz.widgets.training import TrainingExplorer, training_snapshots

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

# Explorers that open on a trace alone, by the name that `llama-viz export --explorer` takes.
EXPLORERS: dict[str, Callable[[xr.Dataset], Explorer]] = {
    "architecture": ArchitectureMap,
    "attention": AttentionExplorer,
    "cache": CacheExplorer,
    "feed-forward": FeedForwardExplorer,
    "norms": NormsExplorer,
    "rotary": RotaryExplorer,
}

__all__ = [
    "EXPLORERS",
    "ArchitectureMap",
    "AttentionExplorer",
    "CacheExplorer",
    "CompareExplorer",
    "Explorer",
    "FeedForwardExplorer",
    "FigureBrowser",
    "GenerationExplorer",
    "LiveTraining",
    "NormsExplorer",
    "RotaryExplorer",
    "TrainingExplorer",
    "link",
    "training_snapshots",
]
