"""The architecture: LLaMA and the Transformer of 2017 box by box, and where parameters sit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import FancyBboxPatch, Rectangle

from llama_viz.architecture import (
    EncoderDecoderConfig,
    differences,
    encoder_decoder,
    llama,
)
from llama_viz.cost import parameters
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llama_viz.architecture import Box, Drawing
    from llama_viz.config import ModelConfig

COLOURS = {
    "embedding": style.QUALITATIVE[4],
    "norm": style.QUALITATIVE[2],
    "attention": style.QUALITATIVE[0],
    "feed_forward": style.QUALITATIVE[1],
    "step": style.QUIET,
    "add": style.QUIET,
}
KIND_OF_PART = {
    "embedding": "embedding",
    "output_head": "embedding",
    **dict.fromkeys(("query", "key", "value", "attention_output"), "attention"),
    **dict.fromkeys(("gate", "up", "down"), "feed_forward"),
    **dict.fromkeys(("attention_norm", "feed_forward_norm", "final_norm"), "norm"),
}
MARK = "#000000"
PIXELS = 100.0  # of a drawing, to the inch
SIZES_WIDTH = 1.55


@styled
def architecture(
    config: ModelConfig, *, name: str = "this model", difference: str | None = None
) -> Picture:
    """LLaMA and the Transformer of 2017 side by side, and the parameters of each part to scale.

    difference marks in both drawings where they differ: one of architecture.differences(config).
    Raises ValueError, with the choices, for an unknown one.
    """
    known = differences(config)
    if difference is not None and difference not in known:
        raise unknown_name("difference", difference, known)
    own = llama(config)
    other = encoder_decoder(EncoderDecoderConfig(), own.height)
    up = own.height / PIXELS
    figure = Picture(f"architecture of {name}", style.WIDTH, up + 0.6 + style.HEADING)
    picked = None if difference is None else known[difference]
    detail = f"{style.shown(name)}: {config.n_parameters:,} parameters"
    if picked is not None:
        detail += f"; marked: {picked.title}"
    figure.heading("LLaMA beside the Transformer of 2017", detail)
    left = 0.1
    for drawing, marked in (
        (own, () if picked is None else picked.boxes_after),
        (other, () if picked is None else picked.boxes_before),
    ):
        wide = drawing.width / PIXELS
        panel = figure.panel(drawing.name, left, 0.15, wide, up)
        panel.set_xlim(0, drawing.width)
        panel.set_ylim(drawing.height, 0)
        panel.set_axis_off()
        words = f"{drawing.title}: {drawing.n_parameters:,} parameters"
        figure.write(f"title of {drawing.name}", words, left + 0.1, up + 0.25, color=style.INK)
        _draw(panel, drawing, marked)
        left += wide + 0.1
    bars = figure.panel("parameters", left + 0.2, 0.15, SIZES_WIDTH - 1.05, up - 0.2)
    figure.write("title of parameters", "LLaMA's, to scale", left + 0.2, up + 0.25, color=style.INK)
    _draw_sizes(bars, parameters(config))
    return figure


def _draw(panel: Axes, drawing: Drawing, marked: tuple[str, ...]) -> None:
    for number, ((x, y, width, height), words) in enumerate(drawing.frames):
        panel.add_patch(
            FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=8",
                           fc="#f6f6f6", ec=style.LINE, lw=0.8, zorder=0.5,
                           label=f"frame {number}")
        )  # fmt: skip
        panel.text(x + width - 8, y + height - 7, words, ha="right", size=8, color=style.QUIET)
    for number, line in enumerate(drawing.lines):
        panel.plot(*zip(*line, strict=True), color=style.LINE, lw=1.4, zorder=0.8,
                   gid=f"line {number}")  # fmt: skip
    for number, arrow in enumerate(drawing.arrows):
        panel.plot(*zip(*arrow, strict=True), color=style.LINE, lw=1, zorder=0.9,
                   gid=f"arrow {number}")  # fmt: skip
        look = {"arrowstyle": "-|>", "color": style.LINE, "lw": 1, "shrinkA": 0, "shrinkB": 0,
                "zorder": 0.95}  # fmt: skip
        panel.annotate("", arrow[-1], arrow[-2], arrowprops=look)
    for x, y, words, where in drawing.labels:
        align = {"middle": "center", "start": "left", "end": "right"}[where]
        panel.text(x, y, words, ha=align, size=8.5, color=style.QUIET)
    for box in drawing.boxes:
        _draw_box(panel, box, box.name in marked)


def _draw_box(panel: Axes, box: Box, is_marked: bool) -> None:
    x, y, width, height = box.place
    colour = COLOURS[box.kind]
    round_by = min(height / 2, 10 if box.kind == "add" else 5)
    patch = FancyBboxPatch(
        (x, y), width, height, f"round,pad=0,rounding_size={round_by}",
        fc=tint(colour) if box.kind not in ("step", "add") else "#ffffff",
        ec=MARK if is_marked else colour, lw=2.6 if is_marked else 1.0,
    )  # fmt: skip
    patch.set_gid(f"{'marked ' if is_marked else ''}{box.name}")
    panel.add_patch(patch)
    lines = [box.title, *([box.shape] if box.shape else [])]
    if box.n_parameters:
        lines.append(f"{box.n_parameters:,}")
    room = 0.92 * (width - 6) / PIXELS
    for number, words in enumerate(lines):
        size = 9.0 if number == 0 else 7.5
        size *= min(1.0, room / style.text_width(words, size))
        centre = y + height / 2 + (number - (len(lines) - 1) / 2) * 12.5
        panel.text(x + width / 2, centre, words, ha="center", va="center", size=size,
                   color=style.INK if number == 0 else style.QUIET)  # fmt: skip


def _draw_sizes(panel: Axes, sizes: dict[str, int]) -> None:
    """One bar, to scale: the output on top, as in the drawings; parts that are large are named."""
    total = sum(sizes.values())
    base = 0.0
    for part, count in sizes.items():
        share = count / total
        patch = Rectangle((0, base), 1, share, fc=tint(COLOURS[KIND_OF_PART[part]], 0.55),
                          ec="#ffffff", lw=0.8)  # fmt: skip
        patch.set_gid(part)
        panel.add_patch(patch)
        if share > 0.02:
            words = f"{part.replace('_', ' ')}\n{share:.1%}"
            panel.text(1.08, base + share / 2, words, va="center", size=8, color=style.INK)
        base += share
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
    panel.set_axis_off()


def tint(colour: str, strength: float = 0.16) -> tuple[float, ...]:
    """The colour on white paper."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(1 - strength * (1 - part) for part in parts)
