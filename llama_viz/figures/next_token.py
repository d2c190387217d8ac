"""The next token: which candidates the model weighed at each step, to explore with the mouse."""

from __future__ import annotations

import html
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from llama_viz.analysis import require
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.tokenizer import visible

if TYPE_CHECKING:
    import xarray as xr

STEPS_IN_VIEW = 14
LONGEST = 8  # characters that fit into a cell
ROW, AROUND = 32, 165  # pixels


class InteractivePicture(go.Figure):
    """A Plotly figure that brings a still picture and a text for pages that cannot run it."""

    def __init__(self, *parts: Any, still: Picture | None = None) -> None:
        super().__init__(*parts)
        self._still = still

    _ipython_display_ = _repr_html_ = None  # Plotly's own displays know no still

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"application/vnd.plotly.v1+json": json.loads(self.to_json())}
        if self._still is not None:
            bundle |= {"text/plain": repr(self._still), "image/jpeg": _jpeg(self._still)}
        return bundle


def _jpeg(picture: Picture) -> bytes:
    """As JPEG: where there is a PNG, Plotly in JupyterLab shows that until it is pointed at."""
    buffer = BytesIO()
    picture.savefig(buffer, format="jpeg", pil_kwargs={"quality": 95})
    return buffer.getvalue()


def candidates(trace: xr.Dataset) -> InteractivePicture:
    """The likeliest next tokens at every step, the likeliest on top; drag to see other steps.

    Colour is probability from 0 to 1, a frame marks the token that was written. Hovering tells
    step, rank, token and probability. Returns a Plotly figure; where none can run, its first steps
    show as a still.
    """
    require(trace, "candidate_id", "candidate_probability")
    probability = trace["candidate_probability"].transpose("rank", "step").values
    tokens = trace["candidate_token"].transpose("rank", "step").values
    steps, ranks = trace["step"].values, trace["rank"].values
    # What hovering tells: step, rank and the whole token.
    told = [
        [(step, rank, escaped(str(token))) for step, token in zip(steps.tolist(), row, strict=True)]
        for rank, row in zip(ranks.tolist(), tokens, strict=True)
    ]
    heatmap = go.Heatmap(
        name="candidates",
        x=steps, y=ranks, z=probability, zmin=0, zmax=1,
        colorscale=_colour_scale(),
        text=[[cut(str(token)) for token in row] for row in tokens],
        texttemplate="%{text}", textfont={"size": 12},
        customdata=told,
        hovertemplate="step %{customdata[0]}, rank %{customdata[1]}<br>token %{customdata[2]}<br>"
                      "probability %{z:.3f}<extra></extra>",
        xgap=2, ygap=2,
        colorbar={"title": {"text": "probability", "side": "right"}, "thickness": 12,
                  "outlinewidth": 0},
    )  # fmt: skip
    in_view = min(len(steps), STEPS_IN_VIEW)
    notes = _notes(trace, in_view, "drag to see the other steps")
    layout = {
        "template": "none",
        "title": {"text": f"The {len(ranks)} likeliest next tokens at each step",
                  "subtitle": {"text": "; ".join(notes), "font": {"color": style.QUIET}},
                  "x": 0.01, "xanchor": "left", "font": {"size": 18}},
        "font": {"family": f"{style.FONT}, sans-serif", "size": 13, "color": style.INK},
        "height": ROW * len(ranks) + AROUND,
        "margin": {"l": 70, "r": 20, "t": 75, "b": 75},
        "dragmode": "pan",
        "hoverlabel": {"align": "left"},
        # Equal tokens are different steps: axes are numbers, tokens only the names of their ticks.
        "xaxis": {"title": {"text": "step"}, "tickvals": steps, "ticktext": _step_names(trace),
                  "tickangle": 0,
                  "range": [steps[0] - 0.5, steps[0] + in_view - 0.5],
                  "showgrid": False, "zeroline": False, "showline": False},
        "yaxis": {"title": {"text": "rank"}, "tickvals": ranks,
                  "ticktext": [str(rank) for rank in ranks],
                  "range": [ranks[-1] + 0.5, ranks[0] - 0.5], "fixedrange": True,
                  "showgrid": False, "zeroline": False, "showline": False},
        "shapes": _frames(trace),
    }  # fmt: skip
    return InteractivePicture(heatmap, layout, still=_still(trace, in_view))


