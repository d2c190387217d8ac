"""The text itself: every token as it was written, and how likely the model found it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.collections import PolyCollection

from llama_viz.analysis import token_probability
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

BOX, LINE_STEP, PADDING, BETWEEN = 0.32, 0.42, 0.07, 0.04
NEW_LINES = ("<0x0A>", "\u23ce")


class _Place(NamedTuple):
    """Where a token stands: its line, and its left end and width in inches."""

    line: int
    left: float
    width: float


@styled
def token_probabilities(trace: xr.Dataset) -> Picture:
    """The text of a run, each token in a box whose colour is the probability the model gave it.

    Prompt and continuation stand apart. A box with a dashed edge has no probability: nothing comes
    before the first token, and those of the prompt need logits.
    """
    probability = token_probability(trace)
    tokens = [style.shortened(str(token), 40) for token in probability["token"].values]
    is_prompt = probability["is_prompt"].values
    room = style.WIDTH - 2 * style.MARGIN
    paragraphs = [
        (name, np.flatnonzero(chosen))
        for name, chosen in (("prompt", is_prompt), ("written by the model", ~is_prompt))
        if chosen.any()
    ]
    places = {name: wrapped([tokens[i] for i in chosen], room) for name, chosen in paragraphs}
    heights = {name: 0.3 + (places[name][-1].line + 1) * LINE_STEP for name in places}
    height = style.HEADING + sum(heights.values()) + 0.12 * len(heights) + 0.05

    figure = Picture(f"probabilities of {len(tokens)} tokens", style.WIDTH, height)
    figure.heading("How likely the model found each token", "given the tokens before it")
    top = height - style.HEADING
    for name, chosen in paragraphs:
        bottom = top - heights[name]
        panel = figure.panel(name, style.MARGIN, bottom, room, heights[name])
        panel.set_axis_off()
        panel.set_xlim(0, room)
        panel.set_ylim(0, heights[name])
        panel.text(0, heights[name] - 0.06, name, va="top", color=style.QUIET, size=style.SMALL,
                   gid="heading")  # fmt: skip
        boxes = _draw_tokens(
            panel, [tokens[i] for i in chosen], probability.values[chosen], places[name],
            heights[name] - 0.3,
        )  # fmt: skip
        top = bottom - 0.12
    width = 2.6
    figure.colour_bar("colours", boxes, "", style.WIDTH - width - 0.3, height - 0.42, width, 0.13)
    figure.write("colours", "probability", style.WIDTH - width - 0.42, height - 0.4, ha="right")
    return figure


def wrapped(tokens: list[str], room: float) -> list[_Place]:
    """Places for tokens in lines of `room` inches; a newline ends its line."""
    places, line, left = [], 0, 0.0
    for token in tokens:
        width = style.text_width(token) + 2 * PADDING
        if left and left + width > room:
            line, left = line + 1, 0.0
        places.append(_Place(line, left, width))
        left += width + BETWEEN
        if token in NEW_LINES:
            line, left = line + 1, 0.0
    return places


def _draw_tokens(
    panel: Axes, tokens: list[str], probability: np.ndarray, places: list[_Place], top: float
) -> PolyCollection:
    """Boxes in the colours of the probabilities, and the tokens in them."""
    corners = []
    for place in places:
        low = top - place.line * LINE_STEP - BOX
        right = place.left + place.width
        corners.append(
            [(place.left, low), (right, low), (right, low + BOX), (place.left, low + BOX)]
        )
    unknown = ~np.isfinite(probability)
    boxes = PolyCollection(
        corners,
        array=np.ma.masked_invalid(probability),
        cmap=style.PROBABILITY,
        norm=style.probability_scale(),
        edgecolors=style.LINE,
        linewidths=0.8,
        linestyles=[(0, (2, 2)) if dashed else "-" for dashed in unknown],
        clip_on=False,
        gid="probability of each token",
    )
    panel.add_collection(boxes)
    for token, value, place, box in zip(tokens, probability, places, corners, strict=True):
        panel.text(
            place.left + place.width / 2, box[0][1] + BOX / 2 - 0.01, token,
            ha="center", va="center_baseline", gid="token",
            color="white" if value > 0.5 else style.INK,
        )  # fmt: skip
    return boxes
