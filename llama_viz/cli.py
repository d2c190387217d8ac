"""The command line: llama-viz lab | generate | record | inspect | export | map | fetch | train."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
MAP_SUFFIXES = (".pdf", ".png", ".svg")
FIRST_NOTEBOOK = CHECKOUT / "notebooks" / "00_start_here.ipynb"

# What a shell reports of a program that Ctrl-C ended, and of one whose reader went away.
INTERRUPTED = 130
ENOUGH = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 where it went well, 2 where the request was wrong, 130 after Ctrl-C."""
    parser = command_line()
    options, others = parser.parse_known_args(arguments)
    if others and not options.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: complain(message)
            return options.run(options, others) or 0
    except BrokenPipeError:
        # The reader has seen enough (`| head`); Python must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ENOUGH
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def command_line() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="llama-viz", description="See how LLaMA works, on a model that is really generating."
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    lab = commands.add_parser(
        "lab",
        help="open JupyterLab on the first notebook",
        add_help=False,
        allow_abbrev=False,
    )
    lab.set_defaults(run=run_lab, passes_on=True)

    generate = commands.add_parser("generate", help="continue a text, token by token")
    generate.add_argument("prompt", help="the text to continue")
    generate.add_argument(
        "--model",
        default="gqa",
        help="mha, gqa, mqa, a fetched model or a path to a checkpoint (default: gqa)",
    )
    generate.add_argument("--max-new-tokens", type=int, default=64, help="at most (default: 64)")
    _add_sampling(generate)
    generate.set_defaults(run=run_generate, passes_on=False)

    record = commands.add_parser(
        "record", help="record a generation into a file, with the model spread over processes"
    )
    record.add_argument("checkpoint", help="a model's name or a path, as for generate --model")
    record.add_argument(
        "prompt", nargs="+", help="the text to continue, in quotes; several are recorded in one run"
    )
    record.add_argument(
        "--out",
        required=True,
        help="where the trace goes: a path ending in .nc, or in .zarr to write it as it goes",
    )
    record.add_argument(
        "--nproc", type=int, help="processes that share heads and neurons (default: 1)"
    )
    record.add_argument("--device", help="cpu or cuda (default: cuda where it is)")
    record.add_argument("--max-new-tokens", type=int, default=64, help="at most (default: 64)")
    record.add_argument(
        "--taps", type=_names, help="variables to keep, with commas between (default: all)"
    )
    record.add_argument(
        "--layers", type=_numbers, help="layers to keep, with commas between (default: all)"
    )
    record.add_argument(
        "--memory-limit", default="1GB", help="of the trace, such as 500MB, or none (default: 1GB)"
    )
    _add_sampling(record)
    record.set_defaults(run=run_record, passes_on=False)

    inspect = commands.add_parser("inspect", help="say what a checkpoint is, without its weights")
    inspect.add_argument("path", help="a file, a folder, or a model's name")
    inspect.set_defaults(run=run_inspect, passes_on=False)

    export = commands.add_parser(
        "export", help="write an explorer of a saved trace: one HTML file, or a picture"
    )
    export.add_argument("trace", help="a trace that lv.save_trace wrote")
    export.add_argument("path", help="where to: a path ending in .html, .png or .svg")
    export.add_argument(
        "--explorer", default="attention", help="which one; an unknown name lists the choices"
    )
    export.set_defaults(run=run_export, passes_on=False)

    sheet = commands.add_parser("map", help="write the map of the notebooks, one page to print")
    sheet.add_argument("path", help="where to: a path ending in .pdf, .png or .svg")
    sheet.set_defaults(run=run_map, passes_on=False)

    fetch = commands.add_parser("fetch", help="bring a model from the network into the cache")
    fetch.add_argument("name", help="smollm2-135m, or hub:OWNER/NAME from the Hugging Face hub")
    fetch.set_defaults(run=run_fetch, passes_on=False)

    train = commands.add_parser(
        "train",
        help="train the tokenizer and the embedded models",
        add_help=False,
        allow_abbrev=False,
    )
    train.set_defaults(run=run_train, passes_on=True)
    return parser


