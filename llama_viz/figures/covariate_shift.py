"""A deep network trained with one norm or another: its loss, and what its layers take in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from llama_viz.figures import style
from llama_viz.figures.norms import COLOURS, DRAWN
from llama_viz.figures.style import Picture, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

PERCENTILES = (15, 50, 85)
STEPS_BETWEEN = 3


@styled
def losses_by_norm(runs: Mapping[str, xr.Dataset]) -> Picture:
    """The training loss of each run over the steps, on a logarithmic scale.

    runs are what foundations.train_deep_network returns, by name. Raises ValueError for none.
    """
    if not runs:
        raise ValueError("there are no runs to draw")
    room = style.label_room(list(runs), style.TEXT_SIZE) + 0.75
    left, bottom, up = 0.75, 0.6, 2.9
    figure = Picture("losses by norm", style.WIDTH, bottom + up + 0.15 + style.HEADING)
    figure.heading(
        "The same network, the same task, the same steps",
        "loss on the items that it learns from, on a logarithmic scale",
    )
    panel = figure.panel("loss", left, bottom, style.WIDTH - left - room, up)
    ends = []
    for name, run in runs.items():
        colour = COLOURS.get(name, DRAWN)
        panel.plot(run["step"].values, run["loss"].values, color=colour, lw=1.8, gid=name)
        ends.append((float(np.log10(run["loss"].values[-1])), name, colour))
    panel.set_yscale("log")
    panel.set_xlim(0, max(int(run["step"][-1]) for run in runs.values()))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="y", color=style.FAINT, lw=0.8)
    panel.set_xlabel("step")
    panel.set_ylabel("loss, nats")
    # Names stand at the ends of their lines, moved apart where they would meet.
    low, high = np.log10(panel.get_ylim())
    apart = (high - low) * 0.075
    place = -np.inf
    for end, name, colour in sorted(ends):
        place = max(end, place + apart)
        panel.text(1.015, (place - low) / (high - low), name, transform=panel.transAxes,
                   color=colour, va="center", gid=f"name of {name}")  # fmt: skip
    return figure


@styled
def layer_inputs(runs: Mapping[str, xr.Dataset], *, neuron: int = 0) -> Picture:
    """What one neuron of each layer takes in while the network learns: its spread over the items.

    Rows are layers, the first at the bottom; columns are runs. The line is the median, the band
    reaches from the 15th to the 85th percentile, as in Ioffe and Szegedy (2015, figure 1). Raises
    ValueError for no runs, and for a neuron that is not there.
    """
    if not runs:
        raise ValueError("there are no runs to draw")
    first = next(iter(runs.values()))
    n_layers, n_neurons = first.sizes["layer"], first.sizes["neuron"]
    if not 0 <= neuron < n_neurons:
        raise ValueError(f"neuron must be from 0 to {n_neurons - 1}, got {neuron!r}")
    left, bottom, gap, up = 0.9, 0.6, 0.12, 0.62
    across = (style.WIDTH - left - 0.15 - gap * (len(runs) - 1)) / len(runs)
    figure = Picture(
        f"inputs of neuron {neuron} in {n_layers} layers",
        style.WIDTH, bottom + n_layers * (up + gap) + 0.4 + style.HEADING,
    )  # fmt: skip
    figure.heading(
        f"What neuron {neuron} of each layer takes in, step by step",
        "line: median of the items; band: 15th to 85th percentile; one scale for all",
    )
    bands = {name: _percentiles(run, neuron) for name, run in runs.items()}
    largest = max(float(np.abs(band).max()) for band in bands.values())
    for column, (name, run) in enumerate(runs.items()):
        colour = COLOURS.get(name, DRAWN)
        steps = run["step"].values[::STEPS_BETWEEN]
        for layer in range(n_layers):
            low, middle, high = bands[name][:, :, layer]
            place = left + column * (across + gap), bottom + layer * (up + gap)
            panel = figure.panel(f"{name}, layer {layer}", *place, across, up)
            panel.fill_between(steps, low, high, color=colour, alpha=0.25, lw=0, gid="band")
            panel.plot(steps, middle, color=colour, lw=1.5, gid="median")
            panel.axhline(0, color=style.LINE, lw=0.8, zorder=0, gid="zero")
            panel.set_ylim(-1.05 * largest, 1.05 * largest)
            panel.set_xlim(0, int(run["step"][-1]))
            panel.locator_params(axis="x", nbins=3)
            panel.locator_params(axis="y", nbins=4)
            panel.tick_params(labelbottom=layer == 0, labelleft=column == 0)
            if column == 0:
                panel.set_ylabel(f"layer {layer}", size=style.SMALL)
            if layer == 0:
                panel.set_xlabel("step", size=style.SMALL)
            if layer == n_layers - 1:
                title = name.replace(", ", ",\n")
                panel.set_title(title, size=style.TEXT_SIZE - 0.5, color=colour, pad=6)
    return figure


def _percentiles(run: xr.Dataset, neuron: int) -> np.ndarray:
    """(percentile, step, layer) of one neuron's inputs over the items."""
    inputs = run["layer_input"].values[::STEPS_BETWEEN, :, :, neuron].astype(np.float64)
    return np.percentile(inputs, PERCENTILES, axis=2)
