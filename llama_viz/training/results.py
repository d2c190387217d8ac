"""The stored runs, read to be compared: losses and recall of each recipe over its seeds."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from math import nan, sqrt
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llama_viz.errors import unknown_name
from llama_viz.files import data_folder
from llama_viz.training.evaluation import FACT_KINDS
from llama_viz.training.recipes import GROUPS, RECIPES
from llama_viz.training.store import Line, read_csv, run_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path


def by_name(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Lines of results.csv or recall.csv of each recipe, in the order of the recipes."""
    found: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line["name"]].append(line)
    return {name: found[name] for name in RECIPES if name in found}


def results(group: str, data: Path | None = None) -> dict[str, list[Line]]:
    """The lines of results.csv of a group: for each recipe that was trained one line a seed.

    Empty where none of the group is stored. Raises ValueError for an unknown group.
    """
    if group not in GROUPS:
        raise unknown_name("group", group, GROUPS)
    lines = read_csv((data or data_folder()) / "training" / "results.csv")
    return by_name([line for line in lines if line["group"] == group])


def over_seeds(values: Sequence[float], write: Callable[[float], str]) -> str:
    """The mean, and the range between the seeds where there are several."""
    if not values:
        return ""
    if len(values) == 1:
        return write(values[0])
    return f"{write(mean(values))} ({write(min(values))} to {write(max(values))})"


def losses(runs: Mapping[str, Sequence[Line]]) -> dict[str, list[float]]:
    """The held-out loss of each seed, in nats per token."""
    return {name: [float(line["held_out_loss"]) for line in lines] for name, lines in runs.items()}


def recall(
    runs: Mapping[str, Sequence[Line]], kinds: Iterable[str] = FACT_KINDS
) -> dict[str, list[float]]:
    """The share of right answers of each seed, over all questions of these kinds together."""
    kinds = list(kinds)
    return {
        name: [
            sum(int(line[f"right_{kind}"]) for kind in kinds)
            / sum(int(line[f"asked_{kind}"]) for kind in kinds)
            for line in lines
        ]
        for name, lines in runs.items()
    }


def recall_over(
    by: str, kind: str, names: Iterable[str], data: Path | None = None
) -> dict[str, dict[int, list[float]]]:
    """recall.csv as curves: for each recipe the shares of its seeds, by "facts" or "distance".

    Raises ValueError for another `by`.
    """
    if by not in ("facts", "distance"):
        raise unknown_name("by", by, ("facts", "distance"))
    lines = read_csv((data or data_folder()) / "training" / "recall.csv")
    wanted = by_name([line for line in lines if line["by"] == by and line["kind"] == kind])
    curves: dict[str, dict[int, list[float]]] = {}
    for name in names:
        curve = curves.setdefault(name, {})
        for line in wanted.get(name, []):
            share = int(line["right"]) / int(line["asked"])
            curve.setdefault(int(line["value"]), []).append(share)
    return curves


def course(name: str, seed: int = 0, data: Path | None = None) -> dict[int, float]:
    """The held-out loss of a stored run by step, wherever it was measured."""
    folder = (data or data_folder()) / "training" / "losses"
    rows = read_csv(folder / f"{run_name(name, seed)}.csv")
    return {int(row["step"]): float(row["held_out_loss"]) for row in rows if row["held_out_loss"]}


def standard_error(share: float, n_asked: int) -> float:
    """How far a share of n_asked answers strays by chance: sqrt(p (1 - p) / n)."""
    return sqrt(share * (1 - share) / n_asked)


def told_apart(one: Sequence[Line], other: Sequence[Line]) -> str:
    """What the seeds of two recipes can say about their losses, in one sentence.

    Seed by seed, since with one seed both learn from the same stories and are asked the same ones.
    Were the recipes alike, each seed would favour either with equal chance: n seeds agree in one
    of 2^(n - 1) cases. Raises ValueError where no seed was trained with both.
    """
    ours, theirs = (
        {line["seed"]: float(line["held_out_loss"]) for line in lines} for lines in (one, other)
    )
    gaps = [theirs[seed] - loss for seed, loss in ours.items() if seed in theirs]
    if not gaps:
        raise ValueError("no seed was trained with both recipes")
    names, n_higher = (one[0]["name"], other[0]["name"]), sum(gap > 0 for gap in gaps)
    more = "more" if mean(gaps) > 0 else "less"
    said = f"{names[1]} has {abs(mean(gaps)):.4f} nats {more} loss than {names[0]}"
    if len(gaps) == 1:
        return f"{said}; one seed: this may be chance"
    if n_higher in (0, len(gaps)):
        return f"{said}, in all {len(gaps)} seeds (by chance alone in 1 of {2 ** (len(gaps) - 1)})"
    return f"{said} on average, but not in every seed: not told apart"


