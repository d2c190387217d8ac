"""The KV cache operated on: what the next token becomes, and what few rows are worth."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BEFORE = "as it was"
ROW = 0.3  # inches, of one candidate
LEAST = 0.01  # a bar that can be seen
LETTERS = 10  # of a name, on each line


@styled
def next_token_after(
    probabilities: Mapping[str, tuple[Any, Any]], label: Callable[[int], str], *, count: int = 2
) -> Picture:
    """The next token's probabilities with the cache as it was, and after each operation on it.

    probabilities maps an operation's name to (before, after), each (vocabulary); before is one and
    the same. Drawn are the `count` likeliest of each that reach LEAST somewhere; label gives a
    token id its text. Raises ValueError for no operations.
    """
    if not probabilities:
        raise ValueError("there is no operation to draw")
    columns = {BEFORE: np.asarray(next(iter(probabilities.values()))[0], dtype=np.float64)}
    columns |= {
        name: np.asarray(after, dtype=np.float64) for name, (_, after) in probabilities.items()
    }
    likeliest = {
        int(token)
        for values in columns.values()
        for token in np.argsort(-values)[:count]
        if values[token] >= LEAST
    }
    rows = sorted(likeliest, key=lambda token: -columns[BEFORE][token])
    names = [style.shortened(label(token)) for token in rows]
    left, bottom, gap, names_room = 0.15 + style.label_room(names), 0.35, 0.26, 0.5
    across = (style.WIDTH - left - 0.3 - gap * (len(columns) - 1)) / len(columns)
    up = ROW * len(rows)
    figure = Picture("the next token after surgery", style.WIDTH,
                     bottom + up + names_room + style.HEADING)  # fmt: skip
    figure.heading(
        "The next token, with the cache as it was and operated on",
        f"probabilities of the {count} likeliest tokens of each column, where they can be seen",
    )
    for number, (name, values) in enumerate(columns.items()):
        panel = figure.panel(name, left + number * (across + gap), bottom, across, up)
        colour = style.QUIET if name == BEFORE else style.QUALITATIVE[0]
        bars = panel.hlines(range(len(rows)), 0, values[rows], color=colour, lw=0.72 * 72 * ROW)
        bars.set(gid="probability", capstyle="butt")
        panel.set_xlim(0, 1)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        style.label_axis(panel.yaxis, names, range(len(rows)))
        panel.tick_params(axis="y", length=0, labelleft=number == 0)
        panel.xaxis.set_major_locator(FixedLocator([0, 1]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.axvline(1, color=style.FAINT, lw=0.8, zorder=0, gid="certain")
        panel.set_title(fill(name, LETTERS), size=style.SMALL, pad=5, linespacing=1.3)
    return figure


@styled
def loss_by_rows_kept(losses: Mapping[str, Mapping[int, float]], whole: float) -> Picture:
    """Loss over the number of rows that the cache may keep, a line for each choice of rows.

    losses[choice][rows] are nats per token; whole is the loss with every row, drawn dotted.
    """
    left, bottom, up = 0.95, 0.6, 2.8
    across = style.WIDTH - left - 0.2
    figure = Picture("loss by rows kept", style.WIDTH, bottom + up + 0.15 + style.HEADING)
    figure.heading("What few rows of the cache are worth", "dotted: the loss with every row kept")
    panel = figure.panel("loss", left, bottom, across, up)
    panel.set_xscale("log", base=2)
    for look, (name, by_rows) in zip(style.distinct(len(losses)), losses.items(), strict=True):
        panel.plot(list(by_rows), list(by_rows.values()), color=look.colour, ls=look.dashes,
                   marker=look.marker, ms=5, label=name, gid=name)  # fmt: skip
    panel.axhline(whole, color=style.QUIET, lw=1.2, ls=":", gid="every row")
    kept = sorted({rows for by_rows in losses.values() for rows in by_rows})
    panel.xaxis.set_major_locator(FixedLocator(kept))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylim(0, None)
    panel.set_xlabel("rows kept")
    panel.set_ylabel("loss (nats per token)")
    panel.legend(loc="upper right", frameon=False, fontsize=style.TEXT_SIZE - 1).set_gid("choices")
    return figure
