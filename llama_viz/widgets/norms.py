"""The norms explorer: the residual stream, feature by feature, and what a norm makes of it.

The page gets the recorded residual stream and normalizes it itself: as the model does, and as
LayerNorm would. So a reader can add to a vector, or scale it, and see which norm notices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz import figures
from llama_viz.analysis import RESIDUALS, config_of, relative_size, require, share_of_mean_square
from llama_viz.figures.style import words
from llama_viz.widgets.explorer import Between, Choice, Explorer, Field, trace_of
from llama_viz.widgets.messages import tokens_of
from llama_viz.widgets.packing import as_float16

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from llama_viz.language_model import LanguageModel
    from llama_viz.widgets.packing import Packed

RECORDED = ("rms", "norm_gain", *RESIDUALS)
# Up to this size the whole residual stream is sent at once, in full precision.
AT_HAND_BYTES = 32_000_000
FARTHEST = 3.0  # how much can be added, in RMS of the vector; and the powers of ten to scale by


class NormsExplorer(Explorer):
    """RMS at every norm, the residual stream feature by feature, and RMSNorm beside LayerNorm.

    source is a trace with rms, norm_gain, residual_in, residual_middle and residual_out, or some of
    them (what is missing is said in the page), or a model together with a prompt. Fields of the
    state: layer, residual, position, feature (None: the largest), scale, order; constant (in RMS of
    the vector) and power (of ten), which change the vector.

    Raises ValueError where the trace holds neither RMS nor any of the residual stream.
    """

    page, title = "norms", "Normalization"

    def __init__(
        self,
        source: xr.Dataset | LanguageModel,
        prompt: str | Sequence[int] | None = None,
        **state: Any,
    ) -> None:
        self.trace = trace_of(source, prompt, RECORDED)
        self.residuals = [name for name in RESIDUALS if name in self.trace]
        if "rms" not in self.trace and not self.residuals:
            require(self.trace, "rms", *RESIDUALS)
        self.config = config_of(self.trace)
        self.layers = [int(layer) for layer in self.trace["layer"].values]
        super().__init__(**state)

    def fields(self) -> dict[str, Field]:
        """What can be picked."""
        positions = [int(position) for position in self.trace["position"].values]
        return {
            "layer": Choice(self.layers, self.layers[0]),
            "residual": Choice(RESIDUALS, [*self.residuals, RESIDUALS[0]][0]),
            "position": Choice(positions, positions[-1]),
            "feature": Choice(range(self.config.dim), None, optional=True),
            "scale": Choice(("logarithmic", "linear"), "logarithmic"),
            "order": Choice(("feature", "size", "gain"), "feature"),
            "constant": Between(-FARTHEST, FARTHEST, 0.0),
            "power": Between(-FARTHEST, FARTHEST, 0.0),
        }

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Tokens, RMS, gains, and the residual stream; one place of it where it is large."""
        is_small = self._n_bytes <= AT_HAND_BYTES
        is_exact = is_small or not whole
        stages = self._stages()
        norms, rms = self._rms(stages)
        arrays: dict[str, np.ndarray | Packed] = {"rms": rms, "median": self._medians(stages)}
        if "norm_gain" in self.trace:
            arrays["norm_gain"] = self.trace["norm_gain"].values
        sent = stages
        if not (whole or is_small):
            sent = [(self.state["layer"], self.state["residual"])]
        for layer, residual in sent:
            if residual in self.residuals:
                arrays |= self._vectors(layer, residual, is_exact=is_exact)
        header = {
            "tokens": tokens_of(self.trace),
            "positions": self.trace["position"].values.tolist(),
            "layers": self.layers,
            "n_layers": self.config.n_layers,
            "dim": self.config.dim,
            "eps": self.config.norm_eps,
            "norms": norms,
            "gain_norms": self.trace["norm"].values.tolist() if "norm_gain" in self.trace else [],
            "rms_is_recorded": "rms" in self.trace,
            "residuals": self.residuals,
            "stages": [[layer, residual] for layer, residual in stages],
            "farthest": FARTHEST,
            "notes": self._notes(is_exact),
        }
        return header, arrays

    def answer_vectors(
        self, layer: Any, residual: Any
    ) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """The residual stream at one place, all positions and features."""
        layer = self.fields()["layer"].checked("layer", layer)
        residual = self.fields()["residual"].checked("residual", residual)
        require(self.trace, residual)
        return {}, self._vectors(layer, residual, is_exact=True)

    def answer_feature(self, feature: Any) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """One feature of the residual stream at every place and position."""
        feature = self.fields()["feature"].checked("feature", feature)
        rows = [
            self.trace[residual].sel(layer=layer).values[:, feature]
            for layer, residual in self._stages()
        ]
        return {}, {"feature": np.array(rows, dtype=np.float32)}

    def picture(self) -> Figure:
        """The vector through its norm; RMS alone, or words, where the rest was not recorded."""
        state = self.state
        has_norm = "norm_gain" in self.trace and self._norm in self.trace["norm"].values
        if state["residual"] in self.residuals and has_norm:
            shown = {name: state[name] for name in ("layer", "position", "residual")}
            return figures.vector_through_norm(self.trace, **shown)
        if "rms" in self.trace:
            return figures.rms(self.trace)
        return words("Normalization", " ".join(self._notes(is_exact=True)))

    def describe(self) -> str:
        """The picture in words: the vector, its RMS and its largest features."""
        state = self.state
        layer, residual, position = state["layer"], state["residual"], state["position"]
        positions = self.trace["position"].values.tolist()
        label = str(self.trace["token"].values[positions.index(position)])
        start = f"Normalization, {residual} of layer {layer}, position {position} ({label})."
        if residual not in self.residuals:
            return " ".join([start, *self._notes(is_exact=True)])
        place = {"layer": layer, "position": position}
        vector = self.trace[residual].sel(place).values.astype(np.float64)
        size = relative_size(self.trace, residual).sel(place).values
        share = share_of_mean_square(self.trace, residual).sel(place).values
        most = np.argsort(-np.abs(vector))[:3]
        listed = "; ".join(
            f"feature {feature} {size[feature]:.3g} times the median, {share[feature]:.1%} of the "
            "mean square"
            for feature in most
        )
        rms = np.sqrt((vector**2).mean() + self.config.norm_eps)
        return f"{start} RMS {rms:.5g}. Largest: {listed}."

    # What is sent

    @property
    def _norm(self) -> int:
        """The number of the norm that reads what is picked."""
        return 2 * self.state["layer"] + RESIDUALS.index(self.state["residual"])

    def _stages(self) -> list[tuple[int, str]]:
        """Every recorded place of the residual stream once: out of a block is into the next one."""
        return [
            (layer, residual)
            for layer in self.layers
            for residual in self.residuals
            if residual != "residual_out"
            or "residual_in" not in self.residuals
            or layer + 1 not in self.layers
        ]

    def _rms(self, stages: list[tuple[int, str]]) -> tuple[list[int], np.ndarray]:
        """The numbers of the norms, and RMS by norm and position: recorded, else computed."""
        if "rms" in self.trace:
            return self.trace["norm"].values.tolist(), self.trace["rms"].values
        rows = [
            np.sqrt((self._at(*stage).astype(np.float64) ** 2).mean(axis=-1) + self.config.norm_eps)
            for stage in stages
        ]
        norms = [2 * layer + RESIDUALS.index(residual) for layer, residual in stages]
        return norms, np.array(rows, dtype=np.float32)

    def _medians(self, stages: list[tuple[int, str]]) -> np.ndarray:
        """The median size of a feature, by stage and position."""
        rows = [np.median(np.abs(self._at(*stage)), axis=-1) for stage in stages]
        return np.array(rows, dtype=np.float32).reshape(len(stages), self.trace.sizes["position"])

    def _at(self, layer: int, residual: str) -> np.ndarray:
        return self.trace[residual].sel(layer=layer).values

    def _vectors(
        self, layer: int, residual: str, *, is_exact: bool
    ) -> dict[str, np.ndarray | Packed]:
        values = self._at(layer, residual)
        return {f"{residual} {layer}": values if is_exact else as_float16(values)}

    @property
    def _n_bytes(self) -> int:
        return sum(4 * self.trace[residual].size for residual in self.residuals)

    def _notes(self, is_exact: bool) -> list[str]:
        """What the reader must know of this trace: what it lacks, and how exact it is."""
        notes = []
        missing = [name for name in RECORDED if name not in self.trace]
        if missing:
            taps = ", ".join(f'"{name}"' for name in missing)
            notes.append(
                f"Not recorded: {', '.join(missing)}. "
                f"Record with lv.record(lm, prompt, taps=[{taps}, ...])."
            )
        if not is_exact:
            notes.append("This page holds the residual stream with three digits (float16).")
        return notes
