"""The feed-forward explorer: neurons, their gates opening and closing, their favourite tokens.

The page gets one layer at a time, when it is looked at: all layers of a real model in full are
hundreds of megabytes. How many neurons are near zero is counted here, exactly and for all layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz import figures
from llama_viz.analysis import (
    favourite_positions,
    neuron_activation,
    neurons_near_zero,
    pick,
)
from llama_viz.widgets.explorer import Choice, Explorer, Field, trace_of
from llama_viz.widgets.messages import tokens_of
from llama_viz.widgets.packing import Packed, as_float16

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from llama_viz.language_model import LanguageModel

VARIABLES = ("gate", "up", "neuron_activation", "feed_forward_output")
QUANTITIES = ("gate", "silu", "up", "product")
ORDERS = ("size", "mean", "position", "number")
ROWS = (32, 128, "all")
# Where "near zero" may end: six steps in each power of ten.
THRESHOLDS = (
    *(float(f"{digits}e{power}") for power in range(-3, 1) for digits in (1, 1.5, 2, 3, 5, 7)),
    10.0,
)
COUNT = 8  # favourites, and strongest neurons
CONTEXT = 3  # tokens before and after a favourite
# What a page without a kernel may hold, so that it stays below 7 MB as base64.
EXPORT_BYTES = 5_000_000
FEWEST_NEURONS = 8
LARGEST_HALF = 65504.0  # of float16


class FeedForwardExplorer(Explorer):
    """See the neurons of the feed-forward: gate before and after SiLU, up, and their product.

    source is a trace with gate and up, or neuron_activation alone (then what needs the gate is left
    out), or a model, which reads the prompt once. others are further traces of the same model: a
    small corpus in which favourites are looked for, too. The state is layer, position, neuron,
    quantity ("gate", "silu", "up", "product"), order (of the neurons: by "size", by "mean" size, by
    size at the "position", by "number"), rows, first (the rank of the top row) and threshold.

    Raises ValueError for a trace that has none of these, and for what the state cannot be.
    """

    page = "feed_forward"
    title = "Feed-forward explorer"

    def __init__(
        self,
        source: xr.Dataset | LanguageModel,
        prompt: str | Sequence[int] | None = None,
        *,
        others: Sequence[xr.Dataset] = (),
        **state: Any,
    ) -> None:
        self.trace = trace_of(source, prompt, VARIABLES)
        self.others = tuple(others)
        self._near_zero: np.ndarray | None = None
        self.layers = [int(layer) for layer in self.trace["layer"].values]
        self.n_neurons = int(neuron_activation(self.trace, self.layers[0]).sizes["neuron"])
        # A trace that does not belong here is told now, and not when the page asks.
        for layer in self.layers if self.others else ():
            favourite_positions([self.trace, *self.others], layer=layer, neuron=0, count=1)
        super().__init__(**state)

    def fields(self) -> Mapping[str, Field]:
        """What can be picked; only quantities that were recorded, or follow from what was."""
        positions = range(self.trace.sizes["position"])
        return {
            "layer": Choice(self.layers, self.layers[0]),
            "position": Choice(positions, positions[-1]),
            "neuron": Choice(range(self.n_neurons), None, optional=True),
            "quantity": Choice(self.quantities, "product"),
            "order": Choice(ORDERS, "mean"),
            "rows": Choice(ROWS, ROWS[0]),
            "first": Choice(range(self.n_neurons), 0),
            "threshold": Choice(THRESHOLDS, 0.05),
        }

    @property
    def quantities(self) -> tuple[str, ...]:
        """What there is of each neuron and position."""
        recorded = {"gate": "gate", "silu": "gate", "up": "up"}
        return tuple(name for name in QUANTITIES if recorded.get(name, "gate") in self.trace
                     or name == "product")  # fmt: skip

    # For the page

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Tokens and counts; in a page without a kernel as many neurons of each layer as fit."""
        trace = self.trace
        header: dict[str, Any] = {
            "model": str(trace.attrs.get("model", "")),
            "layers": self.layers,
            "n_neurons": self.n_neurons,
            "tokens": tokens_of(trace),
            "quantities": self.quantities,
            "thresholds": THRESHOLDS,
            "missing": self._missing(),
            "n_others": len(self.others),
            "n_held": self.n_neurons,
            "edited": bool(trace.attrs.get("edited")),
        }
        if self._near_zero is None:
            share = neurons_near_zero(trace, THRESHOLDS).values
            self._near_zero = np.rint(share * self.n_neurons).astype(np.uint16)
        arrays: dict[str, np.ndarray | Packed] = {"near_zero": self._near_zero}
        if "feed_forward_output" in trace:
            written = trace["feed_forward_output"].values.astype(np.float64)
            arrays["written"] = np.sqrt((written**2).mean(axis=-1)).astype(np.float32)
        if whole:
            used = sum(_bytes(array) for array in arrays.values())
            n_held = self._n_held(EXPORT_BYTES - used)
            header["n_held"] = n_held
            for layer in self.layers:
                held = self._strongest(layer, n_held)
                arrays[f"neurons {layer}"] = held.astype(np.int32)
                for name, array in self._layer(layer, held).items():
                    arrays[f"{name} {layer}"] = array
        return header, arrays

    def answer_layer(self, layer: int) -> tuple[dict[str, Any], dict[str, Packed]]:
        """What was recorded of all neurons of a layer, each (position, neuron)."""
        return {}, self._layer(pick(self.trace, "layer", layer), None)

    def answer_favourites(self, layer: int, neuron: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where a neuron is strongest over this trace and the others, each with its context."""
        found = favourite_positions(
            [self.trace, *self.others], layer=layer, neuron=neuron, count=COUNT
        )
        several = (self.trace, *self.others)
        tokens = [tokens_of(trace) for trace in several]
        rows = []
        for number, place, value in zip(
            found["trace"].values.tolist(),
            found["position"].values.tolist(),
            found["neuron_activation"].values.tolist(),
            strict=True,
        ):
            position = several[number]["position"].values.tolist().index(place)
            start = max(position - CONTEXT, 0)
            rows.append({
                "trace": number,
                "position": position,
                "value": value,
                "tokens": tokens[number][start : position + CONTEXT + 1],
                "at": position - start,
            })  # fmt: skip
        return {"favourites": rows}, {}

    def _layer(self, layer: int, neurons: np.ndarray | None) -> dict[str, Packed]:
        """What was recorded of a layer, of some of its neurons or of all."""
        found: dict[str, np.ndarray] = {
            name: self.trace[name].sel(layer=layer).values
            for name in ("gate", "up") if name in self._sent
        }  # fmt: skip
        if "product" in self._sent:
            found["product"] = neuron_activation(self.trace, layer).values
        chosen = slice(None) if neurons is None else neurons
        return {
            name: as_float16(np.clip(values[:, chosen], -LARGEST_HALF, LARGEST_HALF))
            for name, values in found.items()
        }

    @property
    def _sent(self) -> tuple[str, ...]:
        """What the page gets of each layer; the product of gate and up it can compute itself.

        Not that of a run that was intervened on: there it may be another one.
        """
        recorded = tuple(name for name in ("gate", "up") if name in self.trace)
        if len(recorded) == 2 and not self.trace.attrs.get("edited"):
            return recorded
        return (*recorded, "product")

    def _n_held(self, room: int) -> int:
        """How many neurons of each layer fit into so many bytes."""
        for_one = 2 * len(self._sent) * self.trace.sizes["position"] * len(self.layers)
        return int(np.clip(room // for_one, min(FEWEST_NEURONS, self.n_neurons), self.n_neurons))

    def _strongest(self, layer: int, count: int) -> np.ndarray:
        """The neurons that are largest anywhere, by number; the one in view is among them."""
        size = np.nan_to_num(np.abs(neuron_activation(self.trace, layer).values))
        in_view = self._largest_on_average(size)
        if layer == self.state["layer"] and self.state["neuron"] is not None:
            in_view = self.state["neuron"]
        size = size.max(axis=0)
        size[in_view] = np.inf
        return np.sort(np.argsort(-size, kind="stable")[:count])

    def _missing(self) -> str:
        """What was not recorded, and how to record it."""
        lacking = [name for name in VARIABLES if name not in self.trace]
        if "neuron_activation" in lacking:  # it follows from gate and up
            lacking.remove("neuron_activation")
        if not lacking:
            return ""
        taps = ", ".join(f'"{name}"' for name in lacking)
        return (
            f"This trace has no {' and no '.join(lacking)}; record it with "
            f"lv.record(lm, prompt, taps=[{taps}, ...]), or with taps=None for all."
        )

    # For the reader

    @property
    def neuron(self) -> int:
        """The neuron in view: the one that is picked, else the largest of the layer on average."""
        if self.state["neuron"] is not None:
            return int(self.state["neuron"])
        return self._largest_on_average(
            np.nan_to_num(np.abs(neuron_activation(self.trace, self.state["layer"]).values))
        )

    @staticmethod
    def _largest_on_average(size: np.ndarray) -> int:
        return int(size.astype(np.float64).mean(axis=0).argmax())

    def favourites(
        self, traces: xr.Dataset | Sequence[xr.Dataset] | None = None, *, count: int = COUNT
    ) -> xr.Dataset:
        """Where the neuron in view is largest, in these traces or in the explorer's own ones.

        As analysis.favourite_positions returns it.
        """
        if traces is None:
            traces = [self.trace, *self.others]
        return favourite_positions(
            traces, layer=self.state["layer"], neuron=self.neuron, count=count
        )

    # Without a kernel

    def picture(self) -> Figure:
        """The strongest neurons of the layer along the text, and the one in view on its curve."""
        return figures.neurons(
            self.trace, layer=self.state["layer"], neuron=self.neuron,
            position=int(self.trace["position"].values[self.state["position"]]),
        )  # fmt: skip

    def describe(self) -> str:
        """The explorer in words."""
        state, trace = self.state, self.trace
        layer, neuron = state["layer"], self.neuron
        share = neurons_near_zero(trace.sel(layer=[layer]), state["threshold"]).values
        found = favourite_positions(trace, layer=layer, neuron=neuron, count=3)
        places = ", ".join(
            f"{token} ({value:.3g})"
            for token, value in zip(
                found["token"].values, found["neuron_activation"].values, strict=True
            )
        )
        return "\n".join([
            f"Feed-forward explorer: {self.n_neurons} neurons in each of {len(self.layers)} layers "
            f"of {trace.attrs.get('model', 'a model')}, {trace.sizes['position']} positions.",
            f"Layer {layer}, neuron {neuron}, position {state['position']}.",
            f"|SiLU(gate) × up| is below {state['threshold']:g} in {share.mean():.0%} of the "
            f"neurons of this layer, in {share[0, state['position'], 0]:.0%} at this position.",
            f"Neuron {neuron} is largest at: {places}.",
        ])  # fmt: skip


def _bytes(array: np.ndarray | Packed) -> int:
    return (array.stored if isinstance(array, Packed) else array).nbytes
