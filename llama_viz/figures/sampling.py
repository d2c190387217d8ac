"""From a distribution to a choice: what is kept to draw from, and how open each token was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from llama_viz.analysis import next_token_entropy, ranked_probabilities, token_probability
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.axes import Axes

SCALES = (0.1, 0.2, 0.5, 1.0)  # where a probability axis may end
MODEL, DRAWN, CAME = style.LINE, style.QUALITATIVE[0], style.QUALITATIVE[1]


@styled
def sampling_distribution(
    model: Any, drawn: Any, tokens: Sequence[str], *, detail: str = "", count: int = 16
) -> Picture:
    """What the next token is drawn from, beside what the model said; the likeliest on the left.

    model and drawn are probabilities (vocabulary,), tokens the vocabulary's labels. The `count`
    likeliest tokens have columns; what all others have together is written beside them. A token
    that is not kept has a pale label. Raises ValueError where the three differ in length.
    """
    before, after = (np.asarray(numbers, dtype=np.float64).ravel() for numbers in (model, drawn))
    if not len(before) == len(after) == len(tokens):
        raise ValueError(
            f"as many probabilities as tokens are needed, got {len(before)}, {len(after)} and "
            f"{len(tokens)}"
        )
    order = np.argsort(-before, kind="stable")
    best, rest = order[:count], order[count:]
    labels = [style.shortened(str(tokens[index])) for index in best]
    heights = before[best], after[best]

    left, up = 0.75, 2.1
    bottom = 0.2 + style.label_room(labels)
    wide = style.WIDTH - left - 0.2
    figure = Picture("what the next token is drawn from", style.WIDTH,
                     bottom + up + 0.1 + style.HEADING)  # fmt: skip
    n_kept = int((after > 0).sum())
    figure.heading(f"{n_kept:,} of {len(tokens):,} tokens are kept", detail)
    panel = figure.panel("probabilities", left, bottom, wide, up)
    place = np.arange(len(labels))
    across = max(len(labels), 6) + 0.2
    for name, values, colour, aside in (
        ("the model", heights[0], MODEL, -0.2), ("drawn from", heights[1], DRAWN, 0.2),
    ):  # fmt: skip
        panel.vlines(place + aside, 0, values, color=colour,
                     lw=0.38 * 72 * wide / across).set_gid(name)  # fmt: skip
    # One of a few scales, so that a slider does not move the axis all the time.
    highest = max(float(values.max()) for values in heights)
    panel.set_ylim(0, next(limit for limit in SCALES if highest <= limit + 1e-6))
    panel.set_ylabel("probability")
    panel.set_xlim(-0.6, across - 0.6)
    style.label_axis(panel.xaxis, labels, place.tolist())
    for label, kept in zip(panel.get_xticklabels(), heights[1], strict=True):
        label.set_color(style.INK if kept > 0 else style.LINE)
    handles = [Patch(color=MODEL, label="the model"), Patch(color=DRAWN, label="drawn from")]
    panel.legend(handles=handles, frameon=False, loc="upper right",
                 fontsize=style.SMALL).set_gid("legend")  # fmt: skip
    if len(rest):
        shares = [f"{numbers[rest].sum():.3f}" for numbers in (before, after)]
        panel.text(
            1, 0.7, f"the {len(rest):,} others together:\n{shares[0]}, drawn {shares[1]}",
            transform=panel.transAxes, ha="right", va="top", color=style.QUIET, size=style.SMALL,
            linespacing=1.4, gid="others (measured)",
        )  # fmt: skip
    return figure


@styled
def entropy_along(trace: xr.Dataset, *, first: int = 1, count: int = 30) -> Picture:
    """How open each token was before it came, and how surprising it was when it did.

    Columns are the entropy of its distribution, dots -log2 of its probability, both in bits; on the
    right the same as a number of equally likely choices. `count` tokens from position `first` on.
    Raises ValueError for a first position that is not there.
    """
    probability = token_probability(trace)
    tokens, chosen = _window(probability, first, count)
    entropy = next_token_entropy(trace).values[np.array(chosen) - 1] / np.log(2)
    surprise = -np.log2(probability.values[chosen])
    left, right, up = 0.7, 0.8, 2.4
    bottom = 0.2 + style.label_room([style.shortened(token) for token in tokens])
    wide = style.WIDTH - left - right
    figure = Picture(f"entropy along the text from position {first}", style.WIDTH,
                     bottom + up + 0.35 + style.HEADING)  # fmt: skip
    figure.heading(
        "How open was the next token, and how surprising the one that came?",
        "column: entropy, before it came; dot: surprise, of the one that came",
    )
    panel = figure.panel("bits", left, bottom, wide, up)
    style.columns(panel, entropy, width=wide, name="entropy")
    panel.plot(range(len(tokens)), surprise, "o", color=CAME, ms=5, gid="surprise", clip_on=False)
    highest = float(np.ceil(max(surprise.max(), entropy.max(), 1)))
    panel.set_ylim(0, highest)
    panel.set_ylabel("bits")
    _label_tokens(panel, tokens, wide)
    choices = panel.twinx()
    choices.set_label("choices")
    choices.set_gid("choices")
    choices.set_ylim(0, highest)
    every = max(1, int(np.ceil(highest / 6)))
    bits = list(range(0, int(highest) + 1, every))
    choices.set_yticks(bits, [f"{2**bit:,}" for bit in bits])
    choices.set_ylabel("equally likely choices")
    return figure


@styled
def kept_along(
    trace: xr.Dataset, *, top_k: int, top_p: float, first: int = 1, count: int = 30
) -> Picture:
    """What top-k and top-p keep along a text: how many tokens, and how much probability.

    Above the number of tokens that each keeps, below the probability that these have together.
    Temperature is 1. `count` tokens from position `first` on. Raises ValueError for a first
    position that is not there, and for a top_k or top_p that keeps nothing.
    """
    probability = token_probability(trace)
    tokens, chosen = _window(probability, first, count)
    ranked = ranked_probabilities(trace).values[np.array(chosen) - 1]
    if not 1 <= top_k <= ranked.shape[-1]:
        raise ValueError(f"top_k must be from 1 to {ranked.shape[-1]}, got {top_k!r}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p!r}")
    total = ranked.cumsum(axis=-1)
    # The smallest set that reaches top_p: all tokens before which less than that was there.
    n_kept = ((total - ranked) < top_p).sum(axis=-1)
    rows = np.arange(len(tokens))
    names = {f"top-k {top_k}": style.QUALITATIVE[2], f"top-p {top_p:g}": style.QUALITATIVE[0]}
    numbers = {
        "tokens kept": (np.full(len(tokens), top_k), n_kept),
        "their probability": (total[:, top_k - 1], total[rows, n_kept - 1]),
    }
    left, up, gap = 0.85, 1.45, 0.4
    bottom = 0.2 + style.label_room([style.shortened(token) for token in tokens])
    wide = style.WIDTH - left - 0.2
    figure = Picture("what top-k and top-p keep", style.WIDTH,
                     bottom + 2 * up + gap + 0.55 + style.HEADING)  # fmt: skip
    figure.heading("The same number everywhere, or the same probability?",
                   "what each keeps of the model's distribution before a token came")  # fmt: skip
    for number, (title, heights) in enumerate(numbers.items()):
        panel = figure.panel(title, left, bottom + (1 - number) * (up + gap), wide, up)
        for (name, colour), marker, values in zip(names.items(), "so", heights, strict=True):
            panel.plot(rows, values, color=colour, marker=marker, ms=4, lw=1.2, gid=name,
                       label=name)  # fmt: skip
        panel.set_title(title, pad=4)
        _label_tokens(panel, tokens, wide)
        panel.tick_params(labelbottom=number == 1)
        if number == 0:
            panel.set_yscale("log")
            ticks = style.round_values(1, float(max(n_kept.max(), top_k)), most=5)
            panel.yaxis.set_major_locator(FixedLocator(ticks))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.set_yticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            panel.set_ylim(0.8, 1.3 * max(n_kept.max(), top_k))
        else:
            panel.set_ylim(0, 1.05)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="upper left", ncols=2, frameon=False, fontsize=style.SMALL,
        bbox_to_anchor=(0.01, 1 - (style.HEADING - 0.05) / figure.height), borderaxespad=0,
    ).set_gid("legend")  # fmt: skip
    return figure


def _window(probability: xr.DataArray, first: int, count: int) -> tuple[list[str], list[int]]:
    """The tokens in view and their positions; nothing comes before position 0."""
    last = probability.sizes["position"] - 1
    if first not in range(1, last + 1):
        raise ValueError(f"first must be from 1 to {last}, got {first!r}")
    chosen = list(range(first, min(first + count, last + 1)))
    return [str(token) for token in probability["token"].values[chosen]], chosen


def _label_tokens(panel: Axes, tokens: list[str], wide: float) -> None:
    panel.set_xlim(-0.6, len(tokens) - 0.4)
    style.token_axis(panel.xaxis, tokens, wide)
