"""The KV cache: how it grows while text is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from llama_viz.analysis import ITEMSIZE, cache_bytes, config_of, require
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

FEWEST_STEPS = 8  # room is kept for so many, so that a single step is not one fat bar


@styled
def cache_growth(trace: xr.Dataset) -> Picture:
    """Bytes that the KV cache holds after each step, layer upon layer, with the formula on top.

    The grey line is what the cache reserved, the dashed one 2 x layers x kv_heads x head_dim x
    positions x bytes per number. Step 0 is the prefill.
    """
    require(trace, "cache_bytes_used", "cache_bytes_reserved")
    used = trace["cache_bytes_used"].values
    reserved = trace["cache_bytes_reserved"].values.sum(axis=1)
    formula = cache_bytes(trace).values.sum(axis=1)
    steps, layers = trace["step"].values, trace["layer"].values
    edges = np.append(steps, steps[-1] + 1) - 0.5

    left, bottom, across, up = 0.95, 0.75, 7.55, 3.3
    figure = Picture(
        f"KV cache over {len(steps)} steps", style.WIDTH, bottom + up + 0.15 + style.HEADING
    )
    held = in_bytes(int(used[-1].sum()))
    figure.heading(f"KV cache: {held} held after step {steps[-1]}", _formula_in_words(trace))

    panel = figure.panel("bytes", left, bottom, across, up)
    base = np.zeros(len(steps))
    colours = style.ramp(len(layers))
    for layer, colour, height in zip(layers, colours, used.T, strict=True):
        panel.stairs(base + height, edges, baseline=base, fill=True, color=colour,
                     gid=f"layer {layer}")  # fmt: skip
        base = base + height
    dashed: Any = {"color": style.QUALITATIVE[1], "lw": 1.6, "ls": (0, (3, 1.5))}
    panel.stairs(reserved, edges, baseline=None, color=style.QUIET, lw=1.2, gid="reserved")
    panel.stairs(formula, edges, baseline=None, gid="formula", **dashed)
    if len(steps) > 1:
        panel.axvline(
            edges[1], ymax=1 / 1.12, color=style.QUIET, lw=0.8, ls=":", gid="end of prefill"
        )
    n_steps = max(len(steps), FEWEST_STEPS)
    highest = float(max(reserved.max(), formula.max(), base.max(), 1))
    panel.set_xlim(edges[0], edges[0] + n_steps)
    panel.set_ylim(0, 1.12 * highest)
    panel.text(edges[0] + 0.005 * n_steps, reserved[0] + 0.015 * highest,
               f"reserved: {in_bytes(int(reserved[-1]))}", color=style.QUIET, size=style.SMALL,
               gid="reserved")  # fmt: skip
    panel.xaxis.set_major_locator(style.whole_numbers())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda size, _: in_bytes(int(size))))
    _name_layers(panel, used, layers, colours, edges[-1], 1.12 * highest, up)
    _name_phases(figure, trace, left, across / n_steps)
    figure.write("steps", "step", left + across, 0.2, ha="right", size=style.TEXT_SIZE)
    return figure


def in_bytes(size: int) -> str:
    """Bytes in a unit that reads well, in thousands: 812 B, 23.04 kB, 1.5 GB."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"


def _formula_in_words(trace: xr.Dataset) -> str:
    """The formula with this model's numbers, and whether the recording agrees."""
    config = config_of(trace)
    n_layers, itemsize = trace.sizes["layer"], ITEMSIZE[trace.attrs["dtype"]]
    differing = (trace["cache_bytes_used"] != cache_bytes(trace)).any("layer").sum()
    agreement = f"not equal at {int(differing)} steps" if differing else "equal at every step"
    counted = " × ".join(
        f"{count} {thing}{'s' * (count != 1)}"
        for count, thing in ((n_layers, "layer"), (config.n_kv_heads, "key/value head"))
    )
    return (
        f"dashed: 2 × {counted} × "
        f"{config.head_dim} features × positions × {itemsize} bytes; {agreement}"
    )


def _name_layers(
    panel: Axes,
    used: np.ndarray,
    layers: np.ndarray,
    colours: list[Any],
    end: float,
    top: float,
    height: float,
) -> None:
    """Write each layer's name beside its band; only first and last where bands are thin."""
    tops = used[-1].cumsum()
    middles = tops - used[-1] / 2
    thin = used[-1].min() * height / top < 1.2 * style.SMALL / 72
    for index, (layer, colour, middle) in enumerate(zip(layers, colours, middles, strict=True)):
        if thin and index not in (0, len(layers) - 1):
            continue
        panel.annotate(
            f"layer {layer}", (end, middle), xytext=(5, 0), textcoords="offset points",
            va="center", color=colour, size=style.SMALL, gid=f"layer {layer}",
        )  # fmt: skip


def _name_phases(figure: Picture, trace: xr.Dataset, left: float, step_width: float) -> None:
    """Below the steps: the prefill and how many positions it took, then decoding."""
    first = int((trace["step_of_position"] == 0).sum())
    prefill = f"prefill: {first} position{'s' * (first != 1)}"
    figure.write("prefill", prefill, left, 0.2)
    if trace.sizes["step"] > 1:
        start = left + max(step_width, style.text_width(prefill, style.SMALL) + 0.25)
        figure.write("decode", "decode: 1 position a step →", start, 0.2)
