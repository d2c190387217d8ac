"""The logit lens: the next token, read off the residual stream after every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PolyCollection

from llama_viz.analysis import rank_in_lens, require, written_ids
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr

CAME = style.QUALITATIVE[1]


@styled
def logit_lens(trace: xr.Dataset, *, first: int = 0, count: int = 11) -> Picture:
    """The likeliest next token if the output head read the stream after each layer.

    A row for each layer, the last one on top, which is the model's own output; a column for each
    position from `first` on. Colour is the probability that the lens gives to the token in the
    cell; a frame marks those that came next. Raises ValueError for a first position that is not
    there.
    """
    require(trace, "lens_id", "lens_probability", "token")
    n_positions = trace.sizes["position"]
    if first not in range(n_positions):
        raise ValueError(f"first must be from 0 to {n_positions - 1}, got {first!r}")
    shown = slice(first, first + count)
    layers = trace["layer"].values
    probability = trace["lens_probability"].isel(rank=0).values[:, shown]
    tokens = trace["lens_token"].isel(rank=0).values[:, shown]
    read = [str(token) for token in trace["token"].values[shown]]
    hits = rank_in_lens(trace).values[:, shown] == 0

    n_columns, n_rows = len(read), len(layers)
    left, right, row = 1.2, 0.95, 0.42
    bottom = 0.42 + style.label_room([style.shortened(token) for token in read])
    wide = style.WIDTH - left - right
    cell, up = wide / n_columns, row * n_rows
    figure = Picture(f"logit lens from position {first}", style.WIDTH,
                     bottom + up + 0.4 + style.HEADING)  # fmt: skip
    figure.heading(
        "The next token, read after every layer",
        "in the cells: the likeliest token; framed: it is the one that came next",
    )
    panel = figure.panel("lens", left, bottom, wide, up)
    image = panel.imshow(probability, cmap=style.PROBABILITY, norm=style.probability_scale(),
                         aspect="auto", origin="lower")  # fmt: skip
    image.set_gid("probability")
    for (layer, position), value in np.ndenumerate(probability):
        panel.text(
            position, layer, style.fitted(str(tokens[layer, position]), cell - 0.05, 9), size=9,
            ha="center", va="center_baseline", color="white" if value > 0.5 else style.INK,
            gid="token",
        )  # fmt: skip
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    panel.add_collection(PolyCollection(
        [corners + place for place in np.argwhere(hits)[:, ::-1]],
        facecolors="none", edgecolors=CAME, linewidths=1.8, clip_on=False, gid="came next",
    ))  # fmt: skip
    for spine in panel.spines.values():
        spine.set_visible(False)
    style.label_axis(panel.xaxis, [style.shortened(token) for token in read], range(n_columns))
    panel.set_yticks(range(n_rows), [f"after layer {layer}" for layer in layers])
    panel.tick_params(length=0)
    panel.set_xlabel("token read at the position")
    _name_what_came(figure, trace, first, n_columns, (left, bottom + up + 0.1, cell))
    figure.colour_bar("colours", image, "probability", left + wide + 0.15, bottom, 0.14, up)
    return figure


def _name_what_came(
    figure: Picture, trace: xr.Dataset, first: int, count: int, place: tuple[float, float, float]
) -> None:
    """Above each column the token that came next, where one did."""
    left, bottom, cell = place
    n_written = len(written_ids(trace))
    tokens = [str(token) for token in trace["token"].values]
    if n_written > len(tokens):
        tokens.append(str(trace["sampled_token"].values[-1]))
    figure.write("row of what came", "came next", left - 0.1, bottom, ha="right")
    for column, token in enumerate(tokens[first + 1 : first + 1 + count]):
        figure.write("what came", style.fitted(token, cell - 0.05, 9), left + (column + 0.5) * cell,
                     bottom, size=9, color=CAME, ha="center")  # fmt: skip
