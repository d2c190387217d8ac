"""The map of the architecture: LLaMA box by box, the Transformer of 2017 beside it, and sizes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ipywidgets
import xarray as xr

from llama_viz import figures
from llama_viz.analysis import config_of, require
from llama_viz.architecture import (
    VARIABLES_OF,
    Box,
    Drawing,
    EncoderDecoderConfig,
    differences,
    encoder_decoder,
    llama,
)
from llama_viz.config import PRESETS, ModelConfig
from llama_viz.cost import parameters
from llama_viz.errors import unknown_name
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import record_forward
from llama_viz.taps import TAP_POINTS, norms
from llama_viz.widgets.bundle import picture_bundle
from llama_viz.widgets.explorer import Choice, Explorer, Field, Several
from llama_viz.widgets.generation import PROMPT, GenerationExplorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.figure import Figure

    from llama_viz.widgets.packing import Packed

DTYPES = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes of one number
SCALES = ("size", "share")

# The explorer that shows what a box does; the generation explorer shows the rest: norms, the KV
# cache, the next token.
EXPLORER_OF = {
    **dict.fromkeys(("attention_norm", "feed_forward_norm", "final_norm"), "NormsExplorer"),
    **dict.fromkeys(("query", "key", "attention", "attention_output"), "AttentionExplorer"),
    **dict.fromkeys(("gate", "up", "neuron_activation", "down"), "FeedForwardExplorer"),
    "rotation": "RotaryExplorer",
    "kv_cache": "CacheExplorer",
}
ELSEWHERE = "GenerationExplorer"


class ArchitectureMap(Explorer):
    """See what LLaMA is made of, how many parameters sit where, and what changed since 2017.

    source is a ModelConfig, the name of a published model (llama_viz.config.PRESETS), a model or a
    trace; no weight is read. The state is box (what is picked in one of the drawings), difference,
    dtype (which bytes are counted), models (published ones beside this one), scale ("size" or
    "share") and opened: the box whose explorer the reader asked for. Where a cell shows the map of
    a model or a trace, that explorer opens below it.

    prompt is what a model reads when one of its explorers is opened.

    Raises ValueError for an unknown name, TypeError for what is none of these.
    """

    page = "architecture"
    title = "Architecture map"

    def __init__(
        self,
        source: ModelConfig | str | xr.Dataset | LanguageModel,
        *,
        prompt: str | Sequence[int] | None = None,
        **state: Any,
    ) -> None:
        self.name, self.config = _named(source)
        self.lm = source if isinstance(source, LanguageModel) else None
        self.trace = source if isinstance(source, xr.Dataset) else None
        self.prompt = prompt
        self._with_explorers: ipywidgets.VBox | None = None
        self.llama = llama(self.config)
        self.transformer = encoder_decoder(EncoderDecoderConfig(), self.llama.height)
        self.differences = differences(self.config)
        super().__init__(**state)

    @property
    def boxes(self) -> dict[str, Box]:
        """Every box of both drawings by its name."""
        return {box.name: box for drawing in (self.llama, self.transformer)
                for box in drawing.boxes}  # fmt: skip

    @property
    def published(self) -> tuple[str, ...]:
        """The models that can stand beside this one."""
        return tuple(name for name in PRESETS if name != self.name)

    def fields(self) -> Mapping[str, Field]:
        """What can be picked."""
        return {
            "box": Choice(tuple(self.boxes), None, optional=True),
            "difference": Choice(tuple(self.differences), None, optional=True),
            "dtype": Choice(tuple(DTYPES), "float32"),
            "models": Several(self.published),
            "scale": Choice(SCALES, "size"),
            "opened": Choice(tuple(box.name for box in self.llama.boxes), None, optional=True),
        }

    # For the page

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Both drawings, their words and differences, and the sizes of the published models."""
        config = self.config
        header = {
            "name": self.name,
            "can_open": self.lm is not None or self.trace is not None,
            "dtypes": DTYPES,
            "config": {
                name: getattr(config, name)
                for name in ("n_layers", "n_heads", "n_kv_heads", "head_dim", "attention_kind")
            },
            "kv_head_of_head": config.kv_head_of_head,
            "drawings": [self._drawn(self.llama), self._drawn(self.transformer)],
            "differences": [
                {"name": name, **asdict(one)} for name, one in self.differences.items()
            ],
            "models": [_sizes(self.name, config)]
            + [_sizes(name, PRESETS[name]) for name in self.published],
        }
        return header, {}

    def _drawn(self, drawing: Drawing) -> dict[str, Any]:
        """A drawing as JSON, each box with its words, and LLaMA's with where to listen."""
        boxes = []
        for box in drawing.boxes:
            described = {**asdict(box), "words": box.words}
            if drawing is self.llama:
                described |= {
                    "taps": taps_of(box.name),
                    "variables": VARIABLES_OF[box.name],
                    "recorded": self._recorded(box.name),
                    "explorer": _explorer_name(box.name),
                }
            boxes.append(described)
        return {**asdict(drawing), "boxes": boxes}

    def _recorded(self, box: str) -> list[str] | None:
        """Those of the box's variables that the trace holds; None without a trace."""
        if self.trace is None:
            return None
        return [name for name in VARIABLES_OF[box] if name in self.trace]

    # For the reader

    def open_explorer(self, box: str | None = None) -> ipywidgets.DOMWidget:
        """The explorer that shows a box of LLaMA: the one asked for in the page, or this one.

        A trace is shown as it was recorded; a model reads the prompt once. Raises ValueError where
        no box was picked, for a map of sizes alone, and where the trace lacks what is shown.
        """
        from llama_viz import widgets

        chosen = box or self.state["opened"] or self.state["box"]
        if chosen not in VARIABLES_OF:
            if chosen is None or chosen in self.boxes:
                raise ValueError("pick a box of LLaMA first, or name it: open_explorer('query')")
            raise unknown_name("box", chosen, VARIABLES_OF)
        if self.lm is None and self.trace is None:
            raise ValueError(
                "this map was made from sizes alone; give ArchitectureMap a trace or a model"
            )
        name = _explorer_name(chosen)
        if name != ELSEWHERE:
            return getattr(widgets, name)(self._recording())
        if self.lm is None:
            return GenerationExplorer((), trace=self.trace)
        # It has a box for text; ids do not go into it.
        prompt = self.prompt if isinstance(self.prompt, str) else None
        return GenerationExplorer((self.lm,), prompt=prompt)

    def _recording(self) -> xr.Dataset | None:
        """The trace, or that of one pass of the model over the prompt."""
        if self.lm is None:
            return self.trace
        if self.prompt is None and self.lm.tokenizer is None:
            raise ValueError(
                "the model has no tokenizer; give ArchitectureMap token ids as its prompt"
            )
        return record_forward(self.lm, PROMPT if self.prompt is None else self.prompt)

    def with_explorers(self) -> ipywidgets.VBox:
        """The map, and below it whatever explorer is opened by its button; one box for each map.

        A cell that ends with the map of a model or a trace shows this by itself; call it where the
        map is put into a layout of your own. What cannot be opened is said in one line below.
        """
        if self._with_explorers is not None:
            return self._with_explorers
        self._with_explorers = below = ipywidgets.VBox([self])

        def follow(change: Any) -> None:
            opened = change["new"]["opened"]
            if opened == change["old"].get("opened"):
                return
            shown: list[Any] = []
            if opened is not None:
                try:
                    shown = [self.open_explorer(opened)]
                except (ValueError, OSError) as error:
                    shown = [ipywidgets.Label(" ".join(str(error).split()))]
            for old in below.children[1:]:
                old.close()
            below.children = (self, *shown)

        self.observe(follow, names="state")
        return below

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As every explorer; with a model or a trace the view is that of `with_explorers`."""
        if self.lm is None and self.trace is None:
            return super()._repr_mimebundle_(**kwargs)
        shown = self.with_explorers().model_id
        return picture_bundle(shown, self.describe(), self.still()), {}

    # Without a kernel

    def picture(self) -> Figure:
        """Both drawings, the picked difference marked in them, and where the parameters sit."""
        difference = self.state["difference"]
        return figures.architecture(self.config, name=self.name, difference=difference)

    def describe(self) -> str:
        """The map in words."""
        config, state = self.config, self.state
        sizes = parameters(config)
        words = [
            f"Architecture map of {self.name}: {config.n_parameters:,} parameters in "
            f"{config.n_layers} layers, {config.n_heads} query heads and {config.n_kv_heads} "
            f"key/value heads ({config.attention_kind}), beside the Transformer of 2017.",
            "Parameters: " + ", ".join(f"{name} {count:,}" for name, count in sizes.items()) + ".",
        ]
        if state["difference"] is not None:
            one = self.differences[state["difference"]]
            words.append(f"{one.title}. 2017: {one.before} LLaMA: {one.after}")
        if state["box"] is not None:
            words.append(f"Picked: {state['box']}. {self.boxes[state['box']].words}")
        return "\n".join(words)


def taps_of(box: str) -> list[str]:
    """The names of the taps at a box of LLaMA; {layer} stands for the number of a block."""
    found = []
    for variable in VARIABLES_OF[box]:
        point = TAP_POINTS.get(variable)
        if point is not None:
            path = point.path or variable
            found.append(f"blocks.{{layer}}.{path}" if point.per_layer else path)
        elif variable == "rms":
            path = "norm" if box == "final_norm" else box
            (norm,) = [one for one in norms(1) if one.path.split(".")[-1] == path]
            found.append(f"{norm.path.replace('blocks.0', 'blocks.{layer}')}.rms")
    return found


def _named(source: Any) -> tuple[str, ModelConfig]:
    """A name and the sizes of whatever the map was given."""
    if isinstance(source, ModelConfig):
        return "this model", source
    if isinstance(source, str):
        if source not in PRESETS:
            raise unknown_name("published model", source, PRESETS)
        return source, PRESETS[source]
    if isinstance(source, LanguageModel):
        return source.name, source.config
    if not isinstance(source, xr.Dataset):
        raise TypeError(
            "expected a ModelConfig, the name of a published model, a model or a trace, got "
            f"{type(source).__name__}"
        )
    require(source)
    return str(source.attrs["model"]), config_of(source)


def _sizes(name: str, config: ModelConfig) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": parameters(config),
        "total": config.n_parameters,
        "numbers_per_position": config.kv_cache_bytes(1, itemsize=1),
        "context": config.max_seq_len,
    }


def _explorer_name(box: str) -> str:
    """The explorer of a box; where that one is not part of the package, the generation explorer."""
    from llama_viz import widgets

    name = EXPLORER_OF.get(box, ELSEWHERE)
    return name if name in widgets.__all__ else ELSEWHERE
