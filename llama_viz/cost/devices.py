"""How fast a device computes and reads: published figures, this machine measured, the roofline."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_viz.cost.memory import GB
from llama_viz.cost.operations import itemsize

if TYPE_CHECKING:
    import torch

    from llama_viz.cost.operations import Cost

T = 10**12  # tera


@dataclass(frozen=True)
class Device:
    """Where a model may run.

    operations_per_second: the peak for each type of number, dense, a multiply-add counted as two.
    bytes_per_second: of its memory. memory_bytes: None where it is not known. source: who says so.
    note: what in these figures is derived, or missing. spread: for measured devices, the lowest and
    the highest run of each figure, by type of number and "bytes".
    """

    name: str
    operations_per_second: Mapping[str, float]
    bytes_per_second: float
    memory_bytes: int | None
    source: str
    note: str = ""
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def peak(self, dtype: str = "float16") -> float:
        """Operations per second at best. Raises ValueError where there is no figure for dtype."""
        if dtype not in self.operations_per_second:
            known = ", ".join(self.operations_per_second) or "none"
            note = f" ({self.note})" if self.note else ""
            raise ValueError(
                f"no operations per second of {self.name} in {dtype!r}; known: {known}{note}"
            )
        return self.operations_per_second[dtype]

    def ridge_point(self, dtype: str = "float16") -> float:
        """Operations per byte from which on arithmetic is the limit, and no longer memory."""
        return self.peak(dtype) / self.bytes_per_second

    def ridge_point_per_number(self, dtype: str = "float16") -> float:
        """The same per number of dtype that is read or written."""
        return self.ridge_point(dtype) * itemsize(dtype)

    def attainable(self, intensity: float, dtype: str = "float16") -> float:
        """Operations per second that the roofline allows at an arithmetic intensity.

        The lesser of the peak and intensity x bytes per second (Williams, Waterman and Patterson
        2009). Raises ValueError for an intensity below 0, and as peak() does.
        """
        if intensity < 0:
            raise ValueError(f"arithmetic intensity must be 0 or more, got {intensity!r}")
        return min(self.peak(dtype), intensity * self.bytes_per_second)

    def seconds(self, cost: Cost, dtype: str = "float16") -> float:
        """The least time that an operation can take: its arithmetic or its bytes, the longer one.

        Give dtype as the cost was made with. Starting an operation takes time too, and nothing
        reaches its peak: real times are longer.
        """
        return max(cost.operations / self.peak(dtype), cost.bytes / self.bytes_per_second)

    def is_memory_bound(self, cost: Cost, dtype: str = "float16") -> bool:
        """Whether the bytes of an operation take longer than its arithmetic."""
        return cost.bytes / self.bytes_per_second > cost.operations / self.peak(dtype)


def _nvidia(
    name: str, *, single: float, half: float, bandwidth: float, gigabytes: int, source: str,
    note: str = "",
) -> Device:  # fmt: skip
    """In 10^12 a second: operations in float32 and, on tensor cores, in half precision; bytes."""
    speeds = {"float32": single * T, "float16": half * T, "bfloat16": half * T}
    return Device(name, speeds, bandwidth * T, gigabytes * GB, source, note)


_A100 = "NVIDIA A100 Tensor Core GPU, datasheet, 2020 (40 GB) and 2021 (80 GB)"
_H100 = "NVIDIA H100 Tensor Core GPU, datasheet, 2023"
_HALVED = "half precision without sparsity is derived: half the {} teraoperations given with it"

DEVICES: dict[str, Device] = {
    "a100-40gb": _nvidia(
        "A100 40 GB, PCIe or SXM",
        single=19.5, half=312, bandwidth=1.555, gigabytes=40, source=_A100,
    ),
    "a100-80gb-pcie": _nvidia(
        "A100 80 GB PCIe",
        single=19.5, half=312, bandwidth=1.935, gigabytes=80, source=_A100,
    ),
    "a100-80gb-sxm": _nvidia(
        "A100 80 GB SXM",
        single=19.5, half=312, bandwidth=2.039, gigabytes=80, source=_A100,
    ),
    "h100-pcie": _nvidia(
        "H100 PCIe",
        single=51, half=1513 / 2, bandwidth=2.0, gigabytes=80, source=_H100,
        note=_HALVED.format("1,513"),
    ),
    "h100-sxm": _nvidia(
        "H100 SXM",
        single=67, half=1979 / 2, bandwidth=3.35, gigabytes=80, source=_H100,
        note=_HALVED.format("1,979"),
    ),
    "rtx-4090": _nvidia(
        "GeForce RTX 4090",
        single=82.6, half=165.2, bandwidth=1.008, gigabytes=24,
        source="NVIDIA Ada GPU Architecture, whitepaper, 2022",
        note="half precision with sums in float32",
    ),
    "m4-max": Device(
        "Apple M4 Max, 40-core GPU",
        {}, 0.546 * T, 128 * GB, "Apple newsroom, M4 Pro and M4 Max, October 2024",
        note="Apple publishes bandwidth and memory (up to 128 GB) but no operations per second; "
        "measure_device('mps') measures them",
    ),
}  # fmt: skip

# How long one timed run should take at least, and how many bytes one read goes through: far more
# than the caches hold.
RUN_SECONDS = 0.005
READ_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30, "mps": 2**29}
LARGEST_MATRIX = 8192


def measure_device(device: torch.device | str | None = None, *, seconds: float = 2.0) -> Device:
    """This machine, measured now: matrix products per type of number, and reading of memory.

    device is the CPU unless given. Each figure is the median of several runs, its lowest and
    highest stand in `spread`; all together take about `seconds`. PyTorch's own products are timed,
    with the threads that it is set to use. A type that the device cannot multiply is left out.

    Raises ValueError unless seconds is finite and above 0.
    """
    import torch

    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be finite and above 0, got {seconds!r}")
    place = torch.device("cpu" if device is None else device)
    types = ["float32", "bfloat16"] + ["float16"] * (place.type != "cpu")
    share = seconds / (len(types) + 1)
    speeds, spread = {}, {}
    with torch.inference_mode():
        for dtype in types:
            try:
                runs = _product_speeds(place, getattr(torch, dtype), share)
            except (RuntimeError, TypeError):  # no such product on this device
                continue
            speeds[dtype], spread[dtype] = statistics.median(runs), (min(runs), max(runs))
        n_numbers = READ_BYTES.get(place.type, READ_BYTES["cpu"]) // 4
        numbers = torch.ones(n_numbers, dtype=torch.float32, device=place)
        runs = [4 * n_numbers / taken for taken in _timed(numbers.sum, place, share)]
        spread["bytes"] = (min(runs), max(runs))
    return Device(
        _name(place), speeds, statistics.median(runs), _memory_bytes(place),
        f"measured with PyTorch {torch.__version__}, medians of runs over {seconds:g} s",
        spread=spread,
    )  # fmt: skip


def _product_speeds(device: torch.device, dtype: torch.dtype, seconds: float) -> list[float]:
    """Operations per second of square products, the size grown until a run takes long enough."""
    import torch

    size = 256
    while True:
        left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        product = partial(torch.matmul, left, right)
        if min(_timed(product, device, 0.0)) >= RUN_SECONDS or size >= LARGEST_MATRIX:
            break
        size *= 2
    taken = _timed(product, device, seconds / 2)
    return [2 * size**3 / run for run in taken]


def _timed(work: Callable[[], Any], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each run: at least 3 after one that warms up, and more until the time is spent."""
    work()
    _finish(device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        began = time.perf_counter()
        work()
        _finish(device)
        taken.append(time.perf_counter() - began)
    return taken


def _finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (measured)"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"this CPU, {threads} thread{'s' if threads > 1 else ''} (measured)"
    return f"{device} (measured)"


def _memory_bytes(device: torch.device) -> int | None:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:  # the CPU, and devices that share its memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return None
