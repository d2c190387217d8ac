"""Small matrices with their numbers in them: worked examples, step beside step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from matplotlib.axes import Axes

LARGEST_CELL, SMALLEST_CELL = 0.62, 0.4


@styled
def matrices(
    arrays: Mapping[str, Any],
    tokens: Sequence[str],
    *,
    title: str,
    detail: str = "",
    weights: Collection[str] = (),
    features: Collection[str] = (),
    columns: Mapping[str, Sequence[str]] | None = None,
    digits: int = 2,
) -> Picture:
    """Matrices side by side, each cell with its number; a row for each token.

    arrays maps a panel's title to an array (token, token) or, where its title is in features,
    (token, feature); columns names those of a panel where they are other tokens, as the keys of
    cross-attention are. Titles in weights have the colours of probabilities from 0 to 1; all other
    panels share one scale around 0. -inf is masked, drawn grey. Raises ValueError for an array that
    does not have a row for each token, for too many columns to write numbers in, and for names that
    are not as many as the columns.
    """
    values = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    for name, array in values.items():
        if array.ndim != 2 or len(array) != len(tokens):
            raise ValueError(
                f"{name!r} must have {len(tokens)} rows, one for each token, got shape "
                f"{array.shape}"
            )
    named = columns or {}
    for name, labels in named.items():
        if name not in values or len(labels) != values[name].shape[1]:
            raise ValueError(
                f"columns names {len(labels)} columns of {name!r}; there must be a panel with so "
                "many of that title"
            )
    across_labels = [label for labels in named.values() for label in labels]
    shown = [style.shortened(token) for token in (*tokens, *across_labels)]
    room = style.label_room(shown) + 0.1
    left, gap, right = 0.15 + room, 0.28, 0.2
    n_columns = sum(array.shape[1] for array in values.values())
    across = style.WIDTH - left - right - gap * (len(values) - 1)
    cell = min(LARGEST_CELL, across / n_columns)
    if cell < SMALLEST_CELL:
        raise ValueError(f"{n_columns} columns are too many to write numbers in; draw fewer arrays")
    bottom, names = 0.12 + room, 0.32
    high = cell * len(tokens)
    figure = Picture(title, style.WIDTH, bottom + high + names + style.HEADING)
    figure.heading(title, detail)
    signed = [array for name, array in values.items() if name not in weights]
    scale = style.signed_scale(np.concatenate([array.ravel() for array in signed] or [np.ones(1)]))
    place = left
    for number, (name, array) in enumerate(values.items()):
        wide = cell * array.shape[1]
        panel = figure.panel(name, place, bottom, wide, high)
        is_weight = name in weights
        _draw_cells(panel, name, array, style.probability_scale() if is_weight else scale,
                    style.PROBABILITY if is_weight else style.SIGNED, digits)  # fmt: skip
        room_of_title = wide + (gap if number + 1 < len(values) else right) - 0.08
        size = style.TEXT_SIZE
        size *= min(1.0, room_of_title / style.text_width(name, size))
        panel.set_title(name, size=size, pad=5)
        across_tokens = [str(index) for index in range(array.shape[1])]
        if name in named:
            across_tokens = list(named[name])
        elif name not in features and array.shape[1] == len(tokens):
            across_tokens = list(tokens)
        below = [style.shortened(token) for token in across_tokens]
        style.label_axis(panel.xaxis, below, range(len(below)))
        if name in features:
            panel.tick_params(axis="x", labelrotation=0)
            panel.set_xlabel("feature", size=style.SMALL)
        rows = [style.shortened(token) for token in tokens]
        style.label_axis(panel.yaxis, rows, range(len(rows)))
        panel.tick_params(length=0, labelleft=number == 0)
        place += wide + gap
    return figure


def _draw_cells(
    panel: Axes, name: str, array: np.ndarray, scale: Normalize, colours: Any, digits: int
) -> None:
    """Colours, and in each cell its number in ink that can be read on them."""
    hidden = ~np.isfinite(array)
    panel.set_facecolor(style.MASKED)
    image = panel.imshow(np.where(hidden, np.nan, array), cmap=colours, norm=scale, aspect="auto")
    image.set_gid(name)
    for row, column in np.ndindex(array.shape):
        number = float(array[row, column])
        dark = not hidden[row, column] and np.dot(colours(scale(number))[:3], (0.3, 0.6, 0.1)) < 0.5
        panel.text(
            column, row, "−∞" if hidden[row, column] else written(number, digits),
            ha="center", va="center", size=style.SMALL - 0.5,
            color="white" if dark else style.INK, gid="number",
        )  # fmt: skip
    for spine in panel.spines.values():
        spine.set_visible(False)


def written(number: float, digits: int) -> str:
    """A number with at most so many digits after the point, and no zeros that say nothing."""
    text = f"{number:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")
