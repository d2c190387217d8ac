"""Tokens as rows of numbers: the rows, what depth does to them, their neighbours, a flat map."""

from __future__ import annotations

from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MultipleLocator

from llama_viz.analysis import require
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.vectors import cosine, nearest, project

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.axes import Axes

ALL = "all classes"
LABEL = 8.5  # size of the words in a map


@styled
def embedding_rows(trace: xr.Dataset) -> Picture:
    """The embedding of every position of a run: one row of numbers for each token."""
    require(trace, "embedding")
    values = trace["embedding"].values
    labels = [
        f"{style.shortened(str(token))}  {int(token_id)}"
        for token, token_id in zip(
            trace["token"].values, trace["token_id"].values, strict=True
        )
    ]  # fmt: skip
    left, right = 0.3 + style.label_room(labels), 0.95
    wide = style.WIDTH - left - right
    up = 0.22 * len(values)
    figure = Picture(f"embeddings of {len(values)} tokens", style.WIDTH, up + 0.6 + style.HEADING)
    figure.heading("Each token is a row of numbers", "token and id; colour: the number")
    panel = figure.panel("rows", left, 0.55, wide, up)
    image = panel.imshow(values, cmap=style.SIGNED, norm=style.signed_scale(values), aspect="auto",
                         interpolation="nearest")  # fmt: skip
    image.set_gid("embedding")
    rows = style.fitting_ticks(len(labels), up)
    style.label_axis(panel.yaxis, [labels[row] for row in rows], rows)
    panel.set_xlabel("feature")
    figure.colour_bar("colours", image, "", left + wide + 0.12, 0.55, 0.12, up)
    return figure


@styled
def same_token(trace: xr.Dataset, *, most: int = 5) -> Picture:
    """How alike the rows of one token are at its several places, from the embedding upward.

    For each token that stands at the most positions (at most `most` of them, the first one left
    out), the mean cosine of all pairs of its places: in the embedding, and after every block.
    Raises ValueError where no token stands twice.
    """
    require(trace, "embedding", "residual_out")
    ids = trace["token_id"].values
    counts = Counter(int(token_id) for token_id in ids[1:]).most_common(most)
    repeated = [token_id for token_id, count in counts if count > 1]
    if not repeated:
        raise ValueError("no token stands twice in this run; record a longer text")
    streams = [trace["embedding"].values, *trace["residual_out"].values]
    figure = Picture("the same token in several places", style.WIDTH, 4.4)
    figure.heading("The same token at several places: one row at the bottom, then its context",
                   "mean cosine of all pairs of places; 1 is the same direction")  # fmt: skip
    panel = figure.panel("depth", 0.85, 0.65, 5.9, 2.9)
    looks = style.distinct(len(repeated))
    for token_id, look in zip(repeated, looks, strict=True):
        places = np.flatnonzero(ids == token_id)
        places = places[places > 0]
        pairs = np.triu_indices(len(places), 1)
        means = [float(cosine(stream[places])[pairs].mean()) for stream in streams]
        token = style.shortened(str(trace["token"].values[places[0]]))
        panel.plot(range(len(streams)), means, color=look.colour, ls=look.dashes, marker="o", ms=5,
                   label=f"{token}  ({len(places)} places)", gid=f"token {token_id}")  # fmt: skip
    names = ["embedding", *(f"after block {layer}" for layer in range(len(streams) - 1))]
    panel.set_xticks(range(len(streams)), names if len(names) < 8 else map(str, range(len(names))))
    panel.set_xlim(-0.15, len(streams) - 0.85)
    panel.set_ylim(min(0.0, panel.get_ylim()[0]), 1.05)
    panel.yaxis.set_major_locator(MultipleLocator(0.25))
    panel.set_ylabel("cosine")
    panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panel.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False,
                 labelcolor=style.INK, fontsize=style.SMALL)  # fmt: skip
    return figure


