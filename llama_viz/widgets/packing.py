"""Arrays on their way to a page: small, exact enough, and described so that it can read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a page can read; anything else is converted to the nearest of these.
PAGE_TYPES = ("uint8", "int8", "uint16", "int16", "int32", "float16", "float32")
_CONVERTED = {"bool": "uint8", "int64": "int32", "float64": "float32"}


class Packed(NamedTuple):
    """An array as it is stored: value = stored x unit, or x the scale of its vector."""

    stored: np.ndarray
    unit: float | None = None
    scale: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """What the page will read, as float32."""
        stored = self.stored.astype(np.float32)
        if self.unit is not None:
            return stored * np.float32(self.unit)
        return stored if self.scale is None else stored * self.scale[..., None]


def as_bytes(values: Any) -> Packed:
    """Values from 0 to 1 in steps of 1/255; NaN is 0."""
    stored = np.rint(np.nan_to_num(np.asarray(values)) * 255).astype(np.uint8)
    return Packed(stored, unit=1 / 255)


def as_int16(vectors: Any) -> Packed:
    """Vectors along the last axis in steps of 1/32767 of the largest size in each; NaN is 0."""
    vectors = np.nan_to_num(np.asarray(vectors, dtype=np.float32))
    scale = (np.abs(vectors).max(axis=-1) / np.iinfo(np.int16).max).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1)[..., None]
    return Packed(np.rint(vectors / divisor).astype(np.int16), scale=scale)


def as_float16(values: Any) -> Packed:
    """Values with three to four digits; what is too large for that becomes infinite."""
    with np.errstate(over="ignore"):
        return Packed(np.asarray(values).astype(np.float16))


def packed_message(
    arrays: Mapping[str, np.ndarray | Packed],
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Descriptions and bytes, in one order: a scale stands before the array that it belongs to.

    Numbers are little-endian, in C order. Raises TypeError for a type that no page can read.
    """
    specs: list[dict[str, Any]] = []
    buffers: list[bytes] = []

    def add(name: str, values: np.ndarray, **more: Any) -> None:
        kind = _CONVERTED.get(values.dtype.name, values.dtype.name)
        if kind not in PAGE_TYPES:
            raise TypeError(
                f"array {name!r} is {values.dtype}; a page reads {', '.join(PAGE_TYPES)}"
            )
        if kind == "int32" and values.size and np.abs(values).max() > np.iinfo(np.int32).max:
            raise ValueError(f"array {name!r} holds numbers that do not fit into 32 bits")
        stored = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
        specs.append({"name": name, "dtype": kind, "shape": list(values.shape), **more})
        buffers.append(stored.tobytes())

    for name, array in arrays.items():
        packed = array if isinstance(array, Packed) else Packed(np.asarray(array))
        if packed.scale is not None:
            add(f"{name} scale", packed.scale, scales=name)
        add(name, packed.stored, **({} if packed.unit is None else {"unit": packed.unit}))
    return specs, buffers
