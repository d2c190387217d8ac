"""From letters to tokens: the merges of a text, and what a vocabulary's size costs and saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PolyCollection

from llama_viz.cost import parameters
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.figures.text import wrapped
from llama_viz.tokenizer import SPACE
from llama_viz.tokenizers.step_by_step import marked, merge_steps, piece_scores, with_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from llama_viz.config import ModelConfig
    from llama_viz.tokenizer import Tokenizer
    from llama_viz.tokenizers.step_by_step import Step

MOST_LETTERS = 26
ROW, BOX = 0.46, 0.28
BESIDE = 2.5  # inches right of the letters, for the words of a row
JOINED, NEXT = style.QUALITATIVE[5], style.QUALITATIVE[1]


@styled
def merges(tokenizer: Tokenizer, *, text: str, step: int | None = None) -> Picture:
    """How a text becomes tokens: its letters on top, and below them one merge after another.

    Every row is the text cut in another way; the piece that was just joined is filled. Under the
    last row stand the scores of what can be joined next, the one that wins in its own colour. At
    the end stand the tokens and their ids. step None is the end, as is any later step. Only the
    first 25 letters of a text are drawn. Raises ValueError for a tokenizer without scores, and for
    a negative step.
    """
    if step is not None and step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    scores = piece_scores(tokenizer)
    letters = marked(text)[:MOST_LETTERS]
    steps = merge_steps(letters, scores)
    n_merges = len(steps) - 1
    now = n_merges if step is None else min(step, n_merges)
    spelled = with_bytes(steps[-1].pieces, scores)
    ids = {tokenizer.piece(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    tokens = [(style.shortened(piece, 24), str(ids[piece])) for piece in spelled if piece in ids]
    room = style.WIDTH - 2 * style.MARGIN
    places = wrapped([max(both, key=style.text_width) for both in tokens], room)
    at_end = now == n_merges
    below = 0.75 + 0.62 * (places[-1].line + 1 if places else 0) if at_end else 0.3
    figure = Picture(f"{now} of {n_merges} merges", style.WIDTH,
                     style.HEADING + ROW * (now + 1) + below)  # fmt: skip
    cut = "" if letters == marked(text) else f"; only the first {MOST_LETTERS - 1} letters"
    figure.heading(f"Letters become tokens: merge {now} of {n_merges}",
                   "the pair whose piece has the highest score is joined first" + cut)  # fmt: skip
    panel = figure.panel("merges", style.MARGIN, below, room, ROW * (now + 1))
    panel.set_axis_off()
    panel.set_xlim(0, room)
    panel.set_ylim(0, ROW * (now + 1))
    cell = min(0.44, (room - BESIDE) / max(len(letters), 1))
    for number, row in enumerate(steps[: now + 1]):
        joined = steps[number - 1].chosen if number else None
        _draw_row(panel, row, ROW * (now + 1 - number) - BOX - 0.03, cell, joined)
        if joined is None:
            said = f"{len(letters)} letters"
        else:
            piece = style.shortened(row.pieces[joined], 16)
            said = f"{piece}  (score {steps[number - 1].possible[joined]:g})"
        middle = ROW * (now + 1 - number) - BOX / 2 - 0.03
        panel.text(cell * len(letters) + 0.2, middle, said, color=style.QUIET, size=style.SMALL,
                   va="center_baseline", gid="row")  # fmt: skip
    bottom = ROW - BOX - 0.03
    if at_end:
        _draw_tokens(figure, tokens, places, below)
    else:
        _draw_candidates(panel, steps[now], bottom, cell)
    return figure


def _draw_row(panel: Axes, row: Step, bottom: float, cell: float, joined: int | None) -> None:
    """The pieces of one step as boxes as wide as their letters."""
    left, corners = 0.0, []
    for piece in row.pieces:
        width = cell * len(piece)
        corners.append(_box(left + 0.015, bottom, width - 0.03, BOX))
        label = style.shown(piece)
        if len(piece) == 1 < len(label):  # not in the font: its number, in two lines
            number = label.strip("<>").removeprefix("U+")
            label = f"U+{number[:-3]}\n{number[-3:]}"
        lines = label.split("\n")
        longest = max(style.text_width(line) for line in lines)
        size = min(1 / (1 + 0.3 * (len(lines) - 1)), (width - 0.05) / longest) * style.TEXT_SIZE
        panel.text(left + width / 2, bottom + BOX / 2 - 0.01, label, ha="center", size=size,
                   va="center_baseline" if len(lines) == 1 else "center", linespacing=0.95,
                   gid="letters")  # fmt: skip
        left += width
    fills = [JOINED if place == joined else "white" for place in range(len(corners))]
    _draw_boxes(panel, corners, fills, "pieces")


def _box(left: float, bottom: float, width: float, height: float) -> list[tuple[float, float]]:
    """The four corners of a box."""
    right, top = left + width, bottom + height
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _draw_boxes(panel: Axes, corners: list[Any], fills: list[str], name: str) -> None:
    panel.add_collection(
        PolyCollection(corners, facecolors=fills, edgecolors=style.LINE, linewidths=0.8, gid=name)
    )


def _draw_candidates(panel: Axes, row: Step, bottom: float, cell: float) -> None:
    """A bracket and a score under each pair that can be joined; neighbours take turns in height."""
    starts = [0]
    for piece in row.pieces:
        starts.append(starts[-1] + len(piece))
    size = min(style.SMALL, 11 * cell / 0.3)
    for place, score in row.possible.items():
        wins = place == row.chosen
        colour = NEXT if wins else style.QUIET
        drop = 0.05 + 0.04 * (place % 2)
        across = [cell * (starts[place] + starts[place + 1]) / 2,
                  cell * (starts[place + 1] + starts[place + 2]) / 2]  # fmt: skip
        heights = [bottom - 0.01, bottom - drop, bottom - drop, bottom - 0.01]
        panel.plot(np.repeat(across, 2), heights, color=colour, lw=2.2 if wins else 1,
                   clip_on=False, gid="can be joined")  # fmt: skip
        panel.text(sum(across) / 2, bottom - 0.12 - 0.15 * (place % 2), f"{score:g}", ha="center",
                   va="top", size=size, color=colour, weight="bold" if wins else "normal",
                   gid="score")  # fmt: skip


def _draw_tokens(
    figure: Picture, tokens: Sequence[tuple[str, str]], places: Sequence[Any], height: float
) -> None:
    """The tokens in lines, each over its id."""
    figure.write("heading of tokens", f"{len(tokens)} tokens, and their ids", style.MARGIN,
                 height - 0.32)  # fmt: skip
    panel = figure.panel("tokens", style.MARGIN, 0.05, figure.width - 2 * style.MARGIN, height)
    panel.set_axis_off()
    panel.set_xlim(0, figure.width - 2 * style.MARGIN)
    panel.set_ylim(0, height)
    corners = []
    for (label, token_id), place in zip(tokens, places, strict=True):
        bottom = height - 0.82 - 0.62 * place.line
        corners.append(_box(place.left, bottom, place.width, BOX + 0.04))
        middle = place.left + place.width / 2
        panel.text(middle, bottom + BOX / 2 + 0.01, label, ha="center", va="center_baseline",
                   gid="token")  # fmt: skip
        panel.text(middle, bottom - 0.05, token_id, ha="center", va="top", size=style.SMALL,
                   color=style.QUIET, gid="id")  # fmt: skip
    _draw_boxes(panel, corners, [JOINED] * len(corners), "tokens")


@styled
def sequence_lengths(lengths: Mapping[str, Mapping[int, float]]) -> Picture:
    """How many tokens the same text takes with smaller and larger vocabularies.

    lengths are, for each text by name, vocabulary size to number of tokens.
    """
    figure = Picture("tokens by vocabulary size", style.WIDTH, 4.1)
    figure.heading(
        "The same text cut with smaller and larger vocabularies",
        "tokens of each text; every tokenizer learned from stories of the same kind",
    )
    panel = figure.panel("lengths", 0.85, 0.65, 5.9, 2.6)
    for (name, points), look in zip(lengths.items(), style.distinct(len(lengths)), strict=True):
        sizes = sorted(points)
        counts = [points[size] for size in sizes]
        panel.plot(sizes, counts, color=look.colour, marker="o", ms=5, lw=1.6, gid=name)
        label = style.fitted(name, 2.2).replace(SPACE, " ")
        panel.text(1.02 * sizes[-1], counts[-1], label, color=look.colour, va="center", gid="text")
    panel.set_ylim(0, None)
    every = sorted({size for points in lengths.values() for size in points})
    panel.set_xticks(every, [f"{size:,}" for size in every])
    panel.set_xlabel("vocabulary")
    panel.set_ylabel("tokens")
    panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panel.set_axisbelow(True)
    return figure


@styled
def embedding_share(configs: Mapping[str, ModelConfig]) -> Picture:
    """Which share of all parameters the two tables of a vocabulary have: embedding, output head.

    configs are models by name. A tied output head is the embedding itself and counts once.
    """
    left, row = 0.3 + style.label_room(list(configs)), 0.36
    across = style.WIDTH - left - 0.3
    height = style.HEADING + row * len(configs) + 0.95
    figure = Picture(f"embedding share of {len(configs)} models", style.WIDTH, height)
    figure.heading(
        "What the vocabulary takes of all parameters",
        "vocabulary x dim numbers for each table, by the sizes of each model",
    )
    panel = figure.panel("shares", left, 0.7, across, row * len(configs))
    names = {"embedding": style.QUALITATIVE[0], "output_head": style.QUALITATIVE[4]}
    for place, config in enumerate(configs.values()):
        counts = parameters(config)
        start = 0.0
        for part, colour in names.items():
            share = counts[part] / config.n_parameters
            panel.barh(place, share, left=start, height=0.7, color=colour, gid=part)
            start += share
        said = f"{start:.1%} of {config.n_parameters:,} (vocabulary {config.vocab_size:,})"
        panel.text(start + 0.012, place, said, va="center_baseline", size=style.SMALL,
                   color=style.QUIET, gid="share")  # fmt: skip
    panel.set_ylim(len(configs) - 0.4, -0.6)
    style.label_axis(panel.yaxis, list(configs), range(len(configs)))
    panel.set_xlim(0, 0.8)
    panel.set_xticks([0, 0.1, 0.2, 0.3, 0.4], ["0%", "10%", "20%", "30%", "40%"])
    panel.set_xlabel("share of all parameters")
    for place, (part, colour) in enumerate(names.items()):
        figure.write(f"meaning of {part}", part.replace("_", " "), figure.width - 2.4 + 1.1 * place,
                     height - 0.68, color=colour, weight="bold")  # fmt: skip
    return figure
