"""Positions: tables that are added, vectors that are turned, what distance does, what length does.

The first four draw plain arrays, for worked examples; numpy arrays and tensors both will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from llama_viz.analysis import NEAR, fall_with_distance, require
from llama_viz.analysis import score_by_distance as means_by_distance
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from matplotlib.axes import Axes

QUERY, KEY = style.QUALITATIVE[0], style.QUALITATIVE[1]
FALLS, RISES = style.SIGNED(0.8), style.SIGNED(0.2)
FARTHEST_OFFSET = 12
HARDLY = 0.5  # a fall of the mean score that is drawn in grey: it changes a weight by less than e/2


@styled
def position_table(table: Any) -> Picture:
    """A table of positions as it is added to the embeddings: a row for each position.

    table is (position, feature), such as foundations.sinusoidal_positions(40). Even and odd
    features have a panel each: side by side, sine and cosine would alternate finer than a screen
    can show.
    """
    values = np.asarray(table, dtype=np.float64)
    n_positions, n_features = values.shape
    left, bottom, across, gap, up = 0.75, 0.6, 3.7, 0.35, 2.6
    figure = Picture("table of positions", style.WIDTH, bottom + up + 0.25 + style.HEADING)
    figure.heading(
        f"{n_features} numbers for each of {n_positions} positions",
        "row p is added to the embedding of whatever token stands at position p",
    )
    for number, name in enumerate(("even", "odd")):
        start = left + number * (across + gap)
        panel = figure.panel(f"{name} features", start, bottom, across, up)
        half = values[:, number::2]
        image = panel.imshow(
            half, cmap=style.SIGNED, norm=style.signed_scale(values), aspect="auto",
            interpolation="nearest",
            extent=(number - 1, number - 1 + 2 * half.shape[1], n_positions - 0.5, -0.5),
        )  # fmt: skip
        image.set_gid("table")
        panel.set_title(f"{name} features")
        panel.set_xlabel("feature")
        panel.xaxis.set_major_locator(style.whole_numbers())
        panel.yaxis.set_major_locator(style.whole_numbers(6))
        panel.tick_params(labelleft=number == 0)
        if number == 0:
            panel.set_ylabel("position")
    figure.colour_bar("colours", image, "", start + across + 0.15, bottom, 0.14, up)
    return figure


@styled
def turned_pair(
    vectors: tuple[Sequence[float], Sequence[float]],
    *,
    key_position: int,
    offset: int,
    degrees: float = 30.0,
) -> Picture:
    """A query and a key of two features, each turned by its position, and their dot product.

    vectors are (query, key). The query stands at key_position + offset, and one position turns by
    so many degrees. Left the plane, dashed before rotation; right the product over the offset, with
    a dot at the one in view.
    """
    query, key = (_complex(vector) for vector in vectors)
    step = np.deg2rad(degrees)
    query_position = key_position + offset
    hands = {
        f"query at {query_position}": (query, query * np.exp(1j * step * query_position), QUERY),
        f"key at {key_position}": (key, key * np.exp(1j * step * key_position), KEY),
    }
    product = float((hands[f"query at {query_position}"][1] * hands[f"key at {key_position}"][1]
                     .conjugate()).real)  # fmt: skip

    left, bottom, side = 0.85, 0.6, 3.6
    figure = Picture(
        "a pair of features, turned", style.WIDTH, bottom + side + 0.35 + style.HEADING
    )
    figure.heading(
        f"Query at {query_position}, key at {key_position}: query · key = {product:+.2f}",
        f"one position turns by {degrees:g} degrees; dashed: before rotation",
    )
    plane = figure.panel("plane", left, bottom, side, side)
    reach = 1.25 * max(abs(query), abs(key))
    plane.axhline(0, color=style.FAINT, lw=0.8, gid="zero")
    plane.axvline(0, color=style.FAINT, lw=0.8, gid="zero")
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 91))
    for name, (before, after, colour) in hands.items():
        rim = abs(before) * circle
        plane.plot(rim.real, rim.imag, color=style.FAINT, lw=0.8, gid=f"circle of {name}")
        for end, look, when in ((before, (0, (3, 2)), "before"), (after, "-", "after")):
            plane.plot(
                [0, end.real], [0, end.imag], color=colour, ls=look, marker="o", markevery=[1],
                ms=4 if when == "before" else 6, lw=1.2 if when == "before" else 2.2,
                gid=f"{name}, {when}",
            )  # fmt: skip
    plane.set_xlim(-reach, reach)
    plane.set_ylim(-reach, reach)
    plane.set_aspect("equal")
    plane.set_xlabel("first feature")
    plane.set_ylabel("second feature", labelpad=0)
    handles = [Line2D([], [], color=look[2], lw=2.2, label=name) for name, look in hands.items()]
    plane.legend(handles=handles, loc="upper left", fontsize=style.SMALL, frameon=False,
                 borderaxespad=0.1).set_gid("names")  # fmt: skip

    start = left + side + 1.0
    panel = figure.panel("product", start, bottom, style.WIDTH - start - 0.25, side)
    dense = np.linspace(-FARTHEST_OFFSET, FARTHEST_OFFSET, 193)
    line = (query * np.exp(1j * step * dense) * key.conjugate()).real
    panel.axhline(0, color=style.FAINT, lw=0.8, gid="zero")
    panel.plot(dense, line, color=style.QUIET, lw=1.2, gid="product over the offset")
    panel.plot([offset], [product], "o", color=style.INK, ms=8, gid="in view")
    panel.set_xlim(-FARTHEST_OFFSET - 0.5, FARTHEST_OFFSET + 0.5)
    panel.xaxis.set_major_locator(style.whole_numbers(7))
    panel.set_xlabel("offset: query position − key position")
    panel.set_title("query · key, wherever both stand")
    return figure


@styled
def rotation_matrix(matrix: Any) -> Picture:
    """The rotation of a whole head as one matrix: blocks of two along the diagonal, else zeros.

    matrix is (head_feature, head_feature), such as foundations.rotation_matrix(angle); zeros are
    grey.
    """
    values = np.asarray(matrix, dtype=np.float64)
    n_zeros = int((values == 0).sum())
    left, bottom, side = 0.7, 0.6, 3.6
    figure = Picture("rotation matrix", 6.5, bottom + side + style.HEADING)
    figure.heading(
        f"{n_zeros:,} of {values.size:,} numbers are 0", "one 2 × 2 rotation for each pair"
    )
    panel = figure.panel("matrix", left, bottom, side, side)
    panel.set_facecolor(style.MASKED)
    image = panel.imshow(
        np.where(values == 0, np.nan, values), cmap=style.SIGNED, aspect="auto",
        norm=style.signed_scale(values), interpolation="nearest",
    )  # fmt: skip
    image.set_gid("matrix")
    panel.set_xlabel("feature before rotation")
    panel.set_ylabel("feature after rotation")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(style.whole_numbers())
    figure.colour_bar("colours", image, "", left + side + 0.15, bottom, 0.14, side)
    return figure


@styled
def wavelengths(waves: Mapping[str, Any], lengths: Mapping[str, int]) -> Picture:
    """After how many positions each pair has turned once, beside the lengths of texts.

    waves maps a name to (pair) positions, as foundations.wavelengths() gives them; lengths are
    drawn as level lines. Pairs are placed by their exponent 2i / head_dim.
    """
    series = {name: np.asarray(values, dtype=np.float64) for name, values in waves.items()}
    left, bottom, across, up = 1.25, 0.65, 8.0, 3.3
    figure = Picture("wavelengths", style.WIDTH, bottom + up + style.HEADING + 0.05)
    figure.heading(
        "How many positions a pair takes for one turn",
        "above a dashed line, a pair does not get round within a text of that length",
    )
    panel = figure.panel("wavelengths", left, bottom, across, up)
    panel.set_yscale("log")
    panel.yaxis.set_minor_locator(NullLocator())
    looks = style.distinct(len(series))
    for (name, values), look in zip(series.items(), looks, strict=True):
        panel.plot(
            np.arange(len(values)) / len(values), values, color=look.colour, lw=0.8,
            marker="o", ms=7 if len(values) <= 16 else 3.2, label=name, gid=name,
        )  # fmt: skip
    for name, length in lengths.items():
        panel.axhline(length, color=style.QUIET, lw=0.9, ls=(0, (4, 3)), gid=name)
        panel.text(-0.01, length * 1.12, f"{name}: {length:,}", va="bottom",
                   size=style.SMALL, color=style.QUIET, gid=name)  # fmt: skip
    panel.set_xlim(-0.02, 1.02)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:,.0f}"))
    panel.set_xlabel("2i / head size: from the first pair to the last")
    panel.set_ylabel("wavelength (positions)", labelpad=2)
    panel.legend(loc="upper left", fontsize=style.SMALL, frameon=False).set_gid("names")
    return figure


@styled
def long_term_decay(bound: Any, scores: Mapping[str, Any]) -> Picture:
    """A bound on scores over the distance, and scores that obey it in other ways.

    bound is (distance), from 0; scores map a name to (distance), also from 0.
    """
    heights = np.asarray(bound, dtype=np.float64)
    series = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    left, bottom, across, up = 0.7, 0.65, 3.85, 2.9
    figure = Picture("long-term decay", style.WIDTH, bottom + up + 0.3 + style.HEADING)
    figure.heading(
        "The bound falls, and oscillates; a score need not fall",
        "left: mean of |S| over the pairs (Su et al. 2021); right: scores of made-up vectors",
    )
    panel = figure.panel("bound", left, bottom, across, up)
    panel.plot(np.arange(len(heights)), heights, color=style.QUALITATIVE[0], lw=1, gid="bound")
    panel.set_ylim(0, 1.05 * heights.max())
    panel.set_xlim(-0.02 * len(heights), len(heights))
    panel.xaxis.set_major_locator(style.whole_numbers(5))
    panel.set_title("the bound")
    panel.set_xlabel("distance (positions)")
    start = left + across + 0.75
    panel = figure.panel("scores", start, bottom, style.WIDTH - start - 0.25, up)
    panel.axhline(0, color=style.FAINT, lw=0.8, gid="zero")
    for (name, values), look in zip(series.items(), style.distinct(len(series)), strict=True):
        panel.plot(np.arange(len(values)), values, color=look.colour, lw=1.4, label=name, gid=name)
    panel.margins(x=0.01, y=0.3)
    panel.xaxis.set_major_locator(style.whole_numbers(6))
    panel.set_title("scores under it")
    panel.set_xlabel("distance (positions)")
    panel.legend(loc="lower right", fontsize=style.SMALL, frameon=False).set_gid("names")
    return figure


@styled
def score_by_distance(trace: xr.Dataset) -> Picture:
    """Each head's mean recorded score over the distance, beside what it is near by.

    A row for each layer, a panel for each head; every panel has the same scale, and 0 is the mean
    over the distances 1 to 8. Blue falls, orange rises, grey changes by less than a half.
    """
    require(trace, "attention_scores")
    means = means_by_distance(trace)
    falls = fall_with_distance(trace)
    near = means.sel(distance=NEAR).mean("distance")
    values = (means - near).transpose("layer", "head", "distance").values
    distances = means["distance"].values
    n_layers, n_heads = values.shape[:2]

    left, bottom, gap, right, high = 0.95, 0.6, 0.08, 0.2, 0.8
    wide = (style.WIDTH - left - right - gap * (n_heads - 1)) / n_heads
    figure = Picture(
        "mean score over the distance", style.WIDTH,
        bottom + n_layers * (high + gap) + 0.25 + style.HEADING,
    )  # fmt: skip
    figure.heading(
        "Mean score of every head over the distance, minus its mean near by",
        "blue: falls; orange: rises; grey: changes by less than a half. Level line: as near by",
    )
    room = 0.08 * float(np.ptp(values)) or 1.0
    for row, layer in enumerate(means["layer"].values.tolist()):
        for column, head in enumerate(means["head"].values.tolist()):
            panel = figure.panel(
                f"layer {layer}, head {head}", left + column * (wide + gap),
                bottom + (n_layers - 1 - row) * (high + gap), wide, high,
            )  # fmt: skip
            fall = float(falls.sel(layer=layer, head=head))
            colour = style.QUIET if abs(fall) < HARDLY else FALLS if fall > 0 else RISES
            panel.axhline(0, color=style.LINE, lw=0.8, gid="near")
            panel.plot(distances, values[row, column], color=colour, lw=1.4,
                       gid=f"layer {layer}, head {head}")  # fmt: skip
            panel.set_ylim(values.min() - room, values.max() + room)
            panel.set_xlim(0, distances[-1])
            panel.xaxis.set_major_locator(style.whole_numbers(2))
            panel.yaxis.set_major_locator(style.whole_numbers(3))
            panel.tick_params(labelleft=column == 0, labelbottom=row == n_layers - 1)
            if row == 0:
                panel.set_title(f"head {head}", size=style.SMALL, pad=3)
            if column == 0:
                panel.set_ylabel(f"layer {layer}", size=style.SMALL)
    figure.write("axis", "distance from query back to key (positions)", style.WIDTH / 2, 0.12,
                 ha="center", size=style.TEXT_SIZE)  # fmt: skip
    return figure


@styled
def loss_by_position(
    losses: Mapping[str, Any], *, trained_length: int, window: int = 64
) -> Picture:
    """The loss at each position of long texts, as means over windows, one line for each way.

    losses map a name to (position) in nats; the dotted line is where training ended. Raises
    ValueError where a window is longer than a text.
    """
    series = {name: np.asarray(values, dtype=np.float64) for name, values in losses.items()}
    shortest = min(len(values) for values in series.values())
    if not 1 <= window <= shortest:
        raise ValueError(f"window must be from 1 to the {shortest} positions, got {window}")
    left, bottom, across, up = 0.75, 0.65, 5.95, 3.5
    figure = Picture("loss over the position", style.WIDTH, bottom + up + style.HEADING + 0.1)
    figure.heading(
        f"Loss over the position, in windows of {window}",
        f"trained on texts of {trained_length} positions; nothing is trained further",
    )
    panel = figure.panel("loss", left, bottom, across, up)
    ends = {}
    for (name, values), look in zip(series.items(), style.distinct(len(series)), strict=True):
        n_windows = len(values) // window
        means = values[: n_windows * window].reshape(n_windows, window).mean(axis=1)
        middles = (np.arange(n_windows) + 0.5) * window
        panel.plot(middles, means, color=look.colour, lw=1.8, marker=look.marker, ms=3.5, gid=name)
        ends[name] = (means[-1], look.colour)
    length = max(len(values) for values in series.values())
    panel.set_xlim(0, length)
    panel.set_ylim(0, None)
    panel.axvline(trained_length, color=style.QUIET, lw=1, ls=":", gid="trained length")
    panel.xaxis.set_major_locator(style.whole_numbers(9))
    panel.set_xlabel("position")
    panel.set_ylabel("loss (nats per token)")
    _name_ends(panel, ends, length, up)
    return figure


def _name_ends(
    panel: Axes, ends: dict[str, tuple[float, str]], length: float, height: float
) -> None:
    """Names beside the last points, pushed apart where lines end close together."""
    low, high = panel.get_ylim()
    step = 1.35 * style.SMALL / 72 * (high - low) / height
    names = sorted(ends, key=lambda name: ends[name][0])
    places: list[float] = []
    for name in names:
        places.append(max(ends[name][0], places[-1] + step if places else low))
    ceiling = high
    for number in reversed(range(len(names))):
        places[number] = min(places[number], ceiling)
        ceiling = places[number] - step
    for name, place in zip(names, places, strict=True):
        panel.annotate(name, (length, place), xytext=(6, 0), textcoords="offset points",
                       va="center", color=ends[name][1], size=style.SMALL, gid=name,
                       annotation_clip=False)  # fmt: skip


def _complex(vector: Sequence[float]) -> complex:
    """A vector of two features as one complex number; ValueError for any other."""
    numbers = np.asarray(vector, dtype=np.float64)
    if numbers.shape != (2,):
        raise ValueError(f"a vector in the plane has 2 features, got shape {numbers.shape}")
    return complex(*numbers.tolist())
