"""Neurons of the feed-forward: one on the SiLU curve, the strongest ones along the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize

from llama_viz.analysis import neuron_activation, pick, require, silu
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

MOST_ROWS = 32
COLOURED = 99  # percent of the numbers in view that the colours reach
POSITIVE, NEGATIVE, PICKED = style.QUALITATIVE[0], style.QUALITATIVE[1], style.QUALITATIVE[2]


@styled
def neurons(
    trace: xr.Dataset, *, layer: int, neuron: int | None = None, position: int | None = None
) -> Picture:
    """The strongest neurons of a layer along the text, and one neuron on the SiLU curve.

    Rows are neurons with the largest |silu(gate) x up| anywhere, the largest first, marked where
    the neuron (None: the first row) and the position are. The curve is drawn where gate and up were
    recorded: a dot for each position, its size |up|.
    """
    product = neuron_activation(trace, layer)
    values = product.values.astype(np.float64)
    n_neurons = values.shape[1]
    size = np.nan_to_num(np.abs(values)).max(axis=0)
    rows = np.argsort(-size, kind="stable")[:MOST_ROWS]
    chosen = int(rows[0]) if neuron is None else neuron
    if isinstance(chosen, bool) or chosen not in range(n_neurons):
        raise unknown_name("neuron", chosen, [f"0 to {n_neurons - 1}"])
    if position is not None:
        position = pick(trace, "position", position)
    if chosen not in rows:
        rows = np.append(rows[:-1], chosen)
    has_gate = {"gate", "up"} <= set(trace.data_vars)

    tokens = [str(token) for token in trace["token"].values]
    left, across, right, bar = 0.75, 2.6 if has_gate else 0.0, 0.2, 0.85
    wide = style.WIDTH - left - bar - right - (across + 0.7 if has_gate else 0.0)
    labels, _ = style.token_labels(tokens, wide)
    bottom = 0.45 + style.label_room(labels)
    up = float(np.clip(0.17 * len(rows), 2.2, 5.0))
    figure = Picture(
        f"{len(rows)} of {n_neurons} neurons of layer {layer}",
        style.WIDTH, bottom + up + 0.45 + style.HEADING,
    )  # fmt: skip
    figure.heading(
        f"Neurons of the feed-forward in layer {layer}",
        f"the {len(rows)} of {n_neurons} with the largest |SiLU(gate) × up|, largest on top; "
        "colours end at 99% of the numbers in view",
    )
    panel = figure.panel("neurons", left, bottom, wide, up)
    drawn = values[:, rows].T
    # A few numbers, often those of the first token, are many times as large as all others.
    limit = float(np.nanpercentile(np.abs(drawn), COLOURED)) or 1.0
    image = panel.imshow(drawn, cmap=style.SIGNED, norm=Normalize(-limit, limit), aspect="auto",
                         interpolation="nearest")  # fmt: skip
    image.set_gid("SiLU(gate) × up")
    panel.set_facecolor(style.MASKED)
    style.token_axis(panel.xaxis, tokens, wide, positions=trace["position"].values.tolist())
    ticks = style.fitting_ticks(len(rows), up)
    style.label_axis(panel.yaxis, [str(rows[tick]) for tick in ticks], ticks)
    panel.set_ylabel("neuron")
    panel.set_xlabel("position")
    panel.set_title("SiLU(gate) × up")
    (row,) = np.flatnonzero(rows == chosen)
    panel.axhspan(row - 0.5, row + 0.5, fc="none", ec=PICKED, lw=1.6, gid="picked neuron")
    if position is not None:
        column = int(np.flatnonzero(trace["position"].values == position)[0])
        panel.axvspan(column - 0.5, column + 0.5, fc="none", ec=PICKED, lw=1.6, gid="position")
    figure.colour_bar("colours", image, "", left + wide + 0.12, bottom, 0.12, up)
    if has_gate:
        curve = figure.panel("curve", style.WIDTH - across - right, bottom, across, up)
        _draw_curve(curve, trace, layer, chosen)
        figure.write("legend", "blue: up > 0, orange: up < 0, size: |up|",
                     style.WIDTH - across - right, bottom - 0.75, size=9)  # fmt: skip
    return figure


def _draw_curve(panel: Axes, trace: xr.Dataset, layer: int, neuron: int) -> None:
    """SiLU, and on it the gate of the neuron at every position."""
    require(trace, "gate", "up")
    gate = trace["gate"].sel(layer=layer).values[:, neuron].astype(np.float64)
    up = trace["up"].sel(layer=layer).values[:, neuron].astype(np.float64)
    low, high = min(np.nanmin(gate), -4.0) - 0.3, max(np.nanmax(gate), 2.0) + 0.3
    x = np.linspace(low, high, 301)
    panel.axhline(0, color=style.LINE, lw=0.8)
    panel.axvline(0, color=style.LINE, lw=0.8)
    panel.plot(x, silu(x), color=style.INK, lw=1.2, gid="SiLU")
    largest = np.nanmax(np.abs(up)) or 1.0
    colours = np.where(up < 0, NEGATIVE, POSITIVE)
    panel.scatter(gate, silu(gate), s=8 + 70 * np.abs(up) / largest, c=colours, alpha=0.6, lw=0,
                  gid="positions", zorder=3)  # fmt: skip
    panel.set_xlabel("gate")
    panel.set_title(f"neuron {neuron}: SiLU(gate)")
