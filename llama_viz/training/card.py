"""The data card: what the embedded models are, how they were made, and how good they are.

Every table is computed from results.csv, recall.csv and the losses, every other line from the facts
of the runs: the card is written by a command and never by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_viz.files import written_whole
from llama_viz.training.evaluation import DISTANCE_STEP, FACT_KINDS
from llama_viz.training.recipes import EMBEDDED, GROUPS
from llama_viz.training.results import by_name, over_seeds
from llama_viz.training.store import (
    Facts,
    Line,
    read_csv,
    read_runs,
    run_name,
    write_tables,
)
from llama_viz.training.stories import KINDS, tell_story

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write_card(data: Path) -> Path:
    """Write results.csv, recall.csv and the card, data/README.md, from the stored runs.

    Raises ValueError where no run is stored.
    """
    runs = read_runs(data)
    if not runs:
        raise ValueError(f"no run is stored in {data / 'training'}: train a model first")
    write_tables(data)
    results = read_csv(data / "training" / "results.csv")
    recall = read_csv(data / "training" / "recall.csv")
    kept = [run for run in runs if run["name"] in EMBEDDED and run["recipe"]["seed"] == 0]
    sections = [
        _BEGINS,
        _recipes(runs),
        _groups(results),
        _recall(results),
        _aims(results, recall, kept),
        _curve(recall, "facts", "facts to hold"),
        _curve(recall, "distance", f"tokens back (in steps of {DISTANCE_STEP})"),
        _courses(runs, data),
        _shown_by(kept),
        _snapshots(runs),
        _samples(kept),
        _DATA.format(**_first_story()),
        _digests(kept),
        _BESIDE,
        _ENDS,
    ]
    text = "\n\n".join(section.strip("\n") for section in sections if section)
    with written_whole(data / "README.md") as unfinished:
        unfinished.write_text(text + "\n")
    return data / "README.md"


_BEGINS = """
# The embedded models

Written by `python -m llama_viz.training card` from the facts, losses and tables in `training/`.

Small LLaMA models that write children's stories. `mha`, `gqa` and `mqa` have equally many query
heads, but a key/value head serves one, several or all of them. They share tokenizer, stories,
order of the stories, steps and seed; all other sizes are equal too, so the ones with fewer
key/value heads have fewer parameters. The weights are stored as safetensors in half precision.
"""

_DATA = """
## Data

The stories are told by a generator that draws from a seed and knows the truth of what it tells, so
recall is scored exactly. Each step shows stories that are new to the model. Held-out stories come
from other random numbers, and hold only combinations of name, object and place that no training
story holds. The floor is the information in the choices that make a story, in nats per token: about
the lowest loss that any model can reach. The first training story, and what it asks:

> {text}

{questions}
"""

_BESIDE = """
## What lies beside the models

- `traces/`: runs recorded from other people's models, which open without them. Written by
  `python benchmarks/real_model.py`, for notebook 10.
- `figures/`: the numbers that the figures of the notebooks draw, read back out of them, with which
  every run of a notebook is compared. Written by `make figures`.
- `measurements/`: what was measured on one machine, such as times, and is drawn or printed
  elsewhere. Each file says in `command` what wrote it: `python benchmarks/NAME.py`, or for the
  times of the notebooks `python notebooks/execute.py --times`.
"""

_ENDS = """
## Limits

The models know only the generator's words, sentences and plots: they continue such stories, answer
nothing else, and hold no knowledge of the world. Where a row above has one run, differences to it
may be chance; where it has several, the range between them is shown. Prompts in other words, beyond
the context, or in which more happens than in a training story, lead to confused text. They are made
for looking into.

## Licence

The stories are written by this project's generator (`llama_viz/training/stories.py`) and by nobody
else. Stories, tokenizer, weights and tables are under the Apache License 2.0, as is the project.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first hold numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _recipes(runs: Sequence[Facts]) -> str:
    first = runs[0]["recipe"]
    commands = "\n".join(f"    {run['command']}" for run in runs)
    lines = [[f"`{name}`", _value(value)] for name, value in first.items()]
    others = {run["name"]: run["recipe"] for run in runs}
    rows = []
    for name, recipe in others.items():
        different = [
            f"`{field}` {_value(value)}"
            for field, value in recipe.items()
            if value != first[field] and field != "seed"
        ]
        if different:
            rows.append(f"- {name}: {', '.join(different)}")
    return (
        "## Recipes and commands\n\n"
        "Muon for the matrices of the blocks, AdamW for the rest; learning rates rise linearly, "
        "then fall along half a cosine. Each step shows `rows` rows of `row_length` tokens, and "
        "each row begins where a story begins. The first `rehearsal_steps` show nonsense: short "
        "rows in which a few tokens drawn at random come again and again, and later on "
        "`rehearsal_rows` of the rows are such nonsense.\n\n"
        f"{commands}\n\n" + table(["", runs[0]["name"]], lines)
        + ("\n\nThe others differ in:\n\n" + "\n".join(rows) if rows else "")
    )  # fmt: skip


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"


