"""How long LayerNorm and RMSNorm take, like beside like: both written out, both in one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_viz.foundations.normalization import rms_norm

EPS = 1e-5


def ways(dim: int) -> dict[str, dict[str, Callable[[Tensor], Tensor]]]:
    """Each norm with its learned numbers, written out and as PyTorch's one call.

    Written out, LayerNorm is RMSNorm of what is centred: the same steps, and one statistic more.
    """
    gain, shift = torch.ones(dim), torch.zeros(dim)
    return {
        "written out": {
            "LayerNorm": lambda x: rms_norm(x - x.mean(-1, keepdim=True), EPS) * gain + shift,
            "RMSNorm": lambda x: rms_norm(x, EPS) * gain,
        },
        "PyTorch's call": {
            "LayerNorm": lambda x: F.layer_norm(x, (dim,), gain, shift, EPS),
            "RMSNorm": lambda x: F.rms_norm(x, (dim,), gain, EPS),
        },
    }


@torch.inference_mode()
def norm_times(
    dim: int = 4096, n_items: int = 8, *, seconds: float = 1.0
) -> dict[str, dict[str, float]]:
    """Seconds of the fastest run of each norm on (n_items, dim) float32 numbers of the CPU.

    All are run in turn until the time is spent, so that what else the machine does meets all alike.
    Raises ValueError where seconds is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds!r}")
    x = torch.randn(n_items, dim, generator=torch.Generator().manual_seed(0))
    runs = {
        (way, name): partial(norm, x)
        for way, norms in ways(dim).items()
        for name, norm in norms.items()
    }
    fastest = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for which, run in runs.items():
            began = time.perf_counter()
            run()
            fastest[which] = min(fastest[which], time.perf_counter() - began)
    return {way: {name: fastest[way, name] for name in norms} for way, norms in ways(dim).items()}
