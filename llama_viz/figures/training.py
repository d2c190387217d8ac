"""A training run: its losses, how its heads score, and what its snapshots write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.tokenizer import SPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

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
