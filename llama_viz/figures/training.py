"""A training run: its losses, how its heads score, and what its snapshots write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullLocator

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.tokenizer import SPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from matplotlib.axes import Axes

MOST_TEXTS = 6
NAMES = {"train_loss": "training", "held_out_loss": "held out"}


@styled
def training_run(
    losses: Mapping[str, Sequence[float | None]],
    scores: xr.DataArray,
    texts: Sequence[str],
    *,
    step: int,
    head: tuple[int, int],
) -> Picture:
    """Losses over the steps, the score of every head in each snapshot, and their texts.

    losses are columns of a table by name (step, train_loss, held_out_loss; None: not measured);
    scores (step, layer, head) are those of one kind, its name in the coordinate kind; texts belong
    to the steps of scores. step is marked, head, a (layer, head), stands out. Raises ValueError
    for texts that do not belong to the steps.
    """
    steps = scores["step"].values
    if len(texts) != len(steps):
        raise ValueError(f"{len(texts)} texts cannot belong to {len(steps)} snapshots")
    marked = np.abs(steps - step).argmin()
    some = np.linspace(0, len(steps) - 1, min(MOST_TEXTS, len(steps))).astype(int)
    shown = np.unique([*some, marked])
    bottom = 0.75 + 0.3 * len(shown) + 0.55
    figure = Picture("a training run", style.WIDTH, bottom + 2.4 + 0.15 + style.HEADING)
    said = f"{len(steps)} snapshots" if len(steps) > 1 else "1 snapshot"
    figure.heading(
        f"A training run at step {step}",
        f"{said}; with a kernel, this picture is a slider over them",
    )
    last = max([1.0, float(steps[-1]), *[value for value in losses.get("step", []) if value]])
    _draw_losses(figure, losses, step, last, bottom)
    _draw_scores(figure, scores, step, head, last, bottom)
    figure.write("texts", "what they write after the prompt", style.MARGIN + 0.1, bottom - 0.82,
                 size=style.TEXT_SIZE, color=style.INK)  # fmt: skip
    for row, number in enumerate(shown):
        height = bottom - 1.15 - 0.3 * row
        name = f"step {steps[number]}"
        strong: Any = {"weight": "bold", "color": style.INK} if steps[number] == step else {}
        figure.write(name, name, style.MARGIN + 0.1, height, **strong)
        text = style.fitted(texts[number], style.WIDTH - 1.6, style.SMALL).replace(SPACE, " ")
        figure.write(f"text of {name}", text or "(nothing)", 1.35, height, color=style.INK)
    return figure


def _draw_losses(
    figure: Picture, losses: Mapping[str, Sequence[float | None]], step: int, last: float,
    bottom: float,
) -> None:  # fmt: skip
    panel = figure.panel("losses", 0.7, bottom, 3.7, 2.2)
    panel.set_xlim(0, last)
    panel.axvline(step, color=style.QUIET, lw=1, ls=":", gid="step")
    panel.xaxis.set_major_locator(style.whole_numbers(5))
    drawn = [name for name in NAMES if any(value is not None for value in losses.get(name, []))]
    for name, look in zip(drawn, style.distinct(max(len(drawn), 1)), strict=False):
        values = np.array([np.nan if value is None else value for value in losses[name]])
        known = np.isfinite(values)
        at = np.array([0.0 if value is None else value for value in losses["step"]])[known]
        marker = look.marker if name == "held_out_loss" else None
        panel.plot(at, values[known], color=look.colour, lw=1.6, marker=marker, ms=3.5,
                   gid=name, label=NAMES[name])  # fmt: skip
    if drawn:
        panel.legend(frameon=False, fontsize=style.SMALL)
        panel.set_ylim(0, None)
    else:
        panel.set_yticks([])
    panel.set_title("loss, nats per token" if drawn else "no losses were given", size=style.SMALL)


def _draw_scores(
    figure: Picture, scores: xr.DataArray, step: int, head: tuple[int, int], last: float,
    bottom: float,
) -> None:  # fmt: skip
    panel = figure.panel("scores", 5.3, bottom, 3.7, 2.2)
    steps = scores["step"].values
    for layer in range(scores.sizes["layer"]):
        for number in range(scores.sizes["head"]):
            is_chosen = (layer, number) == tuple(head)
            look: Any = (
                {"color": style.QUALITATIVE[1], "lw": 2, "zorder": 3} if is_chosen
                else {"color": style.LINE, "lw": 0.8}
            )  # fmt: skip
            panel.plot(steps, scores.values[:, layer, number], marker="o", ms=3,
                       gid=f"layer {layer}, head {number}", **look)  # fmt: skip
    panel.axvline(step, color=style.QUIET, lw=1, ls=":", gid="step")
    panel.set_xlim(0, last)
    known = scores.values[np.isfinite(scores.values)]
    panel.set_ylim(0, max(0.2, 1.08 * float(known.max()) if known.size else 0.2))
    panel.xaxis.set_major_locator(style.whole_numbers(5))
    kind = str(scores.coords["kind"].values) if "kind" in scores.coords else "score"
    panel.set_title(f"{kind} score of each head (layer {head[0]}, head {head[1]})",
                    size=style.SMALL)  # fmt: skip


@styled
def training_course(
    train: Mapping[int, float],
    held_out: Mapping[int, float],
    heads: Mapping[str, Mapping[int, float]],
    texts: Mapping[int, str],
    *,
    steps: int,
    references: Mapping[str, float],
    prompt: str,
    title: str = "",
) -> Picture:
    """A run while it goes on: losses, the best heads and what it writes, by the step so far.

    steps is how many it will take. train, held_out and each kind of heads map a step to a number,
    texts to what was written after the prompt; references are losses to compare with, dashed.
    Raises ValueError where nothing was measured yet.
    """
    if not held_out:
        raise ValueError("nothing was measured yet: there is no step to draw")
    written = sorted(texts)
    some = np.linspace(0, len(written) - 1, min(MOST_TEXTS, len(written))).astype(int)
    shown = [written[number] for number in np.unique(some)]
    bottom = 0.75 + 0.3 * MOST_TEXTS + 0.55
    figure = Picture("a run under way", style.WIDTH, bottom + 2.4 + 0.15 + style.HEADING)
    now = max(held_out)
    figure.heading(
        title or f"Step {now} of {steps}",
        "left: loss, nats per token; right: the best head of each kind; below: what it writes",
    )
    panel = figure.panel("losses", 0.7, bottom, 4.9, 2.2)
    highest = max([*train.values(), *held_out.values(), *references.values()])
    named = {"train_loss": train, "held_out_loss": held_out}
    for (name, course), look in zip(named.items(), style.distinct(2), strict=True):
        _draw_course(
            panel, course, look.colour, name, NAMES[name], None if course is train else 3.5
        )
    _name_references(panel, references, highest)
    panel.set_ylim(0, 1.08 * highest)
    panel.legend(frameon=False, fontsize=style.SMALL, loc="center right").set_gid("legend")
    panel.set_title("loss", size=style.SMALL)
    other = figure.panel("heads", 6.3, bottom, 2.9, 2.2)
    for (name, course), look in zip(heads.items(), style.distinct(2 + len(heads))[2:], strict=True):
        _draw_course(other, course, look.colour, name, name, 3)
    other.set_ylim(0, 1.05)
    if heads:
        other.legend(frameon=False, fontsize=style.SMALL, loc="upper left").set_gid("legend")
    other.set_title("attention of the best head", size=style.SMALL)
    for axes in (panel, other):
        axes.set_xlim(0, max(steps, 1))
        axes.xaxis.set_major_locator(style.whole_numbers(5))
        axes.set_xlabel("step", size=style.SMALL, labelpad=1)
    said = f"what it writes after “{style.shortened(prompt, 60).replace(SPACE, ' ')}”"
    figure.write("texts", said, style.MARGIN + 0.1, bottom - 0.82, size=style.TEXT_SIZE,
                 color=style.INK)  # fmt: skip
    for row, step in enumerate(shown):
        height = bottom - 1.15 - 0.3 * row
        figure.write(f"step {step}", f"step {step}", style.MARGIN + 0.1, height)
        text = style.fitted(texts[step].strip(), style.WIDTH - 1.6, style.SMALL)
        text = text.replace(SPACE, " ")
        figure.write(f"text of step {step}", text or "(nothing)", 1.35, height, color=style.INK)
    return figure


def _draw_course(
    panel: Axes, course: Mapping[int, float], colour: str, name: str, label: str,
    marker_size: float | None,
) -> None:  # fmt: skip
    steps = sorted(course)
    if steps:
        look: Any = {"marker": "o", "ms": marker_size} if marker_size else {}
        panel.plot(steps, [course[step] for step in steps], color=colour, lw=1.6, gid=name,
                   label=label, **look)  # fmt: skip


def _name_references(panel: Axes, references: Mapping[str, float], highest: float) -> None:
    """Dashed lines, with their names above their right ends."""
    for name, loss in references.items():
        panel.axhline(loss, color=style.QUIET, lw=1, ls="--", gid=f"reference {name}")
        panel.text(0.99, (loss / 1.08 + 0.015 * highest) / highest, name,
                   transform=panel.transAxes, ha="right", va="bottom", size=style.SMALL - 1,
                   color=style.QUIET, gid=f"name of {name}")  # fmt: skip


@styled
def emergence(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    references: Mapping[str, Mapping[str, float]] | None = None,
    marks: Mapping[str, float] | None = None,
) -> Picture:
    """What a model can do at each snapshot of its training, panel over panel, on one axis of steps.

    panels maps a title to curves, each from a step to a number; references maps such a title to
    numbers to compare with, dashed; marks maps a name to a step, dotted in all panels. The axis is
    logarithmic from the first step after 0 on. Raises ValueError where there is nothing to draw.
    """
    steps = sorted(
        {step for curves in panels.values() for curve in curves.values() for step in curve}
    )
    if not steps:
        raise ValueError("there are no snapshots to draw")
    first = next((step for step in steps if step > 0), 1)
    left, bottom, up, gap, room = 0.7, 0.6, 1.45, 0.38, 2.6
    height = bottom + len(panels) * up + (len(panels) - 1) * gap + 0.3 + style.HEADING
    figure = Picture("what emerges when", style.WIDTH, height)
    figure.heading("What emerges when?", "dots: snapshots; the axis of steps is logarithmic")
    for row, (title, curves) in enumerate(panels.items()):
        place = bottom + (len(panels) - 1 - row) * (up + gap)
        panel = figure.panel(title, left, place, style.WIDTH - left - room, up)
        for (name, curve), look in zip(curves.items(), style.distinct(len(curves)), strict=True):
            at = sorted(curve)
            panel.plot(at, [curve[step] for step in at], color=look.colour, marker=look.marker,
                       ms=4.5, lw=1.6, gid=name, label=name)  # fmt: skip
        for name, value in (references or {}).get(title, {}).items():
            panel.axhline(value, color=style.QUIET, lw=1, ls="--", gid=f"reference {name}",
                          label=name)  # fmt: skip
        for name, step in (marks or {}).items():
            panel.axvline(step, color=style.QUIET, lw=1, ls=":", gid=f"mark {name}",
                          label="" if row else name)  # fmt: skip
        panel.set_xscale("symlog", linthresh=first, linscale=0.4)
        panel.set_xlim(0, steps[-1] if steps[-1] > 0 else 1)
        shown = _spread_steps(steps)
        last = row == len(panels) - 1
        panel.set_xticks(shown, [f"{step:,}" if last else "" for step in shown])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_ylim(0, None)
        panel.margins(y=0.1)
        panel.set_title(title, size=style.SMALL, loc="left")
        panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.08),
                     fontsize=style.SMALL).set_gid("legend")  # fmt: skip
        if last:
            panel.set_xlabel("step", size=style.SMALL)
    return figure


def _spread_steps(steps: Sequence[int]) -> list[int]:
    """Those steps whose labels have room on a logarithmic axis."""
    shown: list[int] = []
    for step in steps:
        if not shown or shown[-1] == 0 or step >= 1.6 * shown[-1]:
            shown.append(step)
    return shown
