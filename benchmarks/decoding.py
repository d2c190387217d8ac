"""How many tokens a second are written, beside transformers, TransformerLens and llama2.c.

    python benchmarks/decoding.py [--shapes S M L] [--rounds 7] [--compile] [--llama2c FOLDER]

Writes data/measurements/decoding.json, which benchmarks/report.py puts into the README. Prompts of
32 tokens, greedy, float32 where nothing else is said, batch 1, random weights of three shapes. All
runs of a shape take turns. --compile adds our plain model through torch.compile, which takes up to
minutes before its first token: they are stored beside its speed. FOLDER is a checkout of llama2.c;
its run.c is compiled with gcc -Ofast and OpenMP into a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import subprocess
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from interleaved import (
    in_transformer_lens,
    in_transformers,
    in_turns,
    machine,
    random_model,
    rounded,
    summary,
)

import llama_viz as lv
from llama_viz.files import store_measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_viz.model import Llama

PEER = "transformers"
COMPILED = "llama_viz, compiled"
N_PROMPT = 32
N_NEW = {"S": 256, "M": 256, "L": 64}


def ours(shape: str, prompt: list[int], n_new: int) -> dict[str, Callable[[], object]]:
    """Our runs: plain as loaded, optimized, in 16 bits, and with the four signals recorded."""
    plain, fast = random_model(shape), random_model(shape).optimize()
    half = random_model(shape).optimize(torch.float16)
    brain = random_model(shape).optimize(torch.bfloat16)
    packed = random_model(shape).optimize(torch.bfloat16, packed=True)
    return {
        "llama_viz": lambda: lv.generate(plain, prompt, n_new),
        "llama_viz, optimized": lambda: lv.generate(fast, prompt, n_new),
        "llama_viz, optimized, float16": lambda: lv.generate(half, prompt, n_new),
        "llama_viz, optimized, bfloat16": lambda: lv.generate(brain, prompt, n_new),
        "llama_viz, optimized, bfloat16 packed": lambda: lv.generate(packed, prompt, n_new),
        "llama_viz, optimized, four signals recorded": lambda: lv.record(
            fast, prompt, n_new, taps=lv.SIGNALS, memory_limit=None
        ),
    }


def compiled(shape: str, prompt: list[int], n_new: int) -> tuple[Callable[[], object], float]:
    """Our plain model through torch.compile, and the seconds until it has written three tokens.

    Lengths are symbols (dynamic): else every length would be compiled anew.
    """
    lm = random_model(shape)
    lm.model = cast("Llama", torch.compile(lm.model, dynamic=True))
    began = time.perf_counter()
    lv.generate(lm, prompt, 3)  # the prefill, a step, and a step in which nothing is new
    return lambda: lv.generate(lm, prompt, n_new), time.perf_counter() - began


def peers(shape: str, prompt: list[int], n_new: int) -> dict[str, Callable[[], object]]:
    """The others that write from Python."""
    theirs, ids = in_transformers(shape), torch.tensor([prompt])
    lens = in_transformer_lens(shape)

    def transformers() -> None:
        with torch.inference_mode():
            theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new,
                min_new_tokens=n_new, do_sample=False,
            )  # fmt: skip

    def transformer_lens() -> None:
        # What its generate() does, which wants a tokenizer.
        cache = import_module("transformer_lens").HookedTransformerKeyValueCache.init_cache(
            lens.cfg, "cpu", 1
        )
        new, seen = ids, torch.ones_like(ids)
        with torch.inference_mode():
            for _ in range(n_new):
                logits = lens(new, past_kv_cache=cache, attention_mask=seen[:, -new.shape[1] :])
                new = logits[:, -1].argmax(dim=-1, keepdim=True)

    runs: dict[str, Callable[[], object]] = {PEER: transformers}
    if lens is not None:
        runs["TransformerLens"] = transformer_lens
    return runs


def llama2c(shape: str, n_new: int, checkout: Path, folder: Path) -> dict[str, Callable[[], float]]:
    """llama2.c's own program on the same shape, with one thread and with two."""
    program, weights, words = (folder / name for name in ("run", f"{shape}.bin", f"{shape}.tok"))
    if not program.exists():
        source = str(checkout / "run.c")
        subprocess.run(
            ["gcc", "-Ofast", "-march=native", "-fopenmp", "-o", str(program), source, "-lm"],
            check=True,
        )
    config = random_model(shape).config
    # Its program reads the oldest of its files: seven numbers, the last but one below 0 where the
    # output head is not the embedding, then all weights, with the rotations that it does not use.
    sign = 1 if config.tied_embeddings else -1
    header = struct.pack(
        "<7i", config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads,
        sign * config.vocab_size, config.max_seq_len,
    )  # fmt: skip
    n_numbers = config.n_parameters + 2 * config.max_seq_len * config.n_pairs
    numbers = np.random.default_rng(0).normal(0, 0.02, n_numbers).astype(np.float32)
    weights.write_bytes(header + numbers.tobytes())
    # And a vocabulary: every token a text of its own, that nobody reads.
    pieces = [f"<{number}>".encode() for number in range(config.vocab_size)]
    table = b"".join(struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    words.write_bytes(struct.pack("<i", max(map(len, pieces))) + table)

    def run(threads: int) -> float:
        ran = subprocess.run(
            [str(program), str(weights), "-t", "0", "-n", str(n_new), "-z", str(words)],
            capture_output=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        found = re.search(rb"achieved tok/s: ([\d.]+)", ran.stderr)
        assert found is not None, ran.stderr
        return n_new / float(found[1])

    return {"llama2.c, 1 thread": lambda: run(1), "llama2.c, 2 threads": lambda: run(2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shapes", nargs="*", default=list(N_NEW), choices=list(N_NEW))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--llama2c", type=Path, help="a checkout of llama2.c")
    arguments = parser.parse_args()
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            n_new = N_NEW[shape]
            prompt = torch.randint(3, 2000, (N_PROMPT,), generator=torch.manual_seed(1)).tolist()
            runs = {**peers(shape, prompt, n_new), **ours(shape, prompt, n_new)}
            if arguments.llama2c is not None:
                runs |= llama2c(shape, n_new, arguments.llama2c, Path(folder))
            if arguments.compile:
                runs[COMPILED], before = compiled(shape, prompt, n_new)
            measured[shape] = summary(in_turns(runs, arguments.rounds), PEER)
            if arguments.compile:
                measured[shape][COMPILED]["before"] = rounded(before)
            for name, one in measured[shape].items():
                print(f"{shape} {name:45} {n_new / one['seconds']:7.0f} tokens/s  x{one['times']}")
    store_measurement(
        "decoding", **machine(), rounds=arguments.rounds, prompt=N_PROMPT,
        new_tokens={shape: N_NEW[shape] for shape in arguments.shapes}, shapes=measured,
    )  # fmt: skip


if __name__ == "__main__":
    main()
