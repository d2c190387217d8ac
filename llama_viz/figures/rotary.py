"""Rotary positions: the angles applied, and the angles measured on live queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, NullLocator

from llama_viz.analysis import measured_rotation_angle, pick, require, wrapped
from llama_viz.analysis import score_by_pair as pairs_of_score
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

MOST_PAIRS = 8  # as many as can be told apart; more are thinned out evenly
QUERY, KEY = style.QUALITATIVE[0], style.QUALITATIVE[1]
POSITIVE, NEGATIVE = style.SIGNED(0.8), style.SIGNED(0.2)
HALF_TURNS = {-np.pi: "−π", 0.0: "0", np.pi: "π"}


@styled
def rotation_angles(trace: xr.Dataset, *, layer: int, head: int) -> Picture:
    """The angle by which each pair of features turns, over the positions: applied and measured.

    Lines are the angle applied, position x frequency of the pair. Dots are measured between the
    head's query before and after rotation, where whole turns cannot be seen. Raises ValueError for
    an unknown layer or head.
    """
    require(trace, "rotation_angle", "query", "query_rotated", "key", "key_rotated")
    layer, head = pick(trace, "layer", layer), pick(trace, "head", head)
    here = trace.sel(layer=[layer])
    applied = trace["rotation_angle"].values.astype(np.float64)
    measured = measured_rotation_angle(here).sel(layer=layer, head=head).values
    positions = trace["position"].values
    pairs = _chosen_pairs(applied.shape[1])

    left, bottom, across, up = 0.95, 0.6, 3.2, 3.7
    figure = Picture(
        f"rotation angles of layer {layer}, head {head}",
        style.WIDTH, bottom + up + 0.4 + style.HEADING,
    )  # fmt: skip
    figure.heading(
        f"Layer {layer}, head {head}: {_agreement(here, head)}",
        "lines: the angle applied; dots: the angle between the query before and after rotation",
    )
    colours = dict(zip(pairs, style.ramp(len(pairs))[::-1], strict=True))

    title = 0.24
    panel = figure.panel("applied angles", left, bottom, across, up + title)
    _draw_applied(panel, positions, applied, colours)

    # One lane for each pair, two side by side.
    rows = -(-len(pairs) // 2)
    start, gap, right = left + across + 1.25, 0.2, 0.2
    wide = (style.WIDTH - start - right - gap) / 2
    high = (up + title) / rows - title
    for place, pair in enumerate(pairs):
        column, row = divmod(place, rows)
        lane = figure.panel(
            f"pair {pair}", start + column * (wide + gap),
            bottom + (rows - 1 - row) * (high + title), wide, high,
        )  # fmt: skip
        _draw_lane(lane, positions, applied[:, pair], measured[:, pair], colours[pair])
        lane.set_title(f"pair {pair}", size=style.SMALL, color=colours[pair], pad=3)
        lane.tick_params(labelleft=column == 0, labelbottom=row == rows - 1)
        if row == rows - 1:
            lane.set_xlabel("position")
    for name, words, edge in (
        ("applied", "applied (dashed: one turn)", left),
        ("measured", "measured, up to whole turns", start),
    ):
        figure.write(name, words, edge, bottom + up + title + 0.1,
                     size=style.TEXT_SIZE, color=style.INK)  # fmt: skip
    return figure


@styled
def score_by_pair(
    trace: xr.Dataset, *, layer: int, head: int, query_position: int, key_position: int
) -> Picture:
    """One attention score as the sum of what each pair of rotated features adds to it.

    Above, for some pairs, the directions of query and key before rotation (dashed) and after it.
    Raises ValueError for what is not there.
    """
    require(trace, "query", "key", "query_rotated", "key_rotated")
    split = pairs_of_score(trace, layer=layer, head=head, query_position=query_position)
    key_position = pick(split.to_dataset(name="split"), "key_position", key_position)
    values = split.sel(key_position=key_position).values
    labels = dict(zip(trace["position"].values.tolist(), trace["token"].values, strict=True))
    hands = _hands(trace, layer, head, query_position, key_position)

    left, bottom, up, circles = 0.95, 0.6, 2.0, 1.35
    figure = Picture(
        f"score of layer {layer}, head {head}, split by pair",
        style.WIDTH, bottom + up + 0.75 + circles + style.HEADING,
    )  # fmt: skip
    query, key = (style.shortened(str(labels[place])) for place in (query_position, key_position))
    figure.heading(
        f"Layer {layer}, head {head}: query {query_position}, {query}; key {key_position}, {key}",
        f"the score {values.sum():.4g} is the sum of what {len(values)} pairs add",
        gid="detail (measured)",
    )
    chosen = _chosen_pairs(len(values))
    dials = figure.panel("hands", left, bottom + up + 0.7, style.WIDTH - left - 0.25, circles)
    _draw_hands(dials, chosen, hands)
    for name, words, colour, place in (
        ("query", "query", QUERY, left),
        ("key", "key", KEY, left + 0.7),
        ("before", "dashed: before rotation", style.QUIET, left + 1.2),
    ):
        figure.write(name, words, place, bottom + up + 0.45, color=colour)
    panel = figure.panel("pairs", left, bottom, style.WIDTH - left - 0.25, up)
    colours = [POSITIVE if value >= 0 else NEGATIVE for value in values]
    panel.bar(np.arange(len(values)), values, color=colours, width=0.7, gid="added by each pair")
    panel.axhline(0, color=style.QUIET, lw=0.8, gid="zero")
    panel.set_xlim(-0.6, len(values) - 0.4)
    panel.xaxis.set_major_locator(style.whole_numbers(16))
    panel.set_xlabel("pair")
    panel.set_ylabel("added to the score")
    return figure


def _hands(
    trace: xr.Dataset, layer: int, head: int, query_position: int, key_position: int
) -> dict[str, np.ndarray]:
    """The directions of all pairs, in radians: of query and key, before and after rotation."""
    kv_head = int(trace["kv_head_of_head"].sel(head=head))
    query = {"layer": layer, "head": head, "position": query_position}
    key = {"layer": layer, "key_value_head": kv_head, "position": key_position}
    angles = {}
    for name, place in (("query", query), ("key", key)):
        for variable in (name, f"{name}_rotated"):
            vector = trace[variable].sel(place).values.astype(np.float64)
            angles[variable] = np.arctan2(vector[1::2], vector[0::2])
    return angles


def _draw_hands(panel: Axes, pairs: list[int], hands: dict[str, np.ndarray]) -> None:
    """A circle for each chosen pair, a hand for each direction."""
    round_the_circle = np.linspace(0, 2 * np.pi, 73)
    for place, pair in enumerate(pairs):
        x = 2.5 * place
        panel.plot(x + np.cos(round_the_circle), np.sin(round_the_circle), color=style.LINE, lw=0.8,
                   gid=f"circle {pair}")  # fmt: skip
        for variable, angles in hands.items():
            is_after = variable.endswith("_rotated")
            panel.plot(
                [x, x + np.cos(angles[pair])], [0, np.sin(angles[pair])],
                color=QUERY if variable.startswith("query") else KEY,
                lw=2 if is_after else 1, ls="-" if is_after else (0, (2, 1.5)),
                gid=f"{variable} {pair}",
            )  # fmt: skip
        panel.text(x, -1.5, f"pair {pair}", ha="center", va="center", size=style.SMALL,
                   gid=f"name {pair}")  # fmt: skip
    panel.set_xlim(-1.2, 2.5 * (MOST_PAIRS - 1) + 1.2)
    panel.set_ylim(-1.8, 1.15)
    panel.set_aspect("equal")
    panel.set_axis_off()


def _draw_applied(
    panel: Axes, positions: np.ndarray, applied: np.ndarray, colours: dict[int, Any]
) -> None:
    """All chosen pairs as lines over the positions, in radians, on a logarithmic scale."""
    moving = applied > 0  # position 0 turns nothing and has no place on the scale
    panel.set_yscale("log")
    panel.yaxis.set_minor_locator(NullLocator())
    for pair, colour in colours.items():
        shown = moving[:, pair]
        angle = np.where(shown, applied[:, pair], np.nan)
        alone = "o" if shown.sum() == 1 else ""
        panel.plot(positions, angle, color=colour, lw=1.6, marker=alone, gid=f"pair {pair}")
        if shown.any():
            panel.annotate(
                f"pair {pair}", (positions[-1], applied[-1, pair]), xytext=(5, 0),
                textcoords="offset points", va="center", color=colour, size=style.SMALL,
                gid=f"pair {pair}",
            )  # fmt: skip
    panel.axhline(2 * np.pi, color=style.QUIET, lw=0.8, ls=(0, (3, 2)), gid="one turn")
    if moving.any():
        chosen = applied[:, list(colours)]
        lowest, highest = chosen[chosen > 0].min(), chosen.max()
        panel.set_ylim(lowest / 1.6, max(highest, 2 * np.pi) * 1.6)
    else:
        panel.set_ylim(0.01, 20)
        panel.text(0.5, 0.5, "position 0 is not turned", transform=panel.transAxes, ha="center",
                   color=style.QUIET, size=style.TEXT_SIZE, gid="nothing moves")  # fmt: skip
    panel.set_xlim(min(positions) - 0.5, max(positions) + 0.5)
    panel.xaxis.set_major_locator(style.whole_numbers())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda angle, _: f"{angle:g}"))
    panel.set_xlabel("position")
    panel.set_ylabel("angle (radians)")


def _draw_lane(
    lane: Axes, positions: np.ndarray, applied: np.ndarray, measured: np.ndarray, colour: Any
) -> None:
    """One pair within a turn: the applied angle as a line, the measured ones as dots."""
    if len(positions) > 1:
        # Between two positions the angle grows evenly; where a turn is full the line breaks.
        dense = np.linspace(positions[0], positions[-1], 8 * (len(positions) - 1) + 1)
        line = wrapped(np.interp(dense, positions, applied))
        line[np.abs(np.diff(line, prepend=line[0])) > np.pi] = np.nan
        lane.plot(dense, line, color=colour, lw=0.9, alpha=0.6, gid="applied")
    size = 3.0 if len(positions) <= 80 else 1.8
    lane.plot(positions, measured, "o", color=colour, ms=size, mew=0, gid="measured")
    lane.set_ylim(-1.15 * np.pi, 1.15 * np.pi)
    lane.set_yticks(list(HALF_TURNS), list(HALF_TURNS.values()))
    lane.set_xlim(min(positions) - 0.5, max(positions) + 0.5)
    lane.xaxis.set_major_locator(style.whole_numbers(5))
    lane.grid(axis="y", color=style.FAINT, lw=0.8)
    lane.set_axisbelow(True)


def _chosen_pairs(n_pairs: int) -> list[int]:
    """All pairs where they are few, else the first, the last and some evenly between."""
    if n_pairs <= MOST_PAIRS:
        return list(range(n_pairs))
    return [round(index * (n_pairs - 1) / (MOST_PAIRS - 1)) for index in range(MOST_PAIRS)]


def _agreement(trace: xr.Dataset, head: int) -> str:
    """How far measured and applied angles are apart, over all positions and pairs, in one sentence.

    Rounding differs from machine to machine, so the sentence gives a power of ten, not a number.
    """
    applied = trace["rotation_angle"]
    kv_head = int(trace["kv_head_of_head"].sel(head=head))
    differences = (
        wrapped(measured_rotation_angle(trace, "query").sel(head=head) - applied),
        wrapped(measured_rotation_angle(trace, "key").sel(key_value_head=kv_head) - applied),
    )
    largest = max(float(np.nanmax(np.abs(difference), initial=0.0)) for difference in differences)
    for bound in (0.00001, 0.0001, 0.001, 0.01):
        if largest < bound:
            return f"measured and applied angles differ by less than {bound:f}".rstrip("0") + " rad"
    return f"measured and applied angles differ by up to {largest:.2g} rad"
