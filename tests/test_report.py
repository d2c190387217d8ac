"""The README's tables of speed are those that were measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from llama_viz.files import data_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report"] = module
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_what_was_measured(report):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    between = readme.partition(report.BEGIN)[2].partition(report.END)[0]
    assert between.strip() == report.text().strip()


def test_every_shape_and_program_is_in_the_table(report):
    stored = report.measured("decoding")
    table = report.decoding()
    for rows in stored["shapes"].values():
        for name, row in rows.items():
            assert f"| {name} |" in table
            low, median, high = row["times"]
            assert 0 < low <= median <= high
    assert {"decoding", "recording", "startup"} <= {
        path.stem for path in (data_folder() / "measurements").glob("*.json")
    }


def test_the_picture_has_a_bar_for_every_number(report):
    figure = report.picture()
    shapes = report.measured("decoding")["shapes"]
    for ax, rows in zip(figure.axes, shapes.values(), strict=True):
        widths = sorted(bar.get_width() for bar in ax.patches)
        assert widths == sorted(row["times"][1] for row in rows.values())
