"""Rows of numbers that stand for tokens: how alike they are, who is next to whom, a flat map."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from llama_viz.language_model import LanguageModel


class Agreement(NamedTuple):
    """The share of rows whose nearest other row is of their own class, and that share by chance."""

    share: float
    by_chance: float


class Projection(NamedTuple):
    """Rows on few axes: points (row, axis), and the share of all variance that each axis shows."""

    points: np.ndarray
    shares: np.ndarray


def token_tables(
    lm: LanguageModel, classes: Mapping[str, Sequence[int]] | None = None
) -> xr.Dataset:
    """The two matrices of a model that have a row for each token, labelled.

    embedding is what a token is on its way in, output_head what the last stream is compared with to
    score a token: both (token_id, feature), one and the same where the model ties them. Coordinates
    are the token's text and its word_class, which is empty for ids that no class names. Raises
    ValueError for a model without a tokenizer.
    """
    if lm.tokenizer is None:
        raise ValueError("the model has no tokenizer to name its tokens; load it with tokenizer=")
    named = np.full(lm.config.vocab_size, "", dtype=object)
    for name, ids in (classes or {}).items():
        named[list(ids)] = name
    labels = [lm.tokenizer.label(token_id) for token_id in range(lm.config.vocab_size)]
    tables = {"embedding": lm.model.embedding.weight, "output_head": lm.model.output.weight}
    return xr.Dataset(
        {
            name: (("token_id", "feature"), table.detach().float().cpu().numpy().copy())
            for name, table in tables.items()
        },
        {
            "token_id": np.arange(lm.config.vocab_size),
            "token": ("token_id", np.array(labels, dtype=object)),
            "word_class": ("token_id", named),
        },
    )


def cosine(rows: ArrayLike, others: ArrayLike | None = None) -> np.ndarray:
    """The cosine of the angle between every row and every other one: 1 is the same direction.

    rows and others are (row, feature); others None compares the rows with each other. A row of
    zeros has no direction: its cosines are NaN.
    """
    return _directions(rows) @ _directions(rows if others is None else others).T


def nearest(table: ArrayLike, row: int, count: int = 8) -> list[tuple[int, float]]:
    """The rows whose direction is most like that of one row, itself left out, with the cosines."""
    likeness = cosine(np.asarray(table)[[row]], table)[0]
    order = [int(other) for other in np.argsort(-likeness, kind="stable") if other != row]
    return [(other, float(likeness[other])) for other in order[:count]]


def agreement(rows: ArrayLike, classes: Sequence[str]) -> Agreement:
    """How often a row's nearest other row, by cosine, is of the same class.

    Chance is what would be if the nearest row were any other one. Raises ValueError unless every
    row has a class and there are at least two.
    """
    rows, named = np.asarray(rows), np.asarray(classes)
    if len(rows) != len(named) or len(rows) < 2:
        raise ValueError(f"expected a class for each of at least two rows, got {len(rows)} rows "
                         f"and {len(named)} classes")  # fmt: skip
    likeness = cosine(rows)
    np.fill_diagonal(likeness, -np.inf)
    same = named[:, None] == named
    share = same[np.arange(len(rows)), likeness.argmax(axis=1)].mean()
    return Agreement(float(share), float((same.sum(axis=1) - 1).mean() / (len(rows) - 1)))


def project(rows: ArrayLike, n_axes: int = 2) -> Projection:
    """The rows on the axes along which they differ most: principal components (Pearson 1901).

    An axis has no sign of its own: it is turned so that its largest number is positive. Raises
    ValueError where there are fewer rows or features than axes.
    """
    centred = np.asarray(rows, dtype=np.float64)
    if min(centred.shape) < n_axes:
        raise ValueError(f"{n_axes} axes need as many rows and features, got {centred.shape}")
    centred = centred - centred.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:n_axes]
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(n_axes), largest])[:, None]
    square = lengths**2
    return Projection(centred @ axes.T, square[:n_axes] / max(square.sum(), np.finfo(float).tiny))


def _directions(rows: ArrayLike) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
