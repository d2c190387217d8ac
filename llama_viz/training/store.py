"""What finished runs leave behind: checkpoints, losses, facts, and the tables of all runs.

A run is a recipe's name with a seed: mha-seed0. Its facts and losses are its own files; the tables
results.csv and recall.csv hold every run. The data card is written from them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import platform
import shutil
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llama_viz import analysis
from llama_viz.checkpoints.native import load_native, save_native
from llama_viz.files import written_whole
from llama_viz.generation import generate
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import record_forward
from llama_viz.training.consistency import Consistency, check
from llama_viz.training.emergence import SEEDS, repeated_ids
from llama_viz.training.evaluation import HeldOut, recall_curves
from llama_viz.training.loop import Trainer, write_table
from llama_viz.training.recipes import EMBEDDED, GROWING, RECIPES, group_of
from llama_viz.training.stories import KINDS
from llama_viz.training.tokenizer import save_tokenizer
from llama_viz.training.variants import build

if TYPE_CHECKING:
    from pathlib import Path

    from llama_viz.tokenizer import Tokenizer

Facts = dict[str, Any]
Line = dict[str, str]  # of results.csv or recall.csv

N_SNAPSHOTS = 10  # kept of a run
RECALL_COLUMNS = ("run", "name", "seed", "by", "value", "kind", "asked", "right")


def run_name(name: str, seed: int) -> str:
    """How the run of a recipe with a seed is called in file names."""
    return f"{name}-seed{seed}"


def store(
    trainer: Trainer,
    name: str,
    data: Path,
    *,
    command: str,
    n_held_out: int = 500,
    n_curve: int = 100,
    n_samples: int = 200,
    snapshots: Path | None = None,
) -> Facts:
    """Write what a trained model leaves behind into the data folder, and return the facts.

    Weights are rounded to half precision first: what is scored is what is stored. Stored are the
    EMBEDDED models of seed 0, which also write n_samples stories that are checked for consistency.
    Of the folder `snapshots` some are kept, chosen where the loss falls.
    """
    recipe = trainer.recipe
    run = run_name(name, recipe.seed)
    for folder in ("losses", "runs"):
        (data / "training" / folder).mkdir(parents=True, exist_ok=True)
    losses = data / "training" / "losses" / f"{run}.csv"
    write_table(trainer.table, losses)
    tokenizer = data / "tokenizer.model"
    if not tokenizer.exists():
        save_tokenizer(trainer.tokenizer, tokenizer)
    files = [losses, tokenizer]

    model = build(recipe)
    model.load_state_dict(trainer.model.state_dict())
    model = model.half().float()
    held_out = HeldOut(trainer.tokenizer, n_held_out, seed=recipe.seed)
    score = held_out.score(model)
    facts: Facts = {
        "name": name,
        "group": group_of(name),
        "attention": recipe.config.attention_kind,
        "command": command,
        "recipe": recipe.to_dict(),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "kv_cache_bytes_per_position": recipe.config.kv_cache_bytes(1),
        "tokens": recipe.tokens(trainer.step),
        "seconds": round(trainer.seconds, 1),
        "threads": torch.get_num_threads(),
        "bfloat16": trainer.bfloat16,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "train_loss": trainer.table[-1]["train_loss"],
        "held_out_stories": n_held_out,
        "held_out_loss": score.loss,
        "choices_nats_per_token": held_out.bound,
        "asked": score.asked,
        "right": score.right,
        "recall": recall_curves(model, trainer.tokenizer, n_curve, seed=recipe.seed),
    }
    if name in EMBEDDED and recipe.seed == 0:
        checkpoint = data / f"{name}.safetensors"
        notes = {"name": name, "recipe": json.dumps(recipe.to_dict()), "license": "Apache-2.0"}
        save_native(trainer.model, checkpoint, dtype=torch.float16, metadata=notes)
        files.append(checkpoint)
        lm = LanguageModel(
            load_native(checkpoint, dtype=torch.float32).model, trainer.tokenizer, name
        )
        facts["samples"] = _samples(lm)
        facts["consistent"] = _consistency(lm, n_samples)
        facts["induction"] = induction_head(lm)
    if snapshots is not None and name == GROWING and recipe.seed == 0:
        kept = _keep_snapshots(snapshots, name, trainer, data)
        facts["snapshots"] = [
            _describe_snapshot(path, step, trainer.tokenizer, data) for step, path in kept.items()
        ]
        files += kept.values()
    facts["sha256"] = {str(path.relative_to(data)): digest(path) for path in files}
    with written_whole(data / "training" / "runs" / f"{run}.json") as unfinished:
        unfinished.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What a model shows by itself.


def induction_head(lm: LanguageModel) -> Facts:
    """The head that looks most at what followed the last time, over random tokens that come twice.

    Its layer, its number, and the mean weight that it gives there (Olsson et al. 2022).
    """
    scores = [
        analysis.head_kinds(
            record_forward(lm, repeated_ids(lm, seed=seed), taps=["attention_weights"])
        )
        .sel(kind="induction")
        .values
        for seed in SEEDS
    ]
    mean = np.mean(scores, axis=0)
    layer, head = (int(index) for index in np.unravel_index(mean.argmax(), mean.shape))
    return {"layer": layer, "head": head, "score": float(mean[layer, head])}


def _consistency(lm: LanguageModel, n_stories: int) -> dict[str, int]:
    """How many whole stories that the model drew at temperature 0.8 keep to themselves."""
    assert lm.tokenizer is not None
    assert lm.tokenizer.bos_id is not None
    checked = []
    for seed in range(n_stories):
        ids = [lm.tokenizer.bos_id]
        written = generate(lm, ids, lm.config.max_seq_len - 1, temperature=0.8, seed=seed)
        try:
            checked.append(check(written.text))
        except ValueError as error:  # a story about nobody
            checked.append(Consistency(False, False, False, str(error)))
    return {"stories": n_stories} | {
        what: sum(getattr(result, what) for result in checked)
        for what in ("names", "pronouns", "colours", "all")
    }


# Snapshots of the training.


def _keep_snapshots(folder: Path, name: str, trainer: Trainer, data: Path) -> dict[int, Path]:
    """Copy those between which the loss falls about equally far, the first and the last too."""
    there = {int(path.stem): path for path in sorted(folder.glob("*.safetensors"))}
    target = data / "snapshots"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    kept = {}
    losses = _losses_at(trainer, [*there])
    for step in spread_over_fall(losses, N_SNAPSHOTS, trainer.recipe.rehearsal_steps):
        kept[step] = target / f"{name}-{step:06d}.safetensors"
        shutil.copyfile(there[step], kept[step])
    return kept


def _losses_at(trainer: Trainer, steps: list[int]) -> dict[int, float]:
    """The training loss near each step, averaged over the rows about it."""
    rows = [row for row in trainer.table if "train_loss" in row]
    near = {}
    for step in steps:
        closest = sorted(rows, key=lambda row: abs(row["step"] - step))[:5]
        near[step] = sum(row["train_loss"] for row in closest) / len(closest)
    return near


def spread_over_fall(losses: dict[int, float], count: int, other_text_from: int = 0) -> list[int]:
    """`count` of the steps, first and last among them, dense where the loss falls.

    losses are by step, in order; behind other_text_from (0: nowhere) they are those of another
    text, and fall anew. A third of the way is measured by the fall of the loss, the rest by the
    root of the step, so that what a model learns late and quietly is not left out.
    """
    steps = list(losses)
    if len(steps) <= count:
        return steps
    border = other_text_from or -1  # without another text, step 0 belongs to what follows it
    fallen: list[float] = []
    for of_this_text in (
        [losses[step] for step in steps if step <= border],
        [losses[step] for step in steps if step > border],
    ):
        before = fallen[-1] if fallen else 0.0
        fallen += [before + of_this_text[0] - lowest for lowest in accumulate(of_this_text, min)]
    way = [
        fall / (fallen[-1] or 1.0) / 3 + 2 / 3 * math.sqrt(step / steps[-1])
        for fall, step in zip(fallen, steps, strict=True)
    ]
    chosen: list[int] = []
    for number in range(count):
        aim = way[0] + (way[-1] - way[0]) * number / (count - 1)
        free = [index for index in range(len(steps)) if steps[index] not in chosen]
        chosen.append(steps[min(free, key=lambda index: abs(way[index] - aim))])
    return sorted(chosen)


def _describe_snapshot(path: Path, step: int, tokenizer: Tokenizer, data: Path) -> Facts:
    """Loss, recall and the strongest induction head of a snapshot, and how it goes on."""
    model = load_native(path, dtype=torch.float32).model
    lm = LanguageModel(model, tokenizer, path.stem)
    score = HeldOut(tokenizer, 100).score(model)
    prompt = "Once there was"
    return {
        "step": step,
        "file": str(path.relative_to(data)),
        "held_out_loss": score.loss,
        "recall": score.recall,
        "induction": induction_head(lm),
        "prompt": prompt,
        "text": generate(lm, prompt, 60).text,
    }


# The tables of all runs.


def read_runs(data: Path) -> list[Facts]:
    """The facts of every stored run, in the order of the recipes and their seeds."""
    runs = [json.loads(path.read_text()) for path in (data / "training" / "runs").glob("*.json")]
    order = list(RECIPES)
    known = [run for run in runs if run["name"] in RECIPES]
    return sorted(known, key=lambda run: (order.index(run["name"]), run["recipe"]["seed"]))


def write_tables(data: Path) -> None:
    """Write results.csv, a line for each run, and recall.csv, its curves, from the stored facts."""
    runs = read_runs(data)
    results = [
        {
            "run": run_name(run["name"], run["recipe"]["seed"]),
            "group": run["group"],
            "name": run["name"],
            "seed": run["recipe"]["seed"],
            "n_kv_heads": run["recipe"]["n_kv_heads"],
            "hidden_dim": run["recipe"]["hidden_dim"],
            "parameters": run["parameters"],
            "kv_cache_bytes_per_position": run["kv_cache_bytes_per_position"],
            "steps": run["recipe"]["steps"],
            "tokens": run["tokens"],
            "minutes": f"{run['seconds'] / 60:.1f}",
            "first_held_out_loss": _first_loss(run, data),
            "held_out_loss": f"{run['held_out_loss']:.5f}",
            "floor": f"{run['choices_nats_per_token']:.5f}",
            **{f"asked_{kind}": run["asked"].get(kind, 0) for kind in KINDS},
            **{f"right_{kind}": run["right"].get(kind, 0) for kind in KINDS},
        }
        for run in runs
    ]
    curves = [
        {"run": run_name(run["name"], run["recipe"]["seed"]), "name": run["name"],
         "seed": run["recipe"]["seed"], **row}
        for run in runs
        for row in run["recall"]
    ]  # fmt: skip
    _write_csv(data / "training" / "results.csv", list(results[0]), results)
    _write_csv(data / "training" / "recall.csv", list(RECALL_COLUMNS), curves)


def _first_loss(run: Facts, data: Path) -> str:
    """The held-out loss before the first step."""
    path = data / "training" / "losses" / f"{run_name(run['name'], run['recipe']['seed'])}.csv"
    return read_csv(path)[0]["held_out_loss"]


def _write_csv(path: Path, columns: list[str], rows: list[Facts]) -> None:
    with written_whole(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[Line]:
    """The lines of a table, by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _samples(lm: LanguageModel) -> list[Facts]:
    """A few stories by the model: one greedy, two drawn at temperature 0.8."""
    samples = []
    for prompt, temperature, seed in (("Once there was", 0.0, 0), ("One", 0.8, 0), ("It", 0.8, 1)):
        room = lm.config.max_seq_len - len(lm.encode(prompt))
        text = generate(lm, prompt, room, temperature=temperature, seed=seed).text
        samples.append({"prompt": prompt, "temperature": temperature, "seed": seed, "text": text})
    return samples
