"""Attention maps: who looks at whom, in all heads, one layer, one head, one row; kinds of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from llama_viz.analysis import HEAD_KINDS, config_of, masked_scores, pick, require
from llama_viz.analysis import head_kinds as kinds_of_heads
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

# Stage -> what its colours mean and what stands above the diagonal.
STAGES = {
    "scores": ("attention scores", "later keys"),
    "masked": ("attention scores after the mask", "−∞"),
    "weights": ("attention weights", "0"),
}


@styled
def attention_map(trace: xr.Dataset, *, layer: int, head: int, stage: str = "weights") -> Picture:
    """How much each position looks at each other one, in one head.

    stage is "scores" (query times key / sqrt(head_dim)), "masked" (later keys hidden) or "weights"
    (softmax of each row). Rows are queries, columns keys. Raises ValueError for an unknown layer,
    head or stage.
    """
    if stage not in STAGES:
        raise unknown_name("stage", stage, STAGES)
    require(trace, "attention_weights" if stage == "weights" else "attention_scores")
    layer, head = pick(trace, "layer", layer), pick(trace, "head", head)

    n_keys = trace.sizes["key_position"]
    side = float(np.clip(0.5 * n_keys, 2.6, 5.8))
    room = _label_room(trace, side, style.SMALL)
    left, bottom = 0.45 + room, 0.45 + room
    width = max(left + side + 0.9, 6.5)
    figure = Picture(
        f"attention {stage} of layer {layer}, head {head}",
        width, bottom + side + style.HEADING,
    )  # fmt: skip
    meaning, _ = STAGES[stage]
    figure.heading(f"Layer {layer}, head {head}: {meaning}", _sharing(trace, head))
    panel = figure.panel(stage, left, bottom, side, side)
    image = _draw_map(panel, trace, layer, head, stage)
    _label_tokens(panel, trace, side, style.SMALL)
    panel.set_xlabel("key position: what is looked at")
    panel.set_ylabel("query position: who looks")
    figure.colour_bar("colours", image, "", left + side + 0.15, bottom, 0.14, side)
    return figure


@styled
def attention_stages(trace: xr.Dataset, *, layer: int, head: int) -> Picture:
    """The scores of one head, the scores after the mask, and the weights after the softmax.

    Scores and masked scores share one colour scale. Raises ValueError for an unknown layer or head.
    """
    require(trace, "attention_scores", "attention_weights")
    layer, head = pick(trace, "layer", layer), pick(trace, "head", head)

    gap, size, least = 0.3, 9.5, 2.3  # a panel's side depends on the labels: no less than this
    room = _label_room(trace, least, size)
    left, bottom, right = 0.4 + room, 0.88 + room, 0.3
    side = (style.WIDTH - left - right - 2 * gap) / 3
    figure = Picture(
        f"attention stages of layer {layer}, head {head}",
        style.WIDTH, bottom + side + 0.3 + style.HEADING,
    )  # fmt: skip
    figure.heading(f"Layer {layer}, head {head}: from scores to weights", _sharing(trace, head))
    titles = {
        "scores": f"query · key / √{config_of(trace).head_dim}",
        "masked": "later keys hidden",
        "weights": "softmax of each row",
    }
    for column, stage in enumerate(STAGES):
        start = left + column * (side + gap)
        panel = figure.panel(stage, start, bottom, side, side)
        image = _draw_map(panel, trace, layer, head, stage)
        panel.set_title(titles[stage])
        _label_tokens(panel, trace, least, size)
        if column:
            panel.tick_params(labelleft=False)
        else:
            panel.set_ylabel("query position")
        if stage == "masked":
            figure.colour_bar(
                "colours of scores", image, "attention score", left, 0.6, 2 * side + gap, 0.12
            )
        if stage == "weights":
            figure.colour_bar(
                "colours of weights", image, "attention weight", start, 0.6, side, 0.12
            )
    return figure


@styled
def attention_heads(trace: xr.Dataset, *, layer: int) -> Picture:
    """The weights of all heads of a layer, side by side, under the key/value head that they read.

    One colour scale, from 0 to 1. Raises ValueError for an unknown layer.
    """
    require(trace, "attention_weights")
    layer = pick(trace, "layer", layer)
    config = config_of(trace)
    n_groups, in_group = config.n_kv_heads, config.heads_per_kv_head
    grid = _grid(n_groups, in_group)

    gap, title, left, right, bottom = 0.2, 0.27, 0.45, 0.95, 0.5
    header = 0.34 if in_group > 1 else 0.0
    columns = grid.groups_across * grid.columns
    side = min((style.WIDTH - left - right - gap * (columns - 1)) / columns, 2.4)
    head_height = title + side + 0.1
    group_height = header + grid.rows * head_height + (0.14 if header else 0.0)
    height = style.HEADING + grid.groups_down * group_height + bottom
    figure = Picture(f"attention weights of all heads of layer {layer}", style.WIDTH, height)
    figure.heading(f"Layer {layer}: attention weights of all heads", _kind_of_sharing(trace))

    for group in range(n_groups):
        down, across = divmod(group, grid.groups_across)
        start = left + across * grid.columns * (side + gap)
        top = height - style.HEADING - down * group_height
        if header:
            length = grid.columns * (side + gap) - gap
            _draw_header(figure, group, start, top - 0.27, length)
        for place in range(in_group):
            row, column = divmod(place, grid.columns)
            head = group * in_group + place
            panel = figure.panel(
                f"head {head}",
                start + column * (side + gap),
                top - header - row * head_height - title - side,
                side,
                side,
            )
            image = _draw_map(panel, trace, layer, head, "weights", label=False)
            panel.set_title(f"head {head}", size=style.SMALL, pad=4)
            panel.set_xticks([])
            panel.set_yticks([])
    ends = {
        which: f"{which} position {trace[f'{which}_position'].values[0]} to "
        f"{trace[f'{which}_position'].values[-1]}"
        for which in ("key", "query")
    }
    figure.write("axes", f"across: {ends['key']}, down: {ends['query']}", left, 0.17)
    below = bottom + (0.24 if header else 0.1)
    figure.colour_bar(
        "colours", image, "", left + columns * (side + gap) - gap + 0.2, below,
        0.14, height - style.HEADING - header - title - below,
    )  # fmt: skip
    return figure


@styled
def attention_overview(trace: xr.Dataset) -> Picture:
    """The weights of every head of every layer, small: a row for each layer.

    One colour scale, from 0 to 1; across keys, down queries.
    """
    require(trace, "attention_weights")
    layers, n_heads = trace["layer"].values.tolist(), trace.sizes["head"]
    left, right, bottom, title, gap = 0.85, 0.8, 0.2, 0.26, 0.1
    side = min((style.WIDTH - left - right - gap * (n_heads - 1)) / n_heads, 1.4)
    height = bottom + len(layers) * (side + gap) - gap + title + style.HEADING
    figure = Picture("attention weights of all heads", style.WIDTH, height)
    figure.heading(
        f"All {len(layers) * n_heads} heads at a glance: attention weights",
        f"each square is one head: {trace.sizes['query_position']} queries down, "
        f"{trace.sizes['key_position']} keys across",
    )
    for row, layer in enumerate(layers):
        low = bottom + (len(layers) - 1 - row) * (side + gap)
        figure.write("layer", f"layer {layer}", style.MARGIN, low + side / 2 - 0.06)
        for head in range(n_heads):
            panel = figure.panel(
                f"layer {layer}, head {head}", left + head * (side + gap), low, side, side
            )
            image = _draw_map(panel, trace, layer, head, "weights", label=False)
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                panel.set_title(f"head {head}", size=style.SMALL, pad=4)
    figure.colour_bar(
        "colours", image, "", left + n_heads * (side + gap) + 0.05, bottom, 0.13,
        height - bottom - title - style.HEADING,
    )  # fmt: skip
    return figure


@styled
def attention_row(trace: xr.Dataset, *, layer: int, head: int, query_position: int) -> Picture:
    """One row of a head: how much one position looks at each position up to it.

    Raises ValueError for an unknown layer, head or position.
    """
    require(trace, "attention_weights")
    layer, head = pick(trace, "layer", layer), pick(trace, "head", head)
    query_position = pick(trace, "query_position", query_position)
    row = trace["attention_weights"].sel(layer=layer, head=head, query_position=query_position)
    allowed = row["key_position"].values <= query_position
    weights = row.values.astype(np.float64)[allowed]
    keys = _tokens(trace, "key")
    tokens, positions = keys["tokens"][: len(weights)], keys["positions"][: len(weights)]
    token = str(trace["query_token"].sel(query_position=query_position).values)

    left, right, up = 0.7, 0.2, 2.0
    across = style.WIDTH - left - right
    room = style.label_room(style.token_labels(tokens, across, positions=positions)[0])
    bottom = 0.15 + room
    figure = Picture(
        f"attention weights of layer {layer}, head {head}, query {query_position}",
        style.WIDTH, bottom + up + style.HEADING,
    )  # fmt: skip
    figure.heading(
        f"Layer {layer}, head {head}: where position {query_position}, "
        f"{style.shortened(token)}, looks",
        f"one row of the map: {len(weights)} weights that add up to {weights.sum():.3f}",
        gid="detail (measured)",
    )
    panel = figure.panel("row", left, bottom, across, up)
    style.columns(panel, weights, width=across, name="weight")
    panel.set_xlim(-0.6, len(weights) - 0.4)
    panel.set_ylim(0, 1.02)
    panel.set_ylabel("weight")
    style.token_axis(panel.xaxis, tokens, length=across, positions=positions)
    return figure


@styled
def head_kinds(trace: xr.Dataset) -> Picture:
    """How much each head looks at the previous, the first and the repeated position, in percent.

    Numbers of analysis.head_kinds; one colour scale, from 0 to 1. Grey: not to be measured, since
    no token occurs twice.
    """
    kinds = kinds_of_heads(trace)
    n_layers, n_heads = kinds.sizes["layer"], kinds.sizes["head"]
    left, right, gap, bottom, title = 0.75, 0.15, 0.25, 0.5, 0.3
    across = (style.WIDTH - left - right - gap * (len(HEAD_KINDS) - 1)) / len(HEAD_KINDS)
    up = min(n_layers * 0.42, 6.0)
    figure = Picture("kinds of heads", style.WIDTH, bottom + up + title + style.HEADING)
    figure.heading(
        "What does each head look at? Its attention, in percent",
        f"means over positions 2 to {trace.sizes['query_position'] - 1}; "
        "the last panel over those whose token occurred before",
    )
    titles = {
        "previous": "the previous token",
        "first": "the first token",
        "induction": "what followed last time",
    }
    for number, kind in enumerate(HEAD_KINDS):
        values = kinds.sel(kind=kind).values
        panel = figure.panel(kind, left + number * (across + gap), bottom, across, up)
        panel.set_facecolor(style.MASKED)
        image = panel.imshow(values, cmap=style.PROBABILITY, norm=style.probability_scale(),
                             aspect="auto")  # fmt: skip
        image.set_gid(f"attention to {titles[kind]}")
        panel.set_title(titles[kind])
        panel.set_xlabel("head")
        panel.xaxis.set_major_locator(style.whole_numbers())
        ticks = style.fitting_ticks(n_layers, up)
        labels = [f"layer {kinds['layer'].values[tick]}" for tick in ticks]
        style.label_axis(panel.yaxis, labels, ticks)
        panel.tick_params(length=0, labelleft=number == 0)
        for row, head in np.ndindex(values.shape):
            value = values[row, head]
            if np.isfinite(value) and n_heads <= 12:
                panel.text(
                    head, row, f"{100 * value:.0f}", ha="center", va="center", size=style.SMALL,
                    color="white" if value > 0.5 else style.INK, gid="percent (measured)",
                )  # fmt: skip
        for spine in panel.spines.values():
            spine.set_visible(False)
    return figure


class _Grid(NamedTuple):
    """How heads stand: groups across and down, and columns and rows of heads in each group."""

    groups_across: int
    groups_down: int
    columns: int
    rows: int


def _grid(n_groups: int, in_group: int) -> _Grid:
    """A balanced grid at most eight heads wide (four where there are at most eight heads)."""
    widest = 4 if n_groups * in_group <= 8 else 8
    rows = -(-in_group // widest)
    columns = -(-in_group // rows)
    groups_down = -(-n_groups // max(widest // columns, 1))
    groups_across = -(-n_groups // groups_down)
    return _Grid(groups_across, groups_down, columns, rows)


def _draw_map(
    panel: Axes, trace: xr.Dataset, layer: int, head: int, stage: str, *, label: bool = True
) -> AxesImage:
    """Draw one head into a panel; above the diagonal the panel itself shows, with what it means."""
    variable = "attention_weights" if stage == "weights" else "attention_scores"
    scores = masked_scores(trace) if stage == "masked" else trace[variable]
    values = scores.sel(layer=layer, head=head).values.astype(np.float64)
    later = trace["key_position"].values[None, :] > trace["query_position"].values[:, None]
    values = np.where(later | ~np.isfinite(values), np.nan, values)

    if stage == "scores":
        panel.patch.set_hatch("////")
    else:
        panel.set_facecolor(style.MASKED)
    panel.patch.set_gid("above the diagonal")
    weights = stage == "weights"
    image = panel.imshow(
        values,
        cmap=style.PROBABILITY if weights else style.SIGNED,
        norm=style.probability_scale() if weights else style.signed_scale(values),
        aspect="auto",
    )
    image.set_gid(f"{STAGES[stage][0]} of layer {layer}, head {head}")
    for spine in panel.spines.values():
        spine.set_visible(False)
    if label and len(values) >= 4:
        panel.text(
            0.72, 0.72, STAGES[stage][1], transform=panel.transAxes, ha="center", va="center",
            color=style.QUIET, size=style.TEXT_SIZE, gid="above the diagonal",
        )  # fmt: skip
    return image


def _draw_header(figure: Picture, group: int, left: float, bottom: float, length: float) -> None:
    """A line over the heads that share a key/value head, and its number."""
    colour = style.distinct(group + 1)[group].colour
    name = f"key/value head {group}"
    figure.write(name, name, left, bottom + 0.06, color=style.INK, size=style.TEXT_SIZE)
    line = Line2D(
        [left / figure.width, (left + length) / figure.width], [bottom / figure.height] * 2,
        color=colour, linewidth=2, gid=name,
    )  # fmt: skip
    figure.add_artist(line)


def _tokens(trace: xr.Dataset, which: str) -> dict[str, Any]:
    """The tokens of the keys or of the queries, and their positions."""
    return {
        "tokens": [str(token) for token in trace[f"{which}_token"].values],
        "positions": trace[f"{which}_position"].values.tolist(),
    }


def _label_tokens(panel: Axes, trace: xr.Dataset, side: float, size: float) -> None:
    """Keys along the bottom, queries along the left."""
    style.token_axis(panel.xaxis, **_tokens(trace, "key"), length=side, size=size)
    style.token_axis(panel.yaxis, **_tokens(trace, "query"), length=side, size=size)


def _label_room(trace: xr.Dataset, side: float, size: float) -> float:
    """Inches that the labels of both axes need."""
    return max(
        style.label_room(
            style.token_labels(**_tokens(trace, which), length=side, size=size)[0], size
        )
        for which in ("key", "query")
    )


def _sharing(trace: xr.Dataset, head: int) -> str:
    """Which key/value head a query head reads, and who else reads it."""
    kv_head = int(trace["kv_head_of_head"].sel(head=head))
    sharers = config_of(trace).heads_per_kv_head
    others = "alone" if sharers == 1 else f"as {sharers - 1} other heads do"
    return f"reads key/value head {kv_head}, {others}"


def _kind_of_sharing(trace: xr.Dataset) -> str:
    """How the heads of this model share key/value heads."""
    config = config_of(trace)
    if config.attention_kind == "MHA":
        return f"MHA: each of the {config.n_heads} heads reads a key/value head of its own"
    if config.attention_kind == "MQA":
        return f"MQA: all {config.n_heads} heads read one key/value head"
    return (
        f"GQA: {config.n_heads} heads read {config.n_kv_heads} key/value heads, "
        f"{config.heads_per_kv_head} heads each"
    )
