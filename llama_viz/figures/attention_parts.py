"""The parts of attention: why scores are divided, vectors in the plane, softmax in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

QUERY, KEY, VALUE, OUTPUT = (style.QUALITATIVE[index] for index in (0, 1, 2, 3))


@styled
def saturation(
    undivided: Mapping[int, Sequence[float]], divided: Mapping[int, Sequence[float]]
) -> Picture:
    """What a head's size does to random scores, and to the softmax over them.

    Both map head_dim to its measured variance, largest weight and slope (foundations.saturation),
    without and with the division by sqrt(head_dim). The dashed line is the variance by theory.
    """
    sizes = sorted(undivided)
    left, bottom, gap, up = 0.75, 0.6, 0.75, 2.3
    across = (style.WIDTH - left - 2 * gap - 0.2) / 3
    figure = Picture("saturation of the softmax", style.WIDTH, bottom + up + 0.35 + style.HEADING)
    figure.heading(
        "Larger heads, larger dot products, a softmax that no longer moves",
        "random queries and keys, 16 keys for each query; with and without the division",
    )
    titles = ("variance of the scores", "largest weight (mean)", "slope w (1 − w) (mean)")
    for column, title in enumerate(titles):
        panel = figure.panel(title, left + column * (across + gap), bottom, across, up)
        for name, measured, colour, marker in (
            ("not divided", undivided, style.QUALITATIVE[1], "s"),
            ("divided by √head_dim", divided, style.QUALITATIVE[0], "o"),
        ):
            heights = [measured[size][column] for size in sizes]
            panel.plot(sizes, heights, color=colour, marker=marker, ms=5, gid=name, label=name)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_locator(FixedLocator(sizes))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.set_xlabel("head_dim")
        panel.set_title(title)
        if column == 0:
            panel.plot(sizes, sizes, "--", color=style.INK, lw=1, zorder=3,
                       gid="theory", label="head_dim")  # fmt: skip
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_locator(FixedLocator(sizes))
            panel.set_yticks(sizes, [str(size) for size in sizes])
            panel.yaxis.set_minor_locator(NullLocator())
            panel.legend(frameon=False, fontsize=9, loc="upper left", borderpad=0)
            panel.set_ylim(0.6, 8 * max(sizes))
        else:
            panel.set_ylim(0, 1.05 if column == 1 else 0.26)
    return figure


@styled
def vectors(parts: Mapping[str, Any], *, query: int) -> Picture:
    """Queries, keys and values of two features as points in the plane, seen from one query.

    parts holds "query", "key", "value" (token, 2) and "token". Left: a key's score is how far it
    reaches along the query's direction, times the query's length. Right: values, sized by their
    weights, and the output, their mixture. Raises ValueError for an unknown query.
    """
    tokens = [style.shortened(str(token)) for token in parts["token"]]
    if query not in range(len(tokens)):
        raise ValueError(f"query must be from 0 to {len(tokens) - 1}, got {query!r}")
    queries, keys, values = (
        np.asarray(parts[name], dtype=np.float64) for name in ("query", "key", "value")
    )
    one = queries[query]
    scores = keys @ one / np.sqrt(2)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()

    left, bottom, gap = 0.7, 0.6, 0.8
    side = (style.WIDTH - left - gap - 0.25) / 2
    figure = Picture("queries, keys and values in the plane", style.WIDTH,
                     bottom + side + 0.35 + style.HEADING)  # fmt: skip
    figure.heading(
        f"The query of {tokens[query]}: which keys reach far in its direction?",
        "weights: " + ", ".join(f"{token} {weight:.2f}" for token, weight in zip(
            tokens, weights, strict=True)), gid="detail (measured)",
    )  # fmt: skip
    panel = figure.panel("queries and keys", left, bottom, side, side)
    _draw_direction(panel, one, keys)
    for number, (token, point) in enumerate(zip(tokens, queries, strict=True)):
        _arrow(panel, point, QUERY, f"query {token}", faint=number != query)
    for token, point in zip(tokens, keys, strict=True):
        _arrow(panel, point, KEY, f"key {token}")
    _frame(panel, np.concatenate([queries, keys]))
    _label(panel, {"query": queries[query : query + 1]}, tokens[query : query + 1], QUERY)
    _label(panel, {"key": keys}, tokens, KEY)
    panel.set_title("queries (blue) and keys (orange)")

    panel = figure.panel("values and output", left + side + gap, bottom, side, side)
    panel.scatter(values[:, 0], values[:, 1], s=30 + 900 * weights, color=VALUE, alpha=0.55, lw=0,
                  gid="values, sized by weight")  # fmt: skip
    output = weights @ values
    panel.plot(*output[:, None], "X", color=style.INK, ms=11, gid="output")
    _frame(panel, values)
    _label(panel, {"value": values}, tokens, VALUE)
    panel.annotate("output", output, (9, -13), textcoords="offset points", gid="label output",
                   color=style.INK, size=style.SMALL)  # fmt: skip
    panel.set_title("values (green), sized by weight")
    return figure


def _draw_direction(panel: Axes, query: np.ndarray, keys: np.ndarray) -> None:
    """The line through a query, and the foot of each key on it."""
    direction = query / np.linalg.norm(query)
    feet = (keys @ direction)[:, None] * direction
    far = 1.15 * max(np.abs(keys).max(), np.abs(query).max()) * direction
    panel.plot([-far[0], far[0]], [-far[1], far[1]], color=style.LINE, lw=1, zorder=0,
               gid="direction of the query")  # fmt: skip
    for key, foot in zip(keys, feet, strict=True):
        panel.plot(*np.stack([key, foot]).T, ":", color=KEY, lw=1.2, zorder=0, gid="foot of a key")
    panel.plot(*feet.T, "o", color=KEY, ms=4, gid="feet")


def _arrow(panel: Axes, end: np.ndarray, colour: str, name: str, *, faint: bool = False) -> None:
    panel.plot([0, end[0]], [0, end[1]], color=colour, lw=1.2 if faint else 2.2,
               alpha=0.25 if faint else 0.9, gid=name)  # fmt: skip
    panel.plot(*end[:, None], "o", color=colour, ms=6, alpha=0.3 if faint else 1, gid=f"end {name}")


def _frame(panel: Axes, points: np.ndarray) -> None:
    """Equal scales, the origin in view, room for labels."""
    low, high = np.minimum(points.min(axis=0), 0), np.maximum(points.max(axis=0), 0)
    middle, half = (low + high) / 2, 0.64 * (high - low).max()
    panel.set_xlim(middle[0] - half, middle[0] + half)
    panel.set_ylim(middle[1] - half, middle[1] + half)
    panel.axhline(0, color=style.FAINT, lw=0.8, zorder=0, gid="axis")
    panel.axvline(0, color=style.FAINT, lw=0.8, zorder=0, gid="axis")
    panel.set_xlabel("feature 0")
    panel.set_ylabel("feature 1", labelpad=2)


def _label(panel: Axes, points: Mapping[str, np.ndarray], tokens: list[str], colour: str) -> None:
    for name, places in points.items():
        for token, place in zip(tokens, places, strict=True):
            text = f"query of {token}" if name == "query" else token
            panel.annotate(text, place, (7, 7), textcoords="offset points", color=colour,
                           size=style.SMALL, gid=f"label {name}")  # fmt: skip


@styled
def online_softmax(scores: Any, *, step: int) -> Picture:
    """A softmax whose scores are read one by one: what is known after one more of them.

    scores is one row, where it comes from a trace with its tokens; masked ones (NaN) are left out.
    Above the scores and their running maximum, in the middle the running sum, below the weights
    that they give so far. Raises ValueError for an unknown step.
    """
    row = np.asarray(scores, dtype=np.float64).ravel()
    seen = np.isfinite(row)
    row = row[seen]
    tokens = [str(index) for index in range(len(row))]
    if hasattr(scores, "coords") and "key_token" in scores.coords:
        tokens = [str(token) for token in scores["key_token"].values[seen]]
    if step not in range(len(row)):
        raise ValueError(f"step must be from 0 to {len(row) - 1}, got {step!r}")
    read = row[: step + 1]
    maxima = np.maximum.accumulate(row)
    sums = np.array([
        np.exp(row[: index + 1] - maxima[index]).sum() for index in range(len(row))
    ])  # fmt: skip
    weights = np.full(len(row), np.nan)
    weights[: step + 1] = np.exp(read - maxima[step]) / sums[step]

    place = np.arange(len(row))
    labels_room = style.label_room(style.token_labels(tokens, style.WIDTH - 1.2, size=9.5)[0], 9.5)
    left, bottom, up, gap = 0.85, 0.2 + labels_room, 1.25, 0.38
    figure = Picture(f"online softmax after score {step}", style.WIDTH,
                     bottom + 3 * up + 3 * gap + style.HEADING)  # fmt: skip
    grew = step > 0 and maxima[step] > maxima[step - 1]
    shrunk = np.exp(maxima[step - 1] - maxima[step]) if grew else 1.0
    figure.heading(
        f"After score {step} of {len(row) - 1}: "
        + ("a new maximum, the old sum is shrunk" if grew else
           "the first score" if step == 0 else "the maximum stays"),
        f"maximum {maxima[step]:.3f}, sum {sums[step]:.3f}"
        + (f" (the old sum was multiplied by {shrunk:.3f})" if grew else ""),
        gid="detail (measured)",
    )  # fmt: skip
    width = style.WIDTH - left - 0.2
    titles = ("score and running maximum", "running sum", "weights so far")
    panels = [
        figure.panel(title, left, bottom + (2 - number) * (up + gap), width, up)
        for number, title in enumerate(titles)
    ]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, pad=4)
        panel.set_xlim(-0.7, len(row) - 0.3)
        panel.axvspan(step - 0.5, step + 0.5, color=style.FAINT, lw=0, zorder=0, gid="this score")
        style.token_axis(panel.xaxis, tokens, width, size=9.5)
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[0].plot(place[step + 1 :], row[step + 1 :], "o", color=style.LINE, ms=4, gid="not read")
    panels[0].plot(place[: step + 1], read, "o", color=QUERY, ms=5, gid="read")
    panels[0].step(place[: step + 1], maxima[: step + 1], where="post", color=KEY, lw=2,
                   gid="running maximum")  # fmt: skip
    panels[1].plot(place[: step + 1], sums[: step + 1], "o-", color=VALUE, ms=4, gid="running sum")
    panels[1].set_ylim(0, 1.1 * sums.max())
    style.columns(panels[2], np.nan_to_num(weights), width=width, name="weight")
    panels[2].set_ylim(0, 1.05)
    return figure


@styled
def attention_over_length(
    seconds: Mapping[str, Mapping[Any, float]], held: Mapping[str, Mapping[Any, float]]
) -> Picture:
    """Time and memory of several ways to compute attention, over the length of the text.

    Both map a way's name to numbers by length: seconds, and bytes held at once. Both axes are
    logarithmic: a straight line that climbs two decades in one is a square.
    """
    left, bottom, gap, up = 0.85, 0.65, 0.95, 3.2
    across = (style.WIDTH - left - gap - 0.25) / 2
    figure = Picture("attention over length", style.WIDTH, bottom + up + 0.75 + style.HEADING)
    figure.heading(
        "What a longer text costs",
        "dotted: N × N and N, to compare slopes with",
    )
    names = list(dict.fromkeys([*seconds, *held]))
    looks = dict(zip(names, style.distinct(len(names)), strict=True))
    for number, (title, unit, measured) in enumerate(
        (("time", "milliseconds", seconds), ("memory held at once", "kilobytes", held))
    ):
        panel = figure.panel(title, left + number * (across + gap), bottom, across, up)
        _draw_guides(panel, measured)
        scale = 1e3 if number == 0 else 1e-3
        for name, by_length in measured.items():
            lengths = sorted(int(length) for length in by_length)
            heights = [{int(k): v for k, v in by_length.items()}[n] * scale for n in lengths]
            panel.plot(lengths, heights, color=looks[name].colour, marker=style.MARKERS[
                names.index(name) % len(style.MARKERS)], ms=5, gid=name, label=name)  # fmt: skip
        panel.set_title(title)
        panel.set_xlabel("length N")
        panel.set_ylabel(unit)
        panel.xaxis.set_major_locator(FixedLocator(lengths))
        panel.set_xticks(lengths, [str(length) for length in lengths], size=9.5)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    figure.legend(
        *_handles(figure), loc="upper left", ncols=len(names), frameon=False, fontsize=10.5,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height), borderaxespad=0,
    ).set_gid("ways")  # fmt: skip
    return figure


def _handles(figure: Picture) -> tuple[list[Any], list[str]]:
    """One line of each name, whichever panel has it."""
    found: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _draw_guides(panel: Axes, measured: Mapping[str, Mapping[Any, float]]) -> None:
    """Two slopes through the lower left: N and N x N."""
    lengths = np.array(sorted({int(n) for by_length in measured.values() for n in by_length}))
    scale = 1e3 if panel.get_label() == "time" else 1e-3
    lowest = min(value for by_length in measured.values() for value in by_length.values()) * scale
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    for power, name in ((1, "N"), (2, "N × N")):
        heights = 0.25 * lowest * (lengths / lengths[0]) ** power
        panel.plot(lengths, heights, ":", color=style.QUIET, lw=1.2, gid=name)
        panel.annotate(name, (lengths[-2], heights[-2]), (5, -3), textcoords="offset points",
                       va="top", color=style.QUIET, size=style.SMALL,
                       gid=f"label {name}")  # fmt: skip
