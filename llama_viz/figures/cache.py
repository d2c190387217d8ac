"""The KV cache: how it grows while text is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from llama_viz.analysis import ITEMSIZE, cache_bytes, config_of, pick, require
from llama_viz.cost.operations import step_coefficients
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


FEWEST_STEPS = 8  # room is kept for so many, so that a single step is not one fat bar


@styled
def cache_growth(trace: xr.Dataset) -> Picture:
    """Bytes that the KV cache holds after each step, layer upon layer, with the formula on top.

    The grey line is what the cache reserved, the dashed one 2 x layers x kv_heads x head_dim x
    positions x bytes per number. Step 0 is the prefill.
    """
    require(trace, "cache_bytes_used", "cache_bytes_reserved")
    used = trace["cache_bytes_used"].values
    reserved = trace["cache_bytes_reserved"].values.sum(axis=1)
    formula = cache_bytes(trace).values.sum(axis=1)
    steps, layers = trace["step"].values, trace["layer"].values
    edges = np.append(steps, steps[-1] + 1) - 0.5

    left, bottom, across, up = 0.95, 0.75, 7.55, 3.3
    figure = Picture(
        f"KV cache over {len(steps)} steps", style.WIDTH, bottom + up + 0.15 + style.HEADING
    )
    held = in_bytes(int(used[-1].sum()))
    figure.heading(f"KV cache: {held} held after step {steps[-1]}", _formula_in_words(trace))

    panel = figure.panel("bytes", left, bottom, across, up)
    base = np.zeros(len(steps))
    colours = style.ramp(len(layers))
    for layer, colour, height in zip(layers, colours, used.T, strict=True):
        panel.stairs(base + height, edges, baseline=base, fill=True, color=colour,
                     gid=f"layer {layer}")  # fmt: skip
        base = base + height
    dashed: Any = {"color": style.QUALITATIVE[1], "lw": 1.6, "ls": (0, (3, 1.5))}
    panel.stairs(reserved, edges, baseline=None, color=style.QUIET, lw=1.2, gid="reserved")
    panel.stairs(formula, edges, baseline=None, gid="formula", **dashed)
    if len(steps) > 1:
        panel.axvline(
            edges[1], ymax=1 / 1.12, color=style.QUIET, lw=0.8, ls=":", gid="end of prefill"
        )
    n_steps = max(len(steps), FEWEST_STEPS)
    highest = float(max(reserved.max(), formula.max(), base.max(), 1))
    panel.set_xlim(edges[0], edges[0] + n_steps)
    panel.set_ylim(0, 1.12 * highest)
    panel.text(edges[0] + 0.005 * n_steps, reserved[0] + 0.015 * highest,
               f"reserved: {in_bytes(int(reserved[-1]))}", color=style.QUIET, size=style.SMALL,
               gid="reserved")  # fmt: skip
    panel.xaxis.set_major_locator(style.whole_numbers())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda size, _: in_bytes(int(size))))
    _name_layers(panel, used, layers, colours, edges[-1], 1.12 * highest, up)
    _name_phases(figure, trace, left, across / n_steps)
    figure.write("steps", "step", left + across, 0.2, ha="right", size=style.TEXT_SIZE)
    return figure


@styled
def with_and_without_cache(
    trace: xr.Dataset, *, layer: int, head: int, step: int | None = None
) -> Picture:
    """What one step computes in one head without a KV cache, and what with one.

    Above without: all queries, keys and values, the weights as a square; what an earlier step had
    computed already is grey. Below with: the new rows alone, and the keys and values that were
    cached (framed in blue). At the bottom the multiply-adds of all steps. step None is the last.
    """
    require(trace, "query_rotated", "key_rotated", "value", "attention_weights")
    pick(trace, "layer", layer)
    pick(trace, "head", head)
    step = int(trace["step"].values[-1]) if step is None else pick(trace, "step", step)
    kv_head = int(trace["kv_head_of_head"].values[head])
    starts, ends = step_bounds(trace)
    start, end = int(starts[step]), int(ends[step])
    at = {"layer": layer}
    rows = {
        "queries": trace["query_rotated"].sel(at).values[:end, head],
        "keys": trace["key_rotated"].sel(at).values[:end, kv_head],
        "values": trace["value"].sel(at).values[:end, kv_head],
        "weights": trace["attention_weights"].sel(at).values[head, :end, :end],
    }
    figure = Picture(f"with and without cache at step {step}", style.WIDTH, 7.6)
    figure.heading(
        f"Step {step} without a cache and with one: layer {layer}, head {head}",
        f"{end} positions, {end - start} of them new. Grey: computed again, as it was before. "
        "Blue frame: read from the cache.",
    )
    for way, bottom in (("without", 4.45), ("with", 2.1)):
        figure.write(way, f"{way} cache", style.MARGIN, bottom + 2.12, color=style.INK)
        for place, (name, values) in enumerate(rows.items()):
            panel = figure.panel(f"{name} {way}", 0.35 + 2.0 * place, bottom, 1.6, 1.8)
            if name == "weights":
                panel.set_position((6.6 / figure.width, bottom / figure.height,
                                    1.8 / figure.width, 1.8 / figure.height))  # fmt: skip
            _draw_rows(panel, name, values, way, start, end, trace.sizes["position"])
    _draw_work(figure.panel("work", 0.95, 0.6, 8.2, 1.05), trace, step)
    return figure


def _draw_rows(
    panel: Axes, name: str, values: np.ndarray, way: str, start: int, end: int, n_positions: int
) -> None:
    """One matrix of one step, a row for each position, and whose rows they are."""
    is_map, is_cached = name == "weights", name in ("keys", "values") and way == "with"
    computed = values.copy()
    if way == "with" and not is_cached:
        computed[:start] = np.nan
    if is_map:
        computed[np.triu_indices(end, 1)] = np.nan
    look: Any = {"cmap": style.PROBABILITY, "norm": style.probability_scale()} if is_map else {
        "cmap": style.SIGNED, "norm": style.signed_scale(values)
    }  # fmt: skip
    width = values.shape[1]
    panel.imshow(computed, aspect="auto", interpolation="nearest", **look).set_gid(name)
    panel.set_xlim(-0.5, (n_positions if is_map else width) - 0.5)
    panel.set_ylim(n_positions - 0.5, -0.5)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor("white")  # grey is kept for what is computed again
    panel.set_title(name, size=style.SMALL)
    across = end if is_map else width
    if way == "without" and start:
        panel.add_patch(Rectangle((-0.5, -0.5), across, start, color=style.LINE, alpha=0.55, lw=0,
                                  gid="known"))  # fmt: skip
    frames = [("new", start, end - start, style.QUALITATIVE[1])]
    if is_cached and start:
        frames.insert(0, ("cached", 0, start, style.QUALITATIVE[0]))
    for gid, top, height, colour in frames:
        panel.add_patch(Rectangle((-0.5, top - 0.5), across, height, fill=False, ec=colour, lw=1.6,
                                  clip_on=False, gid=gid))  # fmt: skip


def _draw_work(panel: Axes, trace: xr.Dataset, step: int) -> None:
    """Multiply-adds so far, both ways, over all steps."""
    steps = trace["step"].values
    marker = "o" if len(steps) == 1 else None
    for way, colour in (("without", style.QUALITATIVE[1]), ("with", style.QUALITATIVE[0])):
        so_far = multiply_adds(trace, use_cache=way == "with").cumsum() / 1e6
        panel.plot(steps, so_far, color=colour, lw=1.8, marker=marker, gid=way)
        words = f"{way}, up to step {steps[step]}: {so_far[step]:,.4g} M"
        panel.annotate(words, (steps[-1], so_far[-1]), ha="right", va="bottom", color=colour,
                       size=style.SMALL, gid=way)  # fmt: skip
        panel.plot([step], [so_far[step]], "o", color=colour, ms=5)
    panel.set_ylim(0, None)
    panel.margins(y=0.3)
    panel.xaxis.set_major_locator(style.whole_numbers())
    panel.set_title("millions of multiply-adds so far, by step", size=style.SMALL)


def step_bounds(trace: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The positions that pass in each step: from starts[step] to ends[step]."""
    require(trace, "step_of_position")
    step_of_position, steps = trace["step_of_position"].values, trace["step"].values
    return (
        np.searchsorted(step_of_position, steps, side="left"),
        np.searchsorted(step_of_position, steps, side="right"),
    )