@styled
def _still(trace: xr.Dataset, in_view: int) -> Picture:
    """The first steps of the same figure, to look at."""
    shown = trace.isel(step=slice(in_view))
    probability = shown["candidate_probability"].transpose("rank", "step").values
    tokens = shown["candidate_token"].transpose("rank", "step").values
    n_ranks, n_steps = probability.shape
    left, bottom, cell, row = 0.75, 0.75, 0.56, 0.3
    wide, up = cell * max(n_steps, 4), row * n_ranks
    room = wide / n_steps - 0.04  # for a token in its cell
    figure = Picture(f"the {n_ranks} likeliest next tokens at {n_steps} steps",
                     max(left + wide + 0.9, 6.0), bottom + up + style.HEADING)  # fmt: skip
    some = f"the first {n_steps} of {trace.sizes['step']} steps"
    figure.heading(
        f"The {n_ranks} likeliest next tokens at each step", "; ".join(_notes(trace, n_steps, some))
    )
    panel = figure.panel("candidates", left, bottom, wide, up)
    image = panel.imshow(probability, cmap=style.PROBABILITY, norm=style.probability_scale(),
                         aspect="auto")  # fmt: skip
    image.set_gid("probability")
    for (rank, step), value in np.ndenumerate(probability):
        panel.text(
            step, rank, style.fitted(str(tokens[rank, step]), room, 9), size=9,
            ha="center", va="center_baseline", color="white" if value > 0.5 else style.INK,
            gid="token",
        )  # fmt: skip
    for frame in _frames(shown):
        panel.add_patch(Rectangle(
            (frame["x0"] - shown["step"].values[0], frame["y0"]), 1, 1, fill=False,
            edgecolor=style.QUALITATIVE[1], lw=1.5, clip_on=False, gid=frame["name"],
        ))  # fmt: skip
    for spine in panel.spines.values():
        spine.set_visible(False)
    names = [str(step) for step in shown["step"].values]
    if "sampled_token" in shown.coords:
        written = [style.fitted(str(token), room, 9) for token in shown["sampled_token"].values]
        names = [f"{name}\n{token}" for name, token in zip(names, written, strict=True)]
    panel.set_xticks(range(n_steps), names, size=9)
    panel.set_yticks(range(n_ranks), [str(rank) for rank in shown["rank"].values])
    panel.tick_params(length=0)
    panel.set_xlabel("step, and the token that it wrote")
    panel.set_ylabel("rank")
    figure.colour_bar("colours", image, "", left + wide + 0.15, bottom, 0.14, up)
    return figure


def _notes(trace: xr.Dataset, in_view: int, more: str) -> list[str]:
    """What the frames mean, and that there are more steps."""
    notes = ["framed: the token that was written"] if "sampled_id" in trace else []
    return notes + ([more] if trace.sizes["step"] > in_view else [])


def escaped(text: str) -> str:
    """The text so that Plotly shows it as it is: no tags, no entities, no formulas."""
    # Plotly reads a little HTML everywhere, but no &quot;, and LaTeX between two dollar signs.
    return html.escape(visible(text), quote=False).replace("$", "&#36;")


def cut(token: str) -> str:
    """A token short enough for its cell, escaped."""
    token = visible(token)
    return escaped(token if len(token) <= LONGEST else f"{token[: LONGEST - 1]}…")


def _step_names(trace: xr.Dataset) -> list[str]:
    """Each step's number, above the token that it wrote."""
    steps = [str(step) for step in trace["step"].values]
    if "sampled_token" not in trace.coords:
        return steps
    tokens = [cut(str(token)) for token in trace["sampled_token"].values]
    return [f"{step}<br>{token}" for step, token in zip(steps, tokens, strict=True)]


def _frames(trace: xr.Dataset) -> list[dict[str, Any]]:
    """A frame around the candidate that was written, where it is among those kept."""
    if "sampled_id" not in trace:
        return []
    written = trace["candidate_id"] == trace["sampled_id"]
    return [
        {
            "type": "rect", "name": f"written at step {step}",
            "x0": step - 0.5, "x1": step + 0.5, "y0": rank - 0.5, "y1": rank + 0.5,
            "line": {"color": style.QUALITATIVE[1], "width": 2},
        }
        for step, row in zip(trace["step"].values.tolist(), written.values, strict=True)
        for rank in trace["rank"].values[row].tolist()
    ]  # fmt: skip


def _colour_scale() -> list[list[Any]]:
    """The colours of probabilities as Plotly takes them."""
    return [[at, to_hex(style.PROBABILITY(at))] for at in np.linspace(0, 1, 21).round(2).tolist()]
