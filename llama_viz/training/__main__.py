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

DEFAULT = ("mha", "gqa", "mqa", "card")


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
        default=list(DEFAULT),
        metavar="WHAT",
        help="runs (mha, gqa, mqa, ...), groups of runs (attention, matched, longer, roomier, "
        "feed-forward, normalization, uptraining), tokenizer, card; a tokenizer is trained first "
        "where there is none",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the stories")
    parser.add_argument("--all-seeds", action="store_true", help="as many as each group is for")
    parser.add_argument("--steps", type=int, help="length of a run; None is the recipe's")
    parser.add_argument("--data", type=Path, default=data_folder(), help="where results go")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="state of unfinished runs")
    parser.add_argument("--restart", action="store_true", help="begin unfinished runs again")
    parser.add_argument("--held-out", type=int, default=500, help="stories that score the result")
    parser.add_argument("--curve", type=int, default=100, help="stories for each number of facts")
    parser.add_argument("--samples", type=int, default=200, help="stories drawn and checked")
    parser.add_argument("--threads", type=int, help="None leaves it to PyTorch")
    parser.add_argument("--bfloat16", action="store_true", help="products in half precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a compiler")
    return parser


def _make(arguments: argparse.Namespace) -> None:
    from llama_viz.training.recipes import GROUPS, RECIPES, SEEDS, group_of

    things = ("tokenizer", "card", *GROUPS, *RECIPES)
    unknown = [name for name in arguments.what if name not in things]
    if unknown:
        raise ValueError(f"nothing here is called {unknown[0]!r}; choose from {', '.join(things)}")
    if arguments.threads is not None and arguments.threads < 1:
        raise ValueError(f"threads must be at least 1, got {arguments.threads}")

    import torch

    from llama_viz.training.card import write_card
    from llama_viz.training.tokenizer import save_tokenizer, train_tokenizer

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    asked = [name for what in arguments.what for name in GROUPS.get(what, [what])]
    names = [name for name in asked if name in RECIPES]
    arguments.data.mkdir(parents=True, exist_ok=True)
    tokenizer = arguments.data / "tokenizer.model"
    if "tokenizer" in arguments.what or (names and not tokenizer.exists()):
        save_tokenizer(train_tokenizer(RECIPES["mha"].vocab_size), tokenizer)
        print(f"wrote {tokenizer}")
    for name in names:
        seeds = range(SEEDS[group_of(name)]) if arguments.all_seeds else [arguments.seed]
        for seed in seeds:
            _run(name, seed, arguments)
    if names or "card" in arguments.what:
        print(f"wrote {write_card(arguments.data)}")


def _run(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """One run from where it is to its end, and what it leaves behind."""
    import torch

    from llama_viz.checkpoints.native import load_native
    from llama_viz.tokenizer import Tokenizer
    from llama_viz.training.loop import Trainer, train
    from llama_viz.training.recipes import GROWING, RECIPES
    from llama_viz.training.store import run_name, store

    recipe = replace(RECIPES[name], seed=seed)
    if arguments.steps is not None:
        recipe = replace(recipe, steps=arguments.steps)
    source = None
    if recipe.pooled_from is not None:
        source = arguments.data / f"{recipe.pooled_from}.safetensors"
        if not source.exists():
            raise ValueError(f"{name} starts from {source}: train {recipe.pooled_from} first")
    trainer = Trainer(
        recipe,
        Tokenizer.from_file(arguments.data / "tokenizer.model"),
        source=None if source is None else load_native(source, dtype=torch.float32).model,
        bfloat16=arguments.bfloat16,
        compile=arguments.compile,
    )
    run = run_name(name, seed)
    state = arguments.runs / f"{run}.pt"
    snapshots = arguments.runs / run if name == GROWING and seed == 0 else None
    if arguments.restart:
        state.unlink(missing_ok=True)
    train(
        trainer,
        state=state,
        evaluate_every=max(10, recipe.steps // 30),
        snapshots=snapshots,
        description=run,
    )
    command = f"python -m llama_viz.training {name} --seed {seed} --steps {recipe.steps}"
    command += " --bfloat16" * arguments.bfloat16 + " --compile" * arguments.compile
    facts = store(
        trainer,
        name,
        arguments.data,
        command=command,
        n_held_out=arguments.held_out,
        n_curve=arguments.curve,
        n_samples=arguments.samples,
        snapshots=snapshots,
    )
    state.unlink(missing_ok=True)
    print(f"stored {run}: held-out loss {facts['held_out_loss']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
