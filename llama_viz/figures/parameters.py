"""Where the parameters of a model sit: areas to scale, of the whole and of one block."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle

from llama_viz.cost import parameters
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.architecture import COLOURS, KIND_OF_PART, tint
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from llama_viz.config import ModelConfig

ATTENTION = ("query", "key", "value", "attention_output")
FEED_FORWARD = ("gate", "up", "down")
NORMS = ("attention_norm", "feed_forward_norm")
SMALLEST = 8.0  # size of a text that can still be read


@styled
def parameter_treemap(configs: Mapping[str, ModelConfig], *, model: str) -> Picture:
    """The parameters of one of several models as areas: all of them, and one block enlarged.

    Left: the embedding, every block, the output head. Right: one block's matrices. A tied output
    head has no area of its own, and norms have too few parameters to be seen; the line below the
    title counts them. Raises ValueError, with the choices, for an unknown model.
    """
    if model not in configs:
        raise unknown_name("model", model, configs)
    config = configs[model]
    sizes = parameters(config)
    total = config.n_parameters
    block = {name: sizes[name] // config.n_layers for name in (*ATTENTION, *FEED_FORWARD, *NORMS)}
    in_block = sum(block.values())
    norms = sizes["attention_norm"] + sizes["feed_forward_norm"] + sizes["final_norm"]
    left, bottom, gap, up = 0.15, 0.15, 0.4, 3.2
    whole_wide = 4.2
    block_wide = style.WIDTH - 2 * left - gap - whole_wide
    figure = Picture(f"parameters of {model}", style.WIDTH, bottom + up + 0.35 + style.HEADING)
    figure.heading(
        f"{style.shown(model)}: {total:,} parameters, areas to scale",
        f"{config.n_layers} blocks of {in_block:,}; all norms together {norms:,}, too few to be "
        "seen",
    )

    panel = _panel(figure, "whole model", left, bottom, whole_wide, up)
    ends = {"embedding": sizes["embedding"], "output_head": sizes["output_head"]}
    yellow = ", ".join(f"{name.replace('_', ' ')} {count / total:.1%}"
                       for name, count in ends.items() if count)  # fmt: skip
    panel.set_title(f"all; yellow: {yellow}", size=style.SMALL)
    wide = {name: count / total for name, count in ends.items()}
    _tile(
        panel, "embedding", (0, 0, wide["embedding"], 1), sizes["embedding"], total, whole_wide, up
    )
    across, down = _grid(config.n_layers)
    middle = 1 - sum(wide.values())
    for number in range(config.n_layers):
        column, row = divmod(number, down)
        place = (
            wide["embedding"] + middle * column / across,
            row / down,
            middle / across,
            1 / down,
        )
        tile = Rectangle(place[:2], *place[2:], fc="#f3f3f3", ec=style.QUIET, lw=0.8)
        panel.add_patch(tile).set_gid(f"block {number}")
        if middle / across * whole_wide > 0.3 and up / down > 0.17:
            panel.text(place[0] + place[2] / 2, place[1] + place[3] / 2, str(number), ha="center",
                       va="center", size=8.5, color=style.QUIET)  # fmt: skip
    if sizes["output_head"]:
        place = (1 - wide["output_head"], 0, wide["output_head"], 1)
        _tile(panel, "output_head", place, sizes["output_head"], total, whole_wide, up)

    panel = _panel(figure, "one block", left + whole_wide + gap, bottom, block_wide, up)
    panel.set_title(f"one block, {in_block / total:.1%} of all", size=style.SMALL)
    x = 0.0
    for group in (ATTENTION, FEED_FORWARD):
        group_wide = sum(block[name] for name in group) / in_block
        y = 0.0
        for name in group:
            high = block[name] / in_block / group_wide
            place = (x, y, group_wide, high)
            _tile(panel, name, place, block[name], in_block, block_wide, up)
            y += high
        x += group_wide
    return figure


def _panel(
    figure: Picture, name: str, left: float, bottom: float, wide: float, high: float
) -> Axes:
    panel = figure.panel(name, left, bottom, wide, high)
    panel.set_xlim(0, 1)
    panel.set_ylim(1, 0)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    return panel


def _tile(
    panel: Axes, name: str, place: tuple[float, float, float, float], count: int, total: int,
    inches_wide: float, inches_high: float,
) -> None:  # fmt: skip
    """One part as an area; named, with its count and share, where there is room for words."""
    x, y, wide, high = place
    colour = tint(COLOURS[KIND_OF_PART[name]], 0.45)
    panel.add_patch(Rectangle((x, y), wide, high, fc=colour, ec="white", lw=1.2)).set_gid(name)
    words, share = name.replace("_", " "), f"{count / total:.1%}"
    inches = wide * inches_wide - 0.1, high * inches_high - 0.02
    ways = (
        [words, f"{count:,}", share],
        [*words.split(), f"{count:,}", share],
        [f"{words} {count:,}"],
        [f"{words} {share}"],
        [words],
    )
    for turned, lines in product((False, True), ways):
        across, up = inches[::-1] if turned else inches
        longest = max(style.text_width(line, style.SMALL) for line in lines)
        size = min(style.SMALL, style.SMALL * across / longest, 72 * up / len(lines) / 1.3)
        if size >= SMALLEST:
            panel.text(x + wide / 2, y + high / 2, "\n".join(lines), ha="center", va="center",
                       size=size, color=style.INK, rotation=90 if turned else 0,
                       linespacing=1.25, gid=f"words of {name}")  # fmt: skip
            return


def _grid(count: int) -> tuple[int, int]:
    """Columns and rows of equal tiles, more rows than columns, as near to a square as can be."""
    columns = max(n for n in range(1, count + 1) if count % n == 0 and n * n <= count)
    return columns, count // columns
