"""Training on a text: every position is given the true tokens, and asked for the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

ROWS = ("says", "should say", "reads")


@styled
def teacher_forcing(tokens: Sequence[str], said: Sequence[str], probability: Any) -> Picture:
    """A text beside itself moved by one: what each position reads, should say, and says.

    tokens are n + 1 tokens of a text. said are the n likeliest next tokens by the model, and
    probability the n probabilities that it gave to the true ones, all from one pass. Each target is
    read by the next position, whatever the model says. Raises ValueError where the lengths differ.
    """
    probability = np.asarray(probability, dtype=np.float64)
    count = len(tokens) - 1
    if count < 1 or len(said) != count or probability.shape != (count,):
        raise ValueError(
            f"{len(tokens)} tokens have {len(tokens) - 1} next tokens, got {len(said)} said and "
            f"probabilities of shape {probability.shape}"
        )
    left, bottom, right = 1.35, 0.65, 0.2
    wide = (style.WIDTH - left - right) / count
    apart, high = 0.85, 0.42
    up = apart * (len(ROWS) - 1) + high
    figure = Picture(f"teacher forcing on {count} positions", style.WIDTH,
                     bottom + up + 0.15 + style.HEADING)  # fmt: skip
    figure.heading(
        "Training: one pass, and a question at every position",
        "the target is the text moved by one; colour: the probability of the true next token",
    )
    panel = figure.panel("positions", 0, bottom - 0.02, style.WIDTH, up + 0.04)
    panel.set_xlim(0, style.WIDTH)
    panel.set_ylim(-0.02, up + 0.02)
    panel.set_axis_off()
    rows = {"reads": list(tokens[:-1]), "should say": list(tokens[1:]), "says": list(said)}
    places = {name: apart * (len(ROWS) - 1 - row) for row, name in enumerate(ROWS)}
    colours, scale = style.PROBABILITY, style.probability_scale()
    for name, texts in rows.items():
        y = places[name]
        panel.text(left - 0.12, y + high / 2, name, ha="right", va="center", size=style.TEXT_SIZE)
        for position, text in enumerate(texts):
            x = left + position * wide + 0.04
            fill: Any = "white"
            if name == "should say":
                fill = colours(scale(probability[position]))
            right_guess = name == "says" and text == tokens[position + 1]
            _box(
                panel,
                text,
                x,
                y,
                wide - 0.08,
                high,
                fill,
                is_right=right_guess,
                name=f"{name} {position}",
            )
    read, asked = places["reads"], places["should say"]
    for position in range(count):
        x = left + (position + 0.5) * wide
        _arrow(panel, (x, read + high), (x, asked), style.LINE)
        if position + 1 < count:  # the target is what the next position reads
            _arrow(panel, (x + 0.2 * wide, asked), (x + 0.8 * wide, read + high),
                   style.QUALITATIVE[1], dashed=True)  # fmt: skip
    bar = figure.colour_bar("colours", ScalarMappable(scale, colours), "", left, 0.32, 2.2, 0.13)
    bar.tick_params(labelsize=8.5)
    figure.write("legend", "orange: the true token is read next; bold: what it says is the target",
                 left + 2.5, 0.33, size=style.SMALL)  # fmt: skip
    return figure


def _box(
    panel: Axes, text: str, x: float, y: float, wide: float, high: float, fill: Any, *,
    is_right: bool, name: str,
) -> None:  # fmt: skip
    """A token in its box."""
    box = Rectangle((x, y), wide, high, fc=fill, ec=style.LINE, lw=0.8)
    box.set_gid(name)
    panel.add_patch(box)
    dark = not isinstance(fill, str) and np.dot(fill[:3], (0.3, 0.6, 0.1)) < 0.5
    shown = style.shortened(text)
    size = min(
        style.SMALL, style.SMALL * (wide - 0.06) / style.text_width(shown, style.SMALL) / 1.1
    )
    panel.text(x + wide / 2, y + high / 2, shown, ha="center", va="center", size=size,
               weight="bold" if is_right else "normal", color="white" if dark else style.INK,
               gid=f"token {name.rpartition(' ')[0]}")  # fmt: skip


def _arrow(
    panel: Axes, begin: tuple[float, float], end: tuple[float, float], colour: str, *,
    dashed: bool = False,
) -> None:  # fmt: skip
    panel.annotate("", end, begin, arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 1, "ls": "--" if dashed else "-",
        "shrinkA": 1, "shrinkB": 1, "mutation_scale": 8})  # fmt: skip
