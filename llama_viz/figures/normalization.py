"""Normalization: how large the residual stream is where norms read it, and what they make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator, NullLocator

from llama_viz.analysis import (
    RESIDUALS,
    norm_names,
    normalized,
    pick,
    relative_size,
    require,
    share_of_mean_square,
)
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

FIRST, OTHERS = style.QUALITATIVE[1], style.QUALITATIVE[0]


@styled
def rms(trace: xr.Dataset) -> Picture:
    """The root mean square that each RMSNorm divides by, at each position and growing with depth.

    Left every norm (rows, the first one at the bottom) at every position; right the first position,
    which often stands out, and the median and range of the others. Logarithmic scales.
    """
    require(trace, "rms")
    values = trace["rms"].values.astype(np.float64)
    tokens = [str(token) for token in trace["token"].values]
    names = norm_names(trace)
    n_norms, n_positions = values.shape

    left, across, right = 0.2 + style.label_room(names), 2.35, 0.25
    wide = style.WIDTH - left - across - right - 1.0
    positions = trace["position"].values.tolist()
    labels, _ = style.token_labels(tokens, wide, positions=positions)
    bottom = 0.45 + style.label_room(labels)
    up = float(np.clip(0.3 * n_norms, 1.5, 5.0))
    figure = Picture(
        f"RMS of {n_norms} norms at {n_positions} positions",
        style.WIDTH, bottom + up + 0.45 + style.HEADING,
    )  # fmt: skip
    figure.heading("The root mean square that each RMSNorm divides by", _what_stands_out(trace),
                   gid="detail (measured)")  # fmt: skip

    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    scale = LogNorm(lowest, highest if highest > lowest else 1.1 * lowest)
    panel = figure.panel("norms and positions", left, bottom, wide, up)
    image = panel.imshow(values, cmap=style.SIZE, norm=scale, aspect="auto", origin="lower")
    image.set_gid("rms")
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_title("each norm at each position")
    style.token_axis(panel.xaxis, tokens, wide, positions=positions)
    rows = style.fitting_ticks(n_norms, up)
    if len(rows) < n_norms:  # always the same norm of a layer
        rows = list(range(0, n_norms, rows[1] + rows[1] % 2))
    style.label_axis(panel.yaxis, [names[row] for row in rows], rows)
    panel.set_xlabel("position")
    ticks = style.round_values(lowest, highest)
    bar = figure.colour_bar("colours", image, "", left + wide + 0.12, bottom, 0.12, up)
    bar.yaxis.set_minor_locator(NullLocator())
    bar.set_yticks(ticks, [f"{tick:g}" for tick in ticks])

    growth = figure.panel(
        "growth with depth", style.WIDTH - across - right, bottom, across, up, sharey=panel
    )
    _draw_growth(growth, values)
    few = style.round_values(lowest, highest, most=5)
    growth.set_xticks(few, [f"{tick:g}" for tick in few])
    growth.set_xlim(lowest / 1.15, highest * 1.15)
    growth.set_xlabel("root mean square")
    top = bottom + up
    start = style.WIDTH - across - right
    figure.write("first position", f"position {positions[0]}: {style.shortened(tokens[0])}",
                 start, top + 0.34, color=FIRST)  # fmt: skip
    if n_positions > 1:
        figure.write("other positions", "median and range of the others",
                     start, top + 0.1, color=OTHERS)  # fmt: skip
    return figure


@styled
def vector_through_norm(
    trace: xr.Dataset, *, layer: int, position: int, residual: str = "residual_in"
) -> Picture:
    """One vector of the residual stream, feature by feature: as it is, scaled, and times the gain.

    residual is "residual_in" (what the norm before attention reads), "residual_middle" (before the
    feed-forward) or "residual_out" (the next block's, or the final one). Raises ValueError for what
    is not there.
    """
    require(trace, residual, "norm_gain")
    layer, position = pick(trace, "layer", layer), pick(trace, "position", position)
    place = {"layer": layer, "position": position}
    norm = pick(trace, "norm", 2 * layer + RESIDUALS.index(residual))
    scaled = normalized(trace, residual).sel(place).values
    gain = trace["norm_gain"].sel(norm=norm).values.astype(np.float64)
    size = relative_size(trace, residual).sel(place).values
    share = share_of_mean_square(trace, residual).sel(place).values
    lanes = {
        residual: trace[residual].sel(place).values.astype(np.float64),
        "divided by its RMS": scaled,
        "gain": gain,
        "scaled, times gain": scaled * gain,
    }
    left, bottom, up, title = 0.75, 0.6, 0.75, 0.32
    high = len(lanes) * (up + title)
    figure = Picture(
        f"{residual} of layer {layer} at position {position}",
        style.WIDTH, bottom + high + style.HEADING,
    )  # fmt: skip
    token = dict(zip(trace["position"].values.tolist(), trace["token"].values, strict=True))
    largest = int(np.nan_to_num(size).argmax())
    figure.heading(
        f"{residual} of layer {layer} at position {position}, "
        f"{style.shortened(str(token[position]))}: what its norm makes of it",
        f"feature {largest} is {size[largest]:.2g} times the median size and makes "
        f"{share[largest]:.0%} of the mean square",
        gid="detail (measured)",
    )
    feature = np.arange(len(gain))
    for index, (name, values) in enumerate(lanes.items()):
        edge = bottom + (len(lanes) - 1 - index) * (up + title)
        lane = figure.panel(name, left, edge, style.WIDTH - left - 0.25, up)
        lane.vlines(feature, 0, values, color=FIRST if name == "gain" else OTHERS, lw=1, gid="size")
        lane.axhline(0, color=style.LINE, lw=0.8, gid="zero")
        lane.set_xlim(-1, len(gain))
        lane.set_title(name, size=style.SMALL, pad=4)
        lane.yaxis.set_major_locator(MaxNLocator(3))
        lane.tick_params(labelbottom=index == len(lanes) - 1)
    lane.set_xlabel("feature")
    return figure


def _draw_growth(panel: Axes, values: np.ndarray) -> None:
    """Norms upward, RMS across: the first position as a line, the others as median and range."""
    depth = np.arange(len(values))
    look: Any = {"ms": 4.0 if len(values) <= 30 else 2.0, "lw": 1.2}
    if values.shape[1] > 1:
        others = values[:, 1:]
        low, high = np.nanmin(others, axis=1), np.nanmax(others, axis=1)
        panel.fill_betweenx(depth, low, high, color=OTHERS, alpha=0.15, lw=0, gid="range of others")
        median = np.nanmedian(others, axis=1)
        panel.plot(median, depth, "o-", color=OTHERS, gid="median of others", **look)
    panel.plot(values[:, 0], depth, "o-", color=FIRST, gid="first position", **look)
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(labelleft=False, left=False)
    panel.spines["left"].set_visible(False)
    panel.grid(axis="x", color=style.FAINT, lw=0.8)
    panel.set_axisbelow(True)


def _what_stands_out(trace: xr.Dataset) -> str:
    """How the median grows, and the position and norm farthest from their neighbours."""
    values = trace["rms"].values.astype(np.float64)
    median = np.nanmedian(values, axis=1)
    growth = f"the median goes from {median[0]:.2g} to {median[-1]:.2g}"
    ratio = values / median[:, None]
    norm, position = np.unravel_index(np.nanargmax(np.abs(np.log(ratio))), ratio.shape)
    if values.shape[1] == 1:
        return growth
    token = style.shortened(str(trace["token"].values[position]))
    times = ratio[norm, position]
    times_in_words = f"{times:.0f}" if times >= 10 else f"{times:.2g}"
    return (
        f"{growth}; farthest from it: position {trace['position'].values[position]}, {token}, "
        f"{times_in_words} times the median at {norm_names(trace)[norm]}"
    )
