"""The README's tables of speed, from what the benchmarks have stored.

python benchmarks/report.py           # prints the tables and draws benchmarks/decoding.svg
python benchmarks/report.py --write   # and puts them into README.md, between its marks

Decoding, recording and startup are always there; what else was measured has its table, too.
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


def is_measured(name: str) -> bool:
    """Whether a benchmark has stored anything."""
    return (data_folder() / "measurements" / f"{name}.json").exists()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, marks, *rows))


def _times(low: float, median: float, high: float) -> str:
    return f"x{median:.2f} ({low:.2f} to {high:.2f})"


def decoding() -> str:
    """Tokens a second of every program, and how many times transformers' that is.

    Behind "after" stand the seconds that a program took once, before its first token.
    """
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
            before = found[name].get("before")
            waits = "" if before is None else f", after {before:.0f} s"
            cells.append(f"{speed:.0f}{ratio}{waits}")
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


def length() -> str:
    """What a token costs, and what each position that is held adds to it."""
    stored = measured("length")
    rows = []
    for shape, row in stored["shapes"].items():
        n_bytes = row["bytes_per_position"]
        read = n_bytes / stored["bytes_per_second"]
        rows.append([
            shape, f"{1e3 * row['a'][1]:.2f} ms", f"{1e6 * row['b'][1]:.2f} µs "
            f"({1e6 * row['b'][0]:.2f} to {1e6 * row['b'][2]:.2f})",
            f"{n_bytes:,} B, {1e6 * read:.2f} µs",
        ])  # fmt: skip
    lengths = list(next(iter(stored["shapes"].values()))["seconds"])
    return (
        f"A token after more and more others ({int(lengths[0]):,} to {int(lengths[-1]):,} "
        "positions, optimized): a straight line a + b x length, fitted in each of "
        f"{stored['rounds']} rounds (medians, quartiles of b). Beside b stands what must be read "
        f"of the KV cache for a position, and how long that takes at "
        f"{stored['bytes_per_second'] / 1e9:.0f} GB a second.\n\n"
        + table(["", "a", "b, a position", "its bytes in the cache"], rows)
    )


def explorer_latency() -> str:
    """Sizes of pages that stand alone, and how fast they answer; BertViz's where it was there."""
    stored = measured("explorer_latency")
    parts = []
    if stored.get("events"):
        shapes = stored["events"]
        rows = [
            ["one page", *(f"{found['megabytes']:.1f} MB" for found in shapes.values())],
            ["saved in", *(f"{found['seconds_to_save']:.1f} s" for found in shapes.values())],
            ["opens in", *(f"{found['seconds_to_open']:.2f} s" for found in shapes.values())],
        ]
        for action in next(iter(shapes.values()))["actions"]:
            answers = (found["actions"][action] for found in shapes.values())
            rows.append([action, *(_milliseconds(
                answer["median_ms"], answer["lowest_ms"], answer["highest_ms"]
            ) for answer in answers)])  # fmt: skip
        parts.append(
            "The attention explorer as a page that stands alone: from an event to the end of the "
            "frame that shows what came of it (median, lowest and highest).\n\n"
            + table(["", *shapes], rows)
        )
    if stored.get("bertviz"):
        lengths = {n: found for n, found in stored["bertviz"].items() if n != "version"}
        names = next(iter(lengths.values()))
        rows = [[name, *(_page(found[name]) for found in lengths.values())] for name in names]
        header = [f"{n} tokens" for n in lengths]
        parts.append(
            f"The same attention, 6 layers x 8 heads, beside BertViz "
            f"{stored['bertviz']['version']}: size, seconds to make and seconds until drawn.\n\n"
            + table(["one page", *header], rows)
        )
    return "\n\n".join(parts)


def _milliseconds(median: float, low: float, high: float) -> str:
    return f"{median:.0f} ms ({low:.0f} to {high:.0f})"


def _page(found: dict[str, Any]) -> str:
    drawn = found["seconds_to_draw"]
    is_drawn = "not drawn" if drawn is None else f"{drawn:.2f} s"
    return f"{found['bytes'] / 1e6:.1f} MB, {found['seconds_to_make']:.2f} s, {is_drawn}"


def long_context() -> str:
    """Memory, seconds and answers of one long text in JupyterLab."""
    stored = measured("long_context")
    rows = [
        ["memory of the kernel at most", f"{stored['gigabytes']:.2f} GB"],
        ["recorded in", f"{stored['seconds_to_record']:.1f} s"],
        ["all maps pooled in", f"{stored['seconds_to_pool']:.1f} s"],
    ]
    answers = {"kernel answers meanwhile": stored["answer_ms"], **stored["actions"]}
    rows += [
        [name, _milliseconds(answer["median"], answer["lowest"], answer["highest"])]
        for name, answer in answers.items()
        if answer is not None
    ]
    threads = stored["threads"]
    return table(
        [f"{stored['tokens']:,} tokens of {stored['model']} in JupyterLab, "
         f"{threads} thread{'s' if threads > 1 else ''}", ""], rows,
    )  # fmt: skip


def notebooks() -> str:
    """Seconds of every notebook from top to bottom, in a fresh kernel."""
    seconds = measured("notebooks")["seconds"]
    rows = [[name, f"{taken:.0f} s"] for name, taken in seconds.items()]
    rows.append(["all", f"{sum(seconds.values()) / 60:.1f} min"])
    return table(["a notebook, run from top to bottom on one thread", ""], rows)


# Measured where there is a browser, a fetched model or half an hour: in the README once stored.
MORE = {"length": length, "explorer_latency": explorer_latency, "long_context": long_context,
        "notebooks": notebooks}  # fmt: skip


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
        *(part() for name, part in MORE.items() if is_measured(name)),
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
