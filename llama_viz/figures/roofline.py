"""Computing against moving: the roofline, and the memory that each arithmetic asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from llama_viz.cost.ratios import counted_memory_per_arithmetic, memory_per_arithmetic
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from llama_viz.cost.devices import Device
    from llama_viz.cost.operations import Cost, Costs

# A fused attention is one kernel: its scores never reach memory.
FUSED = ("scores", "softmax", "weighted_values")
LEFT_OUT = ("embedding", "cache_append")  # they move and compute nothing


@styled
def roofline(passes: Mapping[str, Costs], *, device: Device, dtype: str = "float16") -> Picture:
    """What a device can reach at best, and where every operation of some passes stands.

    passes maps a name to cost.forward(...) with the same dtype. Above, speed over arithmetic
    intensity: the roof is intensity x bytes per second, until the peak (Williams, Waterman and
    Patterson 2009). Below, the same intensities with a row for each operation. Raises ValueError
    for a dtype that the device has no figure for, and for more than four passes.
    """
    if not 1 <= len(passes) <= len(style.MARKERS) - 1:
        raise ValueError(f"one to four passes can be drawn, got {len(passes)}")
    ridge, peak = device.ridge_point(dtype), device.peak(dtype)
    points = {name: _operations(costs) for name, costs in passes.items()}
    rows = list(next(iter(points.values())))
    all_points = [cost.arithmetic_intensity for found in points.values() for cost in found.values()]
    low, high = min(0.1, 0.5 * min(all_points)), max(1000.0, 2 * max(all_points), 4 * ridge)

    left, bottom, up, gap, high_row = 2.15, 0.65, 2.4, 0.3, 0.28
    across, strip = style.WIDTH - left - 0.3, high_row * len(rows)
    figure = Picture("roofline", style.WIDTH, bottom + strip + gap + up + 0.45 + style.HEADING)
    figure.heading(
        f"{device.name}: below {ridge:,.3g} operations per byte it waits for memory",
        f"{dtype}: at most {_short(peak)} operations and {_short(device.bytes_per_second)} bytes "
        "a second", gid="detail (measured)",
    )  # fmt: skip
    top = figure.panel("roof", left, bottom + strip + gap, across, up)
    below = figure.panel("operations", left, bottom, across, strip)
    intensity = np.geomspace(low, high, 200)
    attainable = [device.attainable(float(value), dtype) for value in intensity]
    top.plot(intensity, attainable, color=style.INK, lw=2, gid="roof")
    for number, (name, found) in enumerate(points.items()):
        look: Any = {"color": style.QUALITATIVE[number], "marker": style.MARKERS[number],
                     "ls": "none", "ms": 6, "alpha": 0.85}  # fmt: skip
        values = [cost.arithmetic_intensity for cost in found.values()]
        heights = [device.attainable(value, dtype) for value in values]
        top.plot(values, heights, label=name, gid=name, **look)
        aside = 0.2 * (number - (len(points) - 1) / 2)  # so that equal ones do not hide each other
        below.plot(values, np.arange(len(values)) + aside, gid=name, **look)
    for panel in (top, below):
        panel.set_xscale("log")
        panel.set_xlim(low, high)
        panel.axvline(ridge, color=style.QUIET, lw=1.2, ls="--", gid="ridge point")
    top.set_yscale("log")
    top.set_ylim(0.5 * attainable[0], 2 * peak)
    top.set_ylabel("operations a second")
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    top.yaxis.set_minor_formatter(NullFormatter())
    top.tick_params(labelbottom=False)
    for text, side, shift in (("memory is the limit", "right", -6), ("arithmetic is", "left", 6)):
        top.annotate(text, (ridge, 0.7 * attainable[0]), (shift, 4), textcoords="offset points",
                     ha=side, color=style.QUIET, size=style.SMALL, gid=text)  # fmt: skip
    below.set_yticks(range(len(rows)), rows)
    below.set_ylim(len(rows) - 0.4, -0.6)
    below.grid(axis="y", color=style.FAINT, lw=0.8)
    below.set_axisbelow(True)
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    below.set_xlabel("operations per byte moved (arithmetic intensity)")
    figure.legend(
        loc="upper left", ncols=len(passes), frameon=False, fontsize=style.SMALL,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height), borderaxespad=0,
    ).set_gid("passes")  # fmt: skip
    return figure


def _operations(costs: Costs) -> dict[str, Cost]:
    """Every operation that computes; the three of a fused attention as one."""
    found: dict[str, Cost] = {}
    for row in costs:
        if row.operation in LEFT_OUT:
            continue
        if row.operation in FUSED:
            found["attention itself"] = costs.sum(*FUSED)
        else:
            found[row.operation.replace("_", " ")] = row
    return found


def _short(value: float) -> str:
    """1.9e12 as 1.9 T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.4g} {letter}"
    return f"{value:,.4g}"


