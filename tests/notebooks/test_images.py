"""The pictures that the notebooks store are those that they draw, seen with an eye for a point.

The data behind the figures is compared in the notebooks themselves; this holds their look: a wrong
colour, a label that moved, a legend that covers something.
"""

from __future__ import annotations

import base64
import os
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from notebooks import execute

ROOT = Path(__file__).parents[2]
NOTEBOOKS = execute.notebooks()
REFERENCES = sorted((ROOT / "data" / "figures").glob("*.npz"))
TOLERANCE = 1.0  # root mean square over all points and colours, of 255


def stored_pictures(notebook: nbformat.NotebookNode) -> dict[str, list[bytes]]:
    """The pictures of every code cell, by the number of the cell; those measured live left out."""
    return {
        f"cell {number}": [
            base64.b64decode(output["data"][kind])
            for output in cell.outputs
            for kind in ("image/png", "image/jpeg")
            if kind in output.get("data", {})
        ]
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and "live" not in execute.tags(cell)
    }


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook run afresh, in the way that its outputs were stored."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    environment = {**os.environ, **execute.KERNEL_ENVIRONMENT}
    environment.pop("LLAMA_VIZ_WRITE_FIGURES", None)  # a test writes no references
    client = NotebookClient(
        notebook,
        timeout=execute.SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
    )
    return client.execute(env=environment)


def points(png: bytes) -> np.ndarray:
    """(row, column, colour), 0 to 255, on white."""
    picture = Image.open(BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"), dtype=np.float64)


def difference(first: bytes, second: bytes) -> float:
    """Root mean square difference of two pictures of one size, of 255."""
    a, b = points(first), points(second)
    assert a.shape == b.shape, f"the size was {b.shape[1::-1]} and is {a.shape[1::-1]}"
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_stored_picture_is_the_one_that_is_drawn(path):
    stored = stored_pictures(nbformat.read(path, as_version=4))
    drawn = stored_pictures(executed(path))
    for cell, pictures in stored.items():
        assert len(drawn[cell]) == len(pictures), f"{path.name}, {cell}"
        for index, (now, before) in enumerate(zip(drawn[cell], pictures, strict=True)):
            off = difference(now, before)
            assert off <= TOLERANCE, f"{path.name}, {cell}, picture {index}: off by {off:.2f}"


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_every_reference_belongs_to_a_figure(path):
    sources = [
        cell.source
        for notebook in NOTEBOOKS
        for cell in nbformat.read(notebook, as_version=4).cells
    ]
    assert any(f'"{path.stem}"' in source for source in sources), f"no notebook draws {path.name}"


# The comparison itself


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def test_a_rounded_colour_passes_and_a_moved_label_does_not():
    page = np.full((400, 900, 3), 255)
    page[50:350, 100:800] = np.linspace(0, 255, 700)[:, None]
    rounded = page.copy()
    rounded[::7, ::5] = np.clip(rounded[::7, ::5] - 1, 0, 255)
    assert difference(png(page), png(rounded)) <= TOLERANCE
    label, moved = page.copy(), page.copy()
    label[370:380, 300:330] = 0
    moved[370:380, 305:335] = 0
    assert difference(png(label), png(moved)) > TOLERANCE
    with pytest.raises(AssertionError, match="the size was"):
        difference(png(page), png(page[:-1]))


def test_a_picture_measured_live_is_left_out():
    output = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(b"p").decode()})
    cells = [nbformat.v4.new_code_cell("x", outputs=[output]) for _ in range(3)]
    cells[1].metadata["tags"] = ["live", "nbval-ignore-output"]
    cells[2].metadata["tags"] = ["nbval-ignore-output"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert stored_pictures(notebook) == {"cell 0": [b"p"], "cell 2": [b"p"]}
