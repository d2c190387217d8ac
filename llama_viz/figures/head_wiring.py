"""Who shares what: query heads wired to the key/value heads that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from llama_viz.config import ModelConfig

QUERY, KEY_VALUE = style.QUALITATIVE[0], style.QUALITATIVE[1]
ROW = 1.5  # inches for one model
MOST_NUMBERS = 40  # heads whose numbers can be read


@styled
def head_wiring(configs: Mapping[str, ModelConfig], *, model: str | None = None) -> Picture:
    """Query heads above, key/value heads below, a line from each to what it reads.

    A row for each model, or for the one that is named. Raises ValueError for a model that is not
    there.
    """
    if model is not None:
        if model not in configs:
            raise unknown_name("model", model, configs)
        configs = {model: configs[model]}
    if not configs:
        raise ValueError("there are no models to draw")
    left, across = 0.35, style.WIDTH - 0.7
    figure = Picture("head wiring", style.WIDTH, ROW * len(configs) + 0.1 + style.HEADING)
    figure.heading(
        "Who reads whose keys and values?",
        "above: query heads (dots); below: key/value heads (squares); in every layer alike",
    )
    for number, (name, config) in enumerate(configs.items()):
        bottom = ROW * (len(configs) - 1 - number) + 0.3
        words = (
            f"{style.shortened(name, 24)}: {config.attention_kind}, {config.n_heads} query heads, "
            f"{config.n_kv_heads} key/value head{'' if config.n_kv_heads == 1 else 's'}"
        )
        figure.write(f"kind of {name}", words, left, bottom + 0.92, color=style.INK,
                     size=style.TEXT_SIZE)  # fmt: skip
        panel = figure.panel(f"wiring of {name}", left, bottom, across, 0.62)
        draw_wiring(panel, config, across)
        if config.n_heads <= MOST_NUMBERS:
            _number_heads(panel, config)
    return figure


def draw_wiring(panel: Axes, config: ModelConfig, width: float) -> None:
    """The heads of one model in a panel `width` inches wide."""
    n_heads, n_kv_heads = config.n_heads, config.n_kv_heads
    query, shared = _places(n_heads), _places(n_kv_heads)
    for head, group in enumerate(config.kv_head_of_head):
        panel.plot([query[head], shared[group]], [1, 0], color=style.LINE, lw=0.9, zorder=1)
    size = float(np.clip(width * 72 / n_heads * 0.5, 2, 7))
    panel.plot(query, np.ones(n_heads), "o", color=QUERY, ms=size, gid="query heads",
               clip_on=False)  # fmt: skip
    panel.plot(shared, np.zeros(n_kv_heads), "s", color=KEY_VALUE, ms=size,
               gid="key/value heads", clip_on=False)  # fmt: skip
    panel.set_xlim(0, 1)
    panel.set_ylim(-0.15, 1.15)
    panel.set_axis_off()


def _places(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _number_heads(panel: Axes, config: ModelConfig) -> None:
    for count, height, up, colour in (
        (config.n_heads, 1, 6, QUERY), (config.n_kv_heads, 0, -6, KEY_VALUE),
    ):  # fmt: skip
        for number, place in enumerate(_places(count)):
            panel.annotate(str(number), (place, height), (0, up), textcoords="offset points",
                           ha="center", va="bottom" if up > 0 else "top", color=colour,
                           size=9, gid="number of a head")  # fmt: skip
