"""What a finished run leaves behind: the checkpoint, its losses, its facts, and the data card."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
from typing import TYPE_CHECKING, Any

import torch

from llama_viz.checkpoints.native import load_native, save_native
from llama_viz.files import written_whole
from llama_viz.generation import generate
from llama_viz.language_model import LanguageModel
from llama_viz.training.evaluation import HeldOut
from llama_viz.training.loop import Trainer, write_table
from llama_viz.training.recipes import RECIPES
from llama_viz.training.stories import KINDS, tell_story
from llama_viz.training.tokenizer import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

Facts = dict[str, Any]


def store(trainer: Trainer, name: str, data: Path, *, n_held_out: int, command: str) -> Facts:
    """Write a trained model into the data folder and return the facts of its run.

    The weights are stored in half precision, and it is the stored model that is scored.
    """
    (data / "training").mkdir(parents=True, exist_ok=True)
    checkpoint, losses = data / f"{name}.safetensors", data / "training" / f"{name}.csv"
    recipe = trainer.recipe
    notes = {"name": name, "recipe": json.dumps(recipe.to_dict()), "license": "Apache-2.0"}
    save_native(trainer.model, checkpoint, dtype=torch.float16, metadata=notes)
    write_table(trainer.table, losses)
    tokenizer = data / "tokenizer.model"
    if not tokenizer.exists():
        save_tokenizer(trainer.tokenizer, tokenizer)

    model = load_native(checkpoint, dtype=torch.float32).model
    held_out = HeldOut(trainer.tokenizer, n_held_out, seed=recipe.seed)
    score = held_out.score(model)
    facts: Facts = {
        "name": name,
        "attention": recipe.config.attention_kind,
        "command": command,
        "recipe": recipe.to_dict(),
        "parameters": recipe.config.n_parameters,
        "kv_cache_bytes_per_position": recipe.config.kv_cache_bytes(1),
        "tokens": trainer.step * recipe.tokens_per_step,
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
        "samples": _samples(LanguageModel(model, trainer.tokenizer, name)),
        "sha256": {
            str(path.relative_to(data)): digest(path) for path in (checkpoint, losses, tokenizer)
        },
    }
    with written_whole(data / "training" / f"{name}.json") as unfinished:
        unfinished.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_card(data: Path) -> Path:
    """Write the data card, data/README.md, from the facts and losses of the runs stored there.

    Raises ValueError where no run is stored.
    """
    runs = []
    for name in RECIPES:
        path = data / "training" / f"{name}.json"
        if path.exists():
            runs.append(json.loads(path.read_text()))
    if not runs:
        raise ValueError(f"no run is stored in {data / 'training'}: train a model first")
    sections = (
        _CARD_BEGINS, _recipe(runs), _results(runs), _courses(runs, data), _samples_of(runs),
        _data(), _digests(runs), _CARD_ENDS,
    )  # fmt: skip
    with written_whole(data / "README.md") as unfinished:
        unfinished.write_text("\n\n".join(section.strip("\n") for section in sections) + "\n")
    return data / "README.md"


_CARD_BEGINS = """
# The embedded models

Written by `python -m llama_viz.training card` from the facts and losses in `training/`.

Small LLaMA models that write children's stories. `mha`, `gqa` and `mqa` have equally many query
heads, but a key/value head serves one, several or all of them. They share tokenizer, stories,
order of the stories, steps and seed; all other sizes are equal too, so the ones with fewer
key/value heads have fewer parameters. The weights are stored as safetensors in half precision.
"""

_CARD_ENDS = """
## Limits

The models know only the generator's words, sentences and plots: they continue such stories, answer
nothing else, and hold no knowledge of the world. Each was trained once, with one seed: small
differences between them may be chance. Prompts in other words, beyond the context, or in which more
happens than in a training story, lead to confused text. They are made for looking into.

## Licence

