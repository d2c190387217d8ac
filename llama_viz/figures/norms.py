"""What norms do: to a row, to the shape of a distribution, in time; and what a gain amplifies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize

from llama_viz.analysis import norm_input, norm_names, pick, require
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

BEFORE, DRAWN = style.LINE, style.QUALITATIVE[5]
# Each norm has its colour wherever it is drawn.
COLOURS = dict(
    zip(
        (
            "no norm",
            "LayerNorm",
            "BatchNorm",
            "RMSNorm",
            "BatchNorm, moved",
            "no norm, wider start",
        ),
        (style.QUALITATIVE[index] for index in (6, 0, 1, 2, 4, 3)),
        strict=True,
    )
)


@styled
def before_and_after(outputs: Mapping[str, tuple[Any, Any]], title: str) -> Picture:
    """What each norm gives out before and after a change, as bars side by side.

    outputs holds two rows of numbers, before and after, by the name of the norm. All panels share
    one scale. Raises ValueError for none.
    """
    if not outputs:
        raise ValueError("there are no outputs to draw")
    rows = {
        name: tuple(np.asarray(row, dtype=np.float64).ravel() for row in pair)
        for name, pair in outputs.items()
    }
    left, bottom, gap, up = 0.65, 0.6, 0.35, 1.9
    across = (style.WIDTH - left - 0.2 - gap * (len(rows) - 1)) / len(rows)
    figure = Picture(title, style.WIDTH, bottom + up + 0.45 + style.HEADING)
    figure.heading(title, "grey: before the change; in colour: after it")
    everything = np.concatenate([row for pair in rows.values() for row in pair])
    low, high = min(float(everything.min()), 0.0), max(float(everything.max()), 0.0)
    room = 0.06 * (high - low or 1.0)
    for number, (name, (before, after)) in enumerate(rows.items()):
        panel = figure.panel(name, left + number * (across + gap), bottom, across, up)
        place = np.arange(len(before))
        panel.bar(place - 0.2, before, 0.38, color=BEFORE, gid="before")
        panel.bar(place + 0.2, after, 0.38, color=COLOURS.get(name, DRAWN), gid="after")
        panel.axhline(0, color=style.QUIET, lw=0.8, gid="zero")
        panel.set_ylim(low - room, high + room)
        panel.set_xticks(place)
        panel.set_xlabel("feature")
        panel.tick_params(labelleft=number == 0)
        moved = float(np.abs(after - before).max())
        # In float64 roundings are far below, what epsilon does is far above.
        words = "does not move" if moved < 1e-9 else f"moves by up to {moved:.2g}"
        figure.write(f"change of {name} (measured)", f"{name}: {words}",
                     left + number * (across + gap), bottom + up + 0.15,
                     size=style.TEXT_SIZE, color=style.INK)  # fmt: skip
    return figure


@styled
def histograms(samples: Mapping[str, Any], title: str, detail: str = "") -> Picture:
    """The distribution of each set of numbers, with its mean, deviation and skewness.

    Skewness is the mean of ((x - mean) / deviation)^3: 0 where both sides are alike, 0 for a
    Gaussian. Every panel has a scale of its own. Raises ValueError for none.
    """
    if not samples:
        raise ValueError("there are no samples to draw")
    left, bottom, gap, up = 0.25, 0.5, 0.3, 1.7
    across = (style.WIDTH - 2 * left - gap * (len(samples) - 1)) / len(samples)
    figure = Picture(title, style.WIDTH, bottom + up + 0.95 + style.HEADING)
    figure.heading(title, detail)
    for number, (name, sample) in enumerate(samples.items()):
        values = np.asarray(sample, dtype=np.float64).ravel()
        start = left + number * (across + gap)
        panel = figure.panel(name, start, bottom, across, up)
        counts, edges = np.histogram(values, bins=40)
        panel.stairs(counts, edges, fill=True, color=COLOURS.get(name, DRAWN), gid="counts")
        panel.axvline(values.mean(), color=style.QUALITATIVE[1], lw=1.5, gid="mean")
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        panel.locator_params(axis="x", nbins=5)
        figure.write(f"name of {name}", name, start, bottom + up + 0.52, color=style.INK,
                     size=style.TEXT_SIZE)  # fmt: skip
        mean, deviation = values.mean(), values.std()
        skewness = (((values - mean) / deviation) ** 3).mean()
        said = (
            f"mean {round(mean, 2) + 0.0:.2f}, deviation {deviation:.2f}\nskewness {skewness:.2f}"
        )
        figure.write(f"numbers of {name} (measured)", said, start, bottom + up + 0.08,
                     va="bottom", linespacing=1.4)  # fmt: skip
    return figure


@styled
def norm_times(measured: Mapping[str, Mapping[str, Mapping[str, float]]], detail: str) -> Picture:
    """Seconds of each norm, written out and as one call, by the number of features.

    measured[features][way][norm] is what foundations.norm_times returns for each number of
    features. Raises ValueError for none.
    """
    if not measured:
        raise ValueError("there are no times to draw")
    left, bottom, gap, up = 0.75, 0.4, 0.65, 2.0
    across = (style.WIDTH - left - 0.2 - gap * (len(measured) - 1)) / len(measured)
    figure = Picture("times of norms", style.WIDTH, bottom + up + 0.8 + style.HEADING)
    figure.heading("One statistic or two: the time of both norms, like beside like", detail)
    norms = list(next(iter(next(iter(measured.values())).values())))
    for column, (features, ways) in enumerate(measured.items()):
        panel = figure.panel(
            f"{features} features", left + column * (across + gap), bottom, across, up
        )
        for number, norm in enumerate(norms):
            taken = [1e6 * times[norm] for times in ways.values()]
            place = np.arange(len(ways)) + (number - (len(norms) - 1) / 2) * 0.36
            panel.bar(place, taken, 0.34, color=COLOURS.get(norm, DRAWN), gid=norm)
        panel.set_xticks(range(len(ways)), list(ways))
        panel.locator_params(axis="y", nbins=5)
        panel.set_title(f"{features} features", size=style.TEXT_SIZE, pad=8)
        if column == 0:
            panel.set_ylabel("microseconds")
    for number, norm in enumerate(norms):
        figure.write(f"name of {norm}", norm, left + 1.4 * number, bottom + up + 0.5,
                     color=COLOURS.get(norm, DRAWN), size=style.TEXT_SIZE)  # fmt: skip
    return figure


@styled
def gains(trace: xr.Dataset, *, norm: int = 0) -> Picture:
    """The gain of every norm and feature, and for one norm beside how large its features arrive.

    Right, each feature of that norm: across, its size after the division, the root mean square over
    the positions; upward, the size of its gain. Raises ValueError for an unknown norm.
    """
    require(trace, "norm_gain", "rms")
    norm = pick(trace, "norm", norm)
    values = trace["norm_gain"].values.astype(np.float64)
    names = norm_names(trace)
    left, bottom, across, up = 0.2 + style.label_room(names), 0.6, 2.7, 2.9
    right = style.WIDTH - across - 0.2
    wide = right - left - 1.65
    figure = Picture("gains", style.WIDTH, bottom + up + 0.45 + style.HEADING)
    figure.heading(
        "The gain of every norm: by how much it multiplies each feature",
        f"from {values.min():.2g} to {values.max():.2g}; 1 changes nothing",
        gid="detail (measured)",
    )
    panel = figure.panel("gains", left, bottom, wide, up)
    far = float(np.abs(values - 1).max()) or 1.0
    scale = Normalize(1 - far, 1 + far)
    image = panel.imshow(values, cmap=style.SIGNED, norm=scale, aspect="auto", origin="lower",
                         interpolation="nearest")  # fmt: skip
    image.set_gid("gain")
    for spine in panel.spines.values():
        spine.set_visible(False)
    rows = style.fitting_ticks(len(names), up)
    style.label_axis(panel.yaxis, [names[row] for row in rows], rows)
    panel.set_xlabel("feature")
    panel.set_title("each norm and feature")
    bar = figure.colour_bar("colours", image, "", left + wide + 0.12, bottom, 0.12, up)
    bar.locator_params(axis="y", nbins=6)
    scaled = (norm_input(trace) / trace["rms"]).sel(norm=norm).values.astype(np.float64)
    sizes = np.sqrt((scaled**2).mean(axis=0))
    index = trace["norm"].values.tolist().index(norm)
    beside = figure.panel("one norm", right, bottom, across, up)
    beside.plot(
        sizes, np.abs(values[index]), "o", ms=4, alpha=0.6, color=COLOURS["RMSNorm"], gid="features"
    )
    beside.set_xlabel("size of the feature that arrives")
    beside.set_ylabel("gain, absolute")
    beside.set_xlim(left=0)
    beside.set_ylim(bottom=0)
    beside.set_title(names[index])
    return figure