_TITLES = {
    "attention": "MHA, GQA and MQA, all else equal",
    "matched": "The same with as many parameters: the feed-forward is wider",
    "longer": "The same for twice as many steps",
    "roomier": "MHA with fewer and wider heads, with more layers, and twice as wide",
    "feed-forward": "Eight feed-forwards with equally many weights",
    "normalization": "With and without norms, in a deep model",
    "uptraining": "MHA pooled into GQA and MQA, and trained for 5% of the steps",
}


# Runs of other groups that a comparison starts from.
_COMPARED_WITH = {"matched": ("mha",), "longer": ("mha", "gqa"), "roomier": ("mha",)}


def _groups(results: Sequence[Line]) -> str:
    """Sizes and losses, a table for each comparison."""
    sections = ["## Results"]
    for group in GROUPS:
        lines = [line for line in results if line["group"] == group]
        beside = _COMPARED_WITH.get(group, ()) if lines else ()
        lines = [line for line in results if line["name"] in beside] + lines
        rows = [_sizes_and_losses(name, runs) for name, runs in by_name(lines).items()]
        if rows:
            header = ["", "parameters", "cache, bytes per position", "seeds", "tokens", "minutes",
                      "held-out loss before", "held-out loss", "above the floor"]  # fmt: skip
            sections.append(f"### {_TITLES[group]}\n\n{table(header, rows)}")
    sections.append(
        "Losses are in nats per token, on held-out stories, with the weights as they are stored; "
        "beside a mean over seeds stands the range. The minutes are those of the training steps "
        "alone, on one core, while other programs ran beside: they are no benchmark."
    )
    return "\n\n".join(sections)


def _sizes_and_losses(name: str, runs: Sequence[Line]) -> list[str]:
    losses = [float(run["held_out_loss"]) for run in runs]
    above = [float(run["held_out_loss"]) / float(run["floor"]) - 1 for run in runs]
    return [
        f"`{name}`",
        f"{int(runs[0]['parameters']):,}",
        f"{int(runs[0]['kv_cache_bytes_per_position']):,}",
        str(len(runs)),
        f"{int(runs[0]['tokens']):,}",
        over_seeds([float(run["minutes"]) for run in runs], lambda value: f"{value:.1f}"),
        over_seeds([float(run["first_held_out_loss"]) for run in runs], lambda x: f"{x:.3f}"),
        over_seeds(losses, lambda value: f"{value:.4f}"),
        over_seeds(above, lambda value: f"{value:.1%}"),
    ]


def _recall(results: Sequence[Line]) -> str:
    """What each kind of question asks for, answered by the models of full size."""
    groups = ("attention", "matched", "longer", "roomier", "uptraining")
    names = [name for group in groups for name in GROUPS[group]]
    found = by_name([line for line in results if line["name"] in names])
    rows = []
    for kind in KINDS:
        shares = {
            name: [
                int(run[f"right_{kind}"]) / int(run[f"asked_{kind}"])
                for run in runs
                if int(run[f"asked_{kind}"])
            ]
            for name, runs in found.items()
        }
        rows.append([kind, *(over_seeds(shares[name], lambda x: f"{x:.1%}") for name in found)])
    return (
        "### Recall by kind of question\n\n" + table(["", *found], rows) + "\n\n"
        "An answer is right when every one of its tokens is the model's first choice."
    )


# Runs that were meant to come nearer to what was aimed at.
_TRIED = {
    "mha-long": "was trained for twice as many steps",
    "mha-4-heads": "has half as many heads, each twice as wide",
    "mha-6-layers": "has six layers, each narrower",
    "mha-large": "is twice as wide",
}