The stories are written by this project's generator (`llama_viz/training/stories.py`) and by nobody
else. Stories, tokenizer, weights and tables are under the Apache License 2.0, as is the project.
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _recipe(runs: list[Facts]) -> str:
    names = list(runs[0]["recipe"])
    rows = [[f"`{name}`", *(_value(run["recipe"][name]) for run in runs)] for name in names]
    commands = "\n".join(f"    {run['command']}" for run in runs)
    return (
        "## Recipe and commands\n\n"
        "Muon for the matrices of the blocks, AdamW for the rest; learning rates rise linearly, "
        "then fall along half a cosine. Each step shows "
        "`rows` rows of `row_length` tokens, and each row begins where a story begins.\n\n"
        f"{commands}\n\n" + _table(["", *(run["name"] for run in runs)], rows)
    )


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _results(runs: list[Facts]) -> str:
    def share(run: Facts, kind: str) -> str:
        asked, right = run["asked"].get(kind, 0), run["right"].get(kind, 0)
        return f"{right / asked:.1%} of {asked:,}" if asked else "not asked"

    rows = [
        ["parameters", *(f"{run['parameters']:,}" for run in runs)],
        ["KV cache, bytes per position (float32)",
         *(f"{run['kv_cache_bytes_per_position']:,}" for run in runs)],
        ["training tokens", *(f"{run['tokens']:,}" for run in runs)],
        ["duration, minutes", *(f"{run['seconds'] / 60:.1f}" for run in runs)],
        ["training tokens per second", *(f"{run['tokens'] / run['seconds']:,.0f}" for run in runs)],
        ["training loss at the end, nats per token", *(f"{run['train_loss']:.4f}" for run in runs)],
        ["**held-out loss**, nats per token", *(f"{run['held_out_loss']:.4f}" for run in runs)],
        ["the generator's choices, nats per token",
         *(f"{run['choices_nats_per_token']:.4f}" for run in runs)],
        *([f"**recall**: {kind}", *(share(run, kind) for run in runs)] for kind in KINDS),
    ]  # fmt: skip
    first = runs[0]
    return (
        "## Results\n\n" + _table(["", *(run["name"] for run in runs)], rows) + "\n\n"
        f"Measured on {first['held_out_stories']:,} held-out stories with the stored weights. An "
        "answer is right when every one of its tokens is the model's first choice. The generator's "
        "choices are the information in a story: about the lowest loss that any model can reach. "
        "Durations are those of the training steps alone, with "
        f"{first['threads']} of the CPU's threads, "
        "while other programs ran beside: they are no benchmark."
    )


def _courses(runs: list[Facts], data: Path) -> str:
    tables = {}
    for run in runs:
        with (data / "training" / f"{run['name']}.csv").open(newline="") as file:
            tables[run["name"]] = [row for row in csv.DictReader(file) if row["held_out_loss"]]
    # Ten lines of a run, its end included.
    steps = [row["step"] for row in tables[runs[0]["name"]]]
    steps = sorted({steps[round(i * (len(steps) - 1) / 9)] for i in range(10)}, key=float)
    rows = []
    for step in steps:
        cells = [f"{float(step):,.0f}"]
        for run in runs:
            found = [row for row in tables[run["name"]] if row["step"] == step]
            cells += [_loss_and_recall(found[0]) if found else ""]
        rows.append(cells)
    return (
        "## How the runs went\n\nHeld-out loss, and recall of place, during training (fewer "
        "stories than above); the whole course is in `training/*.csv`.\n\n"
        + _table(["step", *(run["name"] for run in runs)], rows)
    )


def _loss_and_recall(row: dict[str, str]) -> str:
    return f"{float(row['held_out_loss']):.3f}, {float(row['recall_place']):.0%}"


def _samples(lm: LanguageModel) -> list[Facts]:
    """A few stories by the model: one greedy, two drawn at temperature 0.8."""
    samples = []
    for prompt, temperature, seed in (("Once there was", 0.0, 0), ("One", 0.8, 0), ("It", 0.8, 1)):
        room = lm.config.max_seq_len - len(lm.encode(prompt))
        text = generate(lm, prompt, room, temperature=temperature, seed=seed).text
        samples.append({"prompt": prompt, "temperature": temperature, "seed": seed, "text": text})
    return samples


def _samples_of(runs: list[Facts]) -> str:
    lines = ["## Samples", "The prompt is bold; the models stop by themselves."]
    for run in runs:
        for sample in run["samples"]:
            kind = f"temperature {sample['temperature']}" if sample["temperature"] else "greedy"
            lines.append(f"> `{run['name']}`, {kind}: **{sample['prompt']}**{sample['text']}")
    return "\n\n".join(lines)


def _data() -> str:
    story = tell_story(0)
    questions = "\n".join(
        f"- {question.kind}: ...{question.prompt[-40:]} **{question.answer}**"
        for question in story.questions
    )
    return (
        "## Data\n\nThe stories are told by a generator that draws from a seed and knows the truth "
        "of what it tells, so recall is scored exactly. Each step shows stories that are new to "
        "the model. Held-out stories come from other random numbers, and hold only combinations of "
        "name, object and place that no training story holds. The first training story, and what "
        "it asks:\n\n"
        f"> {story.text}\n\n{questions}"
    )


def _digests(runs: list[Facts]) -> str:
    files = {name: value for run in runs for name, value in run["sha256"].items()}
    rows = [[f"`{name}`", f"`{value}`"] for name, value in sorted(files.items())]
    return "## SHA-256 of the files\n\n" + _table(["file", "digest"], rows)