@styled
def lookup(table: np.ndarray, ids: Sequence[int], words: Sequence[str]) -> Picture:
    """A look-up as a product: one-hot rows times a small table are rows of the table.

    table is (token, feature), at most 12 x 8, words name its rows; ids are the tokens looked up.
    Raises ValueError for a larger table, and for ids that it does not have.
    """
    table = np.asarray(table)
    n_tokens, n_features = table.shape
    if n_tokens > 12 or n_features > 8 or len(words) != n_tokens:
        raise ValueError(f"expected at most 12 named rows of 8 numbers, got {table.shape}")
    if not all(0 <= token_id < n_tokens for token_id in ids):
        raise ValueError(f"the table has ids 0 to {n_tokens - 1}, got {list(ids)}")
    one_hot = np.eye(n_tokens)[list(ids)]
    cell, room, sign = 0.42, 0.45 + style.label_room(list(words)), 0.45
    height = style.HEADING + cell * max(n_tokens, len(ids)) + 0.75
    figure = Picture("a look-up as a product", style.WIDTH, height)
    figure.heading("One-hot rows times the table are rows of the table",
                   "each 1 picks a row; every other row is multiplied by 0")  # fmt: skip
    named = [style.shortened(words[token_id]) for token_id in ids]
    parts = (
        ("one-hot", one_hot, named, "×"),
        ("table", table, [f"{style.shortened(w)} {i}" for i, w in enumerate(words)], "="),
        ("rows", one_hot @ table, named, ""),
    )
    colours = style.QUALITATIVE
    left = 0.1
    for name, values, labels, after in parts:
        left += room + (0.15 if name == "table" else 0)
        bottom = height - style.HEADING - 0.35 - cell * len(values)
        panel = figure.panel(name, left, bottom, cell * values.shape[1], cell * len(values))
        panel.set_xlim(-0.5, values.shape[1] - 0.5)
        panel.set_ylim(len(values) - 0.5, -0.5)
        panel.set_title(name if name != "one-hot" else "one-hot rows")
        panel.set_xticks([])
        style.label_axis(panel.yaxis, labels, range(len(values)))
        panel.tick_params(length=0)
        for row, column in np.ndindex(*values.shape):
            token_id = row if name == "table" else ids[row]
            picked = token_id in ids and (name != "one-hot" or values[row, column])
            colour = colours[token_id % len(colours)] if picked else style.QUIET
            panel.text(column, row, f"{values[row, column]:g}", ha="center",
                       va="center_baseline", color=colour, gid="number",
                       weight="bold" if picked else "normal")  # fmt: skip
        left += cell * values.shape[1]
        figure.write("sign", after, left + 0.2, height - style.HEADING - 0.35 - cell,
                     size=style.TITLE, color=style.INK)  # fmt: skip
        left += sign
    return figure


@styled
def nearest_tokens(tables: xr.Dataset, *, token: str, count: int = 8) -> Picture:
    """The tokens whose rows point most nearly where one token's row does, in each table.

    tables are those of vectors.token_tables. Raises ValueError for a token that they do not have.
    """
    labels = [str(label) for label in tables["token"].values]
    if token not in labels:
        raise unknown_name("token", token, labels)
    row = labels.index(token)
    gap, room = 0.35, 1.25
    across = (style.WIDTH - 2 * style.MARGIN - gap * (len(tables) - 1)) / len(tables)
    figure = Picture(f"neighbours of {style.shortened(token)}", style.WIDTH,
                     style.HEADING + 0.9 + 0.31 * count)  # fmt: skip
    figure.heading(f"Which rows point where that of {style.shortened(token)} does?",
                   "cosine: 1 is the same direction, 0 a right angle")  # fmt: skip
    for number, (name, table) in enumerate(tables.items()):
        found = nearest(table.values, row, count)
        likeness = [cosine_of for _, cosine_of in found]
        start = style.MARGIN + number * (across + gap) + room
        panel = figure.panel(str(name), start, 0.55, across - room - 0.1, 0.31 * count)
        bars = panel.barh(range(len(found)), likeness, height=0.7,
                          color=style.distinct(len(tables))[number].colour)  # fmt: skip
        for place, bar in enumerate(bars):
            bar.set_gid(f"neighbour {place}")
        panel.set_ylim(count - 0.5, -0.5)
        panel.set_xlim(min(0.0, *likeness), 1)
        words = [style.shortened(labels[other]) for other, _ in found]
        style.label_axis(panel.yaxis, words, range(len(words)))
        panel.set_xlabel("cosine")
        panel.set_title(str(name).replace("_", " "))
    return figure


