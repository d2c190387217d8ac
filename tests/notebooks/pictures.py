"""Two pictures compared with an eye for a point: one drawn elsewhere differs in a few roundings."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KINDS = ("image/png", "image/jpeg")
TOLERANCE = 1.0  # root mean square over all points and colours, of 255


def pictures(outputs: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """The pictures among the outputs of a cell."""
    return [
        base64.b64decode(output["data"][kind])
        for output in outputs
        for kind in KINDS
        if kind in output.get("data", {})
    ]


def points(picture: bytes) -> np.ndarray:
    """(row, column, colour), 0 to 255, on white."""
    opened = Image.open(BytesIO(picture)).convert("RGBA")
    white = Image.new("RGBA", opened.size, "white")
    return np.asarray(Image.alpha_composite(white, opened).convert("RGB"), dtype=np.float64)


def difference(drawn: bytes, stored: bytes) -> str | None:
    """What is different between two pictures; None where they look the same."""
    now, before = points(drawn), points(stored)
    if now.shape != before.shape:
        return f"the size was {before.shape[1::-1]} and is {now.shape[1::-1]}"
    off = float(np.sqrt(np.mean((now - before) ** 2)))
    return f"off by {off:.2f} of 255, where {TOLERANCE} is allowed" if off > TOLERANCE else None


def differences(
    drawn: Iterable[Mapping[str, Any]], stored: Iterable[Mapping[str, Any]]
) -> list[str]:
    """What is different between the pictures that a cell draws and those that it stores."""
    now, before = pictures(drawn), pictures(stored)
    if len(now) != len(before):
        return [f"{len(before)} pictures are stored, {len(now)} were drawn"]
    found = (difference(*both) for both in zip(now, before, strict=True))
    return [f"picture {index}: {what}" for index, what in enumerate(found) if what]