def _aims(results: Sequence[Line], recall: Sequence[Line], kept: Sequence[Facts]) -> str:
    """What was wanted of the model with all heads its own, and how near it comes."""
    names = [name for name in ("mha", *_TRIED) if by_name(results).get(name)]
    if "mha" not in names:
        return ""
    above = {
        name: [float(run["held_out_loss"]) / float(run["floor"]) - 1
               for run in by_name(results)[name]]
        for name in names
    }  # fmt: skip
    rows = [["loss above the floor", "at most 5%",
             *(over_seeds(above[name], lambda x: f"{x:.1%}") for name in names)]]  # fmt: skip
    for kind in FACT_KINDS:
        cells = []
        for name in names:
            runs: dict[str, list[Line]] = {}
            for line in recall:
                is_of_kind = line["name"] == name and line["kind"] == kind
                if is_of_kind and line["by"] == "facts" and int(line["value"]) <= 2:
                    runs.setdefault(line["run"], []).append(line)
            shares = [sum(int(line["right"]) for line in lines)
                      / sum(int(line["asked"]) for line in lines)
                      for lines in runs.values()]  # fmt: skip
            cells.append(over_seeds(shares, lambda x: f"{x:.1%}"))
        rows.append([f"{kind}, of up to two facts", "at least 95%", *cells])
    for run in kept:
        if run["name"] == "mha":
            good = run["consistent"]["all"] / run["consistent"]["stories"]
            nothing = [""] * (len(names) - 1)
            rows.append(["stories in which all is kept", "at least 95%", f"{good:.1%}", *nothing])
            rows.append(["an induction head's weight", "most of it",
                         f"{run['induction']['score']:.2f}", *nothing])  # fmt: skip
    asked, open_ = _place_questions()
    tried = [f"`{name}` {_TRIED[name]}" for name in names if name in _TRIED]
    others = f"\n\nWhat was tried: {'; '.join(tried)}." if tried else ""
    return (
        "### What was aimed at\n\n"
        + table(["", "aimed at", *(f"`{name}`" for name in names)], rows)
        + f"\n\nA place cannot be had much better: of {asked:,} such questions {open_:,} open a "
        "speech (“Under the bed?” asked Mum), and one that begins otherwise is as likely there. A "
        "reader who knows the generator is right in half of them on average, and so in "
        f"{1 - open_ / asked / 2:.1%} of all, a deviation of chance being "
        f"{open_**0.5 / 2 / asked:.1%}."
        + others
        + " How recall falls with the facts that there are to hold stands below: which colour "
        "belongs to which of several things is often guessed. Looking it up would take three heads "
        "in a row, we think: one that reads the word before a thing's name, one that finds the "
        "name again, one that carries what was found to the answer."
    )


def _place_questions(n_stories: int = 100) -> tuple[int, int]:
    """Questions for a place in held-out stories with one and two facts: all, and those not due."""
    questions = [
        question
        for n_facts in (1, 2)
        for number in range(n_stories)
        for question in tell_story(number, held_out=True, n_facts=n_facts).questions
        if question.kind == "place"
    ]
    return len(questions), sum(not question.is_due for question in questions)


def _curve(recall: Sequence[Line], by: str, words: str) -> str:
    """Recall of place, colour and owner over the number of facts, or over the distance."""
    names = [*GROUPS["attention"], *GROUPS["matched"]]
    lines = [line for line in recall if line["by"] == by and line["name"] in names]
    found = by_name(lines)
    kinds = [kind for kind in FACT_KINDS if any(line["kind"] == kind for line in lines)]
    sections = []
    for kind in kinds:
        values = sorted({int(line["value"]) for line in lines if line["kind"] == kind})
        rows = []
        for value in values:
            cells = []
            for name in found:
                here = [line for line in found[name]
                        if line["kind"] == kind and int(line["value"]) == value]  # fmt: skip
                shares = [int(line["right"]) / int(line["asked"]) for line in here]
                cells.append(over_seeds(shares, lambda x: f"{x:.0%}"))
            asked = sum(int(line["asked"]) for line in found[next(iter(found))]
                        if line["kind"] == kind and int(line["value"]) == value)  # fmt: skip
            rows.append([str(value), *cells, f"{asked:,}"])
        header = [words, *found, f"asked of {next(iter(found))}"]
        sections.append(f"#### {kind}\n\n{table(header, rows)}")
    return f"### Recall over the number of {words}\n\n" + "\n\n".join(sections)


