"""The residual stream: what it holds, what every sublayer writes to it, and depth without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from llama_viz.analysis import pick, require
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from matplotlib.axes import Axes

WRITERS = {"attention": style.QUALITATIVE[0], "feed-forward": style.QUALITATIVE[1]}
CLIPPED = 99  # the percentile of |x| at which the colours end: a few features are far larger


@styled
def residual_stream(trace: xr.Dataset, *, position: int, n_features: int = 32) -> Picture:
    """One position's stream from the embedding up, and what each sublayer adds to it.

    Left, from the bottom up, the stream after each sum; right, between two of them, the vector that
    is added: each row is the row below it plus what comes in. The first n_features are drawn; the
    root mean square beside each row is that of all features. Raises ValueError for a position or a
    number of features that there are not.
    """
    names = ("embedding", "attention_output", "residual_middle", "feed_forward_output",
             "residual_out")  # fmt: skip
    require(trace, *names)
    index = pick(trace, "position", position)
    if not 1 <= n_features <= trace.sizes["feature"]:
        raise ValueError(
            f"n_features must be from 1 to {trace.sizes['feature']}, got {n_features!r}"
        )
    here = {name: trace[name].sel(position=index).values.astype(np.float64) for name in names}
    stream = [("embedding", here["embedding"])]
    written: list[tuple[str, str, np.ndarray]] = []
    for layer in range(trace.sizes["layer"]):
        written.append(("attention", f"attention {layer}", here["attention_output"][layer]))
        stream.append(("", here["residual_middle"][layer]))
        written.append(
            ("feed-forward", f"feed-forward {layer}", here["feed_forward_output"][layer])
        )
        stream.append((f"after block {layer}", here["residual_out"][layer]))
    drawn = np.array([row[-1][:n_features] for row in (*stream, *written)])
    largest = float(np.percentile(np.abs(drawn), CLIPPED)) or 1.0
    scale = Normalize(-largest, largest)

    left, bottom, between, right = 1.25, 0.2, 0.52, 2.3
    wide = (style.WIDTH - left - right - 0.95) / 2
    up = between * len(stream)
    figure = Picture(f"residual stream at position {position}", style.WIDTH,
                     bottom + up + 0.35 + style.HEADING)  # fmt: skip
    token = style.shortened(str(trace["token"].sel(position=index).values))
    figure.heading(
        f"Position {position}, “{token}”: every sublayer adds a row to the stream",
        f"features 0 to {n_features - 1} of {trace.sizes['feature']}; "
        "beside each row its root mean square over all of them",
    )
    panel = figure.panel("stream", 0, bottom, style.WIDTH, up)
    panel.set_xlim(0, style.WIDTH)
    panel.set_ylim(0, up)
    panel.set_axis_off()
    high = 0.24
    start_written = left + wide + 0.95
    for row, (name, vector) in enumerate(stream):
        y = between * (row + 0.5)
        _strip(panel, vector[:n_features], scale, left, y, wide, high, f"stream {row}")
        panel.text(left - 0.1, y, name, ha="right", va="center", size=style.SMALL)
        _size(panel, vector, left + wide + 0.08, y, f"RMS of stream {row}")
    lane = left + wide / 2
    for row, (kind, name, vector) in enumerate(written):
        y, colour = between * (row + 1), WRITERS[kind]
        panel.plot([lane, lane], [y - between / 2 + high / 2, y + between / 2 - high / 2],
                   color=style.LINE, lw=1.4, zorder=0, gid=f"stream goes on {row}")  # fmt: skip
        panel.plot(start_written, y, ".", color=colour, ms=1, gid=f"begin of {name}")
        panel.annotate("", (lane + 0.1, y), (start_written, y), zorder=1,
                       arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2,
                                   "shrinkA": 0, "shrinkB": 0})  # fmt: skip
        panel.text(lane, y, "+", ha="center", va="center", size=style.TEXT_SIZE, zorder=2,
                   color=style.INK, gid="plus",
                   bbox={"boxstyle": "circle,pad=0.08", "fc": "white", "ec": style.QUIET,
                         "lw": 0.8})  # fmt: skip
        _strip(panel, vector[:n_features], scale, start_written, y, wide, high, name)
        beside = start_written + wide + 0.08
        _size(panel, vector, beside, y, f"RMS of {name}")
        panel.text(beside + 0.62, y, name, va="center", size=style.SMALL, color=colour)
    for words, place in (("the stream", left), ("what is added to it", start_written)):
        figure.write(f"title of {words}", words, place, bottom + up + 0.02, color=style.INK,
                     size=style.TEXT_SIZE)  # fmt: skip
    colours = ScalarMappable(scale, style.SIGNED)
    wide_bar = 1.6
    bar = figure.colour_bar("colours", colours, "", style.WIDTH - wide_bar - 0.35,
                            bottom + up + 0.25, wide_bar, 0.12)  # fmt: skip
    bar.set_xticks([-largest, 0, largest], [f"−{largest:.2g}", "0", f"{largest:.2g}"])
    bar.tick_params(labelsize=8.5)
    return figure


def _strip(
    panel: Axes, vector: np.ndarray, scale: Normalize, left: float, y: float, wide: float,
    high: float, name: str,
) -> None:  # fmt: skip
    """One vector, feature beside feature."""
    image = panel.imshow(
        vector[None], cmap=style.SIGNED, norm=scale, aspect="auto", interpolation="nearest",
        extent=(left, left + wide, y - high / 2, y + high / 2), zorder=1.5,
    )  # fmt: skip
    image.set_gid(name)
    edge = Rectangle(
        (left, y - high / 2), wide, high, fill=False, ec=style.LINE, lw=0.6, zorder=1.6
    )
    panel.add_patch(edge).set_gid(f"edge of {name}")
    # imshow fits the panel to its picture; the panel is the whole page.
    panel.set_xlim(0, style.WIDTH)
    panel.set_ylim(0, panel.bbox.height / style.DPI)


def _size(panel: Axes, vector: np.ndarray, x: float, y: float, name: str) -> None:
    rms = float(np.sqrt(np.mean(vector**2)))
    panel.text(x, y, f"{rms:.2f}", va="center", size=style.SMALL, color=style.QUIET,
               gid=f"{name} (measured)")  # fmt: skip


@styled
def depth(runs: Mapping[str, xr.Dataset]) -> Picture:
    """Stacks with and without residual connections: how they learn, and why.

    runs are what foundations.train_stack returns, by name. Left the losses of all; then, for the
    deepest ones, how alike two items are after each layer and the gradient of each layer, both
    before the first step. Colours are depths, broken lines are stacks without the residual. Raises
    ValueError for none.
    """
    if not runs:
        raise ValueError("there are no runs to draw")
    deepest = max(int(run.attrs["n_layers"]) for run in runs.values())
    depths = sorted({int(run.attrs["n_layers"]) for run in runs.values()})
    colours = dict(zip(depths, style.QUALITATIVE, strict=False))
    left, bottom, gap, up = 0.75, 1.35, 0.85, 2.5
    across = (style.WIDTH - left - 2 * gap - 0.2) / 3
    figure = Picture("depth with and without residual connections", style.WIDTH,
                     bottom + up + 0.35 + style.HEADING)  # fmt: skip
    figure.heading(
        "Shallow stacks do without; a deep one learns with the residual connection",
        f"the same task and weights; middle and right: {deepest} layers, before the first step",
    )
    titles = ("loss, nats", "mean cosine of two items", "gradient of each layer")
    panels = [
        figure.panel(title, left + column * (across + gap), bottom, across, up)
        for column, title in enumerate(titles)
    ]
    for name, run in runs.items():
        n_layers = int(run.attrs["n_layers"])
        dashes = "-" if run.attrs["residual"] else (0, (3, 1.5))
        look: Any = {"color": colours[n_layers], "ls": dashes, "lw": 1.8}
        panels[0].plot(run["step"], run["loss"], gid=name, label=name, **look)
        if n_layers == deepest:
            panels[1].plot(run["depth"], run["alikeness"], gid=name, **look)
            panels[2].plot(np.arange(n_layers), run["gradient"], gid=name, **look)
    for panel, title, below in zip(panels, titles, ("step", "after layer", "layer"), strict=True):
        panel.set_title(title)
        panel.set_xlabel(below)
        panel.xaxis.set_major_locator(style.whole_numbers(6))
        panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panels[0].set_ylim(0, None)
    panels[1].set_ylim(-0.02, 1.05)
    panels[2].set_yscale("log")
    panels[2].yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    panels[2].yaxis.set_minor_formatter(NullFormatter())
    low, high = panels[2].get_ylim()
    panels[2].set_ylim(min(low, 0.01), max(high, 1.0))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower left", ncols=3, frameon=False,
                  fontsize=style.SMALL, bbox_to_anchor=(left / style.WIDTH, 0.0),
                  handlelength=2.6)  # fmt: skip
    return figure
