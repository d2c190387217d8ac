"""Run the notebooks top to bottom in fresh kernels and store what they show.

    python notebooks/execute.py                   all notebooks, each stored in place
    python notebooks/execute.py 00_start_here     those whose names begin so
    python notebooks/execute.py --times           and store how long each took
    python notebooks/execute.py --check           run nothing; say what a reader would stumble on

Two runs on one machine store the same bytes, so that a difference in git is a difference in what
is shown. Cells tagged `live` (measurements of this machine, of this moment) are stored without
their outputs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from llama_viz.files import store_measurement, written_whole

FOLDER = Path(__file__).parent
SECONDS_PER_CELL = 300
LINES_PER_CELL = 10

# An explorer's view works only beside its kernel; the picture stored with it stays.
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# The same for every author's machine: neither versions nor what an editor keeps.
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
CELL_METADATA = ("tags", "slideshow", "jupyter")

# One thread and one order of hashing: another number of threads moves sums by a rounding, and
# pictures with them. The kernel is that of the running environment.
KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def main(arguments: list[str] | None = None) -> int:
    """Run or check the notebooks; 0 where all is well, 1 where something is not."""
    parser = argparse.ArgumentParser(description="Run the notebooks and store what they show.")
    parser.add_argument("names", nargs="*", help="how the notebooks' names begin (default: all)")
    parser.add_argument("--check", action="store_true", help="run nothing, report problems")
    parser.add_argument(
        "--times", action="store_true", help="store the seconds in data/measurements/notebooks.json"
    )
    options = parser.parse_args(arguments)
    paths = [
        path
        for path in notebooks()
        if not options.names or path.name.startswith(tuple(options.names))
    ]
    if options.names and not paths:
        known = ", ".join(path.stem for path in notebooks())
        print(f"no notebook begins with {' or '.join(options.names)}; there are {known}")
        return 1
    return check(paths) if options.check else execute(paths, is_timed=options.times)


def notebooks(folder: Path = FOLDER) -> list[Path]:
    """All notebooks below a folder, in order, without JupyterLab's own copies."""
    return sorted(
        path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def execute(paths: list[Path], *, is_timed: bool = False) -> int:
    """Run notebooks one after another and store them; the first error stops and is shown.

    is_timed: the seconds of all but the solutions are stored, too, once the last is done.
    """
    os.environ.update(KERNEL_ENVIRONMENT)
    seconds: dict[str, float] = {}
    for path in paths:
        began = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        try:
            changed = execute_one(path)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"failed\n\n{error}", flush=True)
            return 1
        taken = round(time.monotonic() - began, 1)
        if path.parent.name != "solutions":  # they have the names of their notebooks
            seconds[path.stem] = taken
        print(f"{taken:.0f} s{'' if changed else ', unchanged'}", flush=True)
    if is_timed:
        command = "python notebooks/execute.py --times"
        store_measurement("notebooks", command=command, seconds=seconds)
    return 0


def execute_one(path: Path) -> bool:
    """Run one notebook and store it whole; say whether the file changed."""
    before = path.read_bytes()
    notebook = nbformat.reads(before.decode("utf-8"), as_version=4)
    NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    normalize(notebook)
    after = (nbformat.writes(notebook).rstrip("\n") + "\n").encode("utf-8")
    if after == before:
        return False
    with written_whole(path) as unfinished:
        unfinished.write_bytes(after)
    return True


def normalize(notebook: NotebookNode) -> None:
    """Leave out of a notebook what differs from run to run or from machine to machine."""
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    ids = [cell.get("id") for cell in notebook.cells]
    for index, cell in enumerate(notebook.cells):
        if ids[index] is None or ids[index] in ids[:index]:
            cell.id = f"cell-{index}"
        kept = {name: cell.metadata[name] for name in CELL_METADATA if name in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if "live" in tags(cell):
            cell.outputs = []
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)


def check(paths: list[Path]) -> int:
    """Print the problems of notebooks."""
    found = [problem for path in paths for problem in problems(path)]
    for problem in found:
        print(problem)
    return 1 if found else 0


def problems(path: Path) -> list[str]:
    """What a reader of the stored notebook would stumble on, one line each."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    n_run = 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        n_run += 1
        n_lines = len(cell.source.splitlines())
        fails = any(output.output_type == "error" for output in cell.outputs)
        if cell.execution_count is None:
            found.append((index, "was not run"))
        elif cell.execution_count != n_run:
            found.append((index, f"was run as number {cell.execution_count}, not {n_run}"))
        if fails and "raises-exception" not in tags(cell):
            found.append((index, "stores an error"))
        if n_lines > LINES_PER_CELL:
            found.append((index, f"has {n_lines} lines; at most {LINES_PER_CELL} can be read"))
        if "live" in tags(cell) and "nbval-ignore-output" not in tags(cell):
            found.append((index, "is live, so it needs the tag nbval-ignore-output, too"))
    return [f"{path.name}, cell {index}: {problem}" for index, problem in found]


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


if __name__ == "__main__":
    sys.exit(main())
