"""The command that makes the embedded models: python -m llama_viz.training --help."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WHAT = ("tokenizer", "mha", "gqa", "mqa", "card")


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is named on the command line; return the exit status."""
    # Threads that wait for others then give their core away. On a machine that does something else
    # beside, training would otherwise be several times slower. Read when PyTorch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    arguments = _parser().parse_args(argv)
    try:
        _make(arguments)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from llama_viz.files import data_folder

    parser = argparse.ArgumentParser(
        prog="python -m llama_viz.training",
        description="Train the tokenizer and the embedded models, and write their data card.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="*",
        default=list(WHAT[1:]),
        metavar="WHAT",
        help=f"any of: {', '.join(WHAT)}; a tokenizer is trained first where there is none",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the stories")
    parser.add_argument("--steps", type=int, help="length of a run; None is the recipe's")
    parser.add_argument("--data", type=Path, default=data_folder(), help="where results go")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="state of unfinished runs")
    parser.add_argument("--restart", action="store_true", help="begin unfinished runs again")
    parser.add_argument("--held-out", type=int, default=500, help="stories that score the result")
    parser.add_argument("--threads", type=int, help="None leaves it to PyTorch")
    parser.add_argument("--bfloat16", action="store_true", help="products in half precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a compiler")
    return parser


def _make(arguments: argparse.Namespace) -> None:
    unknown = [name for name in arguments.what if name not in WHAT]
    if unknown:
        raise ValueError(f"nothing here is called {unknown[0]!r}; choose from {', '.join(WHAT)}")
    if arguments.threads is not None and arguments.threads < 1:
        raise ValueError(f"threads must be at least 1, got {arguments.threads}")

    import torch

    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.loop import Trainer, train
    from llama_viz.training.recipes import RECIPES
    from llama_viz.training.store import store, write_card
    from llama_viz.training.tokenizer import save_tokenizer, train_tokenizer

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    names = [name for name in arguments.what if name in RECIPES]
    arguments.data.mkdir(parents=True, exist_ok=True)
    path = arguments.data / "tokenizer.model"
    if "tokenizer" in arguments.what or (names and not path.exists()):
        save_tokenizer(train_tokenizer(RECIPES["mha"].vocab_size), path)
        print(f"wrote {path}")

    for name in names:
        recipe = replace(RECIPES[name], seed=arguments.seed)
        if arguments.steps is not None:
            recipe = replace(recipe, steps=arguments.steps)
        trainer = Trainer(
            recipe,
            Tokenizer.from_file(path),
            bfloat16=arguments.bfloat16,
            compile=arguments.compile,
        )
        state = arguments.runs / f"{name}-seed{recipe.seed}.pt"
        if arguments.restart:
            state.unlink(missing_ok=True)
        train(trainer, state=state, description=name)
        command = f"python -m llama_viz.training {name} --seed {recipe.seed} --steps {recipe.steps}"
        command += " --bfloat16" * arguments.bfloat16 + " --compile" * arguments.compile
        facts = store(trainer, name, arguments.data, n_held_out=arguments.held_out, command=command)
        state.unlink(missing_ok=True)
        print(
            f"wrote {arguments.data / name}.safetensors: held-out loss {facts['held_out_loss']:.4f}"
        )

    if names or "card" in arguments.what:
        print(f"wrote {write_card(arguments.data)}")


if __name__ == "__main__":
    sys.exit(main())
