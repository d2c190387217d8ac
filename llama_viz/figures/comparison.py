"""Several models on one prompt: who shares what, one head of each, cache and loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from llama_viz.analysis import cache_bytes, config_of, pick, require, token_probability
from llama_viz.figures import style
from llama_viz.figures.cache import in_bytes
from llama_viz.figures.head_wiring import draw_wiring
from llama_viz.figures.style import Picture, styled
from llama_viz.tokenizer import SPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

MOST = 4


@styled
def comparison(
    traces: Mapping[str, xr.Dataset], heads: Sequence[tuple[int, int] | None]
) -> Picture:
    """Recorded runs side by side: wiring, one head's attention weights, cache bytes, loss.

    heads are the (layer, head) of each trace, None where its attention is left out. Below stand the
    bytes of the KV cache over the steps (by the formula: 2 x layers x kv_heads x head_dim x
    positions x bytes per number) and the loss on the prompt, all on one scale. Raises ValueError
    for fewer than one or more than four traces, and for an unknown layer or head.
    """
    if not 1 <= len(traces) <= MOST:
        raise ValueError(f"one to {MOST} runs can be compared in a figure, got {len(traces)}")
    for trace in traces.values():
        require(trace, "step_of_position")
    left, gap, bottom = 0.3, 0.35, 2.75
    across = (style.WIDTH - 2 * left - gap * (len(traces) - 1)) / len(traces)
    side = min(across, 2.6)
    height = bottom + side + 1.6 + style.HEADING
    figure = Picture("models compared", style.WIDTH, height)
    figure.heading("One prompt, side by side", _prompt_in_words(list(traces.values())))
    looks = style.distinct(len(traces))
    image = None
    for number, ((name, trace), place) in enumerate(zip(traces.items(), heads, strict=True)):
        start = left + number * (across + gap)
        look = {"color": looks[number].colour, "size": style.TEXT_SIZE, "weight": "bold"}
        title = style.fitted(name, across - 0.1).replace(SPACE, " ")
        figure.write(f"name of {name}", title, start, height - style.HEADING - 0.2, **look)
        _draw_wiring(figure, name, trace, start, bottom + side + 0.6, across)
        if place is not None:
            image = _draw_head(figure, name, trace, place, start, bottom, side)
    if image is not None:
        figure.colour_bar("colours", image, "", left + 1.55, bottom - 0.22, 1.6, 0.1)
        figure.write("meaning of colours", "attention weight", left, bottom - 0.24)
    _draw_cache(figure, traces, looks)
    _draw_losses(figure, traces, looks)
    return figure


def _prompt_in_words(traces: list[xr.Dataset]) -> str:
    prompts = {trace.attrs.get("prompt") for trace in traces}
    if len(prompts) > 1 or None in prompts:
        return "recorded runs, one colour scale for all maps"
    prompt = style.fitted(str(prompts.pop()), style.WIDTH - 1.5)
    return f"prompt: {prompt.replace(SPACE, ' ')}"


def _draw_wiring(
    figure: Picture, name: str, trace: xr.Dataset, left: float, bottom: float, width: float
) -> None:
    """Query heads above, key/value heads below, a line from each head to what it reads."""
    config = config_of(trace)
    draw_wiring(figure.panel(f"wiring of {name}", left, bottom, width, 0.5), config, width)
    words = f"{config.attention_kind}: {config.n_heads} heads, {config.n_kv_heads} kv"
    figure.write(f"kind of {name}", words, left, bottom + 0.6)


def _draw_head(
    figure: Picture, name: str, trace: xr.Dataset, place: tuple[int, int], left: float,
    bottom: float, side: float,
) -> Any:  # fmt: skip
    require(trace, "attention_weights")
    layer, head = pick(trace, "layer", place[0]), pick(trace, "head", place[1])
    panel = figure.panel(f"weights of {name}", left, bottom, side, side)
    values = trace["attention_weights"].sel(layer=layer, head=head).values.astype(np.float64)
    later = trace["key_position"].values[None, :] > trace["query_position"].values[:, None]
    panel.set_facecolor(style.MASKED)
    image = panel.imshow(
        np.where(later, np.nan, values), cmap=style.PROBABILITY, norm=style.probability_scale(),
        aspect="auto",
    )  # fmt: skip
    image.set_gid(f"attention weights of layer {layer}, head {head}")
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    words = f"layer {layer}, head {head}"
    figure.write(f"place of {name}", words, left, bottom + side + 0.1)
    return image


def _draw_cache(
    figure: Picture, traces: Mapping[str, xr.Dataset], looks: Sequence[style.Look]
) -> None:
    panel = figure.panel("cache", 0.95, 0.6, 4.2, 1.35)
    curves = {name: cache_bytes(trace).values.sum(axis=1) for name, trace in traces.items()}
    for (name, sizes), look in zip(curves.items(), looks, strict=True):
        marker = "o" if len(sizes) == 1 else None
        panel.plot(np.arange(len(sizes)), sizes, color=look.colour, lw=2, gid=f"cache of {name}",
                   marker=marker)  # fmt: skip
    panel.set_ylim(0, 1.1 * max(float(sizes.max()) for sizes in curves.values()))
    panel.set_xlim(0, max(1, *(len(sizes) - 1 for sizes in curves.values())))
    panel.xaxis.set_major_locator(style.whole_numbers(6))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda size, _: in_bytes(int(size))))
    panel.locator_params(axis="y", nbins=4)
    panel.set_title("KV cache over the steps", size=style.SMALL, pad=4)


def _draw_losses(
    figure: Picture, traces: Mapping[str, xr.Dataset], looks: Sequence[style.Look]
) -> None:
    room = min(max(style.label_room([style.shortened(name) for name in traces]), 0.5), 1.6)
    panel = figure.panel("loss", 5.6 + room, 0.6, style.WIDTH - 6.4 - room, 1.35)
    names = [style.shortened(name).replace(SPACE, " ") for name in traces]
    losses = [_loss(trace) for trace in traces.values()]
    rows = np.arange(len(names))
    known = np.nan_to_num(losses)
    panel.barh(rows, known, color=[look.colour for look in looks], height=0.62, gid="loss")
    most = max(float(known.max()), 1e-6)
    for row, loss in zip(rows, losses, strict=True):
        words = "no logits" if np.isnan(loss) else f"{loss:.2f}"
        panel.text(
            float(np.nan_to_num(loss)) + 0.02 * most,
            float(row),
            words,
            va="center",
            size=style.SMALL,
        )
    panel.set_xlim(0, 1.3 * most)
    panel.set_yticks(rows, names)
    panel.set_ylim(max(len(names), 2) - 0.4, -0.6)
    panel.set_xticks([])
    panel.set_title("loss, nats per token", size=style.SMALL, pad=4)


def _loss(trace: xr.Dataset) -> float:
    """The mean of -log p over the tokens of the prompt; NaN without logits."""
    n_prompt = len(trace.attrs["prompt_ids"])
    if "logits" not in trace or n_prompt < 2:
        return float("nan")
    return float(-np.log(token_probability(trace).values[1:n_prompt]).mean())
