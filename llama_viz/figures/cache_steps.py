"""Writing token by token, with a KV cache and without: by hand, in multiply-adds, in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llama_viz.figures import style
from llama_viz.figures.matrices import written
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

COLOURS = {"without": style.QUALITATIVE[1], "with": style.QUALITATIVE[0]}
SAID = {"without": "without a cache", "with": "with a cache"}
CELL = 0.42  # inches, of a matrix with its numbers


@styled
def next_token_targets(
    tokens: Sequence[str], targets: Sequence[str], losses: Any, *, even: float
) -> Picture:
    """Each position's own token below, the token that it is to predict above: the text, shifted.

    The column between them is the loss (position), in nats: -log of the probability that the target
    was given; even, dotted, is that of all tokens alike. Raises ValueError for lists of unequal
    length.
    """
    heights = np.asarray(losses, dtype=np.float64)
    if not len(tokens) == len(targets) == len(heights) > 0:
        raise ValueError(
            "tokens, targets and losses must be equally many, got "
            f"{len(tokens)}, {len(targets)} and {len(heights)}"
        )
    room = style.label_room([style.shortened(label) for label in (*tokens, *targets)])
    left, bottom, up = 0.95, room + 0.1, 1.9
    across = style.WIDTH - left - 0.2
    figure = Picture("targets", style.WIDTH, bottom + up + room + 0.1 + style.HEADING)
    figure.heading(
        "Every position predicts the next token",
        f"mean loss {heights.mean():.2f} nats; dotted: all tokens equally likely, {even:.2f}",
        gid="detail (measured)",
    )
    panel = figure.panel("losses", left, bottom, across, up)
    style.columns(panel, heights, width=across, name="loss")
    panel.axhline(even, color=style.QUIET, lw=1.2, ls=":", gid="even")
    panel.set_xlim(-0.6, len(heights) - 0.4)
    panel.set_ylim(0, 1.08 * max(heights.max(), even))
    panel.set_ylabel("loss (nats)")
    style.token_axis(panel.xaxis, tokens, across)
    above = panel.twiny()
    above.set_label("targets")
    above.set_gid("targets")
    above.set_xlim(panel.get_xlim())
    style.token_axis(above.xaxis, targets, across)
    above.tick_params(axis="x", labelcolor=COLOURS["with"])
    figure.write("reads", "reads", left - 0.12, bottom - 0.26, ha="right", size=style.TEXT_SIZE)
    figure.write("next", "next", left - 0.12, bottom + up + 0.12, ha="right",
                 color=COLOURS["with"], size=style.TEXT_SIZE)  # fmt: skip
    return figure


@styled
def scores_by_step(scores: Any, tokens: Sequence[str]) -> Picture:
    """The scores of one head, step by step: a square that grows, or one row at a time.

    scores are (query, key), the last step's; those of later keys are not looked at. Above without
    a cache: the square of every step, grey what the step before had computed already. Below with
    one: the new row alone. Raises ValueError where tokens and scores do not fit together.
    """
    square = np.asarray(scores, dtype=np.float64)
    n = len(tokens)
    if square.shape != (n, n):
        raise ValueError(f"scores of {n} tokens must have shape {(n, n)}, got {square.shape}")
    labels = [style.shortened(token) for token in tokens]
    room = style.label_room(labels) + 0.05
    left, bottom, gap = 0.15 + room, 0.1 + room, 0.55
    high = n * CELL
    figure = Picture("scores step by step", style.WIDTH, bottom + 2 * high + gap + 0.35
                     + style.HEADING)  # fmt: skip
    counts = {"without": sum((t + 1) ** 2 for t in range(n)), "with": n * (n + 1) // 2}
    figure.heading(
        "Without a cache a square in every step, with one a row",
        "grey: known from the step before; framed: new. Scores computed in all: "
        + ", ".join(f"{count} {way}" for way, count in counts.items()),
    )
    scale = style.signed_scale(np.tril(square))
    spare = style.WIDTH - left - 0.2 - CELL * n * (n + 1) / 2
    between = min(0.9, spare / max(n - 1, 1))
    if between < 0.1:
        raise ValueError(f"{n} tokens are too many to write numbers in; give at most 5")
    for way, base in (("without", bottom + high + gap), ("with", bottom)):
        place = left
        for step in range(n):
            wide = CELL * (step + 1)
            panel = figure.panel(f"step {step} {way}", place, base, wide, high)
            _draw_scores(panel, square, step, n, way, scale)
            if way == "without":
                panel.set_title(f"step {step}", size=style.TEXT_SIZE, pad=4)
            shown = labels[: step + 1]
            style.label_axis(panel.xaxis, shown, range(step + 1))
            style.label_axis(panel.yaxis, labels, range(n))
            panel.tick_params(length=0, labelleft=step == 0, labelbottom=way == "with")
            place += wide + between
        figure.write(way, SAID[way], style.WIDTH - 0.15, base + high + 0.06, ha="right",
                     color=COLOURS[way], size=style.TEXT_SIZE)  # fmt: skip
    return figure


def _draw_scores(panel: Axes, square: np.ndarray, step: int, n: int, way: str, scale: Any) -> None:
    """One step of one way: its numbers, what was known, and the new row."""
    drawn = np.full((n, step + 1), np.nan)
    first = 0 if way == "without" else step
    drawn[first : step + 1] = square[first : step + 1, : step + 1]
    drawn[np.triu_indices(n, 1, step + 1)] = np.nan
    panel.imshow(drawn, cmap=style.SIGNED, norm=scale, aspect="auto").set_gid("scores")
    for row in range(first, step + 1):
        for column in range(step + 1):
            number = "−∞" if column > row else written(float(square[row, column]), 2)
            dark = column <= row and abs(square[row, column]) > 0.6 * scale.vmax
            panel.text(column, row, number, ha="center", va="center", size=style.SMALL - 1,
                       color="white" if dark else style.INK, gid="number")  # fmt: skip
    if way == "without" and step:
        panel.add_patch(Rectangle((-0.5, -0.5), step + 1, step, color=style.LINE, alpha=0.55, lw=0,
                                  zorder=1.5, gid="known"))  # fmt: skip
    panel.add_patch(Rectangle((-0.5, step - 0.5), step + 1, 1, fill=False, ec=COLOURS[way], lw=1.8,
                              clip_on=False, gid="new"))  # fmt: skip
    for spine in panel.spines.values():
        spine.set_visible(False)


@styled
def work_by_step(
    formula: Mapping[str, Sequence[int]], counted: Mapping[str, Sequence[int]]
) -> Picture:
    """Multiply-adds of each step, "without" a cache and "with": lines by formula, dots counted."""
    left, bottom, up = 0.95, 0.6, 3.0
    across = style.WIDTH - left - 0.2
    figure = Picture("work by step", style.WIDTH, bottom + up + 0.2 + style.HEADING)
    figure.heading("Multiply-adds of each step", "lines: the formula; dots: counted in the run")
    panel = figure.panel("work", left, bottom, across, up)
    for way, work in formula.items():
        steps, millions = np.arange(len(work)), np.asarray(work) / 1e6
        panel.plot(steps, millions, color=COLOURS[way], lw=1.6, gid=f"formula {way}")
        panel.plot(np.arange(len(counted[way])), np.asarray(counted[way]) / 1e6, "o", ms=5,
                   color=COLOURS[way], gid=f"counted {way}")  # fmt: skip
        panel.annotate(SAID[way], (steps[-1], millions[-1]), (-8, 8), textcoords="offset points",
                       ha="right", color=COLOURS[way], gid=f"name {way}")  # fmt: skip
    panel.set_ylim(0, None)
    panel.margins(y=0.1)
    panel.xaxis.set_major_locator(style.whole_numbers())
    panel.set_xlabel("step (0 is the prefill)")
    panel.set_ylabel("millions")
    return figure


@styled
def time_by_length(taken: Mapping[str, Mapping[Any, Sequence[float]]], fit: Any) -> Picture:
    """Time of a step over the length that it ends at: medians, their spread, and fitted curves.

    taken is what cost.step_times returns (or its five numbers of each length, as stored), fit what
    cost.fit_steps makes of it. Thick bars hold the middle half of the runs, thin ones all. Both
    axes are logarithmic. The dotted line marks where the curves cross.
    """
    left, bottom, up = 0.95, 0.6, 3.4
    across = style.WIDTH - left - 0.2
    figure = Picture("time by length", style.WIDTH, bottom + up + 0.2 + style.HEADING)
    figure.heading(
        "Time of one step",
        "dots: medians; thick bars: the middle half of the runs; thin bars: all of them; "
        "curves: fitted",
    )
    panel = figure.panel("time", left, bottom, across, up)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    lengths = np.array(sorted(int(length) for length in taken["with"]))
    smooth = np.geomspace(lengths[0], lengths[-1], 100)
    for way, by_length in taken.items():
        runs = {int(length): times for length, times in by_length.items()}
        five = 1e3 * np.array([np.percentile(runs[n], (0, 25, 50, 75, 100)) for n in lengths])
        curve = fit.without(smooth) if way == "without" else fit.with_cache(smooth)
        panel.plot(smooth, 1e3 * curve, color=COLOURS[way], lw=1.4, alpha=0.8, gid=f"fit {way}")
        for name, low, high, width in (("all", 0, 4, 1.2), ("middle half", 1, 3, 5)):
            panel.vlines(lengths, five[:, low], five[:, high], color=COLOURS[way], lw=width,
                         alpha=0.55, gid=f"{name} {way}")  # fmt: skip
        panel.plot(lengths, five[:, 2], "o", ms=5, color=COLOURS[way], gid=f"median {way}")
        panel.annotate(SAID[way], (lengths[-1], five[-1, 2]), (-12, 6), textcoords="offset points",
                       ha="right", va="bottom", color=COLOURS[way], gid=f"name {way}")  # fmt: skip
    if np.isfinite(fit.crossing) and fit.crossing >= lengths[0]:
        panel.axvline(fit.crossing, color=style.QUIET, lw=1, ls=":", gid="crossing")
    panel.xaxis.set_major_locator(FixedLocator(lengths.tolist()))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    bottom_time, top_time = panel.get_ylim()
    panel.set_yticks(style.round_values(bottom_time, top_time))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel("positions that the step ends at")
    panel.set_ylabel("milliseconds")
    return figure