@styled
def word_map(tables: xr.Dataset, *, highlight: str = ALL) -> Picture:
    """The rows of all words that have a class, on the two axes along which they differ most.

    tables are those of vectors.token_tables, made with classes. highlight names a class whose words
    are written beside their dots, as many as there is room for. Raises ValueError for a class that
    is not there.
    """
    words = tables.isel(token_id=tables["word_class"].values != "")
    named = words["word_class"].values
    classes = sorted({str(name) for name in named})
    if highlight not in (ALL, *classes):
        raise unknown_name("class", highlight, (ALL, *classes))
    gap, legend = 0.3, 0.6
    across = (style.WIDTH - 2 * style.MARGIN - gap * (len(tables) - 1)) / len(tables)
    side = min(across, 5.0)
    figure = Picture(f"map of {len(named)} words", style.WIDTH,
                     style.HEADING + side + legend + 0.55)  # fmt: skip
    figure.heading(
        "Words that are one token, on the two axes along which they differ most",
        "principal components of these rows, and the share of their variance that they show",
    )
    colours = {name: look.colour for name, look in zip(
        classes, style.distinct(len(classes)), strict=True)}  # fmt: skip
    marks = dict(zip(classes, cycle((*style.MARKERS, "P", "X")), strict=False))
    for number, (name, table) in enumerate(words.items()):
        found = project(table.values)
        start = style.MARGIN + number * (across + gap)
        panel = figure.panel(str(name), start, legend + 0.2, across, side)
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(True)
        title = f"{str(name).replace('_', ' ')}: {found.shares.sum():.0%} of the variance"
        figure.write(f"title of {name} (measured)", title, start, legend + side + 0.28,
                     color=style.INK, size=style.TEXT_SIZE)  # fmt: skip
        for kind in classes:
            points = found.points[named == kind]
            faint = highlight not in (ALL, kind)
            panel.scatter(points[:, 0], points[:, 1], s=26, marker=marks[kind], linewidths=0,
                          color=style.FAINT if faint else colours[kind],
                          zorder=1 if faint else 2, gid=kind)  # fmt: skip
        panel.margins(0.06)
        if highlight != ALL:
            labels = [str(label) for label in words["token"].values[named == highlight]]
            _write_beside(figure, panel, found.points[named == highlight], labels)
    left = style.MARGIN
    for kind in classes:
        key = figure.panel(f"key of {kind}", left, 0.25, 0.2, 0.2)
        key.set_axis_off()
        key.scatter([0], [0], s=36, marker=marks[kind], color=colours[kind], linewidths=0,
                    gid=kind)  # fmt: skip
        figure.write(f"class {kind}", style.shown(kind), left + 0.22, 0.28, color=style.INK)
        left += 0.22 + style.text_width(style.shown(kind), style.SMALL) + 0.25
    return figure


def _write_beside(figure: Picture, panel: Axes, points: np.ndarray, words: Sequence[str]) -> None:
    """Write words beside their dots, right or left, as many as fit without covering each other."""
    figure.draw_without_rendering()
    edges = panel.get_window_extent()
    taken: list[tuple[float, float, float]] = []
    for (x, y), word in zip(points, words, strict=True):
        across, up = panel.transData.transform((x, y))
        label = style.shown(word)
        width = style.text_width(label, LABEL) * style.DPI
        for start, side in ((across + 5, "left"), (across - 5 - width, "right")):
            inside = edges.x0 < start and start + width < edges.x1
            covers = (abs(up - high) < 14 and start < right and left < start + width
                      for left, right, high in taken)  # fmt: skip
            if inside and not any(covers):
                taken.append((start, start + width, up))
                shift = (5 if side == "left" else -5) * 72 / style.DPI
                panel.annotate(label, (x, y), (shift, -3), textcoords="offset points", ha=side,
                               size=LABEL, gid="word")  # fmt: skip
                break
