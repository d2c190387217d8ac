"""The attention explorer: from all heads at a glance down to one product of a query and a key.

The page computes scores and weights itself, from queries and keys as they were recorded, and of a
large map what is in view alone. What it gets besides are levels of the maps (see pyramid): coarse
ones of all heads, a finer one of each head that is looked at. A kernel pools them in short slices,
layer by layer, while the page is open.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import PowerNorm
from tqdm.auto import tqdm

from llama_viz.analysis import pick
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.widgets.explorer import Choice, Explorer, Field, trace_of
from llama_viz.widgets.export import bytes_in_page
from llama_viz.widgets.messages import tokens_of
from llama_viz.widgets.packing import Packed, as_float16, as_int16
from llama_viz.widgets.pyramid import KINDS, VECTORS, Heads, Level, block_for, finished

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping, Sequence

    import xarray as xr
    from matplotlib.axes import Axes

    from llama_viz.language_model import LanguageModel

VIEWS = ("model", "layer", "head", "row", "product")
STAGES = ("scores", "masked", "weights")
TEXT_SHOWS = ("head", "layer", "model")

# Cells of the overviews of all heads together, in a live page and in a file, which has to be small
# and computes finer ones itself; and along a side of each at least.
OVERVIEW_CELLS = 450_000
EXPORT_OVERVIEW_CELLS = 150_000
LEAST_SIDE = 32
# With fewer bytes than this in all, a live page gets every head at once.
AT_ONCE_BYTES = 4_000_000
# What a page without a kernel may hold, deflated, so that it stays below 5 MB: base64 adds a third.
EXPORT_BYTES = 3_600_000
TOKEN_BYTES = 40  # of each token in such a page
# So long a kernel works on an answer before it hears others, and for so long it hears them: a
# message passes several turns of the event loop before it arrives.
SLICE_SECONDS = 0.02
BREATH_SECONDS = 0.001
# So many cells along a side has the picture of one map.
PICTURE_SIDE = 560


class AttentionExplorer(Explorer):
    """See who looks at whom: all heads, one layer, one head, one row, one product.

    source is a trace with query_rotated and key_rotated (or attention_weights alone: then what
    needs queries and keys is left out), or a model, which reads the prompt once. The state is
    view, layer, head, position (the query), key_position, stage, text_shows: whose weights colour
    the text, and which part of a map is in view: span positions from first_query and first_key on.

    Thousands of tokens are explored from queries and keys alone: record them with
    lv.record_forward(lm, text, taps=("query_rotated", "key_rotated")).

    Raises ValueError for a trace that has neither, and for what the state cannot be.
    """

    page = "attention"
    title = "Attention explorer"

    def __init__(
        self,
        source: xr.Dataset | LanguageModel,
        prompt: str | Sequence[int] | None = None,
        **state: Any,
    ) -> None:
        self.trace = trace_of(source, prompt, VECTORS)
        self.heads = Heads(self.trace)
        self._levels: dict[tuple[int, int, str], Level] = {}
        self._under_way: set[tuple[int, int, str]] = set()
        super().__init__(**state)

    def fields(self) -> Mapping[str, Field]:
        """What can be picked; without queries and keys there are weights only."""
        trace, heads = self.trace, self.heads
        layers = [int(layer) for layer in trace["layer"].values]
        n = heads.n_positions
        positions = range(n)
        has_vectors = heads.has_vectors
        return {
            "view": Choice(VIEWS if has_vectors else VIEWS[:-1], "model"),
            "layer": Choice(layers, layers[0]),
            "head": Choice(range(heads.config.n_heads), 0),
            "position": Choice(positions, positions[-1]),
            "key_position": Choice(positions, 0),
            "stage": Choice(STAGES if has_vectors else STAGES[-1:], "weights"),
            "text_shows": Choice(TEXT_SHOWS, "head"),
            "first_query": Choice(positions, 0),
            "first_key": Choice(positions, 0),
            "span": Choice(range(1, n + 1), n),
        }

    # Levels of maps

    def pool(self, kinds: Collection[str] = KINDS) -> None:
        """Pool the maps of all heads now, with a bar that says the time left.

        An open page lets the kernel do it bit by bit; save() needs all of them. It takes the memory
        of a few hundred rows, and keeps at most 0.4 MB for each head and kind.
        """
        wanted = [kind for kind in KINDS if kind in kinds and kind in self._kinds]
        missing = [
            (row, head, kind)
            for row in self._rows
            for kind in wanted
            for head in range(self.heads.config.n_heads)
            if (row, head, kind) not in self._levels
        ]
        bar = tqdm(missing, "pooling maps", unit="map", disable=not self.heads.by_root)
        for one in bar:
            self.level(*one)

    def level(self, row: int, head: int, kind: str) -> Level:
        """The finest level that is kept of a map, computed once; row counts recorded layers."""
        key = (row, head, kind)
        if key not in self._levels:
            self._levels[key] = finished(self.heads.level(*key))
        return self._levels[key]

    async def _level(self, row: int, head: int, kind: str, breathe: _Breath) -> Level:
        """The same while others are heard; nothing is computed twice at a time."""
        key = (row, head, kind)
        while key in self._under_way:
            await asyncio.sleep(BREATH_SECONDS)
        if key not in self._levels:
            self._under_way.add(key)
            try:
                work = self.heads.level(*key)
                while (level := _next(work)) is None:
                    await breathe()
                self._levels[key] = level
            finally:
                self._under_way.discard(key)
        return self._levels[key]

    def overview_block(self, whole: bool = False) -> int:
        """Positions along each side of a cell of the overviews: a power of 2."""
        n_maps = len(self._rows) * self.heads.config.n_heads
        cells = EXPORT_OVERVIEW_CELLS if whole else OVERVIEW_CELLS
        side = max((cells / n_maps) ** 0.5, LEAST_SIDE)
        return max(block_for(self.heads.n_positions, side), self.heads.finest_block)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return KINDS if self.heads.has_vectors else KINDS[:1]

    @property
    def _rows(self) -> range:
        return range(self.trace.sizes["layer"])

    def _row(self, layer: int) -> int:
        layers = self.trace["layer"].values.tolist()
        return layers.index(pick(self.trace, "layer", layer))

    # For the page

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sizes and tokens; all heads at once where they are small, what fits where none can ask.

        A page without a kernel holds the overviews of all heads, and in full those next to the
        chosen one; what it has in full is exact to three digits.
        """
        trace, config = self.trace, self.heads.config
        layers = [int(layer) for layer in trace["layer"].values]
        packing, held = self._held(whole)
        limits: dict[str, list[float]] = {}
        header: dict[str, Any] = {
            "model": str(trace.attrs.get("model", "")),
            "kind": config.attention_kind,
            "layers": layers,
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "kv_head_of_head": config.kv_head_of_head,
            "head_dim": config.head_dim,
            "n_positions": self.heads.n_positions,
            "tokens": tokens_of(trace),
            "has_vectors": self.heads.has_vectors,
            "block": self.overview_block(whole),
            "by_root": self.heads.by_root,
            "edited": bool(trace.attrs.get("edited")),
            "heads_held": {
                str(layer): [head for own, head in held if own == row]
                for row, layer in enumerate(layers)
            },
            "limits": limits,  # of the scores of each head
        }
        arrays: dict[str, Any] = {}
        if whole:
            self.pool()
            for row, layer in enumerate(layers):
                for kind in self._kinds:
                    overviews = self._overviews(
                        [self.level(row, head, kind) for head in self._all], whole
                    )
                    arrays[f"{kind} {layer}"] = overviews[1]
                    if kind == "scores":
                        limits[str(layer)] = overviews[0]
        for row, head in held:
            level = self.level(row, head, "weights")
            arrays |= self._head(row, head, packing, level, f" {layers[row]}")
        return header, arrays

    async def answer_summary(self, layer: int, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The overviews of all heads of a layer."""
        row, breathe = self._row(layer), _Breath()
        self._check_kind(kind)
        levels = [await self._level(row, head, kind, breathe) for head in self._all]
        limits, cells = self._overviews(levels, whole=False)
        return {"limits": limits}, {"cells": cells}

    async def answer_map(
        self, layer: int, head: int, kind: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The finest level of one map."""
        row, head = self._row(layer), pick(self.trace, "head", head)
        self._check_kind(kind)
        level = await self._level(row, head, kind, _Breath())
        return {"block": level.block, "limit": level.limit}, {"cells": level.cells}

    async def answer_head(self, layer: int, head: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The query and the key of each position, exactly as recorded, and the normalizers."""
        row, head = self._row(layer), pick(self.trace, "head", head)
        level = await self._level(row, head, "weights", _Breath())
        return {}, self._head(row, head, "float32", level)

    async def answer_means(
        self, scope: str, layer: int, position: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Over the heads of a layer or of all: what a position looked at, and who looked at it."""
        position = pick(self.trace, "position", position)
        rows, breathe = self._rows if scope == "model" else [self._row(layer)], _Breath()
        mean = np.zeros((2, self.heads.n_positions))
        for row in rows:
            for head in self._all:
                level = await self._level(row, head, "weights", breathe)
                assert level.normalizer is not None
                seen, column = self.heads.means(position, row, head, level.normalizer)
                mean[0, : position + 1] += seen
                mean[1, position:] += column
                await breathe()
        mean /= len(rows) * len(self._all)
        return {}, {"row": mean[0].astype("f4"), "column": mean[1].astype("f4")}

    async def answer_strongest(
        self, layers: list[int], position: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The key that each head of these layers looks at most from a position, and the weight."""
        position, breathe = pick(self.trace, "position", position), _Breath()
        best = []
        for layer in layers:
            for head in self._all:
                best.append(self.heads.strongest(self._row(layer), head, position))
                await breathe()
        keys, weights = zip(*best, strict=True)
        return {}, {"key": np.array(keys), "weight": np.array(weights, dtype=np.float32)}

    @property
    def _all(self) -> range:
        return range(self.heads.config.n_heads)

    def _check_kind(self, kind: str) -> None:
        if kind not in self._kinds:
            raise unknown_name("kind", kind, self._kinds)

    def _held(self, whole: bool) -> tuple[str, list[tuple[int, int]]]:
        """How exactly heads are held, and which: all, or as many as fit, the nearest first."""
        config, n = self.heads.config, self.heads.n_positions
        every = [(row, head) for row in self._rows for head in self._all]
        sizes = {"float32": 4, "int16": 2} if self.heads.has_vectors else {"float16": 2}
        if not whole:
            fits = sum(self._cost(every, 4)) <= AT_ONCE_BYTES
            return "float32", every if fits else []
        chosen, own = self._row(self.state["layer"]), self.state["head"]
        overviews = len(every) * len(self._kinds) * (-(-n // self.overview_block(whole))) ** 2
        left = EXPORT_BYTES - overviews - TOKEN_BYTES * n
        group = config.kv_head_of_head

        def distance(place: tuple[int, int]) -> tuple[int, ...]:
            row, head = place
            return abs(row - chosen), row, group[head] != group[own], abs(head - own), head

        for packing, size in sizes.items():
            # How far such numbers deflate, one head tells for all.
            name = "query" if self.heads.has_vectors else "map"
            sample = self._numbers(chosen, own, packing)[name]
            stored = sample.stored if isinstance(sample, Packed) else sample
            share = bytes_in_page(stored) / stored.nbytes
            if share * sum(self._cost(every, size)) <= left:
                return packing, every
        nearest = sorted(every, key=distance)
        costs = share * np.cumsum(list(self._cost(nearest, size)))
        return packing, sorted(nearest[: int(np.searchsorted(costs, left, side="right"))])

    def _cost(self, places: list[tuple[int, int]], size: int) -> Generator[int]:
        """Bytes of each head with numbers of this size; heads that share a key hold it once."""
        config, n = self.heads.config, self.heads.n_positions
        shared = set()
        for row, head in places:
            if not self.heads.has_vectors:
                yield size * n * (n + 1) // 2
                continue
            key = (row, config.kv_head_of_head[head])
            # Vectors in 16 bits have a scale each, and each query its normalizer.
            vectors, scale = 1 if key in shared else 2, 4 if size == 2 else 0
            yield n * (vectors * (size * config.head_dim + scale) + 4)
            shared.add(key)

    def _head(
        self, row: int, head: int, packing: str, level: Level, suffix: str = ""
    ) -> dict[str, Any]:
        """What a page needs of a head to compute any cell; names may end in layer and head."""
        numbers = self._numbers(row, head, packing)
        if self.heads.has_vectors:
            numbers["normalizer"] = level.normalizer
        if not suffix:
            return numbers
        group = self.heads.config.kv_head_of_head[head]
        return {
            f"{name}{suffix} {group if name == 'key' else head}": array
            for name, array in numbers.items()
        }

    def _numbers(self, row: int, head: int, packing: str) -> dict[str, Any]:
        """Queries and keys of a head, or its weights, packed."""
        pack = {
            "float32": lambda values: np.asarray(values, dtype=np.float32),
            "float16": as_float16,
            "int16": as_int16,
        }[packing]
        if not self.heads.has_vectors:
            return {"map": pack(self.heads.triangle(row, head))}
        query, key = self.heads.vectors(row, head)
        return {"query": pack(query), "key": pack(key)}

    def _overviews(self, levels: list[Level], whole: bool) -> tuple[list[float], np.ndarray]:
        """The limits of these maps, and their cells: (head, side, side)."""
        block = self.overview_block(whole)
        cells = np.stack([level.coarser(block).cells for level in levels])
        return [level.limit for level in levels], cells

    # Without a kernel

    def save(self, path: str | Path) -> None:
        """Write the explorer to a file: .html is the explorer itself, .png and .svg a picture.

        The HTML file keeps to 5 MB: it has the overviews of all heads, and as many heads in full as
        fit, the chosen one first; it says which. Raises ValueError for another suffix, OSError
        where the file cannot be written.
        """
        if self.state["view"] == "model" and Path(path).suffix.lower() != ".html":
            self.pool([self._kind])  # a picture on the way shows what is known; a file shows all
        super().save(path)

    def describe(self) -> str:
        """What is in view, in words."""
        config, state = self.heads.config, self.state
        place = {
            "model": "all layers and heads",
            "layer": f"layer {state['layer']}",
            "head": f"layer {state['layer']}, head {state['head']}",
            "row": f"layer {state['layer']}, head {state['head']}, position {state['position']}",
            "product": f"layer {state['layer']}, head {state['head']}, position "
            f"{state['position']} looking at {state['key_position']}",
        }[state["view"]]
        return (
            f"Attention explorer: {place}, {state['stage']}.\n"
            f"{config.attention_kind}: {config.n_heads} query heads read {config.n_kv_heads} "
            f"key/value heads in each of {len(self._rows)} recorded layers; "
            f"{self.heads.n_positions} positions."
        )

    def picture(self) -> Picture:
        """The present view as a figure; of all layers of a long trace, those known so far."""
        return _DRAW[self.state["view"]](self)

    @property
    def _kind(self) -> str:
        """What the stage shows: weights, or scores, masked or not."""
        return "weights" if self.state["stage"] == "weights" else "scores"

    def _part(self) -> tuple[slice, slice]:
        """The queries and the keys in view."""
        state, n = self.state, self.heads.n_positions
        firsts = (min(state[name], n - state["span"]) for name in ("first_query", "first_key"))
        queries, keys = (slice(first, first + state["span"]) for first in firsts)
        return queries, keys


class _Breath:
    """Await it often: where a slice of work is over it lets others be heard."""

    def __init__(self) -> None:
        self.due = time.perf_counter() + SLICE_SECONDS

    async def __call__(self) -> None:
        if time.perf_counter() > self.due:
            await asyncio.sleep(BREATH_SECONDS)
            self.due = time.perf_counter() + SLICE_SECONDS


def _next(work: Generator[None, None, Level]) -> Level | None:
    """One slice of the work; what it returns at its end."""
    try:
        next(work)
    except StopIteration as end:
        level: Level = end.value
        return level
    return None


# The picture


@styled
def _draw_model(explorer: AttentionExplorer) -> Picture:
    kind = explorer._kind
    known = [
        row
        for row in explorer._rows
        if all((row, head, kind) in explorer._levels for head in explorer._all)
    ]
    rows = list(explorer._rows)
    if not explorer.heads.by_root or known == rows:
        return _tiles(explorer, rows, "all layers")
    rows = known or [explorer._row(explorer.state["layer"])]
    return _tiles(explorer, rows, f"{len(rows)} of {len(explorer._rows)} layers")


@styled
def _draw_layer(explorer: AttentionExplorer) -> Picture:
    layer = explorer.state["layer"]
    return _tiles(explorer, [explorer._row(layer)], f"layer {layer}")


def _tiles(explorer: AttentionExplorer, rows: list[int], what: str) -> Picture:
    """Pooled maps: a line for each layer, heads together that read one key/value head."""
    config, stage = explorer.heads.config, explorer.state["stage"]
    gap, between, left, right, bottom = 0.05, 0.12, 0.75, 0.95, 0.15
    n_gaps = config.n_heads - 1
    room = style.WIDTH - left - right - gap * n_gaps - between * (config.n_kv_heads - 1)
    side = room / config.n_heads
    top = style.HEADING + 0.3
    height = top + len(rows) * (side + gap) + bottom
    height = max(height, 2.2)
    figure = Picture(f"attention {stage} of {what}", style.WIDTH, height)
    block = explorer.overview_block() if len(rows) > 1 else explorer.heads.finest_block
    figure.heading(f"Attention {stage}, {what}", _pooling_in_words(explorer, block))
    levels = {
        (row, head): explorer.level(row, head, explorer._kind)
        for row in rows
        for head in explorer._all
    }
    limit = max(level.limit for level in levels.values())
    image: Any = None
    for line, row in enumerate(rows):
        layer = int(explorer.trace["layer"].values[row])
        down = height - top - line * (side + gap) - side
        figure.write(
            f"layer {layer}", f"layer {layer}", left - 0.08, down + side / 2 - 0.05, ha="right"
        )
        for head in range(config.n_heads):
            across = left + head * (side + gap) + config.kv_head_of_head[head] * between
            if line == 0:
                name = f"head {head}" if side > 0.55 else str(head)
                figure.write(name, name, across, height - top + 0.05, size=8.5)
            panel = figure.panel(f"layer {layer}, head {head}", across, down, side, side)
            panel.set_xticks([])
            panel.set_yticks([])
            level = levels[row, head].coarser(block)
            image = _draw_map(panel, level.values, stage, limit, by_root=level.by_root)
    figure.colour_bar(
        "colours", image, "", style.WIDTH - right + 0.2, bottom + 0.1, 0.12,
        max(height - top - bottom - 0.2, 0.6),
    )  # fmt: skip
    return figure


@styled
def _draw_head(explorer: AttentionExplorer) -> Picture:
    """The part of a map in view, pooled where it has more cells than the picture has pixels."""
    state, heads = explorer.state, explorer.heads
    stage, parts = state["stage"], explorer._part()
    block = block_for(state["span"], PICTURE_SIDE)
    row = explorer._row(state["layer"])
    cells, _ = finished(heads.pooling(row, state["head"], explorer._kind, block))
    queries, keys = (slice(part.start // block, -(-part.stop // block)) for part in parts)
    side, left, bottom = 5.6, 1.6, 1.5
    figure = Picture(
        f"attention {stage} of layer {state['layer']}, head {state['head']}",
        8.4, bottom + side + style.HEADING,
    )  # fmt: skip
    detail = f"reads key/value head {heads.config.kv_head_of_head[state['head']]}"
    if block > 1:
        detail += f"; each cell is the largest of {block} × {block}"
    figure.heading(f"Layer {state['layer']}, head {state['head']}: attention {stage}", detail)
    panel = figure.panel("map", left, bottom, side, side)
    limit = float(np.abs(cells).max()) or 1.0
    if explorer._kind == "scores" and not heads.by_root:  # one scale for the layer, as in the page
        limit = max(explorer.level(row, head, "scores").limit for head in explorer._all)
    later = np.greater.outer(np.arange(len(cells)), np.arange(len(cells))).T[queries, keys]
    by_root = heads.by_root
    image = _draw_map(panel, cells[queries, keys], stage, limit, later, by_root=by_root)
    if block == 1:
        tokens = [str(token) for token in explorer.trace["token"].values]
        style.token_axis(panel.xaxis, tokens[parts[1]], side, size=8)
        style.token_axis(panel.yaxis, tokens[parts[0]], side, size=8)
    else:
        panel.set_xticks([])
        panel.set_yticks([])
    panel.set_xlabel(f"key position: what is looked at{_range(parts[1], heads.n_positions)}")
    panel.set_ylabel(f"query position: who looks{_range(parts[0], heads.n_positions)}")
    figure.colour_bar("colours", image, "", left + side + 0.15, bottom, 0.14, side)
    return figure


def _range(part: slice, n_positions: int) -> str:
    """Which positions are in view, where not all of them are."""
    whole = part == slice(0, n_positions)
    return "" if whole else f" ({part.start} to {part.stop - 1} of {n_positions})"


@styled
def _draw_row(explorer: AttentionExplorer) -> Picture:
    """A bar for each key of one query."""
    state, heads = explorer.state, explorer.heads
    row, position = explorer._row(state["layer"]), state["position"]
    [(_, values, _)] = heads.rows(row, state["head"], explorer._kind, position, position + 1)
    token = style.shortened(str(explorer.trace["token"].values[position]))
    return _bars(
        values[0, : position + 1],
        f"Layer {state['layer']}, head {state['head']}: what {token} at position {position} sees",
        f"{state['stage']}, one bar for each key",
        [str(label) for label in explorer.trace["token"].values[: position + 1]],
    )


@styled
def _draw_product(explorer: AttentionExplorer) -> Picture:
    """What each pair of features adds to one score."""
    state, heads = explorer.state, explorer.heads
    row, head = explorer._row(state["layer"]), state["head"]
    queries, keys = heads.vectors(row, head)
    query, key = queries[state["position"]], keys[state["key_position"]]
    parts = (query * key).reshape(-1, 2).sum(axis=1) * heads.config.head_dim**-0.5
    return _bars(
        parts,
        f"Layer {state['layer']}, head {head}: query {state['position']} times key "
        f"{state['key_position']}",
        f"what each pair of features adds to the score; the sum is {parts.sum():.3g}",
    )


def _bars(values: np.ndarray, title: str, detail: str, tokens: list[str] | None = None) -> Picture:
    figure = Picture(title, style.WIDTH, 4.2)
    figure.heading(title, detail)
    panel = figure.panel("bars", 0.85, 1.2, style.WIDTH - 1.1, 4.2 - style.HEADING - 1.3)
    colours = np.where(values >= 0, style.QUALITATIVE[0], style.QUALITATIVE[1])
    panel.bar(np.arange(len(values)), values, color=colours, width=0.8, gid="values")
    panel.axhline(0, color=style.LINE, lw=0.8)
    panel.set_xlim(-0.6, len(values) - 0.4)
    if tokens is not None:
        style.token_axis(panel.xaxis, tokens, style.WIDTH - 1.1, size=8)
    else:
        panel.set_xlabel("pair of features, from the fastest rotation to the slowest")
    return figure


def _draw_map(
    panel: Axes,
    values: np.ndarray,
    stage: str,
    limit: float,
    later: np.ndarray | None = None,
    *,
    by_root: bool,
) -> Any:
    """A pooled map; blocks of later keys are grey where they are masked."""
    if later is None:
        later = np.triu(np.ones(values.shape, dtype=bool), k=1)
    if stage != "scores":
        values = np.where(later, np.nan, values)
        panel.set_facecolor(style.MASKED)
    weights = stage == "weights"
    probability = PowerNorm(0.5, 0, 1) if by_root else style.probability_scale()
    image = panel.imshow(
        values,
        cmap=style.PROBABILITY if weights else style.SIGNED,
        norm=probability if weights else style.signed_scale(np.array([limit])),
        aspect="auto",
        interpolation="nearest",
    )
    for spine in panel.spines.values():
        spine.set_visible(False)
    return image


def _pooling_in_words(explorer: AttentionExplorer, block: int) -> str:
    config = explorer.heads.config
    words = (
        f"{config.attention_kind}: {config.n_heads} query heads read {config.n_kv_heads} "
        "key/value heads"
    )
    if block > 1:
        words += f"; each cell is the largest of {block} × {block}"
    if explorer.heads.by_root and explorer._kind == "weights":
        words += "; colours by the square root"
    return words


_DRAW = {
    "model": _draw_model,
    "layer": _draw_layer,
    "head": _draw_head,
    "row": _draw_row,
    "product": _draw_product,
}