def _courses(runs: Sequence[Facts], data: Path) -> str:
    """Ten moments of the runs of the first group's first seed, from their tables of losses."""
    chosen = [run for run in runs if run["group"] == "attention" and run["recipe"]["seed"] == 0]
    if not chosen:
        return ""
    courses = {}
    for run in chosen:
        path = data / "training" / "losses" / f"{run_name(run['name'], 0)}.csv"
        courses[run["name"]] = [row for row in read_csv(path) if row["held_out_loss"]]
    steps = [row["step"] for row in courses[chosen[0]["name"]]]
    steps = sorted({steps[round(i * (len(steps) - 1) / 9)] for i in range(10)}, key=float)
    rows = []
    for step in steps:
        cells = [f"{float(step):,.0f}"]
        for course in courses.values():
            found = [row for row in course if row["step"] == step]
            cells.append(_loss_and_recall(found[0]) if found else "")
        rows.append(cells)
    return (
        "## How the runs went\n\nHeld-out loss, and recall of place, during training of seed 0 "
        "(fewer stories than above); the whole course of every run is in `training/losses/`. "
        "`benchmarks/retraining.py` takes the first steps of a run again and compares the losses: "
        "`measurements/retraining.json`.\n\n" + table(["step", *courses], rows)
    )


def _loss_and_recall(row: Line) -> str:
    recall = f", {float(row['recall_place']):.0%}" if row["recall_place"] else ""
    return f"{float(row['held_out_loss']):.3f}{recall}"


def _shown_by(kept: Sequence[Facts]) -> str:
    """Stories that keep to themselves, and the heads that look up repeated pairs."""
    rows = [
        [
            f"`{run['name']}`",
            *(f"{run['consistent'][what] / run['consistent']['stories']:.1%}"
              for what in ("names", "pronouns", "colours", "all")),
            f"{run['consistent']['stories']:,}",
            f"layer {run['induction']['layer']}, head {run['induction']['head']}: "
            f"{run['induction']['score']:.2f}",
        ]
        for run in kept
    ]  # fmt: skip
    if not rows:
        return ""
    return (
        "## Stories that the models draw\n\nAt temperature 0.8, from nothing but the start token; "
        "checked by `llama_viz/training/consistency.py`. Beside it the head that looks most at "
        "what followed the last time that its token was there, over random tokens that come "
        "twice, with the mean weight that it gives.\n\n"
        + table(["", "names kept", "pronouns agree", "colours kept", "all three", "stories",
                 "induction head"], rows)
    )  # fmt: skip


def _snapshots(runs: Sequence[Facts]) -> str:
    found = [run for run in runs if run.get("snapshots")]
    if not found:
        return ""
    rows = [
        [
            f"{snapshot['step']:,}",
            f"{snapshot['held_out_loss']:.3f}",
            f"{snapshot['recall'].get('place', 0):.0%}",
            f"layer {snapshot['induction']['layer']}, head {snapshot['induction']['head']}: "
            f"{snapshot['induction']['score']:.2f}",
        ]
        for snapshot in found[0]["snapshots"]
    ]
    return (
        f"## Snapshots of `{found[0]['name']}`\n\nIn `snapshots/`, chosen where the loss falls.\n\n"
        + table(["step", "held-out loss", "recall of place", "strongest induction head"], rows)
    )


def _samples(kept: Sequence[Facts]) -> str:
    lines = ["## Samples", "The prompt is bold; the models stop by themselves."]
    for run in kept:
        for sample in run["samples"]:
            kind = f"temperature {sample['temperature']}" if sample["temperature"] else "greedy"
            lines.append(f"> `{run['name']}`, {kind}: **{sample['prompt']}**{sample['text']}")
    return "\n\n".join(lines) if kept else ""


def _first_story() -> dict[str, str]:
    story = tell_story(0)
    questions = "\n".join(
        f"- {question.kind}: ...{question.prompt[-40:]}**{question.answer}**"
        for question in story.questions
    )
    return {"text": story.text, "questions": questions}


def _digests(kept: Sequence[Facts]) -> str:
    files = {name: value for run in kept for name, value in run["sha256"].items()}
    rows = [[f"`{name}`", f"`{value}`"] for name, value in sorted(files.items())]
    return "## SHA-256 of the files\n\n" + table(["file", "digest"], rows) if rows else ""
