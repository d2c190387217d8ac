"""Weights and KV cache of large models: how they grow, and what fits where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from llama_viz.cost.memory import GB, largest_batch, memory
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_viz.config import ModelConfig

CONTEXTS = tuple(2**power for power in range(7, 18))
CARDS: dict[str, tuple[int, int]] = {  # bytes of a card, how many
    "24 GB": (24 * GB, 1),
    "40 GB": (40 * GB, 1),
    "80 GB": (80 * GB, 1),
    "2 × 80 GB": (80 * GB, 2),
    "4 × 80 GB": (80 * GB, 4),
}


@styled
def cache_over_context(
    configs: Mapping[str, ModelConfig], *, batch_size: int = 1, dtype: str = "float16"
) -> Picture:
    """The KV cache of each model over the context (solid), beside its weights (dotted).

    For batch_size texts at once; both axes are logarithmic. Dots: a context of 4,096. Raises
    ValueError for no models.
    """
    if not configs:
        raise ValueError("there are no models to draw")
    room = style.label_room(list(configs), style.SMALL) + 1.6
    left, bottom, up = 1.0, 0.65, 3.7
    figure = Picture("cache over context", style.WIDTH, bottom + up + 0.2 + style.HEADING)
    texts = f"{batch_size:,} text{'' if batch_size == 1 else 's'} at once"
    figure.heading(
        f"The KV cache beside the weights: {texts}",
        f"{dtype}; solid: KV cache; dotted: weights; dots: a context of 4,096",
    )
    panel = figure.panel("bytes", left, bottom, style.WIDTH - left - room, up)
    ends = []
    for (name, config), look in zip(configs.items(), style.distinct(len(configs)), strict=True):
        caches = [
            memory(config, context, batch_size=batch_size, dtype=dtype).cache / GB
            for context in CONTEXTS
        ]
        weights = memory(config, 0, dtype=dtype).weights / GB
        panel.plot(CONTEXTS, caches, color=look.colour, lw=2, gid=f"cache of {name}")
        panel.plot([CONTEXTS[0], CONTEXTS[-1]], [weights, weights], ":", color=look.colour, lw=1.6,
                   gid=f"weights of {name}")  # fmt: skip
        marked = memory(config, 4096, batch_size=batch_size, dtype=dtype).cache / GB
        panel.plot([4096], [marked], "o", color=look.colour, ms=6, gid=f"{name} at 4,096")
        words = f"{name}: {marked:,.3g} GB at 4,096"
        ends.append((float(np.log10(caches[-1])), words, look.colour, name))
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlim(CONTEXTS[0], CONTEXTS[-1])
    panel.set_ylim(0.02, 20_000)
    panel.xaxis.set_major_locator(FixedLocator(CONTEXTS[::2]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(CONTEXTS[::2], [f"{context:,}" for context in CONTEXTS[::2]])
    panel.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panel.set_xlabel("context, positions of each text")
    panel.set_ylabel("GB (10⁹ bytes)")
    low, high = np.log10(panel.get_ylim())
    place = -np.inf
    for end, words, colour, name in sorted(ends):
        place = max(end, place + 0.065 * (high - low))
        panel.text(1.015, (place - low) / (high - low), words, transform=panel.transAxes,
                   color=colour, va="center", size=style.SMALL, gid=f"name of {name}")  # fmt: skip
    return figure


@styled
def what_fits(
    configs: Mapping[str, ModelConfig], *, context: int = 4096, dtype: str = "float16",
    cards: Mapping[str, tuple[int, int]] = CARDS,
) -> Picture:  # fmt: skip
    """How many texts of `context` positions fit beside the weights, on each set of cards.

    cards maps a name to the bytes of a card and how many there are. Activations, and what a
    framework keeps for itself, need room too and are not counted. Raises ValueError for no models.
    """
    if not configs:
        raise ValueError("there are no models to draw")
    numbers = np.array([
        [largest_batch(config, context, size, n_cards=count, dtype=dtype)
         for size, count in cards.values()]
        for config in configs.values()
    ], dtype=float)  # fmt: skip
    weights = [memory(config, 0, dtype=dtype).weights / GB for config in configs.values()]
    names = [f"{name} ({size:,.1f} GB)" for name, size in zip(configs, weights, strict=True)]
    left, bottom, high = style.label_room(names, style.TEXT_SIZE) + 0.35, 0.2, 0.46
    across = style.WIDTH - left - 0.2
    figure = Picture("what fits", style.WIDTH, bottom + high * len(names) + 0.45 + style.HEADING)
    figure.heading(
        f"How many texts of {context:,} positions fit beside the weights?",
        f"{dtype}; in brackets the weights; – : not even the weights, 0: the weights alone",
    )
    panel = figure.panel("texts", left, bottom, across, high * len(names))
    panel.set_facecolor(style.MASKED)
    shown = np.where(numbers > 0, np.log10(np.maximum(numbers, 1)) + 0.3, np.nan)
    image = panel.imshow(shown, cmap=style.SIZE, vmin=0, vmax=5, aspect="auto")
    image.set_gid("texts that fit")
    for (row, column), number in np.ndenumerate(numbers):
        size, count = list(cards.values())[column]
        too_large = memory(list(configs.values())[row], 0, dtype=dtype).weights > size * count
        written = "–" if too_large else f"{int(number):,}"
        dark = np.isfinite(shown[row, column]) and shown[row, column] > 2.3
        look: Any = {"color": "white" if dark else style.INK, "size": style.TEXT_SIZE}
        panel.text(column, row, written, ha="center", va="center", gid="texts", **look)
    panel.set_xticks(range(len(cards)), list(cards))
    panel.xaxis.tick_top()
    panel.set_yticks(range(len(names)), names, size=style.TEXT_SIZE)
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return figure
