"""The pictures that the notebooks store are those that they draw: how they are compared.

nbval runs every cell, and notebooks/conftest.py lets it compare the pictures as well.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from notebooks import execute
from tests.notebooks.pictures import difference, differences

ROOT = Path(__file__).parents[2]
REFERENCES = sorted((ROOT / "data" / "figures").glob("*.npz"))


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_every_reference_belongs_to_a_figure(path):
    sources = [
        cell.source
        for notebook in execute.notebooks()
        for cell in nbformat.read(notebook, as_version=4).cells
    ]
    assert any(f'"{path.stem}"' in source for source in sources), f"no notebook draws {path.name}"


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def output(picture: bytes) -> nbformat.NotebookNode:
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": "a picture"}
    return nbformat.v4.new_output("display_data", data)


def test_a_rounded_colour_passes_and_a_moved_label_does_not():
    page = np.full((400, 900, 3), 255)
    page[50:350, 100:800] = np.linspace(0, 255, 700)[:, None]
    rounded = page.copy()
    rounded[::7, ::5] = np.clip(rounded[::7, ::5] - 1, 0, 255)
    assert difference(png(page), png(rounded)) is None
    label, moved = page.copy(), page.copy()
    label[370:380, 300:330] = 0
    moved[370:380, 305:335] = 0
    assert "off by" in difference(png(label), png(moved))
    assert difference(png(page), png(page[:-1])) == "the size was (900, 399) and is (900, 400)"


def test_every_picture_of_a_cell_is_compared():
    black, white = (png(np.full((20, 30, 3), colour)) for colour in (0, 255))
    assert differences([output(black), output(white)], [output(black), output(white)]) == []
    (found,) = differences([output(black), output(white)], [output(black), output(black)])
    assert found.startswith("picture 1: off by 255.00")
    assert differences([], [output(black)]) == ["1 pictures are stored, 0 were drawn"]


@pytest.mark.parametrize("colour", ["black", "white"])
def test_nbval_sees_another_picture(colour, tmp_path):
    """A cell that draws black is run by nbval, with a black picture stored, then with a white."""
    draws = (
        "from PIL import Image\n"
        "from IPython.display import Image as Shown\n"
        "from io import BytesIO\n"
        "file = BytesIO(); Image.new('RGB', (30, 20), 'black').save(file, 'png')\n"
        "Shown(file.getvalue())"
    )
    pixels = np.full((20, 30, 3), {"black": 0, "white": 255}[colour])
    data = {**output(png(pixels)).data, "text/plain": "<IPython.core.display.Image object>"}
    shown = nbformat.v4.new_output("execute_result", data, execution_count=1)
    cell = nbformat.v4.new_code_cell(draws, outputs=[shown], execution_count=1)
    path = tmp_path / "drawn.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "notebooks.conftest", "--nbval",
         "--nbval-current-env", "--rootdir", str(tmp_path), "-c", os.devnull, str(path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == (0 if colour == "black" else 1), ran.stdout + ran.stderr
    assert ("picture 0: off by 255.00" in ran.stdout) == (colour == "white"), ran.stdout
