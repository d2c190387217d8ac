"""The KV cache: keys and values that are already computed, and how many bytes they take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama_viz.config import ModelConfig
from llama_viz.errors import MemoryLimitError

if TYPE_CHECKING:
    from collections.abc import Sequence


class LayerCache:
    """Keys and values of one layer, each (batch, key_value_head, capacity, head_feature)."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._both: Tensor | None = None  # one buffer, of which keys and values are the halves
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._dropped: Tensor | None = None
        self.length = 0

    @property
    def keys(self) -> Tensor | None:
        """Rotated keys held, (batch, key_value_head, position, head_feature); None before any."""
        return None if self._keys is None else self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor | None:
        """The values held, (batch, key_value_head, position, head_feature); None before any."""
        return None if self._values is None else self._values[:, :, : self.length]

    @property
    def dropped(self) -> Tensor | None:
        """True at rows that attention does not see, (key_value_head, position); None: it sees all.

        A dropped row keeps its place, so that every other row keeps its position.
        """
        return None if self._dropped is None else self._dropped[:, : self.length]

    def hidden(self, n_queries: int) -> Tensor | None:
        """True where the last n_queries positions must not look, beside ahead; None: nowhere.

        (batch, key_value_head, query_position, key_position), batch and query_position 1 where they
        do not matter. A padded position sees itself, so that a number stands there; nobody else
        sees it.
        """
        hidden = None if self.dropped is None else self.dropped[None, :, None]
        if self._cache.padding is None or self._keys is None:
            return hidden
        padding = self._cache.padding.to(self._keys.device)
        key = torch.arange(self.length, device=padding.device)
        query = key[-n_queries:, None]
        padded = (key < padding[:, None, None]) & (key != query)
        padded = padded[:, None].expand(-1, self._keys.shape[1], -1, -1)
        return padded if hidden is None else padded | hidden

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self._cache.capacity

    def row_bytes(self, n_positions: int) -> int:
        """Bytes that this many positions take in one row of the batch; 0 before the first keys."""
        return self.bytes_reserved // self._cache.batch_size * n_positions // self._cache.capacity

    @property
    def bytes_used(self) -> int:
        """Bytes of the positions held, dropped rows included."""
        return self.bytes_reserved * self.length // self._cache.capacity

    @property
    def bytes_reserved(self) -> int:
        """Bytes of the buffers, held or not."""
        return 0 if self._keys is None else 2 * self._keys.nbytes

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write new rows after the cache's length and return all keys and values up to them.

        key and value: (batch, key_value_head, position, head_feature), the new positions only.
        """
        if self._keys is None or self._values is None:
            self._both = self._cache._reserve(key)
            self._keys, self._values = self._both
        start, end = self._grow(key.shape[2])
        self._keys[:, :, start:end] = key
        self._values[:, :, start:end] = value
        return self._keys[:, :, :end], self._values[:, :, :end]

    def append_both(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """append() of keys and values that lie in one tensor, in one copy.

        rows: (2, batch, key_value_head, position, head_feature), first the keys.
        """
        if self._both is None:
            return self.append(rows[0], rows[1])
        start, end = self._grow(rows.shape[3])
        self._both.narrow(3, start, end - start).copy_(rows)
        keys, values = self._both.narrow(3, 0, end).unbind()
        return keys, values

    def _grow(self, n_positions: int) -> tuple[int, int]:
        """Take in so many new positions: from where to where."""
        start = self._cache.length
        end = self.length = start + n_positions
        if self._dropped is not None:
            self._dropped[:, start:end] = False
        return start, end

    def drop(self, kv_heads: Tensor, positions: Tensor) -> None:
        """Let attention no longer see these rows, of every text in the batch.

        kv_heads and positions: LongTensors of rows held. Raises ValueError for an empty cache.
        """
        if self._keys is None:
            raise ValueError("the cache is empty: there is nothing to drop")
        if not len(positions):
            return
        if self._dropped is None:
            shape = self._keys.shape[1:3]
            with torch.inference_mode(False):  # so that any later pass may write to it
                self._dropped = torch.zeros(shape, dtype=torch.bool, device=self._keys.device)
        self._dropped[kv_heads[:, None], positions] = True


class KVCache:
    """Room for the keys and values of `capacity` positions (default: the context) in every layer.

    dtype and device are those of the first keys appended, unless given. A pass over new positions
    appends to every layer; until the last layer has them, `length` still says where the pass began,
    so a pass that fails halfway can simply be run again.

    padding says how many of the first positions of each row of the batch mean nothing: texts of
    unequal length are padded on the left, so that all end together.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int = 1,
        capacity: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        padding: Sequence[int] | None = None,
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.capacity = config.max_seq_len if capacity is None else capacity
        for name, number in (("batch_size", batch_size), ("capacity", self.capacity)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
        self._dtype = dtype
        self._device = None if device is None else torch.device(device)
        self.padding = None if padding is None else self._checked(padding)
        self.layers = [LayerCache(self) for _ in range(config.n_layers)]
        self.operations: list[str] = []  # names of what surgery.operate() has done to it

    @property
    def length(self) -> int:
        """Positions that every layer holds."""
        return self.layers[-1].length

    @property
    def bytes_used(self) -> int:
        """Bytes of the positions held, all layers together."""
        return sum(layer.bytes_used for layer in self.layers)

    @property
    def bytes_reserved(self) -> int:
        """Bytes of all buffers; 0 until the first keys arrive."""
        return sum(layer.bytes_reserved for layer in self.layers)

    def check_room(self, batch_size: int, n_positions: int) -> None:
        """Raise ValueError unless `n_positions` more positions of `batch_size` rows fit."""
        if batch_size != self.batch_size:
            raise ValueError(
                f"the cache holds a batch of {self.batch_size}, got {batch_size}; make it with "
                f"batch_size={batch_size}"
            )
        if self.length + n_positions > self.capacity:
            raise ValueError(
                f"the KV cache is full: it holds {self.length} of {self.capacity} positions and "
                f"{n_positions} more do not fit; make it with a larger capacity"
            )

    def check_model(self, config: ModelConfig) -> None:
        """Raise ValueError unless the keys and values of such a model are what it was made for."""
        for name in ("n_layers", "n_kv_heads", "head_dim"):
            ours, theirs = getattr(self.config, name), getattr(config, name)
            if ours != theirs:
                raise ValueError(
                    f"the cache is for a model with {name} {ours}, this one has {theirs}; make it "
                    "with the model's own config"
                )

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on; raises ValueError where fewer are held."""
        if not 0 <= length <= self.length:
            raise ValueError(
                f"cannot truncate to {length}: the cache holds {self.length} positions; choose "
                f"0 to {self.length}"
            )
        for layer in self.layers:
            layer.length = length

    def _checked(self, padding: Sequence[int]) -> Tensor:
        rows = [int(n) for n in padding]
        if len(rows) != self.batch_size or not all(0 <= n < self.capacity for n in rows):
            raise ValueError(
                f"padding must give each of {self.batch_size} rows a number from 0 to "
                f"{self.capacity - 1}, got {rows}"
            )
        if self.config.rope_scaling is not None and self.config.rope_scaling.kind == "dynamic":
            raise ValueError(
                "dynamic rope scaling turns each length by angles of its own: texts of unequal "
                "length cannot share a pass; run them one by one"
            )
        return torch.tensor(rows)

    def _reserve(self, like: Tensor) -> Tensor:
        """Room for the keys and the values of a layer."""
        shape = (2, self.batch_size, self.config.n_kv_heads, self.capacity, self.config.head_dim)
        dtype, device = self._dtype or like.dtype, self._device or like.device
        try:
            return torch.zeros(shape, dtype=dtype, device=device)
        except RuntimeError as error:  # on every device another kind of it
            n_bytes = self.config.n_layers * math.prod(shape) * dtype.itemsize
            raise MemoryLimitError(
                f"there is no room for a KV cache of {self.capacity} positions ({n_bytes:,} "
                "bytes); write fewer tokens"
            ) from error
