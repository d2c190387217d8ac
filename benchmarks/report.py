"""The README's tables of speed, from what the benchmarks have stored.

python benchmarks/report.py           # prints the tables and draws benchmarks/decoding.svg
python benchmarks/report.py --write   # and puts them into README.md, between its marks
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from llama_viz.figures import style
from llama_viz.files import data_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed: benchmarks/report.py --write -->", "<!-- end of speed -->"
PEER = "transformers"


def measured(name: str) -> dict[str, Any]:
    """What a benchmark has stored."""
    return json.loads((data_folder() / "measurements" / f"{name}.json").read_text("utf-8"))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, marks, *rows))


def _times(low: float, median: float, high: float) -> str:
    return f"x{median:.2f} ({low:.2f} to {high:.2f})"


def decoding() -> str:
    """Tokens a second of every program, and how many times transformers' that is."""
    stored = measured("decoding")
    shapes, n_new = stored["shapes"], stored["new_tokens"]
    names = list(dict.fromkeys(name for rows in shapes.values() for name in rows))
    rows = []
    for name in names:
        cells = [name]
        for shape, found in shapes.items():
            if name not in found:
                cells.append("")
                continue
            speed = n_new[shape] / found[name]["seconds"]
            ratio = "" if name == PEER else f", {_times(*found[name]['times'])}"
            cells.append(f"{speed:.0f}{ratio}")
        rows.append(cells)
    return table(["tokens a second", *shapes], rows)


def recording() -> str:
    """Milliseconds of a pass and what recording it costs beside the same program's plain pass."""
    stored = measured("recording")
    shapes = stored["shapes"]
    names = list(dict.fromkeys(name for rows in shapes.values() for name in rows))
    rows = []
    for name in names:
        cells = [name]
        for found in (shapes[shape].get(name) for shape in shapes):
            if found is None:
                cells.append("")
                continue
            low, median, high = (1 / times for times in reversed(found["times"]))
            is_plain = "," not in name
            ratio = "" if is_plain else f", {_times(low, median, high)}"
            kept = f", {found['bytes'] / 1e6:.0f} MB" if "bytes" in found else ""
            cells.append(f"{1000 * found['seconds']:.1f} ms{ratio}{kept}")
        rows.append(cells)
    return table([f"a pass over {stored['tokens']} tokens", *shapes], rows)


def startup() -> str:
    """Seconds of imports in fresh processes."""
    seconds = measured("startup")["seconds"]
    rows = [[name, f"{median:.2f} s ({low:.2f} to {high:.2f})"]
            for name, (low, median, high) in seconds.items()]  # fmt: skip
    return table(["import of", "seconds"], rows)


def text() -> str:
    """All tables, with the machine that they were measured on."""
    stored = measured("decoding")
    reads = stored["bytes_per_second"] / 1e9
    return "\n\n".join((
        f"Measured on {stored['processor']}, {stored['threads']} threads, PyTorch "
        f"{stored['torch']}, which reads {reads:.0f} GB a second from memory; batch 1, float32 "
        f"where nothing else is said, medians of {stored['rounds']} rounds in turns. Behind x "
        f"stands how many times {PEER}' speed that is (quartiles of the pairs).",
        decoding(),
        "![Tokens a second beside transformers](benchmarks/decoding.svg)",
        "Recording: how long a pass takes, how many times as long as the same program's plain pass "
        "(quartiles), and what is kept of it.",
        recording(),
        startup(),
    ))  # fmt: skip


def picture() -> Figure:
    """How many times transformers' speed every program writes, for each shape."""
    shapes = measured("decoding")["shapes"]
    names = list(dict.fromkeys(name for rows in shapes.values() for name in rows))
    with matplotlib.rc_context({"font.family": style.FONT, "svg.hashsalt": "llama_viz"}):
        figure = Figure(figsize=(8, 0.42 * len(names) + 1.2), layout="constrained")
        axes = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
        for ax, (shape, rows) in zip(axes, shapes.items(), strict=True):
            for place, name in enumerate(names):
                if name not in rows:
                    continue
                low, median, high = rows[name]["times"]
                color = style.QUALITATIVE[0 if name.startswith("llama_viz") else 4]
                ax.barh(place, median, color=color)
                ax.errorbar(median, place, xerr=[[median - low], [high - median]], color="0.2")
            ax.axvline(1, color="0.4", linewidth=0.8)
            ax.set_title(shape)
            ax.set_yticks(range(len(names)), names)
            ax.invert_yaxis()
        figure.supxlabel(f"times the speed of {PEER}")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    print(tables := text())
    picture().savefig(ROOT / "benchmarks" / "decoding.svg", metadata={"Date": None})
    if parser.parse_args().write:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text("utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        readme.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
