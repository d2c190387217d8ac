"""The README's tables of speed are those that were measured."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from llama_viz.files import DATA_VARIABLE, data_folder

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


ANSWER = {"median_ms": 12.4, "lowest_ms": 9.0, "highest_ms": 31.0}
SPREAD = {"median": 12.4, "lowest": 9.0, "highest": 31.0}
PAGE = {"bytes": 1_300_000, "lines": 0, "not_drawn": None, "seconds_to_make": 0.03,
        "seconds_to_draw": 0.5}  # fmt: skip

# What a benchmark stores, and what of it the report must say.
MORE = {
    "length": (
        {
            "bytes_per_second": 2e10, "rounds": 9,
            "shapes": {"S": {
                "seconds": {"64": 0.001, "2048": 0.002}, "a": [9e-4, 1e-3, 1.1e-3],
                "b": [2.5e-7, 3e-7, 4e-7], "bytes_per_position": 3072,
            }},
        },
        # 3,072 bytes at 20 GB a second are 0.1536 microseconds
        ["64 to 2,048 positions", "9 rounds", "20 GB a second",
         "| S | 1.00 ms | 0.30 µs (0.25 to 0.40) | 3,072 B, 0.15 µs |"],
    ),
    "explorer_latency": (
        {
            "events": {"6 x 8": {
                "allowed_ms": 50, "megabytes": 1.26, "seconds_to_save": 0.2,
                "seconds_to_open": 0.456, "actions": {"zoom": ANSWER},
            }},
            "bertviz": {
                "version": "1.4", "32": {"head_view": PAGE},
                "512": {"head_view": {**PAGE, "not_drawn": "not opened", "seconds_to_draw": None}},
            },
        },
        ["|  | 6 x 8 |", "| one page | 1.3 MB |", "| opens in | 0.46 s |",
         "| zoom | 12 ms (9 to 31) |", "beside BertViz 1.4",
         "| head_view | 1.3 MB, 0.03 s, 0.50 s | 1.3 MB, 0.03 s, not drawn |"],
    ),
    "long_context": (
        {
            "model": "smollm2-135m", "tokens": 4096, "threads": 1, "gigabytes": 2.345,
            "seconds_to_record": 17.0, "seconds_to_pool": 30.25, "answer_ms": None,
            "actions": {"another head": SPREAD},
        },
        ["4,096 tokens of smollm2-135m", "| 2.35 GB |", "| recorded in | 17.0 s |",
         "| another head | 12 ms (9 to 31) |"],
    ),
    "notebooks": (
        {"seconds": {"00_start_here": 44.6, "01_tokens": 75.4}},
        ["| 00_start_here | 45 s |", "| 01_tokens | 75 s |", "| all | 2.0 min |"],
    ),
}  # fmt: skip


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    """A copy of what is stored, without what only some machines measure."""
    folder = tmp_path / "measurements"
    shutil.copytree(data_folder() / "measurements", folder)
    for name in MORE:
        (folder / f"{name}.json").unlink(missing_ok=True)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return folder


def test_a_table_is_there_once_it_was_measured(report, measurements):
    without = report.text()
    assert set(report.MORE) == set(MORE)
    for name, (stored, said) in MORE.items():
        assert not any(words in without for words in said)
        (measurements / f"{name}.json").write_text(json.dumps(stored), encoding="utf-8")
        with_it = report.text()
        assert all(words in with_it for words in said), name
        (measurements / f"{name}.json").unlink()
    assert report.text() == without


def test_what_was_compiled_says_how_long_that_took(report, measurements):
    stored = report.measured("decoding")
    stored["shapes"]["S"]["llama_viz, compiled"] = {
        "seconds": 256 / 400, "times": [1.5, 1.6, 1.75], "before": 41.4,
    }  # fmt: skip
    (measurements / "decoding.json").write_text(json.dumps(stored), encoding="utf-8")
    row = "| llama_viz, compiled | 400, x1.60 (1.50 to 1.75), after 41 s |"
    assert row in report.decoding()
    del stored["shapes"]["S"]["llama_viz, compiled"]["before"]
    (measurements / "decoding.json").write_text(json.dumps(stored), encoding="utf-8")
    assert row.replace(", after 41 s", "") in report.decoding()


def test_what_the_kernel_answered_is_a_row_of_its_own(report, measurements):
    stored = {**MORE["long_context"][0], "answer_ms": SPREAD}
    (measurements / "long_context.json").write_text(json.dumps(stored), encoding="utf-8")
    assert "| kernel answers meanwhile | 12 ms (9 to 31) |" in report.text()


def test_the_line_over_length_is_that_of_the_seconds(monkeypatch):
    """Of seconds that lie on a line, each round's a and b; and bytes by closed formula."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import length

    rounds = [[a + 1e-6 * n for n in length.LENGTHS] for a in (0.001, 0.002, 0.003)]
    found = length.fitted(rounds)
    assert found["a"] == pytest.approx([0.0015, 0.002, 0.0025])
    assert found["b"] == pytest.approx([1e-6] * 3)
    assert found["seconds"][2048] == pytest.approx(0.002 + 2048e-6, rel=5e-3)
    # keys and values of 6 layers, 2 key/value heads of 32 features, 4 bytes each
    assert length.bytes_per_position(length.random_model("S")) == 2 * 6 * 2 * 32 * 4
