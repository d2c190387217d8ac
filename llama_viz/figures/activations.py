"""Activations of the feed-forward: their curves, their slopes, their small negative tails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

TAIL = (-5.0, 0.5), (-0.6, 0.1)  # what the third panel magnifies


@styled
def activations(x: Any, curves: Mapping[str, Any], slopes: Mapping[str, Any]) -> Picture:
    """Activations over x, their slopes, and the part left of 0 magnified, its lowest points marked.

    curves and slopes map the same names to a number for each x. Raises ValueError where there is
    nothing to draw, or the names differ.
    """
    if not curves or set(curves) != set(slopes):
        raise ValueError(
            f"curves and slopes must have the same names, got {list(curves)} and {list(slopes)}"
        )
    x = np.asarray(x, dtype=np.float64)
    drawn = {name: np.asarray(values, dtype=np.float64) for name, values in curves.items()}
    left, bottom, gap, up = 0.5, 0.6, 0.55, 2.7
    across = (style.WIDTH - left - 0.2 - 2 * gap) / 3
    figure = Picture("activations", style.WIDTH, bottom + up + 0.7 + style.HEADING)
    figure.heading(
        "Activations: what becomes of a number",
        "left: the number that comes out; middle: its slope; right: left of 0, magnified",
    )
    looks = dict(zip(curves, style.distinct(len(curves)), strict=True))
    for column, (title, values) in enumerate(
        (("activation", drawn), ("slope", slopes), ("the negative tail", drawn))
    ):
        panel = figure.panel(title, left + column * (across + gap), bottom, across, up)
        panel.axhline(0, color=style.LINE, lw=0.8, gid="zero")
        panel.axvline(0, color=style.LINE, lw=0.8, gid="zero")
        for name, numbers in values.items():
            panel.plot(x, np.asarray(numbers, dtype=np.float64), color=looks[name].colour, lw=1.8,
                       gid=name, label=name)  # fmt: skip
        panel.set_title(title)
        panel.set_xlabel("x")
        panel.set_xlim(x.min(), x.max())
    figure.axes[0].set_ylim(-1.0, 4.0)
    _mark_lowest(figure.axes[2], x, drawn, {name: look.colour for name, look in looks.items()})
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="upper left", ncols=len(curves),
        frameon=False, fontsize=style.SMALL, borderaxespad=0,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height),
    ).set_gid("activations")  # fmt: skip
    return figure


def _mark_lowest(
    panel: Axes, x: np.ndarray, curves: Mapping[str, np.ndarray], colours: Mapping[str, str]
) -> None:
    """Dots at the lowest points of curves that dip below 0 and come up again."""
    panel.set_xlim(*TAIL[0])
    panel.set_ylim(*TAIL[1])
    for name, values in curves.items():
        place = int(values.argmin())
        if 0 < place < len(values) - 1 and values[place] < 0:
            panel.plot(x[place], values[place], "o", ms=5, color=colours[name],
                       gid=f"lowest of {name}")  # fmt: skip
