"""A run and its branches: the same beginning, another token at one step, and how likely each is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_viz.analysis import require
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

MOST_STEPS = 24
ROW = 0.34


@styled
def branches(traces: Mapping[str, xr.Dataset]) -> Picture:
    """The tokens of a run and of what was forked from it, and how likely each text is.

    traces maps names to runs that continue one prompt, the first being the one that was forked.
    Above, a row of tokens for each, from the step at which it parts from the first; colour is the
    model's probability of the token. Below, the logarithm of the probability of everything written
    so far: the higher line is the likelier text.

    Raises ValueError for no runs, for different prompts, and for more steps than can be read.
    """
    if not traces:
        raise ValueError("give at least one run")
    runs = list(traces.values())
    for run in runs:
        require(run, "sampled_id", "sampled_probability")
        if list(run.attrs["prompt_ids"]) != list(runs[0].attrs["prompt_ids"]):
            raise ValueError("the runs continue different prompts; branches have one in common")
    n_steps = max(run.sizes["step"] for run in runs)
    if n_steps > MOST_STEPS:
        raise ValueError(f"{n_steps} steps are too many to write tokens in; at most {MOST_STEPS}")
    parted = [parting(runs[0], run) if number else 0 for number, run in enumerate(runs)]

    left = 0.3 + max(style.text_width(name, style.SMALL) for name in traces)
    right, up, gap, bottom = 0.95, 1.9, 0.35, 0.6
    wide = style.WIDTH - left - right
    cell, high = wide / n_steps, ROW * len(runs)
    figure = Picture("a run and its branches", style.WIDTH,
                     bottom + up + gap + high + 0.1 + style.HEADING)  # fmt: skip
    figure.heading(
        "The same beginning, another token, another text",
        "boxes: the model's probability of each token; lines: of everything written so far",
    )
    panel = figure.panel("tokens", left, bottom + up + gap, wide, high)
    values = np.full((len(runs), n_steps), np.nan)
    for row, (run, start) in enumerate(zip(runs, parted, strict=True)):
        values[row, start : run.sizes["step"]] = run["sampled_probability"].values[start:]
    image = panel.imshow(values, cmap=style.PROBABILITY, norm=style.probability_scale(),
                         aspect="auto")  # fmt: skip
    image.set_gid("probability")
    for row, run in enumerate(runs):
        for step in range(parted[row], run.sizes["step"]):
            panel.text(
                step, row, style.fitted(str(run["sampled_token"].values[step]), cell - 0.04, 9),
                size=9, ha="center", va="center_baseline", gid="token",
                color="white" if values[row, step] > 0.5 else style.INK,
            )  # fmt: skip
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_yticks(range(len(runs)), list(traces))
    panel.set_xticks([])
    panel.tick_params(length=0)

    below = figure.panel("log probability", left, bottom, wide, up)
    for (name, run), look, start in zip(
        traces.items(), style.distinct(len(runs)), parted, strict=True
    ):
        total = np.log(np.maximum(run["sampled_probability"].values, 1e-45)).cumsum()
        # A branch leaves the first run's line one step before it parts.
        steps = np.arange(max(start - 1, 0), len(total))
        below.plot(steps, total[steps], color=look.colour, ls=look.dashes, marker="o", ms=3,
                   gid=name)  # fmt: skip
    ends = {
        name: float(np.log(np.maximum(run["sampled_probability"].values, 1e-45)).sum())
        for name, run in traces.items()
    }
    low, high_end = below.get_ylim()
    below.set_ylim(low, max(high_end, 0.0))
    heights = _spread(list(ends.values()), 0.2 / up * (max(high_end, 0.0) - low))
    for (name, end), look, height in zip(
        ends.items(), style.distinct(len(runs)), heights, strict=True
    ):
        below.annotate(f"{end:.2f}".replace("-", "−"), (n_steps - 0.5, height), (6, 0), va="center",
                       textcoords="offset points", color=look.colour, size=style.SMALL,
                       annotation_clip=False, gid=f"end of {name} (measured)")  # fmt: skip
    below.set_xlim(-0.5, n_steps - 0.5)
    below.set_xticks(range(n_steps), [str(step) for step in range(n_steps)], size=9.5)
    below.set_xlabel("step")
    below.set_ylabel("ln of probability")
    for label, look in zip(panel.get_yticklabels(), style.distinct(len(runs)), strict=True):
        label.set_color(look.colour)
    figure.colour_bar("colours", image, "", style.WIDTH - 2.6, figure.height - 0.4, 1.9, 0.13)
    return figure


def parting(run: xr.Dataset, branch: xr.Dataset) -> int:
    """The first step at which two runs wrote different tokens; the shorter's end where none is."""
    ids, others = (one["sampled_id"].values for one in (run, branch))
    n_both = min(len(ids), len(others))
    differing = np.flatnonzero(ids[:n_both] != others[:n_both])
    return int(differing[0]) if len(differing) else n_both


def _spread(heights: list[float], least: float) -> list[float]:
    """The heights, moved up where two labels would stand closer than this."""
    spread: dict[int, float] = {}
    last = -np.inf
    for index in np.argsort(heights, kind="stable").tolist():
        last = spread[index] = max(heights[index], last + least)
    return [spread[index] for index in range(len(heights))]
