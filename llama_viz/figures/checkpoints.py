"""Checkpoints: what lies where in their files, and how far two models are apart."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

# What a weight is part of, by the beginning of its name or a word in it; the first that fits.
PARTS = {
    "embedding": ("embedding", style.QUALITATIVE[0]),
    "norm": ("norms", style.INK),
    "attention": ("attention", style.QUALITATIVE[1]),
    "feed_forward": ("feed-forward", style.QUALITATIVE[2]),
    "output": ("output head", style.QUALITATIVE[3]),
}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NO_WEIGHT = "sizes, names, tokenizer"


def part_of(name: str) -> str:
    """What the weight of this name is part of; of none where the name is empty."""
    leaf = name.removesuffix(".weight").rpartition(".")[2]
    if "norm" in leaf:
        return "norms"
    whole = name.split(".")
    return next((part for word, (part, _) in PARTS.items() if word in whole), NO_WEIGHT)


@styled
def file_map(contents: Mapping[str, Iterable[tuple[str, int]]], title: str) -> Picture:
    """Files drawn from their first byte to their last, each piece in the colour of its part.

    contents holds, by what to write beside the bar, (our name of a weight, bytes) in the order in
    which they lie; the name is empty for what is no weight. All bars share one scale. Raises
    ValueError where there is nothing to draw.
    """
    bars = {label: list(pieces) for label, pieces in contents.items()}
    if not bars or not all(bars.values()):
        raise ValueError("there are no files to draw")
    colours = {NO_WEIGHT: style.LINE, **dict(PARTS.values())}
    left = style.label_room(list(bars), style.TEXT_SIZE) + 0.2
    bottom, high, key = 0.6, 0.52, 0.35
    across = style.WIDTH - left - 0.3
    figure = Picture("file map", style.WIDTH, bottom + high * len(bars) + key + style.HEADING)
    figure.heading(
        title,
        "each from its first byte to its last; a white line between pieces that are wide enough",
    )
    panel = figure.panel("files", left, bottom, across, high * len(bars))
    longest = max(sum(n_bytes for _, n_bytes in pieces) for pieces in bars.values())
    for row, (label, pieces) in enumerate(bars.items()):
        ends = np.cumsum([n_bytes for _, n_bytes in pieces]) / 1e6
        starts = np.concatenate([[0.0], ends[:-1]])
        parts = np.array([part_of(name) for name, _ in pieces])
        for part, colour in colours.items():
            chosen = parts == part
            spans = list(zip(starts[chosen], (ends - starts)[chosen], strict=True))
            if spans:
                drawn = panel.broken_barh(spans, (row - 0.36, 0.72), facecolors=colour)
                drawn.set_gid(f"{part} of {label}")
        # Between neighbours that are wider than the line; what is narrower is hardly seen at all.
        line = 0.04 * (longest / 1e6) / across
        wide = np.flatnonzero(ends - starts > line)
        lines = [ends[one] for one, other in pairwise(wide)
                 if starts[other] - ends[one] < line]  # fmt: skip
        panel.vlines(lines, row - 0.36, row + 0.36, color="white", lw=0.8).set_gid(
            f"ends of {label}"
        )
    panel.set_xlim(0, longest / 1e6 * 1.005)
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set_yticks(range(len(bars)), list(bars), size=style.TEXT_SIZE)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel("million bytes")
    panel.spines["left"].set_visible(False)
    place = left
    for part, colour in colours.items():
        height = bottom + high * len(bars) + 0.12
        figure.write(f"key of {part}", "■", place, height, color=colour, size=style.TITLE)
        figure.write(f"name of {part}", part, place + 0.2, height + 0.02, color=style.INK)
        place += 0.4 + style.text_width(part, style.SMALL)
    return figure


@styled
def differences(
    by_name: Mapping[str, Sequence[float]],
    title: str,
    detail: str = "",
    *,
    allowed: float | None = None,
) -> Picture:
    """How far two models are apart after each layer, on a logarithmic scale; a line for each name.

    Values are shares of the largest value, as analysis.difference_by_layer gives them; 0 is not
    drawn, and said where it is 0 everywhere. allowed is drawn as a dashed line. Raises ValueError
    where there are no lines, or none of one length.
    """
    lines = {name: np.asarray(values, dtype=np.float64) for name, values in by_name.items()}
    if len({len(values) for values in lines.values()}) != 1:
        raise ValueError("differences needs lines that have a number for every layer")
    n_layers = len(next(iter(lines.values())))
    words = {
        name: name if (values > 0).any() else f"{name}: 0 everywhere"
        for name, values in lines.items()
    }
    room = style.label_room([*words.values(), "allowed"]) + 0.15
    left, bottom, up = 0.9, 0.6, 3.0
    across = style.WIDTH - left - room - style.MARGIN
    figure = Picture("differences by layer", style.WIDTH, bottom + up + 0.1 + style.HEADING)
    figure.heading(title, detail)
    panel = figure.panel("differences", left, bottom, across, up)
    panel.set_yscale("log")
    panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panel.set_axisbelow(True)
    ends: dict[str, tuple[float, str]] = {}
    looks = style.distinct(len(lines))
    for (name, values), look in zip(lines.items(), looks, strict=True):
        seen = np.where(values > 0, values, np.nan)
        panel.plot(range(n_layers), seen, color=look.colour, linestyle=look.dashes, marker="o",
                   ms=4 if n_layers < 16 else 2.5, lw=1.8, gid=name)  # fmt: skip
        last = seen[np.isfinite(seen)]
        ends[words[name]] = (float(last[-1]) if last.size else np.nan, look.colour)
    drawn = np.concatenate(list(lines.values()))
    drawn = drawn[drawn > 0]
    shown = [*drawn, allowed] if allowed else list(drawn)
    low, high = (min(shown), max(shown)) if shown else (1e-8, 1.0)
    low, high = 10 ** np.floor(np.log10(low) - 0.2), 10 ** np.ceil(np.log10(high) + 0.2)
    if allowed:
        panel.axhline(allowed, color=style.QUIET, linestyle="--", lw=1.2, gid="allowed")
        ends["allowed"] = (allowed, style.QUIET)
    panel.set_ylim(low, high)
    powers = range(round(np.log10(low)), round(np.log10(high)) + 1)
    labels = [f"10{str(power).translate(RAISED)}" for power in powers]
    panel.set_yticks([10.0**power for power in powers], labels)
    panel.set_yticks([], minor=True)
    panel.set_xlim(-0.3, n_layers - 0.7)
    panel.xaxis.set_major_locator(style.whole_numbers(12))
    panel.set_xlabel("after layer")
    panel.set_ylabel("difference / largest value")
    _write_beside(panel, ends, up)
    return figure


def _write_beside(panel: Axes, ends: Mapping[str, tuple[float, str]], up: float) -> None:
    """Names at the ends of their lines, moved apart where they would meet; without one, below."""
    low, high = (float(np.log10(limit)) for limit in panel.get_ylim())
    places = {
        name: 0.0 if np.isnan(end) else (np.log10(end) - low) / (high - low)
        for name, (end, _) in ends.items()
    }
    needed = 1.25 * style.SMALL / 72 / up
    taken = -needed
    for name in sorted(places, key=places.__getitem__):
        taken = max(places[name], taken + needed)
        panel.text(1.015, taken, name, transform=panel.transAxes, va="center",
                   color=ends[name][1], size=style.SMALL, gid=f"name of {name}")  # fmt: skip
