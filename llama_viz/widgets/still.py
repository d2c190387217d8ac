"""The still of a run: what a page shows where no kernel can run the explorer.

It is drawn from the trace alone and leaves out what differs from run to run, such as times.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.image import imsave
from matplotlib.patches import Wedge

from llama_viz.analysis import config_of
from llama_viz.figures import style, token_probabilities
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from llama_viz.config import ModelConfig

USED, WRITTEN, TURN = style.QUALITATIVE[0], style.QUALITATIVE[1], style.QUALITATIVE[4]
EARLIER = 40  # positions drawn behind the newest one, evenly chosen
CLOCKS = 16  # at most, evenly chosen


def alt_text(trace: xr.Dataset | None) -> str:
    """The still in words, for those who do not see it."""
    if trace is None:
        return "Generation explorer: nothing has run yet."
    config = config_of(trace)
    lines = [
        f"Generation explorer: a recorded run of {trace.attrs['model']} "
        f"({config.attention_kind}, {config.n_layers} layers, {config.n_heads} query heads, "
        f"{config.n_kv_heads} key/value heads).",
        f"Prompt: {trace.attrs['prompt']!r}",
        f"Written in {trace.sizes['step']} steps: {trace.attrs['text']!r}",
    ]
    if "cache_bytes_used" in trace:
        used = int(trace["cache_bytes_used"].values[-1].sum())
        lines.append(f"KV cache after the last step: {used:,} bytes.")
    return "\n".join(lines)


def still(trace: xr.Dataset) -> bytes:
    """A PNG of the last step of a run, its text above."""
    pictures = [_signals(trace)]
    if "sampled_probability" in trace and "sampled_token" in trace.coords:
        pictures.insert(0, token_probabilities(trace))
    return _stacked(pictures)


def _stacked(pictures: list[Picture]) -> bytes:
    """Pictures of one width below each other, as one PNG."""
    pages = []
    for picture in pictures:
        picture.canvas.draw()
        pages.append(np.asarray(picture.canvas.buffer_rgba()))  # type: ignore[attr-defined]
    buffer = BytesIO()
    imsave(buffer, np.concatenate(pages), format="png", metadata={"Software": ""})
    return buffer.getvalue()


@styled
def _signals(trace: xr.Dataset) -> Picture:
    """The panels of the explorer at the last step; a signal that was not recorded leaves a gap."""
    config = config_of(trace)
    position = trace.sizes["position"] - 1
    figure = Picture("the signals at the last step", style.WIDTH, 6.5)
    figure.heading(
        f"The last step of {trace.attrs['model']}: what happens at position {position}",
        f"{config.attention_kind}: {config.n_heads} query heads read {config.n_kv_heads} "
        "key/value heads. With a kernel, this picture is a live explorer.",
    )
    if "attention_weights" in trace:
        panel = figure.panel("attention", 0.85, 3.75, 5.0, 1.75)
        _draw_attention(panel, trace, config)
    if "candidate_probability" in trace:
        _draw_candidates(figure.panel("candidates", 7.2, 3.45, 1.95, 2.05), trace)
    if "rms" in trace:
        _draw_rms(figure.panel("rms", 0.85, 0.6, 2.2, 1.75), trace)
    if "rotation_angle" in trace:
        _draw_clocks(figure.panel("rotation", 3.4, 0.35, 2.6, 2.0), trace)
    if "cache_bytes_used" in trace:
        _draw_cache(figure.panel("cache", 7.2, 0.6, 1.95, 1.75), trace)
    return figure


def _draw_attention(panel: Axes, trace: xr.Dataset, config: ModelConfig) -> None:
    """Heads by keys of the newest position, in the last layer; a line between key/value heads."""
    weights = trace["attention_weights"].values[-1, :, -1, :]
    image = panel.imshow(
        weights, cmap=style.PROBABILITY, norm=style.probability_scale(), aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    image.set_gid("attention weights")
    for head in range(1, config.n_heads):
        if config.kv_head_of_head[head] != config.kv_head_of_head[head - 1]:
            panel.axhline(head - 0.5, color=style.INK, lw=1)
    every = -(-config.n_heads // 16)
    heads = range(0, config.n_heads, every)
    panel.set_yticks(list(heads), [f"head {head}" for head in heads], size=9)
    style.token_axis(panel.xaxis, [str(token) for token in trace["token"].values], 5.0, size=8)
    layer = trace["layer"].values[-1]
    panel.set_title(f"Attention of the newest position, layer {layer}")


def _draw_candidates(panel: Axes, trace: xr.Dataset) -> None:
    """The likeliest next tokens; the one that was written in its own colour."""
    probability = trace["candidate_probability"].values[-1]
    labels = [style.shortened(str(label), 12) for label in trace["candidate_token"].values[-1]]
    written = trace["sampled_id"].values[-1] if "sampled_id" in trace else None
    colours = [
        WRITTEN if candidate == written else USED for candidate in trace["candidate_id"].values[-1]
    ]
    rows = np.arange(len(labels))
    panel.barh(rows, probability, color=colours, height=0.7, gid="candidates")
    panel.set_yticks(rows, labels, size=9)
    panel.set_ylim(len(labels) - 0.4, -0.6)
    panel.set_xlim(0, 1)
    panel.set_title("Next token: probability")


def _draw_rms(panel: Axes, trace: xr.Dataset) -> None:
    """RMS at every norm: the newest position, and some of the earlier ones behind it."""
    values = trace["rms"].values
    n_norms, n_positions = values.shape
    earlier = np.unique(np.linspace(0, max(n_positions - 2, 0), EARLIER).astype(int))
    panel.plot(values[:, earlier], color=style.LINE, lw=0.5, alpha=0.6)
    panel.plot(values[:, -1], "o-", color=USED, ms=4, lw=1.6, gid="newest position")
    panel.set_xlim(-0.4, n_norms - 0.6)
    panel.set_ylim(0, None)
    panel.set_xlabel("norm, first to last")
    panel.set_title("RMS at every norm")


def _draw_clocks(panel: Axes, trace: xr.Dataset) -> None:
    """For each pair a hand at its angle; the wedge is the turn since the position before."""
    angles = trace["rotation_angle"].values
    pairs = np.unique(np.linspace(0, angles.shape[1] - 1, CLOCKS).astype(int))
    columns = 4 if len(pairs) > 3 else len(pairs)
    n_rows = -(-len(pairs) // columns)
    now, before = angles[-1], angles[max(len(angles) - 2, 0)]
    for place, pair in enumerate(pairs):
        x, y = place % columns, -1.3 * (place // columns)
        panel.add_patch(Wedge((x, y), 0.4, 0, 360, width=0.02, color=style.LINE))
        start, end = np.degrees([before[pair], now[pair]])
        panel.add_patch(Wedge((x, y), 0.38, start, end, color=TURN, alpha=0.6, lw=0))
        tip = x + 0.38 * np.cos(now[pair]), y + 0.38 * np.sin(now[pair])
        panel.plot([x, tip[0]], [y, tip[1]], color=USED, lw=1.8, solid_capstyle="round")
        panel.text(x, y - 0.6, f"pair {pair}", ha="center", va="center", size=8.5,
                   color=style.QUIET)  # fmt: skip
    panel.set_xlim(-0.6, columns - 0.4)
    panel.set_ylim(-1.3 * (n_rows - 1) - 0.75, 0.55)
    panel.set_aspect("equal")
    panel.set_axis_off()
    panel.set_title("Rotation of the newest position", loc="center")


def _draw_cache(panel: Axes, trace: xr.Dataset) -> None:
    """Bytes of all layers over the steps: used, and reserved."""
    steps = trace["step"].values
    used = trace["cache_bytes_used"].values.sum(axis=1) / 1000
    panel.set_ylim(0, 1.15 * float(used.max()))
    panel.fill_between(steps, used, color=USED, alpha=0.25, lw=0)
    panel.plot(steps, used, color=USED, lw=1.6, gid="used", marker="o" if len(steps) == 1 else None)
    if "cache_bytes_reserved" in trace:
        reserved = trace["cache_bytes_reserved"].values.sum(axis=1) / 1000
        panel.plot(steps, reserved, color=style.QUIET, lw=1, ls="--", gid="reserved")
        panel.set_ylim(0, 1.15 * max(float(reserved.max()), 0.001))
        panel.text(steps[0], 1.02 * reserved[0], "reserved", size=9, color=style.QUIET)
    panel.set_xlabel("step")
    panel.set_title("KV cache, kB")
