"""What training runs came to, with their spread over the seeds; and uptraining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullLocator

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

ROW = 0.36


@styled
def over_seeds(
    measured: Mapping[str, Mapping[str, Sequence[float]]], *, lower_is_better: Sequence[str] = ()
) -> Picture:
    """Panels side by side: a dot for each seed, a line over the range, a bar at the mean.

    measured maps a panel's title to the values of each model, one for each seed, in the order of
    the seeds; thin lines join the same seed where all models have equally many. A name tells how
    many seeds it has, unless that differs from panel to panel. Titles in lower_is_better say so.
    Scales do not begin at 0: distances between dots count. Raises ValueError where there is nothing
    to draw.
    """
    names = list(dict.fromkeys(name for values in measured.values() for name in values))
    if not names:
        raise ValueError("there are no runs to draw")
    n_seeds = {
        name: {len(values[name]) for values in measured.values() if name in values}
        for name in names
    }
    labels = [
        f"{name} ({_seeds(max(counts))})" if len(counts) == 1 else name
        for name, counts in n_seeds.items()
    ]
    left, bottom, gap = style.label_room(labels, style.TEXT_SIZE) + 0.4, 0.55, 0.35
    across = (style.WIDTH - left - 0.25 - gap * (len(measured) - 1)) / len(measured)
    up = ROW * max(len(names), 2) + 0.15
    figure = Picture("results over seeds", style.WIDTH, bottom + up + 0.4 + style.HEADING)
    most = max(max(counts) for counts in n_seeds.values())
    figure.heading(
        "What the runs came to, seed by seed",
        "a dot for each seed"
        + ("; thick: lowest to highest, and the mean; thin: the same seed" if most > 1 else
           "; one seed has no spread to show"),
    )  # fmt: skip
    looks = dict(zip(names, style.distinct(len(names)), strict=True))
    for column, (title, values) in enumerate(measured.items()):
        panel = figure.panel(title, left + column * (across + gap), bottom, across, up)
        found_all = [list(values.get(name, ())) for name in names]
        if most > 1 and len({len(found) for found in found_all}) == 1:
            panel.plot(found_all, range(len(names)), color=style.LINE, lw=0.9, zorder=1,
                       gid="one seed")  # fmt: skip
        for row, name in enumerate(names):
            found = np.asarray(values.get(name, ()), dtype=np.float64)
            if found.size:
                _draw_spread(panel, found, row, looks[name].colour, name)
        panel.set_yticks(range(len(names)), labels if column == 0 else [""] * len(names))
        panel.tick_params(axis="y", length=0, labelsize=style.TEXT_SIZE)
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.margins(x=0.15)
        panel.locator_params(axis="x", nbins=4 if len(measured) < 3 else 3)
        panel.grid(axis="x", color=style.FAINT, lw=0.8)
        panel.set_axisbelow(True)
        panel.set_title(title, size=style.SMALL)
        side = "← better" if title in lower_is_better else "better →"
        panel.set_xlabel(side, size=style.SMALL, labelpad=1)
    return figure


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _draw_spread(panel: Axes, values: np.ndarray, row: int, colour: str, name: str) -> None:
    if len(values) > 1:
        panel.plot([values.min(), values.max()], [row, row], color=colour, lw=2, alpha=0.5,
                   gid=f"range of {name}")  # fmt: skip
        panel.plot([values.mean()] * 2, [row - 0.28, row + 0.28], color=colour, lw=2,
                   gid=f"mean of {name}")  # fmt: skip
    panel.plot(values, np.full(len(values), row), "o", color=colour, ms=7, alpha=0.8, gid=name)


@styled
def recall_curves(
    curves: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]], *, across: str = "facts"
) -> Picture:
    """The share of right answers over how much there is to remember, or how far back it was said.

    curves maps a kind of question to the curves of each model: for each value on the axis the
    shares of its seeds. Lines are means; bands, where there are several seeds, reach from the
    lowest to the highest. Raises ValueError where there is nothing to draw.
    """
    names = list(dict.fromkeys(name for found in curves.values() for name in found))
    if not names:
        raise ValueError("there are no curves to draw")
    left, bottom, gap, up = 0.7, 0.65, 0.3, 2.4
    wide = (style.WIDTH - left - 0.2 - gap * (len(curves) - 1)) / len(curves)
    figure = Picture("recall", style.WIDTH, bottom + up + 0.75 + style.HEADING)
    words = {"facts": "facts that the story tells", "distance": "tokens back to the answer"}[across]
    figure.heading("Recall: what do they remember?", f"share of right answers, by {words}")
    looks = dict(zip(names, style.distinct(len(names)), strict=True))
    for number, (kind, found) in enumerate(curves.items()):
        panel = figure.panel(kind, left + number * (wide + gap), bottom, wide, up)
        for name, curve in found.items():
            places = sorted(curve)
            values = [np.asarray(curve[place], dtype=np.float64) for place in places]
            if max((len(value) for value in values), default=0) > 1:
                panel.fill_between(
                    places, [value.min() for value in values], [value.max() for value in values],
                    color=looks[name].colour, alpha=0.2, lw=0, gid=f"range of {name}",
                )  # fmt: skip
            panel.plot(places, [value.mean() for value in values], color=looks[name].colour,
                       marker=style.MARKERS[names.index(name) % len(style.MARKERS)], ms=4.5,
                       lw=1.6, gid=name, label=name)  # fmt: skip
        panel.set_ylim(0, 1.05)
        panel.tick_params(labelleft=number == 0)
        panel.xaxis.set_major_locator(style.whole_numbers(9))
        panel.grid(axis="y", color=style.FAINT, lw=0.8)
        panel.set_title(kind)
        panel.set_xlabel(words, size=style.SMALL)
    figure.axes[0].set_ylabel("share right")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="upper left", ncols=len(names),
        frameon=False, fontsize=style.SMALL, borderaxespad=0,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height),
    ).set_gid("models")  # fmt: skip
    return figure


@styled
def uptraining(
    courses: Mapping[str, Mapping[int, float]], *, source: float, title: str | None = None
) -> Picture:
    """Held-out loss of pooled models while they are trained further, over the steps.

    courses maps the name of a way to pool to its losses by step; step 0 is right after pooling.
    source is the loss of the model that was pooled, drawn dashed. Where no course has more than its
    step 0, the losses stand as columns. Raises ValueError for no courses.
    """
    if not courses:
        raise ValueError("there are no courses to draw")
    are_pooled_alone = all(len(course) == 1 for course in courses.values())
    room = style.label_room(list(courses), style.SMALL) + 0.35
    left, bottom, up = 0.8, 0.65, 2.9
    figure = Picture("uptraining", style.WIDTH, bottom + up + 0.2 + style.HEADING)
    figure.heading(
        title or ("Right after pooling, with no training" if are_pooled_alone else
                  "Pooled, then trained further"),
        "held-out loss, nats per token; dashed: the model whose heads were pooled"
        + ("" if are_pooled_alone else "; logarithmic"),
    )  # fmt: skip
    highest = max(loss for course in courses.values() for loss in course.values())
    looks = style.distinct(len(courses))
    if are_pooled_alone:
        panel = figure.panel("loss", left, bottom, style.WIDTH - left - 0.3, up)
        heights = [next(iter(course.values())) for course in courses.values()]
        for place, (name, height, look) in enumerate(zip(courses, heights, looks, strict=True)):
            panel.bar(place, height, 0.6, color=look.colour, gid=name)
            panel.text(place, height, f"{height:.2f}", ha="center", va="bottom",
                       size=style.SMALL, gid=f"loss of {name} (measured)")  # fmt: skip
        panel.set_xticks(range(len(courses)), list(courses))
        panel.tick_params(axis="x", length=0)
        panel.set_ylim(0, 1.12 * highest)
    else:
        panel = figure.panel("loss", left, bottom, style.WIDTH - left - room, up)
        ends = []
        for (name, course), look in zip(courses.items(), looks, strict=True):
            steps = sorted(course)
            values = [course[step] for step in steps]
            panel.plot(steps, values, color=look.colour, ls=look.dashes, marker=look.marker, ms=4,
                       lw=1.8, gid=name)  # fmt: skip
            ends.append((float(np.log(values[-1])), name, look.colour))
        panel.set_xlabel("step")
        panel.set_xlim(0, max(1, *(max(course) for course in courses.values())))
        panel.xaxis.set_major_locator(style.whole_numbers())
        lowest = min(source, *(loss for course in courses.values() for loss in course.values()))
        limits = 0.9 * lowest, 1.12 * highest
        panel.set_yscale("log")
        panel.set_ylim(limits)
        ticks = style.round_values(*limits, most=9)
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.yaxis.set_minor_locator(NullLocator())
        _name_ends(panel, ends, *np.log(limits))
    panel.axhline(source, color=style.INK, lw=1.2, ls="--", gid="source")
    return figure


@styled
def loss_courses(
    courses: Mapping[str, Mapping[str, Mapping[int, float]]], *, first_step: int = 0
) -> Picture:
    """Held-out losses over the steps, a panel for each seed, a line for each recipe.

    courses maps a seed to the losses of each recipe by step; what lies before first_step is left
    out. Both panels have one scale. Raises ValueError for no courses.
    """
    names = list(dict.fromkeys(name for found in courses.values() for name in found))
    if not names:
        raise ValueError("there are no courses to draw")
    left, bottom, gap, up = 0.7, 0.6, 0.25, 3.2
    across = (style.WIDTH - left - 0.2 - gap * (len(courses) - 1)) / len(courses)
    figure = Picture("loss over the steps", style.WIDTH, bottom + up + 0.75 + style.HEADING)
    figure.heading("Loss over the steps, seed by seed",
                   f"held-out loss, nats per token, from step {first_step} on")  # fmt: skip
    looks = dict(zip(names, style.distinct(len(names)), strict=True))
    for number, (seed, found) in enumerate(courses.items()):
        share: Any = {"sharey": figure.axes[0]} if number else {}
        panel = figure.panel(f"seed {seed}", left + number * (across + gap), bottom, across, up,
                             **share)  # fmt: skip
        for name, course in found.items():
            steps = [step for step in sorted(course) if step >= first_step]
            panel.plot(steps, [course[step] for step in steps], color=looks[name].colour,
                       ls=looks[name].dashes, lw=1.6, gid=name, label=name)  # fmt: skip
        panel.set_title(f"seed {seed}")
        panel.set_xlabel("step")
        panel.tick_params(labelleft=number == 0)
        panel.xaxis.set_major_locator(style.whole_numbers(7))
        panel.grid(axis="y", color=style.FAINT, lw=0.8)
    lines = {line.get_gid(): line for panel in figure.axes for line in panel.lines}
    figure.legend(
        [lines[name] for name in names], names, loc="upper left", ncols=len(names), frameon=False,
        fontsize=style.SMALL, borderaxespad=0, handlelength=1.6, columnspacing=1.2,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height),
    ).set_gid("recipes")  # fmt: skip
    return figure


def _name_ends(panel: Axes, ends: list[tuple[float, str, str]], bottom: float, top: float) -> None:
    """Names at the ends of their lines, moved apart where they would meet."""
    place = -np.inf
    look: Any = {"va": "center", "size": style.SMALL, "transform": panel.transAxes}
    for end, name, colour in sorted(ends):
        place = max((end - bottom) / (top - bottom), place + 0.075)
        panel.text(1.015, place, name, color=colour, gid=f"name of {name}", **look)
