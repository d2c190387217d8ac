"""Attention maps that are too large to hold, from queries and keys: pooled, and row by row.

The maps of 4,096 tokens of 30 layers x 9 heads are 18 GB in float32; their queries and keys are
0.4 GB. So a map is computed a block of rows at a time, and what is kept of it is a level: one byte
for each block of cells. Coarser levels follow from it, finer ones are computed where they are
looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from llama_viz.analysis import config_of

if TYPE_CHECKING:
    from collections.abc import Generator

    import xarray as xr

VECTORS = ("query_rotated", "key_rotated")
KINDS = ("weights", "scores")

# The finest level that is kept has at most so many cells on a side: 0.3 MB for each head and kind.
FINEST_SIDE = 512
# Numbers of a map that are computed at once, 2 MB in float32: some milliseconds, so that a kernel
# that works in between on what its page asks answers within a tenth of a second.
NUMBERS_AT_ONCE = 2**19
# From so many tokens on most weights are far below 1/255, and colours go by the square root.
LONG = 640

Result = TypeVar("Result")


def finished(work: Generator[None, None, Result]) -> Result:
    """What work in slices returns, all slices done at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


class Level(NamedTuple):
    """A map in cells of block x block, a byte each: the largest weight, or the largest score.

    Cells are uint8 steps of the weight (of its square root where by_root), or int8 steps of
    limit / 127 of the score of the largest size. The last cells may hold fewer positions.
    """

    cells: np.ndarray  # (side, side)
    block: int
    limit: float
    by_root: bool
    normalizer: np.ndarray | None  # of each row, where the weights were computed

    @classmethod
    def of(
        cls, values: np.ndarray, block: int, by_root: bool, normalizer: np.ndarray | None
    ) -> Level:
        """The level that holds these pooled values; weights come with their normalizer."""
        if normalizer is not None:
            steps = np.rint((np.sqrt(values) if by_root else values) * 255)
            return cls(steps.astype(np.uint8), block, 1.0, by_root, normalizer)
        limit = float(np.abs(values).max()) or 1.0
        return cls(np.rint(values / limit * 127).astype(np.int8), block, limit, by_root, None)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.cells.nbytes + (0 if self.normalizer is None else self.normalizer.nbytes)

    @property
    def values(self) -> np.ndarray:
        """The weights or scores that its bytes stand for."""
        if self.cells.dtype == np.int8:
            return self.cells.astype(np.float32) * np.float32(self.limit / 127)
        weights = self.cells.astype(np.float32) / 255
        return weights**2 if self.by_root else weights

    def coarser(self, block: int) -> Level:
        """The level whose blocks are so large: a whole number of times its own."""
        if block == self.block:
            return self
        return self._replace(cells=largest(self.cells, block // self.block), block=block)


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
        # Variables, not arrays: of a trace that lies on a disk only what is asked for is read.
        if self.has_vectors:
            self._query, self._key = (trace[name].variable for name in VECTORS)
        else:
            self._weights = trace["attention_weights"].variable
        self.n_positions: int = trace.sizes["position"]
        self.by_root = self.n_positions > LONG

    @property
    def finest_block(self) -> int:
        """Positions along each side of a cell of the finest level that is kept: a power of 2."""
        return block_for(self.n_positions, FINEST_SIDE)

    def vectors(self, row: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """The queries of a head and the keys that it reads, each (position, head_feature)."""
        group = self.config.kv_head_of_head[head]
        query, key = self._query[row, :, head].values, self._key[row, :, group].values
        return np.ascontiguousarray(query, np.float32), np.ascontiguousarray(key, np.float32)

    def triangle(self, row: int, head: int) -> np.ndarray:
        """The recorded weights up to each query, row after row; a row that was dropped is 0."""
        lower = np.tril_indices(self.n_positions)
        recorded: np.ndarray = self._weights[row, head].values[lower]
        return np.nan_to_num(recorded)

    def rows(
        self, row: int, head: int, kind: str, start: int = 0, end: int | None = None, step: int = 1
    ) -> Generator[tuple[int, np.ndarray, np.ndarray]]:
        """Scores or weights of the queries from start to end, some rows at a time.

        Each time the first query, the rows, and log of the sum of exp(score) of each (0 where there
        are no scores). A number of rows is a whole number of steps. Weights go up to the last query
        of the rows, since later keys have none; scores take all keys.
        """
        n = self.n_positions
        end = n if end is None else end
        at_once = max(NUMBERS_AT_ONCE // n // step, 1) * step
        if self.has_vectors:
            query, key = self.vectors(row, head)
            query *= np.float32(self.config.head_dim**-0.5)
        for first in range(start, end, at_once):
            last = min(first + at_once, end)
            if not self.has_vectors:
                recorded = self._weights[row, head, first:last, :last].values
                yield first, np.nan_to_num(recorded).astype(np.float32), np.zeros(last - first)
            elif kind == "scores":
                yield first, query[first:last] @ key.T, np.zeros(last - first)
            else:
                yield first, *_softmax(query[first:last] @ key[:last].T, first)

    def pooling(
        self, row: int, head: int, kind: str, block: int
    ) -> Generator[None, None, tuple[np.ndarray, np.ndarray | None]]:
        """A map in blocks, in slices: the largest of each block, and the normalizers for weights.

        The largest, not the mean: the mean would let a sharp stripe fade. Of scores it is the one
        of the largest size, with its sign.
        """
        n = self.n_positions
        side = -(-n // block)
        cells = np.zeros((side, side), np.float32)
        normalizer = np.zeros(n, np.float32)
        for first, values, normalizers in self.rows(row, head, kind, step=block):
            pooled = largest(values, block)
            at = first // block
            cells[at : at + len(pooled), : pooled.shape[1]] = pooled
            normalizer[first : first + len(values)] = normalizers
            yield
        return cells, normalizer if kind == "weights" else None

    def level(self, row: int, head: int, kind: str) -> Generator[None, None, Level]:
        """The finest level of a map, in slices."""
        block = self.finest_block
        cells, normalizer = yield from self.pooling(row, head, kind, block)
        return Level.of(cells, block, self.by_root, normalizer)

    def means(
        self, position: int, row: int, head: int, normalizer: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights of a query up to itself, and those of the key there in each later query."""
        if not self.has_vectors:
            seen = self._weights[row, head, position, : position + 1].values
            column = self._weights[row, head, position:, position].values
            return np.nan_to_num(seen), np.nan_to_num(column)
        query, key = self.vectors(row, head)
        scale = np.float32(self.config.head_dim**-0.5)
        seen = np.exp(key[: position + 1] @ query[position] * scale - normalizer[position])
        column = np.exp(query[position:] @ key[position] * scale - normalizer[position:])
        return seen, column

    def strongest(self, row: int, head: int, position: int) -> tuple[int, float]:
        """The key that a query looks at most, and the weight."""
        [(_, weights, _)] = self.rows(row, head, "weights", position, position + 1)
        best = int(weights[0].argmax())
        return best, float(weights[0, best])


def block_for(n_positions: int, n_cells: float) -> int:
    """The smallest power of 2 by which so many positions are at most so many blocks."""
    block = 1
    while -(-n_positions // block) > max(n_cells, 1):
        block *= 2
    return block


def largest(values: np.ndarray, block: int) -> np.ndarray:
    """The value of the largest size in each block x block; the last blocks may be smaller."""
    if block == 1:
        return values
    rows, columns = (np.arange(0, size, block) for size in values.shape)

    def reduced(pick: np.ufunc) -> np.ndarray:
        pooled: np.ndarray = pick.reduceat(pick.reduceat(values, columns, axis=1), rows, axis=0)
        return pooled

    high = reduced(np.maximum)
    if not high.size or values.min() >= 0:
        return high
    low = reduced(np.minimum)
    return np.where(high >= -low, high, low)


def _softmax(scores: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of queries from first on, in place of their scores; and log of the sums of exp."""
    n_rows = len(scores)
    diagonal = scores[:, first : first + n_rows]
    diagonal[np.triu_indices(n_rows, 1, diagonal.shape[1])] = -np.inf
    most = scores.max(axis=1, keepdims=True)
    scores -= most
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    return scores, (most + np.log(total))[:, 0]
