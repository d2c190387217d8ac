"""One step of learning: where the gradient comes from, and how far to go along it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

EXPECTED, FOLLOWS = style.QUALITATIVE[0], style.QUALITATIVE[1]
UP, DOWN = style.QUALITATIVE[2], style.QUALITATIVE[3]
MEASURED, SLOPE = style.QUALITATIVE[0], style.QUALITATIVE[1]


@styled
def next_token_gradient(tokens: Sequence[str], expected: Any, follows: Any) -> Picture:
    """What a model expects beside what follows, and their difference: the gradient of the logits.

    expected are the probabilities by the model, follows the shares in which each token really
    follows (one token alone: 1 at its place), both (vocabulary,). A step goes against the gradient:
    what was expected too little goes up. Raises ValueError where the lengths differ.
    """
    expected, follows = (np.asarray(part, dtype=np.float64) for part in (expected, follows))
    if expected.shape != (len(tokens),) or follows.shape != (len(tokens),):
        raise ValueError(
            f"{len(tokens)} tokens need as many numbers, got shapes {expected.shape} and "
            f"{follows.shape}"
        )
    gradient = expected - follows
    labels = [style.shortened(token) for token in tokens]
    left, gap, up = 0.75, 0.95, 2.0
    bottom = 0.2 + style.label_room(labels)
    wide = (style.WIDTH - left - gap - 0.2) / 2
    figure = Picture("the gradient of a prediction", style.WIDTH,
                     bottom + up + 0.3 + style.HEADING)  # fmt: skip
    figure.heading(
        "Expected, less what follows: the gradient of the logits",
        "a step goes the other way: columns below zero are logits that will rise",
    )
    place = np.arange(len(tokens))
    thick = 0.36 * 72 * wide / (len(tokens) + 0.2)
    panel = _panel(figure, "probabilities", left, bottom, wide, up, labels)
    for name, values, colour, aside in (
        ("expected", expected, EXPECTED, -0.2), ("follows", follows, FOLLOWS, 0.2),
    ):  # fmt: skip
        panel.vlines(place + aside, 0, values, color=colour, lw=thick).set_gid(name)
    panel.set_ylim(0, 1.05)
    handles = [Patch(color=EXPECTED, label="expected"), Patch(color=FOLLOWS, label="follows")]
    panel.legend(handles=handles, frameon=False, fontsize=style.SMALL).set_gid("legend")
    other = _panel(figure, "gradient", left + wide + gap, bottom, wide, up, labels)
    for name, chosen, colour in (("falls", gradient > 0, DOWN), ("rises", gradient <= 0, UP)):
        other.vlines(place[chosen], 0, gradient[chosen], color=colour, lw=thick).set_gid(name)
    other.axhline(0, color=style.INK, lw=0.8, gid="zero")
    other.set_ylim(-1.05, 1.05)
    return figure


def _panel(
    figure: Picture, name: str, left: float, bottom: float, wide: float, up: float,
    labels: list[str],
) -> Axes:  # fmt: skip
    panel = figure.panel(name, left, bottom, wide, up)
    panel.set_xlim(-0.6, len(labels) - 0.4)
    style.label_axis(panel.xaxis, labels, range(len(labels)))
    panel.set_title(name, size=style.TEXT_SIZE)
    return panel


@styled
def loss_along_step(
    sizes: Any,
    losses: Any,
    *,
    slope: float,
    floor: float | None = None,
    taken: float | None = None,
    detail: str = "",
) -> Picture:
    """The loss after one step against the gradient, over the size of the step.

    sizes begin with 0, losses are those after a step of each size. slope is the gradient's promise,
    minus its squared length: the dashed line, which the curve leaves in its direction. floor is the
    lowest loss that there is, taken a size to mark. Raises ValueError where the sizes do not begin
    with 0, or the losses are not as many.
    """
    sizes, losses = (np.asarray(part, dtype=np.float64) for part in (sizes, losses))
    if sizes.ndim != 1 or sizes.shape != losses.shape or len(sizes) < 2 or sizes[0] != 0:
        raise ValueError(
            f"give a loss for each size, from 0 on: got shapes {sizes.shape} and {losses.shape}"
        )
    left, bottom, up, room = 0.8, 0.65, 2.5, 1.9
    figure = Picture("the loss along a step", style.WIDTH, bottom + up + 0.1 + style.HEADING)
    figure.heading("How far to go? The loss after one step", detail)
    panel = figure.panel("loss", left, bottom, style.WIDTH - left - room, up)
    lowest = min(losses.min(), losses[0] if floor is None else floor)
    highest = max(losses.max(), losses[0])
    margin = 0.08 * (highest - lowest)
    panel.plot(sizes, losses, color=MEASURED, lw=2, marker="o", ms=3.5, gid="loss", label="loss")
    promised = losses[0] + slope * sizes
    panel.plot(sizes, promised, color=SLOPE, lw=1.4, ls="--", gid="promise", label="its slope at 0")
    if floor is not None:
        panel.axhline(floor, color=style.QUIET, lw=1.2, ls=":", gid="floor", label="the floor")
    if taken is not None:
        panel.axvline(taken, color=style.LINE, lw=1.2, gid="taken", label="the step taken")
    panel.set_xlim(0, sizes[-1])
    panel.set_ylim(lowest - margin, highest + margin)
    panel.set_xlabel("step size (learning rate)")
    panel.set_ylabel("loss, nats")
    panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panel.set_axisbelow(True)
    panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.02),
                 fontsize=style.SMALL).set_gid("legend")  # fmt: skip
    return figure
