"""The attention explorer: from all heads at a glance down to one product of a query and a key.

The page computes scores and weights itself, from queries and keys as they were recorded. What it
gets besides is a summary of each layer: maps pooled to a few cells, since all maps in full would
not fit anywhere (2,048 tokens of 30 layers x 9 heads are 4.5 GB), and the normalizer of each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llama_viz.analysis import config_of, pick
from llama_viz.errors import unknown_name
from llama_viz.figures import style
from llama_viz.figures.style import Picture, styled
from llama_viz.widgets.explorer import Choice, Explorer, Field, trace_of
from llama_viz.widgets.messages import tokens_of
from llama_viz.widgets.packing import Packed, as_bytes, as_float16, as_int8, as_int16

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from matplotlib.axes import Axes

    from llama_viz.language_model import LanguageModel

VECTORS = ("query_rotated", "key_rotated")
VIEWS = ("model", "layer", "head", "row", "product")
STAGES = ("scores", "masked", "weights")
TEXT_SHOWS = ("head", "layer", "model")

# Cells of all pooled maps together; each has from 40 to 128 on a side.
OVERVIEW_CELLS = 150_000
ROWS_AT_ONCE = 256

# With fewer bytes than this in all, a live page gets every layer at once.
AT_ONCE_BYTES = 4_000_000
# What a page without a kernel may hold, so that it stays below 5 MB: base64 adds a third, and noise
# as dense as quantized vectors deflates by less than a tenth.
EXPORT_BYTES = 3_800_000
# A map that is larger is asked of the kernel, at the resolution that is shown.
LARGEST_SIDE = 2048


class Summary(NamedTuple):
    """What is kept of a layer: pooled maps of each head, and the normalizer of each row."""

    weights: np.ndarray  # (head, side, side): the largest weight of each block
    scores: np.ndarray | None  # the same: the score of the largest size, with its sign
    normalizer: np.ndarray | None  # (head, position): log of the sum of exp(score)
    limit: float  # the largest size of a score


class AttentionExplorer(Explorer):
    """See who looks at whom: all heads, one layer, one head, one row, one product.

    source is a trace with query_rotated and key_rotated (or attention_weights alone: then what
    needs queries and keys is left out), or a model, which reads the prompt once. The state is
    view, layer, head, position (the query), key_position, stage, and text_shows: whose weights
    colour the text.

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
        self._summaries: dict[int, Summary] = {}
        super().__init__(**state)

    def fields(self) -> Mapping[str, Field]:
        """What can be picked; without queries and keys there are weights only."""
        trace, heads = self.trace, self.heads
        layers = [int(layer) for layer in trace["layer"].values]
        positions = range(heads.n_positions)
        has_vectors = heads.has_vectors
        return {
            "view": Choice(VIEWS if has_vectors else VIEWS[:-1], "model"),
            "layer": Choice(layers, layers[0]),
            "head": Choice(range(heads.config.n_heads), 0),
            "position": Choice(positions, positions[-1]),
            "key_position": Choice(positions, 0),
            "stage": Choice(STAGES if has_vectors else STAGES[-1:], "weights"),
            "text_shows": Choice(TEXT_SHOWS, "head"),
        }

    # For the page

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sizes and tokens; all layers at once where they are small or nobody can ask later."""
        trace, config = self.trace, self.heads.config
        layers = [int(layer) for layer in trace["layer"].values]
        packing, kept = self._packing(whole)
        limits: dict[str, float] = {}
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
            "side": self.side,
            "digits": 2 if packing in ("int8", "uint8") else 3,
            "edited": bool(trace.attrs.get("edited")),
            "layers_held": [layers[row] for row in kept],
            "limits": limits,  # of the scores of each layer
        }
        arrays: dict[str, Any] = {}
        for row in kept:
            arrays |= _named(self._layer(row, packing), layers[row])
        if whole:
            for row, layer in enumerate(layers):
                limit, summary = self._packed_summary(row)
                limits[str(layer)] = limit
                if row not in kept:  # nothing is there to be normalized
                    summary.pop("normalizer", None)
                arrays |= _named(summary, layer)
        return header, arrays

    def answer_layer(self, layer: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Queries and keys of a layer (or its weights), exactly as recorded."""
        return {}, self._layer(self._row(layer), self._packing(whole=False)[0])

    def answer_summary(self, layer: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The pooled maps of a layer, and the normalizers of its rows."""
        limit, arrays = self._packed_summary(self._row(layer))
        return {"limit": limit}, arrays

    def answer_map(
        self, layer: int, head: int, stage: str, side: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """One map, pooled to as many cells as are shown."""
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
        row, head = self._row(layer), pick(self.trace, "head", head)
        side = min(max(int(side), 1), self.heads.n_positions, LARGEST_SIDE)
        weights, scores, _ = self.heads.pooled(row, head, side)
        if stage == "weights" or scores is None:
            return {}, {"map": as_bytes(weights)}
        limit = self.summary(row).limit
        return {}, {"map": _signed_bytes(scores, limit)}

    def answer_means(self, position: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Over all heads of all layers: what a position looked at, and who looked at it."""
        position = pick(self.trace, "position", position)
        row, column = self.heads.means(position, [self.summary(r) for r in self._rows])
        return {}, {"row": row, "column": column}

    @property
    def side(self) -> int:
        """Cells along each side of the pooled maps."""
        config = self.heads.config
        n_maps = len(self._rows) * config.n_heads
        n = self.heads.n_positions
        if n_maps * n**2 <= 3 * OVERVIEW_CELLS:
            return n
        return min(n, int(np.clip((OVERVIEW_CELLS / n_maps) ** 0.5, 40, 128)))

    def summary(self, row: int) -> Summary:
        """The summary of the layer in this row of the trace, computed once."""
        if row not in self._summaries:
            self._summaries[row] = self.heads.summary(row, self.side)
        return self._summaries[row]

    @property
    def _rows(self) -> range:
        return range(self.trace.sizes["layer"])

    def _row(self, layer: int) -> int:
        layers = self.trace["layer"].values.tolist()
        return layers.index(pick(self.trace, "layer", layer))

    def _packing(self, whole: bool) -> tuple[str, list[int]]:
        """How exactly layers are held, and which of them: all, or those next to the chosen one."""
        per_layer = self.heads.values_per_layer
        rows = list(self._rows)
        if not whole:
            fits = 4 * per_layer * len(rows) <= AT_ONCE_BYTES
            return "float32", rows if fits else []
        choices = (
            {"float32": 4, "int16": 2, "int8": 1}
            if self.heads.has_vectors
            else {"float16": 2, "uint8": 1}
        )
        n, heads = self.heads.n_positions, self.heads
        left = EXPORT_BYTES - 2 * self.side**2 * heads.config.n_heads * len(rows)
        # Each layer comes with its normalizers, and quantized vectors with their scales.
        beside = 4 * n * (2 * heads.config.n_heads + heads.config.n_kv_heads)
        for packing, size in choices.items():
            each = size * per_layer + beside
            if each * len(rows) <= left:
                return packing, rows
        chosen = self._row(self.state["layer"])
        nearest = sorted(rows, key=lambda row: (abs(row - chosen), row))
        return packing, sorted(nearest[: max(left // each, 0)])

    def _layer(self, row: int, packing: str) -> dict[str, Any]:
        pack = {
            "float32": lambda values: np.asarray(values, dtype=np.float32),
            "float16": as_float16,
            "int16": as_int16,
            "int8": as_int8,
            "uint8": as_bytes,
        }[packing]
        packed: dict[str, Any] = {
            name: pack(values) for name, values in self.heads.stored(row).items()
        }
        if packing == "int8":
            vectors = {name: one.values() for name, one in packed.items()}
            normalizer = self.summary(row).normalizer
            assert normalizer is not None
            packed |= self.heads.corrections(row, vectors, normalizer)
        return packed

    def _packed_summary(self, row: int) -> tuple[float, dict[str, np.ndarray | Packed]]:
        summary = self.summary(row)
        arrays: dict[str, np.ndarray | Packed] = {"weights": as_bytes(summary.weights)}
        if summary.scores is not None and summary.normalizer is not None:
            arrays["scores"] = _signed_bytes(summary.scores, summary.limit)
            arrays["normalizer"] = summary.normalizer
        return summary.limit, arrays

    # Without a kernel

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
        """The present view as a figure."""
        return _DRAW[self.state["view"]](self)


class Heads:
    """Scores and weights of single heads, a block of rows at a time, whatever a trace holds."""

    def __init__(self, trace: xr.Dataset) -> None:
        self.config = config_of(trace)
        has_vectors = all(name in trace for name in VECTORS)
        has_weights = "attention_weights" in trace
        if not (has_vectors or has_weights):
            raise ValueError(
                "the trace has neither query_rotated and key_rotated nor attention_weights; record "
                "it with lv.record(lm, prompt), which takes all of them"
            )
        # What somebody changed on the way cannot be computed again from queries and keys.
        edited = any("attention" in str(name) for name in trace.attrs.get("edited") or ())
        self.has_vectors = has_vectors and not (edited and has_weights)
        if self.has_vectors:
            self._query, self._key = (trace[name].values for name in VECTORS)
        else:
            self._weights = trace["attention_weights"].values
        self.n_positions = trace.sizes["position"]

    @property
    def values_per_layer(self) -> int:
        """How many numbers a page needs of a layer to compute it in full."""
        n, config = self.n_positions, self.config
        if self.has_vectors:
            return n * config.head_dim * (config.n_heads + config.n_kv_heads)
        return config.n_heads * n * (n + 1) // 2

    def stored(self, row: int) -> dict[str, np.ndarray]:
        """Queries and keys of a layer by head: (head, position, head_feature); or its weights.

        Weights are the lower triangle of each head, row after row.
        """
        if self.has_vectors:
            return {"query": self._query[row].swapaxes(0, 1), "key": self._key[row].swapaxes(0, 1)}
        lower = np.tril_indices(self.n_positions)
        return {"map": np.nan_to_num(self._weights[row][:, lower[0], lower[1]])}

    def scores(self, row: int, head: int, start: int, end: int) -> np.ndarray:
        """query · key / sqrt(head_dim) of the queries from start to end, for every key."""
        query = self._query[row, start:end, head].astype(np.float32)
        key = self._key[row, :, self.config.kv_head_of_head[head]].astype(np.float32)
        return query @ key.T * np.float32(self.config.head_dim**-0.5)

    def weights(
        self, row: int, head: int, start: int, end: int, scores: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights of these queries, and log of the sum of exp(score) of each."""
        if scores is None:
            return np.nan_to_num(self._weights[row, head, start:end]), np.zeros(end - start)
        later = np.arange(self.n_positions) > np.arange(start, end)[:, None]
        masked = np.where(later, -np.inf, scores)
        largest = masked.max(axis=1, keepdims=True)
        weights = np.exp(masked - largest, out=masked)
        total = weights.sum(axis=1, keepdims=True)
        return weights / total, (largest + np.log(total))[:, 0]

    def pooled(
        self, row: int, head: int, side: int
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """The map of a head in side x side cells: weights, scores, and the normalizers.

        A cell holds the largest weight of its block, and the score of the largest size: the mean
        would let a sharp stripe fade.
        """
        n = self.n_positions
        edges = np.arange(side + 1) * n // side
        weights = np.zeros((side, side), np.float32)
        scores = np.zeros((side, side), np.float32) if self.has_vectors else None
        normalizer = np.zeros(n, np.float32)
        for first, last in _cell_blocks(edges):
            start, end = edges[first], edges[last]
            block = self.scores(row, head, start, end) if self.has_vectors else None
            block_weights, normalizer[start:end] = self.weights(row, head, start, end, block)
            rows = edges[first:last] - start
            weights[first:last] = _largest(block_weights, rows, edges[:-1])
            if scores is not None and block is not None:
                high = _largest(block, rows, edges[:-1])
                low = -_largest(-block, rows, edges[:-1])
                scores[first:last] = np.where(high >= -low, high, low)
        return weights, scores, normalizer

    def corrections(
        self, row: int, vectors: dict[str, np.ndarray], normalizer: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Weights that rounded vectors would show wrong by more than half a 255th: few, and large.

        Returns their places, (head x positions + query) x positions + key, and the weights.
        """
        n, config = self.n_positions, self.config
        places, values = [], []
        for head in range(config.n_heads):
            query, key = vectors["query"][head], vectors["key"][config.kv_head_of_head[head]]
            for start in range(0, n, ROWS_AT_ONCE):
                end = min(start + ROWS_AT_ONCE, n)
                scores = query[start:end] @ key.T * np.float32(config.head_dim**-0.5)
                shown = np.exp(scores - normalizer[head, start:end, None])
                exact, _ = self.weights(row, head, start, end, self.scores(row, head, start, end))
                later = np.arange(n) > np.arange(start, end)[:, None]
                wrong = (np.abs(shown - exact) > 0.5 / 255) & ~later
                queries, keys = np.nonzero(wrong)
                places.append((head * n + start + queries) * n + keys)
                values.append(exact[wrong])
        weights = np.rint(np.concatenate(values) * 65535).astype(np.uint16)
        return {"corrected place": np.concatenate(places), "corrected weight": weights}

    def summary(self, row: int, side: int) -> Summary:
        """All heads of a layer, pooled."""
        pooled = [self.pooled(row, head, side) for head in range(self.config.n_heads)]
        weights = np.stack([one for one, _, _ in pooled])
        if not self.has_vectors:
            return Summary(weights, None, None, 1.0)
        scores = np.stack([one for _, one, _ in pooled if one is not None])
        normalizer = np.stack([one for _, _, one in pooled])
        return Summary(weights, scores, normalizer, float(np.abs(scores).max()) or 1.0)

    def means(self, position: int, summaries: list[Summary]) -> tuple[np.ndarray, np.ndarray]:
        """Mean weights over all heads of all layers: of a query's keys, and of a key's queries."""
        n, config = self.n_positions, self.config
        row_mean, column_mean = np.zeros(n), np.zeros(n)
        scale = config.head_dim**-0.5
        for row, summary in enumerate(summaries):
            for head in range(config.n_heads):
                if not self.has_vectors:
                    row_mean += np.nan_to_num(self._weights[row, head, position])
                    column_mean += np.nan_to_num(self._weights[row, head, :, position])
                    continue
                assert summary.normalizer is not None
                queries = self._query[row, position:, head]
                keys = self._key[row, : position + 1, config.kv_head_of_head[head]]
                normalizer = summary.normalizer[head]
                row_mean[: position + 1] += np.exp(keys @ queries[0] * scale - normalizer[position])
                column_mean[position:] += np.exp(queries @ keys[-1] * scale - normalizer[position:])
        n_heads = len(summaries) * config.n_heads
        return (row_mean / n_heads).astype("f4"), (column_mean / n_heads).astype("f4")


def _cell_blocks(edges: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cells from first to last, together of at most about ROWS_AT_ONCE rows."""
    first, n_cells = 0, len(edges) - 1
    while first < n_cells:
        last = first + 1
        while last < n_cells and edges[last + 1] - edges[first] <= ROWS_AT_ONCE:
            last += 1
        yield first, last
        first = last


def _largest(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The largest value of each block; rows and columns are where blocks begin."""
    return np.maximum.reduceat(np.maximum.reduceat(values, columns, axis=1), rows, axis=0)


def _signed_bytes(values: np.ndarray, limit: float) -> Packed:
    """Values from -limit to limit in steps of limit/127."""
    return Packed(np.rint(values / limit * 127).astype(np.int8), unit=limit / 127)


def _named(arrays: Mapping[str, Any], layer: int) -> dict[str, Any]:
    return {f"{name} {layer}": array for name, array in arrays.items()}


# The picture


@styled
def _draw_model(explorer: AttentionExplorer) -> Picture:
    return _tiles(explorer, list(explorer._rows), "all layers")


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
    figure.heading(f"Attention {stage}, {what}", _pooling_in_words(explorer))
    limit = max(explorer.summary(row).limit for row in rows)
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
            summary = explorer.summary(row)
            values = summary.weights if stage == "weights" else summary.scores
            assert values is not None
            image = _draw_map(panel, values[head], stage, limit)
    figure.colour_bar(
        "colours", image, "", style.WIDTH - right + 0.2, bottom + 0.1, 0.12,
        max(height - top - bottom - 0.2, 0.6),
    )  # fmt: skip
    return figure


@styled
def _draw_head(explorer: AttentionExplorer) -> Picture:
    """One map, pooled where it has more cells than the picture has pixels."""
    state, heads = explorer.state, explorer.heads
    n, stage = heads.n_positions, state["stage"]
    side_cells = min(n, 560)
    row = explorer._row(state["layer"])
    weights, scores, _ = heads.pooled(row, state["head"], side_cells)
    side, left, bottom = 5.6, 1.6, 1.5
    figure = Picture(
        f"attention {stage} of layer {state['layer']}, head {state['head']}",
        8.4, bottom + side + style.HEADING,
    )  # fmt: skip
    figure.heading(
        f"Layer {state['layer']}, head {state['head']}: attention {stage}",
        f"reads key/value head {heads.config.kv_head_of_head[state['head']]}",
    )
    panel = figure.panel("map", left, bottom, side, side)
    values = weights if stage == "weights" else scores
    assert values is not None
    image = _draw_map(panel, values, stage, explorer.summary(row).limit)
    if side_cells == n:
        tokens = [str(token) for token in explorer.trace["token"].values]
        style.token_axis(panel.xaxis, tokens, side, size=8)
        style.token_axis(panel.yaxis, tokens, side, size=8)
    else:
        panel.set_xticks([])
        panel.set_yticks([])
    panel.set_xlabel("key position: what is looked at")
    panel.set_ylabel("query position: who looks")
    figure.colour_bar("colours", image, "", left + side + 0.15, bottom, 0.14, side)
    return figure


@styled
def _draw_row(explorer: AttentionExplorer) -> Picture:
    """A bar for each key of one query."""
    state, heads = explorer.state, explorer.heads
    row, position = explorer._row(state["layer"]), state["position"]
    scores = None
    if heads.has_vectors:
        scores = heads.scores(row, state["head"], position, position + 1)
    weights, _ = heads.weights(row, state["head"], position, position + 1, scores)
    values = (weights if state["stage"] == "weights" or scores is None else scores)[0]
    token = style.shortened(str(explorer.trace["token"].values[position]))
    return _bars(
        values[: position + 1],
        f"Layer {state['layer']}, head {state['head']}: what {token} at position {position} sees",
        f"{state['stage']}, one bar for each key",
        [str(label) for label in explorer.trace["token"].values[: position + 1]],
    )


@styled
def _draw_product(explorer: AttentionExplorer) -> Picture:
    """What each pair of features adds to one score."""
    state, heads = explorer.state, explorer.heads
    row, head = explorer._row(state["layer"]), state["head"]
    query = heads.stored(row)["query"][head, state["position"]]
    key = heads.stored(row)["key"][heads.config.kv_head_of_head[head], state["key_position"]]
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


def _draw_map(panel: Axes, values: np.ndarray, stage: str, limit: float) -> Any:
    """A pooled map; blocks of later keys are grey where they are masked."""
    later = np.triu(np.ones(values.shape, dtype=bool), k=1)
    if stage != "scores":
        values = np.where(later, np.nan, values)
        panel.set_facecolor(style.MASKED)
    weights = stage == "weights"
    image = panel.imshow(
        values,
        cmap=style.PROBABILITY if weights else style.SIGNED,
        norm=style.probability_scale() if weights else style.signed_scale(np.array([limit])),
        aspect="auto",
        interpolation="nearest",
    )
    for spine in panel.spines.values():
        spine.set_visible(False)
    return image


def _pooling_in_words(explorer: AttentionExplorer) -> str:
    config, n = explorer.heads.config, explorer.heads.n_positions
    shared = (
        f"{config.attention_kind}: {config.n_heads} query heads read {config.n_kv_heads} "
        "key/value heads"
    )
    if explorer.side == n:
        return shared
    return f"{shared}; each cell is the largest of a block of {n / explorer.side:.1f}²"


_DRAW = {
    "model": _draw_model,
    "layer": _draw_layer,
    "head": _draw_head,
    "row": _draw_row,
    "product": _draw_product,
}
