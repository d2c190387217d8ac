"""Neurons of the feed-forward: along the text, on the SiLU curve, near zero, favourite tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.ticker import NullLocator

from llama_viz.analysis import neuron_activation, neurons_near_zero, pick, require, silu
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

MOST_ROWS = 32
COLOURED = 99  # percent of the numbers in view that the colours reach
POSITIVE, NEGATIVE, PICKED = style.QUALITATIVE[0], style.QUALITATIVE[1], style.QUALITATIVE[2]
THRESHOLDS = tuple(float(threshold) for threshold in np.geomspace(1e-3, 10, 41))


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
    chosen = _neuron(int(rows[0]) if neuron is None else neuron, n_neurons)
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


@styled
def gate_along(trace: xr.Dataset, *, layer: int, neuron: int) -> Picture:
    """One neuron along the text: its gate before and after SiLU, its up, and their product.

    Columns are numbers at the positions, each panel on a scale of its own: blue where the gate is
    open (above 0), orange where it is closed; the marks in the first panel are SiLU(gate).
    """
    require(trace, "gate", "up")
    layer = pick(trace, "layer", layer)
    gates, product = trace["gate"].sel(layer=layer).values, neuron_activation(trace, layer).values
    neuron = _neuron(neuron, gates.shape[1])
    gate = gates[:, neuron].astype(np.float64)
    rows = {
        "gate": gate,
        "up": trace["up"].sel(layer=layer).values[:, neuron].astype(np.float64),
        "SiLU(gate) × up": product[:, neuron].astype(np.float64),
    }
    tokens = [str(token) for token in trace["token"].values]
    left, right, high, gap = 0.65, 0.2, 0.95, 0.4
    wide = style.WIDTH - left - right
    labels, _ = style.token_labels(tokens, wide)
    bottom = 0.4 + style.label_room(labels)
    height = bottom + len(rows) * (high + gap) + style.HEADING
    figure = Picture(f"neuron {neuron} of layer {layer} along the text", style.WIDTH, height)
    n_open = int((gate > 0).sum())
    figure.heading(
        f"Neuron {neuron} of layer {layer}: a gate that opens and closes",
        f"blue: the gate is above 0, at {n_open} of {len(gate)} positions; orange: it is not; "
        "dashes: SiLU(gate)",
    )
    colours = [POSITIVE if number > 0 else NEGATIVE for number in gate]
    places = np.arange(len(gate))
    for row, (name, values) in enumerate(rows.items()):
        panel = figure.panel(
            name, left, bottom + (len(rows) - 1 - row) * (high + gap), wide, high
        )  # fmt: skip
        panel.vlines(places, 0, values, colors=colours, lw=0.6 * 72 * wide / len(gate), gid=name)
        panel.axhline(0, color=style.LINE, lw=0.8, gid="zero")
        if name == "gate":
            panel.plot(places, silu(gate), "_", color=style.INK, ms=0.8 * 72 * wide / len(gate),
                       gid="SiLU(gate)")  # fmt: skip
        panel.set_xlim(-0.6, len(gate) - 0.4)
        panel.margins(y=0.12)
        panel.locator_params(axis="y", nbins=4)
        panel.set_title(name, size=style.SMALL, pad=3)
        if row < len(rows) - 1:
            panel.set_xticks([])
            panel.spines["bottom"].set_visible(False)
        else:
            numbers = trace["position"].values.tolist()
            style.token_axis(panel.xaxis, tokens, wide, positions=numbers)
            panel.set_xlabel("position")
    return figure


@styled
def near_zero(trace: xr.Dataset, *, threshold: float = 0.05) -> Picture:
    """How many neurons have |silu(gate) x up| below a threshold: over all thresholds, by position.

    Left a curve for each layer, means over the positions, the threshold dotted; right the share
    below the threshold at every position.
    """
    share = neurons_near_zero(trace, THRESHOLDS).mean("position")
    below = neurons_near_zero(trace, threshold).isel(threshold=0)
    layers = [int(layer) for layer in trace["layer"].values]
    tokens = [str(token) for token in trace["token"].values]
    left, gap, right, across, up = 0.7, 0.5, 0.25, 3.4, 2.7
    wide = style.WIDTH - left - across - gap - right
    labels, _ = style.token_labels(tokens, wide)
    bottom = max(0.6, 0.4 + style.label_room(labels))
    figure = Picture("neurons near zero", style.WIDTH, bottom + up + 0.7 + style.HEADING)
    figure.heading(
        "How many neurons are near zero?",
        "share of the neurons with |SiLU(gate) × up| below a threshold; left: over thresholds; "
        f"right: below {threshold:g}, by position",
    )
    looks = dict(zip(layers, style.distinct(len(layers)), strict=True))
    curves = figure.panel("thresholds", left, bottom, across, up)
    along = figure.panel("positions", left + across + gap, bottom, wide, up)
    for layer, look in looks.items():
        line = {"color": look.colour, "ls": look.dashes, "lw": 1.8, "gid": f"layer {layer}",
                "label": f"layer {layer}"}  # fmt: skip
        curves.plot(THRESHOLDS, share.sel(layer=layer).values, **line)
        along.plot(np.arange(len(tokens)), below.sel(layer=layer).values, **line)
    curves.axvline(threshold, color=style.QUIET, lw=1, ls=":", gid="threshold")
    curves.set_xscale("log")
    ticks = style.round_values(THRESHOLDS[0], THRESHOLDS[-1])
    curves.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    curves.xaxis.set_minor_locator(NullLocator())
    curves.set_xlabel("threshold (logarithmic)")
    curves.set_ylabel("share of the neurons")
    style.token_axis(along.xaxis, tokens, wide, positions=trace["position"].values.tolist())
    along.set_xlabel("position")
    along.tick_params(labelleft=False)
    for panel in (curves, along):
        panel.set_ylim(0, 1)
        panel.grid(axis="y", color=style.FAINT, lw=0.8)
        panel.set_axisbelow(True)
    figure.legend(
        *curves.get_legend_handles_labels(), loc="upper left", ncols=min(len(layers), 8),
        frameon=False, fontsize=style.SMALL, borderaxespad=0,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height),
    ).set_gid("layers")  # fmt: skip
    return figure


@styled
def favourite_tokens(favourites: xr.Dataset, *, count: int = 12) -> Picture:
    """What analysis.favourite_tokens found: a column for each of the first tokens.

    The column is the mean of SiLU(gate) × up over the occurrences, whose number stands below the
    token; the thin line reaches from the lowest to the highest of them. Raises ValueError where
    there are no tokens.
    """
    rows = favourites.isel(rank=slice(0, count))
    n_rows = rows.sizes["rank"]
    if not n_rows:
        raise ValueError("there are no tokens to draw; ask for at_least fewer occurrences")
    layer, neuron = favourites.attrs["layer"], favourites.attrs["neuron"]
    labels = [
        f"{style.shortened(str(token))}  {occurrences}×"
        for token, occurrences in zip(rows["token"].values, rows["occurrences"].values, strict=True)
    ]
    left, right, up = 0.7, 0.2, 2.4
    bottom = 0.15 + style.label_room(labels)
    figure = Picture(f"favourite tokens of neuron {neuron} of layer {layer}",
                     style.WIDTH, bottom + up + 0.1 + style.HEADING)  # fmt: skip
    figure.heading(
        f"Neuron {neuron} of layer {layer}: its favourite tokens",
        f"columns: mean of SiLU(gate) × up; lines: lowest to highest; the first {n_rows} of "
        f"{favourites.sizes['rank']} tokens",
    )
    panel = figure.panel("means", left, bottom, style.WIDTH - left - right, up)
    places, means = np.arange(n_rows), rows["mean"].values
    panel.bar(places, means, 0.6, color=np.where(means < 0, NEGATIVE, POSITIVE).tolist(),
              gid="mean")  # fmt: skip
    panel.vlines(places, rows["lowest"].values, rows["highest"].values, color=style.INK, lw=1.2,
                 gid="lowest to highest")  # fmt: skip
    panel.axhline(0, color=style.LINE, lw=0.8, gid="zero")
    panel.set_xlim(-0.6, max(n_rows, 4) - 0.4)
    style.label_axis(panel.xaxis, labels, places.tolist())
    return figure


def _neuron(neuron: int, n_neurons: int) -> int:
    """The neuron, or ValueError where there is none of that number."""
    if isinstance(neuron, bool) or neuron not in range(n_neurons):
        raise unknown_name("neuron", neuron, [f"0 to {n_neurons - 1}"])
    return int(neuron)