def multiply_adds(trace: xr.Dataset, *, use_cache: bool) -> np.ndarray:
    """The multiply-adds of each step of this run, by formula: (step), whole numbers.

    Counted are all scores of a pass, those above the diagonal included, and logits at every
    position that passes, as the written-out model computes them.
    """
    starts, ends = step_bounds(trace)
    per_position, per_pair = step_coefficients(config_of(trace))
    passing = ends - starts if use_cache else ends
    return (passing * (per_position + per_pair * ends)).astype(np.int64)


def in_bytes(size: int) -> str:
    """Bytes in a unit that reads well, in thousands: 812 B, 23.04 kB, 1.5 GB."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"


def _formula_in_words(trace: xr.Dataset) -> str:
    """The formula with this model's numbers, and whether the recording agrees."""
    config = config_of(trace)
    n_layers, itemsize = trace.sizes["layer"], ITEMSIZE[trace.attrs["dtype"]]
    differing = (trace["cache_bytes_used"] != cache_bytes(trace)).any("layer").sum()
    agreement = f"not equal at {int(differing)} steps" if differing else "equal at every step"
    counted = " × ".join(
        f"{count} {thing}{'s' * (count != 1)}"
        for count, thing in ((n_layers, "layer"), (config.n_kv_heads, "key/value head"))
    )
    return (
        f"dashed: 2 × {counted} × "
        f"{config.head_dim} features × positions × {itemsize} bytes; {agreement}"
    )


def _name_layers(
    panel: Axes,
    used: np.ndarray,
    layers: np.ndarray,
    colours: list[Any],
    end: float,
    top: float,
    height: float,
) -> None:
    """Write each layer's name beside its band; only first and last where bands are thin."""
    tops = used[-1].cumsum()
    middles = tops - used[-1] / 2
    thin = used[-1].min() * height / top < 1.2 * style.SMALL / 72
    for index, (layer, colour, middle) in enumerate(zip(layers, colours, middles, strict=True)):
        if thin and index not in (0, len(layers) - 1):
            continue
        panel.annotate(
            f"layer {layer}", (end, middle), xytext=(5, 0), textcoords="offset points",
            va="center", color=colour, size=style.SMALL, gid=f"layer {layer}",
        )  # fmt: skip


def _name_phases(figure: Picture, trace: xr.Dataset, left: float, step_width: float) -> None:
    """Below the steps: the prefill and how many positions it took, then decoding."""
    first = int((trace["step_of_position"] == 0).sum())
    prefill = f"prefill: {first} position{'s' * (first != 1)}"
    figure.write("prefill", prefill, left, 0.2)
    if trace.sizes["step"] > 1:
        start = left + max(step_width, style.text_width(prefill, style.SMALL) + 0.25)
        figure.write("decode", "decode: 1 position a step →", start, 0.2)
