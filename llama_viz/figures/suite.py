"""The whole suite on one sheet of paper: LLaMA's boxes, and the notebook that opens each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path

from llama_viz.figures import style
from llama_viz.figures.architecture import tint
from llama_viz.figures.style import Picture, styled
from llama_viz.suite import LESSONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llama_viz.suite import Lesson

A4 = (11.69, 8.27)  # inches, across first

# The tower from bottom to top: what it says, what a notebook opens there, its height in inches.
BELOW = (("token", "", 0.3), ("embedding", "embedding", 0.42))
BLOCK = (
    ("RMSNorm", "norm", 0.34),
    ("attention", "attention", 1.22),
    ("+", "", 0.2),
    ("RMSNorm", "norm", 0.34),
    ("SwiGLU feed-forward", "feed-forward", 0.42),
    ("+", "", 0.2),
)
ABOVE = (("RMSNorm", "norm", 0.34), ("output head, softmax", "output head", 0.42),
         ("next token", "", 0.3))  # fmt: skip
IN_ATTENTION = (
    ("rotary positions", "rotary positions"),
    ("KV cache", "KV cache"),
    ("grouped heads", "grouped heads"),
)
COLOURS = {
    "embedding": style.QUALITATIVE[4],
    "output head": style.QUALITATIVE[4],
    "norm": style.QUALITATIVE[2],
    "attention": style.QUALITATIVE[0],
    "rotary positions": style.QUALITATIVE[0],
    "KV cache": style.QUALITATIVE[0],
    "grouped heads": style.QUALITATIVE[0],
    "feed-forward": style.QUALITATIVE[1],
}
GAP, INTO_BLOCK, LEFT, BOX = 0.17, 0.42, 0.95, 2.75
LIST, ROW, TOP = 5.0, 0.565, 7.05


@styled
def suite_map() -> Picture:
    """One page, A4 across: LLaMA from token to next token, and which notebook opens which box.

    Print it with `suite_map().savefig("map.pdf")`.
    """
    figure = Picture("map of the suite", *A4)
    figure.heading(
        "See a LLaMA think: twelve questions", "a number is the notebook that opens the box"
    )
    page = figure.panel("page", 0, 0, *A4)
    page.set_xlim(0, A4[0])
    page.set_ylim(0, A4[1])
    page.set_axis_off()
    _tower(page)
    for place, lesson in enumerate(LESSONS):
        _row(page, lesson, TOP - ROW * place)
    page.text(
        0.3, 0.28,
        "Every notebook: predict before you look, run the cell, notice, then your turn.  "
        "make lab opens the first one.",
        fontsize=9.5, color=style.QUIET, gid="foot",
    )  # fmt: skip
    return figure


def _tower(page: Axes) -> None:
    """LLaMA from the bottom up, the block framed, the residual stream beside it."""
    up = 0.6
    for name, opens, height in BELOW:
        up = _box(page, name, opens, up, height, GAP if name == "token" else INTO_BLOCK)
    bottom = up - INTO_BLOCK + GAP
    start = up
    for name, opens, height in BLOCK:
        if name == "+":
            _stream(page, start, up + height / 2)
        elif name == "RMSNorm":
            start = up - GAP / 2
        up = _box(page, name, opens, up, height)
    page.add_patch(
        FancyBboxPatch(
            (LEFT - 0.55, bottom - 0.02), BOX + 0.75, up - bottom - 0.05,
            boxstyle="round,pad=0,rounding_size=0.12", facecolor="none", edgecolor=style.LINE,
            linestyle="--", gid="frame of the block",
        )
    )  # fmt: skip
    page.text(LEFT + BOX + 0.28, (bottom + up) / 2, "× layers", fontsize=10.5, color=style.QUIET,
              va="center", gid="layers")  # fmt: skip
    for name, opens, height in ABOVE:
        up = _box(page, name, opens, up, height)


def _box(
    page: Axes, name: str, opens: str, bottom: float, height: float, gap: float = GAP
) -> float:
    """One box, its number beside its name, an arrow to the next; returns where that begins."""
    middle = LEFT + BOX / 2
    if name == "+":
        page.add_patch(Circle((middle, bottom + height / 2), height / 2, facecolor="white",
                              edgecolor=style.QUIET, gid="sum"))  # fmt: skip
        page.text(middle, bottom + height / 2 - 0.01, "+", ha="center", va="center", fontsize=11,
                  color=style.QUIET, gid="plus")  # fmt: skip
    elif not opens:
        page.text(middle, bottom + height / 2, name, ha="center", va="center", fontsize=11,
                  gid=f"word {name}")  # fmt: skip
    else:
        colour = COLOURS[opens]
        page.add_patch(
            FancyBboxPatch(
                (LEFT, bottom), BOX, height, boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=tint(colour), edgecolor=colour, gid=f"box {name}",
            )
        )  # fmt: skip
        top = bottom + height - (0.17 if name == "attention" else height / 2)
        page.text(middle, top, name, ha="center", va="center", fontsize=11, gid=f"name {name}")
        _number(page, opens, LEFT + BOX - 0.22, top)
        if name == "attention":
            for line, (inner, inner_opens) in enumerate(IN_ATTENTION):
                row = top - 0.3 * (line + 1)
                page.text(LEFT + 0.45, row, inner, va="center", fontsize=10, gid=f"name {inner}")
                _number(page, inner_opens, LEFT + BOX - 0.22, row)
    if name != "next token":
        page.annotate(
            "", (middle, bottom + height + gap - 0.02), (middle, bottom + height),
            arrowprops={"arrowstyle": "-|>", "color": style.QUIET, "linewidth": 0.9,
                        "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7},
        )  # fmt: skip
    return bottom + height + gap


def _stream(page: Axes, start: float, end: float) -> None:
    """The residual stream, past a norm and its sublayer, to the sum."""
    middle, out = LEFT + BOX / 2, LEFT - 0.28
    corners = [(middle, start), (out, start), (out, end), (middle - 0.12, end)]
    page.add_patch(
        PathPatch(Path(corners), facecolor="none", edgecolor=style.QUIET, linewidth=0.9,
                  gid="residual stream")
    )  # fmt: skip


def _number(page: Axes, opens: str, across: float, up: float) -> None:
    """The number of the notebook that opens this."""
    (lesson,) = (lesson for lesson in LESSONS if lesson.opens == opens)
    _disc(page, lesson.number, COLOURS[opens], across, up)


def _disc(page: Axes, number: str, colour: str, across: float, up: float) -> None:
    page.add_patch(Circle((across, up), 0.125, color=colour, gid=f"disc {number}"))
    page.text(across, up - 0.005, number, ha="center", va="center", fontsize=8.5, color="white",
              fontweight="bold", gid=f"number {number}")  # fmt: skip


def _row(page: Axes, lesson: Lesson, up: float) -> None:
    """A notebook of the list: its question, what is seen, the explorer to go on with."""
    _disc(page, lesson.number, COLOURS.get(lesson.opens, style.QUIET), LIST, up)
    page.text(LIST + 0.28, up, lesson.question, va="center", fontsize=11.5,
              gid=f"question {lesson.number}")  # fmt: skip
    detail = lesson.shows + (f"  ·  lv.widgets.{lesson.explorer}" if lesson.explorer else "")
    page.text(LIST + 0.28, up - 0.215, detail, va="center", fontsize=9, color=style.QUIET,
              gid=f"detail {lesson.number}")  # fmt: skip
