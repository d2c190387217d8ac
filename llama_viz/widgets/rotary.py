"""The rotary explorer: how queries and keys turn with their position, and what becomes of a score.

The page gets the recorded vectors before and after rotation. It turns them itself, with the
frequencies of the run, when the reader moves them to other positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz import figures
from llama_viz.analysis import config_of, require, rotation_frequency, score_by_pair
from llama_viz.figures.style import words
from llama_viz.widgets.explorer import Choice, Explorer, trace_of
from llama_viz.widgets.messages import tokens_of
from llama_viz.widgets.packing import as_int16

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from llama_viz.language_model import LanguageModel
    from llama_viz.widgets.packing import Packed

VECTORS = ("query", "key", "query_rotated", "key_rotated")
LAYERED = (*VECTORS, "attention_scores")
RECORDED = (*LAYERED, "rotation_angle")
# How far the reader may move a query or a key.
FARTHEST = 128
# Up to this size all layers are sent at once, in full precision.
AT_HAND_BYTES = 32_000_000


class RotaryExplorer(Explorer):
    """Hands of queries and keys before and after rotation, and their score split by pair.

    source is a trace with query, key, query_rotated and key_rotated (what is missing is said in the
    page), or a model together with a prompt. Fields of the state: layer, head, position (of the
    query), key_position, pair; shift (of both), shift_query, shift_key, in positions; hands.

    Raises ValueError where the trace holds neither queries nor keys.
    """

    page, title = "rotary", "Rotary positions"

    def __init__(
        self,
        source: xr.Dataset | LanguageModel,
        prompt: str | Sequence[int] | None = None,
        **state: Any,
    ) -> None:
        self.trace = trace_of(source, prompt, RECORDED)
        if not any(name in self.trace for name in VECTORS):
            require(self.trace, *VECTORS)
        self.frequency = rotation_frequency(self.trace).values
        super().__init__(**state)

    def fields(self) -> dict[str, Choice]:
        """What can be picked."""
        positions = _whole(self.trace["position"].values)
        layers, heads = _whole(self.trace["layer"].values), range(config_of(self.trace).n_heads)
        moves = range(-FARTHEST, FARTHEST + 1)
        return {
            "layer": Choice(layers, layers[0]),
            "head": Choice(heads, 0),
            "position": Choice(positions, positions[-1]),
            "key_position": Choice(positions, positions[max(len(positions) - 2, 0)]),
            "pair": Choice(range(self.frequency.shape[1]), 0),
            "shift": Choice(moves, 0),
            "shift_query": Choice(moves, 0),
            "shift_key": Choice(moves, 0),
            "hands": Choice(("direction", "length"), "direction"),
        }

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Tokens, frequencies, and the vectors of all layers; of one where they are large."""
        config = config_of(self.trace)
        layers = self.trace["layer"].values.tolist()
        is_small = self._n_bytes <= AT_HAND_BYTES
        frequencies, row = np.unique(self.frequency, axis=0, return_inverse=True)
        arrays: dict[str, np.ndarray | Packed] = {"frequency_of_position": np.ravel(row)}
        if "rotation_angle" in self.trace:
            arrays["rotation_angle"] = self.trace["rotation_angle"].values
        for layer in layers if whole or is_small else [self.state["layer"]]:
            arrays |= self._layer(layer, is_exact=is_small or not whole)
        header = {
            "tokens": tokens_of(self.trace),
            "positions": self.trace["position"].values.tolist(),
            "query_positions": self._positions("query_position"),
            "key_positions": self._positions("key_position"),
            "layers": layers,
            "kv_head_of_head": config.kv_head_of_head,
            "head_dim": config.head_dim,
            "context": config.max_seq_len,
            "theta": config.rope_theta,
            "scaling": config.rope_scaling and config.rope_scaling.kind,
            "frequencies": frequencies.tolist(),
            "recorded": [name for name in RECORDED if name in self.trace],
            "is_exact": is_small or not whole,
            "farthest": FARTHEST,
            "notes": self._notes(),
        }
        return header, arrays

    def answer_layer(self, layer: Any) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """The vectors and scores of one layer."""
        layer = self.fields()["layer"].checked("layer", layer)
        return {}, self._layer(layer, is_exact=True)

    def picture(self) -> Figure:
        """The hands and the score split by pair; what cannot be drawn is said."""
        if any(name not in self.trace for name in VECTORS):
            return words("Rotary positions", self._notes()[0])
        shown = {name: self.state[name] for name in ("layer", "head", "key_position")}
        return figures.score_by_pair(self.trace, query_position=self.state["position"], **shown)

    def describe(self) -> str:
        """The picture in words: which score, its sum, and the pairs that add most."""
        state = self.state
        labels = [str(label) for label in self.trace["token"].values]
        positions = self.trace["position"].values.tolist()
        query, key = (
            f"{side} at position {state[name]} ({labels[positions.index(state[name])]})"
            for side, name in (("query", "position"), ("key", "key_position"))
        )
        start = f"Rotary positions, layer {state['layer']}, head {state['head']}: {query}, {key}."
        if not {"query_rotated", "key_rotated"} <= set(self.trace):
            return " ".join([start, *self._notes()])
        split = self._split()
        most = np.argsort(-np.abs(split))[:3]
        listed = ", ".join(f"pair {pair} {split[pair]:+.4g}" for pair in most)
        return f"{start} Score {split.sum():.6g}, the sum of {len(split)} pairs; most: {listed}."

    def _split(self) -> np.ndarray:
        state = self.state
        split = score_by_pair(
            self.trace, layer=state["layer"], head=state["head"], query_position=state["position"]
        )  # fmt: skip
        return split.sel(key_position=state["key_position"]).values

    def _layer(self, layer: int, *, is_exact: bool) -> dict[str, np.ndarray | Packed]:
        here = self.trace[[name for name in LAYERED if name in self.trace]].sel(layer=layer)
        return {
            f"{name} {layer}": values.values if is_exact or name not in VECTORS
            else as_int16(values.values)
            for name, values in here.data_vars.items()
        }  # fmt: skip

    def _positions(self, dim: str) -> list[int]:
        """The positions along an axis of the scores."""
        return self.trace[dim].values.tolist() if "attention_scores" in self.trace else []

    @property
    def _n_bytes(self) -> int:
        return sum(4 * self.trace[name].size for name in LAYERED if name in self.trace)

    def _notes(self) -> list[str]:
        """What the reader must know of this trace: what it lacks, and what is unusual."""
        notes = []
        missing = [name for name in RECORDED if name not in self.trace]
        if missing:
            taps = ", ".join(f'"{name}"' for name in missing)
            notes.append(
                f"Not recorded: {', '.join(missing)}. "
                f"Record with lv.record(lm, prompt, taps=[{taps}, ...])."
            )
        if self.trace.attrs.get("edited"):
            notes.append("This run was changed on its way: what turned may not be what was scored.")
        if (self.frequency != self.frequency[0]).any():
            notes.append(
                "Dynamic scaling: positions of later steps turn with other frequencies, so moving "
                "query and key together may change their score."
            )
        return notes


def _whole(numbers: np.ndarray) -> range | tuple[int, ...]:
    """Whole numbers in order, as a range where none is left out."""
    first, last = int(numbers[0]), int(numbers[-1])
    if len(numbers) == last - first + 1:
        return range(first, last + 1)
    return tuple(int(number) for number in numbers)
