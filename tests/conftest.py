"""What all tests share: the same arithmetic everywhere, and the embedded models loaded once."""

from __future__ import annotations

import os
from pathlib import Path

# One thread, in the tests and in the kernels that they start: sums in one order whatever the
# machine, and no quarrel about cores between tests side by side. Set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import llama_viz as lv

BROWSER_TESTS = Path(__file__).parent / "browser"


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if BROWSER_TESTS in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def family() -> dict[str, lv.LanguageModel]:
    """The three embedded models by name. Shared: a test that changes one loads its own."""
    return {name: lv.load(name) for name in ("mha", "gqa", "mqa")}


@pytest.fixture(params=["mha", "gqa", "mqa"])
def tiny_config(request: pytest.FixtureRequest) -> lv.ModelConfig:
    """A model of each kind that is small enough for anything."""
    return lv.ModelConfig(
        n_layers=2,
        n_heads=4,
        n_kv_heads={"mha": 4, "gqa": 2, "mqa": 1}[request.param],
        dim=32,
        hidden_dim=48,
        vocab_size=61,
        max_seq_len=64,
    )