def _add_sampling(command: argparse.ArgumentParser) -> None:
    """How the next token is drawn."""
    command.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: 0)"
    )
    command.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    command.add_argument(
        "--top-p", type=float, default=1.0, help="draw from the likeliest tokens up to this sum"
    )
    command.add_argument("--seed", type=int, default=0, help="decides the draws (default: 0)")


def _names(text: str) -> list[str]:
    """a,b,c"""
    return [name.strip() for name in text.split(",")]


def _numbers(text: str) -> list[int]:
    """0,2,5"""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        message = f"expected numbers with commas between, such as 0,2,5, got {text!r}"
        raise argparse.ArgumentTypeError(message) from error


def run_lab(options: argparse.Namespace, others: list[str]) -> None:
    """Open JupyterLab on the first notebook; every other argument is JupyterLab's own."""
    if not FIRST_NOTEBOOK.exists():
        raise ValueError("the notebooks are not part of the installed package: clone the project")
    # JupyterLab looks in each folder of this path for labconfig/, where our settings are.
    known = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), known]))
    from jupyterlab.labapp import main as run_jupyterlab

    ours = [
        f"--ServerApp.root_dir={CHECKOUT}",
        # Where a browser lands, and where the address points that JupyterLab prints.
        f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK.relative_to(CHECKOUT).as_posix()}",
        # In a container people are root; the server still listens to this machine alone.
        "--ServerApp.allow_root=True",
    ]
    run_jupyterlab([*ours, *others])


def run_generate(options: argparse.Namespace, others: list[str]) -> None:
    """Print the continuation of a prompt while it is made."""
    import llama_viz as lv

    steps = lv.stream(
        lv.load(options.model),
        options.prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    for step in steps:
        print(step.text, end="", flush=True)
    print()


def run_record(options: argparse.Namespace, others: list[str]) -> None:
    """Record a generation, on one process or on several, and print where the trace lies."""
    settings = {
        "progress": True,
        "max_new_tokens": options.max_new_tokens,
        "taps": options.taps,
        "layers": options.layers,
        "memory_limit": None if options.memory_limit == "none" else options.memory_limit,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.seed,
    }
    from llama_viz.parallel import is_first, leave_group, record_parallel

    record_parallel(
        options.checkpoint,
        options.prompt if len(options.prompt) > 1 else options.prompt[0],
        options.out,
        options.nproc,
        device=options.device,
        **settings,
    )
    if is_first():
        print(options.out)
    leave_group()


def run_inspect(options: argparse.Namespace, others: list[str]) -> None:
    """Print the sizes of a checkpoint, in llama.cpp's words and ours, and what else it says."""
    from llama_viz.inspection import inspect

    print(inspect(options.path))


def run_export(options: argparse.Namespace, others: list[str]) -> None:
    """Open a trace in an explorer and save that; no model is needed."""
    from llama_viz.errors import unknown_name
    from llama_viz.trace import load_trace
    from llama_viz.widgets import EXPLORERS

    if options.explorer not in EXPLORERS:
        raise unknown_name("explorer", options.explorer, EXPLORERS)
    EXPLORERS[options.explorer](load_trace(options.trace)).save(options.path)
    print(options.path)


def run_map(options: argparse.Namespace, others: list[str]) -> None:
    """Draw the map of the suite into a file that was not there before, or take its place."""
    from llama_viz.figures.suite import suite_map
    from llama_viz.files import written_whole

    path = Path(options.path)
    suffix = path.suffix.lower()
    if suffix not in MAP_SUFFIXES:
        raise ValueError(f"a map ends in {', '.join(MAP_SUFFIXES)}, got {str(path)!r}")
    with written_whole(path) as unfinished:
        suite_map().savefig(unfinished, format=suffix[1:])
    print(path)


def run_fetch(options: argparse.Namespace, others: list[str]) -> None:
    """Fetch a model, unless it is there, and print where it lies and how to load it."""
    from llama_viz.fetching import fetch

    print(fetch(options.name))
    print(f'lv.load("{options.name}") opens it')


def run_train(options: argparse.Namespace, others: list[str]) -> int | None:
    """Train; every argument is that of `python -m llama_viz.training`."""
    from llama_viz.training.__main__ import main as train

    return train(others)


def complain(message: object) -> None:
    """One line for the person at the terminal."""
    print("llama-viz:", " ".join(str(message).split()), file=sys.stderr)