def by_seed(runs: Mapping[str, Sequence[Line]]) -> dict[str, dict[str, float]]:
    """For each seed the held-out loss of the recipes that were trained with it, lowest first."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, lines in runs.items():
        for line in lines:
            found[line["seed"]][name] = float(line["held_out_loss"])
    return {
        seed: dict(sorted(losses.items(), key=lambda item: item[1]))
        for seed, losses in sorted(found.items(), key=lambda item: int(item[0]))
    }


class Spread(NamedTuple):
    """Means over the seeds that all recipes share, lowest first, beside what chance does to them.

    chance is the standard error of the difference of two means, in nats; NaN where it cannot be
    known, with fewer than two seeds or two recipes.
    """

    seeds: list[str]
    means: dict[str, float]
    chance: float

    @property
    def range(self) -> float:
        """The highest mean less the lowest."""
        return max(self.means.values()) - min(self.means.values())

    def apart(self, times: float = 2.0) -> list[tuple[str, str]]:
        """The pairs, lower mean first, that differ by more than so many times what chance does."""
        return [
            (low, high)
            for low, high in combinations(self.means, 2)
            if self.means[high] - self.means[low] > times * self.chance
        ]


def spread(runs: Mapping[str, Sequence[Line]]) -> Spread:
    """Compare several recipes over the seeds that all of them were trained with.

    With one seed all of them read the same stories and are asked the same ones, so a seed may be
    easier for all. What is left of a loss without the means of its seed and of its recipe is
    chance: over recipes x seeds it has (recipes - 1)(seeds - 1) degrees of freedom (the two-way
    analysis of variance, Fisher 1925). Without a shared seed there are no means.
    """
    found = {seed: losses for seed, losses in by_seed(runs).items() if len(losses) == len(runs)}
    if not found:
        return Spread([], {}, nan)
    table = np.array([[losses[name] for name in runs] for losses in found.values()])
    means = dict(zip(runs, table.mean(axis=0).tolist(), strict=True))
    n_seeds, n_recipes = table.shape
    chance = nan
    if n_seeds > 1 and n_recipes > 1:
        left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        variance = (left**2).sum() / ((n_recipes - 1) * (n_seeds - 1))
        chance = sqrt(2 * variance / n_seeds)
    return Spread(list(found), dict(sorted(means.items(), key=lambda item: item[1])), chance)


def verdict(runs: Mapping[str, Sequence[Line]]) -> str:
    """What the seeds can say about several recipes: who is lowest, how far apart, against chance.

    Says so where there are too few runs for it.
    """
    found = spread(runs)
    if len(found.means) < 2:
        return "There are not yet two recipes with a seed in common: nothing can be compared."
    lowest, highest = next(iter(found.means)), list(found.means)[-1]
    n_pairs = len(found.means) * (len(found.means) - 1) // 2
    lines = [
        f"{len(found.means)} recipes over {len(found.seeds)} shared "
        f"seed{'' if len(found.seeds) == 1 else 's'}",
        f"lowest {lowest} {found.means[lowest]:.4f}, highest {highest} "
        f"{found.means[highest]:.4f}: {found.range:.4f} nats apart",
    ]
    if len(found.seeds) == 1:
        return "\n".join([*lines, "one seed: how much of that is chance is not known"])
    return "\n".join([
        *lines,
        f"chance moves two means apart by about {found.chance:.4f} nats; "
        f"the range is {found.range / found.chance:.1f} times that",
        f"further apart than twice that: {len(found.apart())} of {n_pairs} pairs",
    ])  # fmt: skip


def above_floor(runs: Mapping[str, Sequence[Line]]) -> dict[str, list[float]]:
    """The held-out loss of each seed less its floor, the information in the stories' choices."""
    return {
        name: [float(line["held_out_loss"]) - float(line["floor"]) for line in lines]
        for name, lines in runs.items()
    }


def summary(runs: Mapping[str, Sequence[Line]]) -> str:
    """A table of some runs to print: seeds, sizes, and the means with their ranges over the seeds.

    Recall is over the questions of FACT_KINDS together.
    """
    header = ("", "seeds", "parameters", "cache bytes/position", "held-out loss", "recall")
    shares = recall(runs)
    rows = [
        (
            name,
            str(len(lines)),
            f"{int(lines[0]['parameters']):,}",
            f"{int(lines[0]['kv_cache_bytes_per_position']):,}",
            over_seeds(losses(runs)[name], "{:.4f}".format),
            over_seeds(shares[name], "{:.1%}".format),
        )
        for name, lines in runs.items()
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (header, *rows)
    )


def courses(group: str, data: Path | None = None) -> dict[str, dict[int, float]]:
    """The course of the first stored seed of each recipe of a group; empty where there is none."""
    return {
        name: course(name, int(lines[0]["seed"]), data)
        for name, lines in results(group, data).items()
    }


def courses_by_seed(group: str, data: Path | None = None) -> dict[str, dict[str, dict[int, float]]]:
    """For each seed the courses of the recipes of a group that were trained with it."""
    found: defaultdict[str, dict[str, dict[int, float]]] = defaultdict(dict)
    for name, lines in results(group, data).items():
        for line in lines:
            found[line["seed"]][name] = course(name, int(line["seed"]), data)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))
