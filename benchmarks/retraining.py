"""Whether a run can be repeated: the first steps of an embedded model, taken again.

    python benchmarks/retraining.py [--name gqa] [--steps 200]

Writes data/measurements/retraining.json: the largest difference between the training losses found
now and those stored with the model. No times: it may be run on a busy machine. A minute.
"""

from __future__ import annotations

import argparse
import datetime

import torch

from llama_viz.files import data_folder, store_measurement
from llama_viz.tokenizer import Tokenizer
from llama_viz.training.loop import Trainer
from llama_viz.training.recipes import EMBEDDED, RECIPES
from llama_viz.training.store import digest, read_csv, read_runs, run_name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--name", default="gqa", choices=[n for n in EMBEDDED if "-" not in n])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    data, run = data_folder(), run_name(arguments.name, 0)
    path = data / "training" / "losses" / f"{run}.csv"
    stored = {int(float(row["step"])): row["train_loss"] for row in read_csv(path)}
    facts = next(facts for facts in read_runs(data) if run_name(facts["name"], 0) == run)

    torch.set_num_threads(facts["threads"])
    trainer = Trainer(
        RECIPES[arguments.name],
        Tokenizer.from_file(data / "tokenizer.model"),
        bfloat16=facts["bfloat16"],
    )
    differences = {}
    for _ in range(arguments.steps):
        trainer.advance()
        if stored.get(trainer.step):
            loss = trainer.log()["train_loss"]
            differences[trainer.step] = abs(loss - float(stored[trainer.step]))
            print(f"step {trainer.step}: {loss:.5f}, stored {stored[trainer.step]}")
    store_measurement(
        "retraining",
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
        run=run,
        losses=digest(path),
        steps=arguments.steps,
        compared=len(differences),
        largest_difference=max(differences.values()),
    )


if __name__ == "__main__":
    main()
