"""See a LLaMA think: a small instrumented LLaMA, recordings of its runs, and their pictures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> where it lives. Loaded at first use: xarray and plotly cost import time.
_PUBLIC = {
    "ModelConfig": "config",
    "PRESETS": "config",
    "RopeScaling": "config",
    "CheckpointError": "errors",
    "MemoryLimitError": "errors",
    "TraceError": "errors",
    "Generation": "generation",
    "Step": "generation",
    "generate": "generation",
    "stream": "generation",
    "KVCache": "kv_cache",
    "LanguageModel": "language_model",
    "Llama": "model",
    "intervene": "recorder",
    "record": "recorder",
    "record_forward": "recorder",
    "record_steps": "recorder",
    "recording_size": "recorder",
    "Tap": "taps",
    "Tokenizer": "tokenizer",
    "SIGNALS": "trace",
    "load_trace": "trace",
    "save_trace": "trace",
    "select_prompt": "trace",
    "load": "checkpoints",
    "save_checkpoint": "checkpoints",
    "verify": "checkpoints.verification",
}
_SUBMODULES = (
    "analysis",
    "cost",
    "exercises",
    "figures",
    "foundations",
    "glossary",
    "surgery",
    "widgets",
)

__all__ = [*_PUBLIC, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(f"llama_viz.{_PUBLIC[name]}"), name)
    elif name in _SUBMODULES:
        value = import_module(f"llama_viz.{name}")
    else:
        raise AttributeError(f"module 'llama_viz' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
