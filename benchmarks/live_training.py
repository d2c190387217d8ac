"""The courses of the small training runs that notebook 11 runs live, as they go undisturbed.

    python benchmarks/live_training.py

Writes data/measurements/live_training.json, which notebook 11 draws until the reader has trained a
model of their own: one learns from the stories, one from a single small text file. Losses, scores
of heads and texts, no times: it may be run on a busy machine. A minute on one thread of the CPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from llama_viz.files import store_measurement
from llama_viz.training.corpus import example_text, read_corpus
from llama_viz.training.live import LiveRun


def course_of(run: LiveRun) -> dict[str, Any]:
    """The whole course of a run, with four digits: more than a figure shows."""
    while not run.done:
        if run.advance():
            print(run.step, f"{run.course.held_out[run.step]:.3f}", run.course.texts[run.step])
    course = run.course.to_dict()
    course |= {name: _rounded(course[name]) for name in ("train", "held_out", "references")}
    course["heads"] = {kind: _rounded(scores) for kind, scores in course["heads"].items()}
    return course


def _rounded(values: dict[Any, float]) -> dict[Any, float]:
    return {key: float(f"{value:.4g}") for key, value in values.items()}


def main() -> None:
    torch.set_num_threads(1)
    stories = course_of(LiveRun())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my_text.txt"
        path.write_text(example_text(), encoding="utf-8")
        text = course_of(LiveRun(read_corpus(path)))
    store_measurement(
        "live_training",
        threads=1,
        torch=torch.__version__,
        courses={"stories": stories, "text": text},
    )


if __name__ == "__main__":
    main()
