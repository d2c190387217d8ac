"""Small matrices with their numbers in them: a linear layer, and tables side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

CHOSEN = style.QUALITATIVE[1]
TOGETHER = {"row": (1, None), "column": (None, 1)}  # how many rows and columns the outline takes


@styled
def linear_layer(x: Any, weight: Any, bias: Any, *, item: int = 0, neuron: int = 0) -> Picture:
    """y = x W^T + b with its shapes; the numbers that make one number of y are outlined.

    x is (item, n_inputs), weight (neuron, n_inputs), bias (neuron). Raises ValueError for an item
    or a neuron that is not there.
    """
    x, weight, bias = (np.asarray(array, dtype=np.float64) for array in (x, weight, bias))
    for name, chosen, count in (("item", item, len(x)), ("neuron", neuron, len(weight))):
        if not 0 <= chosen < count:
            raise ValueError(f"{name} must be from 0 to {count - 1}, got {chosen!r}")
    y = x @ weight.T + bias
    scale = style.signed_scale(np.concatenate([array.ravel() for array in (x, weight, bias, y)]))
    high, gap, left, bottom = 0.3, 0.5, 0.45, 0.35
    n_columns = x.shape[1] + 3 * len(weight)
    wide = min(0.5, (style.WIDTH - left - style.MARGIN - 3 * gap) / n_columns)
    figure = Picture("a linear layer", style.WIDTH, bottom + high * len(x) + 0.4 + style.HEADING)
    factors = [(f"{a:.1f}", f"{b:.1f}") for a, b in zip(x[item], weight[neuron], strict=True)]
    products = ["·".join(f"({n})" if n[0] == "-" else n for n in pair) for pair in factors]
    figure.heading(
        "A linear layer: every item meets every neuron",
        f"item {item}, neuron {neuron}: {' + '.join(products)} + {bias[neuron]:.1f}"
        f" = {y[item, neuron]:.2f}",
        gid="detail (measured)",
    )
    top = bottom + high * len(x)
    parts = (
        ("x", x, (item, 0, 1, x.shape[1]), "item", "input", "@"),
        ("W transposed", weight.T, (0, neuron, x.shape[1], 1), "", "neuron", "+"),
        ("b", bias[None], (0, neuron, 1, 1), "", "neuron", "="),
        ("y", y, (item, neuron, 1, 1), "item", "neuron", ""),
    )
    for name, values, outlined, down, across, sign in parts:
        n_rows, n_columns = values.shape
        panel = figure.panel(name, left, top - high * n_rows, wide * n_columns, high * n_rows)
        _draw_table(panel, values, scale, decimals=2 if name == "y" else 1)
        _outline(panel, *outlined)
        panel.set_title(f"{name} {n_rows} × {n_columns}", size=style.SMALL, pad=5)
        panel.set_xlabel(across, size=style.SMALL, labelpad=3)
        panel.set_ylabel(down, size=style.SMALL, labelpad=3)
        left += wide * n_columns
        look: Any = {"size": style.TITLE, "color": style.INK, "ha": "center", "va": "center"}
        room = 0.5 if sign != "=" else 0.3  # the last one has a label at its left
        figure.write(f"after {name}", sign, left + room * gap, top - high * 1.5, **look)
        left += gap
    return figure


@styled
def number_tables(
    tables: Mapping[str, Any],
    title: str,
    detail: str = "",
    *,
    together: Mapping[str, str] | None = None,
    decimals: int = 4,
) -> Picture:
    """Matrices side by side, every number written and coloured on one scale around 0.

    together says of a table what shares its statistics, "row" or "column": the first is outlined.
    What is no number (0 / 0) is grey. Raises ValueError where there are no tables.
    """
    if not tables:
        raise ValueError("there are no tables to draw")
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in tables.items()}
    gap, left, bottom = 0.2, 0.15, 0.15
    n_columns = sum(values.shape[1] for values in arrays.values())
    wide = (style.WIDTH - 2 * left - gap * (len(arrays) - 1)) / n_columns
    wide, high = min(wide, 0.8), 0.36
    most = max(len(values) for values in arrays.values())
    figure = Picture(title, style.WIDTH, bottom + most * high + 0.4 + style.HEADING)
    figure.heading(title, detail, gid="detail (measured)")
    scale = style.signed_scale(np.concatenate([values.ravel() for values in arrays.values()]))
    for name, values in arrays.items():
        across, up = wide * values.shape[1], high * len(values)
        panel = figure.panel(name, left, bottom + most * high - up, across, up)
        _draw_table(panel, values, scale, decimals=decimals)
        if together and name in together:
            rows, columns = TOGETHER[together[name]]
            _outline(panel, 0, 0, rows or len(values), columns or values.shape[1])
        panel.set_title(name, size=style.TEXT_SIZE, pad=5)
        left += across + gap
    return figure


def _draw_table(panel: Axes, values: np.ndarray, scale: Normalize, *, decimals: int) -> None:
    panel.set_facecolor(style.MASKED)
    image = panel.imshow(values, cmap=style.SIGNED, norm=scale, aspect="auto")
    image.set_gid("numbers")
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        colour = np.array(style.SIGNED(scale(value))[:3])
        dark = np.isfinite(value) and colour @ (0.3, 0.6, 0.1) < 0.5
        rounded = round(float(value), decimals) + 0.0  # no minus before a zero
        written = f"{rounded:.{decimals}f}" if np.isfinite(value) else "none"
        panel.text(column, row, written, ha="center", va="center", size=9.5,
                   color="white" if dark else style.INK, gid="number (measured)")  # fmt: skip


def _outline(panel: Axes, row: int, column: int, n_rows: int, n_columns: int) -> None:
    box = Rectangle((column - 0.5, row - 0.5), n_columns, n_rows, fill=False, lw=2.2,
                    edgecolor=CHOSEN, clip_on=False, gid="outline")  # fmt: skip
    panel.add_patch(box)