WAYS = {
    "batched MHA": "1/k + 1/(bn)",
    "incremental MHA": "n/d + 1/b",
    "incremental MQA": "1/d + n/(dh) + 1/b",
}


@styled
def memory_ratios(lengths: Sequence[int], *, n: int, d: int, h: int, b: int) -> Picture:
    """Memory access per arithmetic of an attention layer: by Shazeer's orders, and counted.

    Over the lengths up to d, for d features, h heads and b texts at once; n is marked. Left the
    orders of growth (Shazeer 2019), which leave out constant factors: compare shapes, not values.
    Right the numbers moved per multiply-add, counted from our formulas. Raises ValueError where d
    is no multiple of h.
    """
    lengths = sorted({*(length for length in lengths if length <= d), n})
    orders = {name: [memory_per_arithmetic(m, d, h, b)[name] for m in lengths] for name in WAYS}
    counted = {
        name: [
            counted_memory_per_arithmetic(
                m, d, h, b, 1 if name.endswith("MQA") else h, incremental="incremental" in name
            )
            for m in lengths
        ]
        for name in WAYS
    }
    both = [*orders.values(), *counted.values()]
    low, high = min(map(min, both)), max(map(max, both))
    left, bottom, gap, up = 1.0, 0.65, 0.75, 3.0
    across = (style.WIDTH - left - gap - 0.25) / 2
    figure = Picture("memory per arithmetic", style.WIDTH, bottom + up + 0.75 + style.HEADING)
    figure.heading(
        f"Memory access per arithmetic, n = {n:,}, d = {d:,}, h = {h}, b = {b:,}",
        "; ".join(f"{name}: {formula}" for name, formula in WAYS.items()) + "; k = d/h",
    )
    titled = {
        "orders of growth (Shazeer 2019)": orders,
        "counted: numbers per multiply-add": counted,
    }
    for number, (title, curves) in enumerate(titled.items()):
        panel = figure.panel(title, left + number * (across + gap), bottom, across, up)
        _draw_ratios(panel, lengths, curves, n)
        panel.set_ylim(0.3 * low, 2 * high)
        panel.set_title(title)
    panel.figure.axes[0].set_ylabel("memory access per arithmetic")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="upper left", ncols=3, frameon=False,
        fontsize=style.SMALL, borderaxespad=0,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height),
    ).set_gid("ways")  # fmt: skip
    return figure


def _draw_ratios(
    panel: Axes, lengths: Sequence[int], curves: Mapping[str, Sequence[float]], n: int
) -> None:
    at = list(lengths).index(n)
    panel.axhline(1, color=style.LINE, lw=0.8, gid="one")
    panel.axvline(n, color=style.QUIET, lw=1, ls=":", gid="n")
    for (name, values), look in zip(curves.items(), style.distinct(len(curves)), strict=True):
        panel.plot(lengths, values, color=look.colour, lw=2, gid=name, label=name)
        panel.plot([n], [values[at]], "o", color=look.colour, ms=7, gid=f"{name} at n")
        panel.annotate(
            f"{values[at]:.3g}", (n, values[at]), (8, -5), textcoords="offset points", va="top",
            color=look.colour, size=style.SMALL, gid=f"value of {name} (measured)",
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(lengths[0], 2.2 * lengths[-1])
    panel.set_xlabel("positions n")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
