"""A model that is spread over several processes, recorded into one trace (tensor parallelism).

Each process holds its share of the heads and neurons (shares.py), runs the same generation and
records what it computes with the ordinary recorder; the first one joins the pieces. The processes
are started here, on one machine, or by torchrun, on several:

    llama-viz record CHECKPOINT PROMPT --out trace.nc --nproc 4
    torchrun --nnodes 2 --nproc-per-node 4 ... -m llama_viz record CHECKPOINT PROMPT --out trace.nc
"""

from __future__ import annotations

import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from llama_viz.checkpoints import load, pick_device
from llama_viz.checkpoints.loaded import empty_model, one_line
from llama_viz.errors import MemoryLimitError, unknown_name
from llama_viz.files import written_whole
from llama_viz.generation import Sampling, check_new_tokens, forced_ids, is_several
from llama_viz.model import Llama
from llama_viz.prompts import check_size, forced_of_prompts, ids_of_prompts
from llama_viz.recorder import (
    RecordingSize,
    format_bytes,
    parse_bytes,
    record,
    recording_size,
)
from llama_viz.shares import COLUMNS_OF, ROWS_OF, Share
from llama_viz.trace import VARIABLES, save_trace
from llama_viz.trace_folder import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from llama_viz.config import ModelConfig
    from llama_viz.kv_cache import KVCache
    from llama_viz.language_model import LanguageModel

    # One prompt, or several.
    Prompts = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]

DIVIDED = ("head", "key_value_head", "neuron")
DEVICES = ("cpu", "cuda")
JOB, WARNINGS = "job.json", "warnings.json"  # in the folder that the processes share
# How long a process that was told to end may take before it is ended the hard way.
SECONDS_TO_END = 5.0


def record_parallel(
    source: str | Path,
    prompt: Prompts,
    path: str | Path,
    n_processes: int | None = None,
    *,
    device: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> None:
    """Record a checkpoint that is spread over processes and write the trace to one file.

    source is what load() takes, prompt (one, or a list of them) and settings are those of record().
    The trace equals that of record() within rounding; attrs["processes"] says what each process
    held. n_processes None is one, or as many as torchrun has started, each of which calls this
    function. device "cpu" or "cuda" (None: CUDA where it is) is for all of them; with CUDA each
    takes a device of its own. One process with one prompt may also write as it goes, into a folder:
    to a path ending in .zarr, as record(path=...) does.

    Raises ValueError, before any process starts, where the heads or neurons cannot be divided,
    where several processes or prompts are to be written as they go, and for whatever record()
    refuses; ChildProcessError where a process fails. Then, and after an interrupt, no process goes
    on and no file is left.
    """
    outer = _outer_group()
    n_ranks = (outer or 1) if n_processes is None else n_processes
    if outer is not None and n_ranks != outer:
        raise ValueError(f"{outer} processes were started and {n_ranks} asked for; ask for {outer}")
    as_it_goes = Path(path).suffix == SUFFIX
    for kind, are_several in (("processes", n_ranks > 1), ("prompts", is_several(prompt))):
        if as_it_goes and are_several:
            raise ValueError(
                f"several {kind} are written to one file in the end, not to a folder as they go: "
                f"name a path ending in .nc in place of {str(path)!r}"
            )
    whole = load(source, device="meta")
    settings = _check(whole, prompt, n_ranks, settings, as_it_goes=as_it_goes)
    prompt = _as_lists(whole, prompt)
    if outer is not None:
        _record_share(_Job(str(source), prompt, str(path), device, progress, settings))
    elif n_ranks == 1:
        lm = load(source, device=device)
        if as_it_goes:
            record(lm, prompt, progress=progress, path=path, **settings)
        else:
            with written_whole(path) as unfinished:  # a place that cannot be is told at once
                save_trace(record(lm, prompt, progress=progress, **settings), unfinished)
    else:
        _device(device, 0, n_ranks)
        with (
            written_whole(path) as unfinished,
            # What a process was writing when it was ended goes with its folder.
            tempfile.TemporaryDirectory(dir=unfinished.parent, prefix=".recording-") as folder,
        ):
            made = Path(folder) / unfinished.name
            _run(n_ranks, _Job(str(source), prompt, str(made), device, progress, settings))
            made.replace(unfinished)


def is_first() -> bool:
    """Whether this is the process that speaks for all: the first, or the only one."""
    return _outer_group() is None or os.environ["RANK"] == "0"


def leave_group() -> None:
    """End this process where it is one of several that torchrun has started; all must be written.

    The threads of its libraries are not waited for: at Python's end they abort a process at times.
    """
    if _outer_group() is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _outer_group() -> int | None:
    """How many processes torchrun, or a launcher of its kind, has started; None: none did."""
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return int(os.environ["WORLD_SIZE"])
    return None


def _check(
    whole: LanguageModel,
    prompt: Prompts,
    n_ranks: int,
    settings: dict[str, Any],
    *,
    as_it_goes: bool = False,
) -> dict[str, Any]:
    """Refuse what record() would refuse, for the whole model; return the settings as lists."""
    call = inspect.signature(record).bind(whole, prompt, **settings)
    call.apply_defaults()
    given = call.arguments
    Share(0, n_ranks).check(whole.config)
    for name in ("taps", "layers"):
        if name in settings and not isinstance(given[name], (str, int, type(None))):
            settings[name] = given[name] = list(given[name])
    n_new = check_new_tokens(given["max_new_tokens"])
    sampling = Sampling(given["temperature"], given["top_k"], given["top_p"], given["seed"])
    settings |= {**asdict(sampling), "max_new_tokens": n_new}
    several: Any = prompt if is_several(prompt) else None
    forced = given["forced"]
    if several:
        ids_of_prompts(whole, several, n_new)
        settings["forced"] = forced_of_prompts(whole, forced, len(several), n_new)
    else:
        settings["forced"] = forced_ids(whole, forced, n_new)
    sizes, limit = _sizes(whole, prompt, settings), given["memory_limit"]
    if several:
        check_size(sizes, limit)
    # What is held of a trace that is written as it goes is less; record() counts it.
    elif limit is not None and sizes[0].total > parse_bytes(limit) and not as_it_goes:
        raise MemoryLimitError(
            f"the trace would take {sizes[0]}, more than the memory limit of "
            f"{format_bytes(parse_bytes(limit))}; choose taps= or layers=, write fewer tokens, or "
            "raise memory_limit="
        )
    return settings


def _sizes(whole: LanguageModel, prompt: Prompts, settings: dict[str, Any]) -> list[RecordingSize]:
    """The bytes of the joined trace; of several prompts, those of each."""
    taken = inspect.signature(recording_size).parameters
    known = {name: value for name, value in settings.items() if name in taken}
    prompts: Any = prompt if is_several(prompt) else [prompt]
    return [recording_size(whole, each, **known) for each in prompts]


def _as_lists(whole: LanguageModel, prompt: Any) -> Any:
    """A prompt, or each of several, as it can be told to another process: a text or a list."""
    if is_several(prompt):
        return [_as_lists(whole, each) for each in prompt]
    return prompt if isinstance(prompt, str) else whole.prompt_ids(prompt)


# The model


class SpreadLlama(Llama):
    """One process's share of a Llama, whose passes give what the whole model gives.

    Its sizes are those of the share. What attention and the feed-forward add to the residual
    stream is summed over all processes; so every process has the whole stream and all logits.
    """

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        logits = super().forward(ids, cache)
        # Each process draws the next token for itself, by the same seed and from the same bits:
        # those of the first one. Rounding that differs between them cannot part their texts.
        last = logits[:, -1].contiguous()
        dist.broadcast(last, src=0)
        logits[:, -1] = last
        return logits

    def get_parameter(self, target: str) -> nn.Parameter:
        """A weight; of one that is divided what this process holds, as a plain tensor."""
        weight = super().get_parameter(target)
        if isinstance(weight, DTensor):
            return nn.Parameter(weight.to_local(), requires_grad=False)
        return weight


def load_share(
    source: str | Path, device: torch.device | str = "cpu", **settings: Any
) -> LanguageModel:
    """Load this process's share of a checkpoint, to be run by all processes of the group at once.

    settings are those of load(). Of each weight the process keeps its own rows or columns; no more
    than one whole weight is in memory at a time.
    """
    share = Share(dist.get_rank(), dist.get_world_size())
    lm = load(source, device=device, share=share, **settings)
    mesh = init_device_mesh(torch.device(device).type, (share.n_ranks,))
    lm.model = _spread(lm.model, mesh)
    return lm


def _spread(part: Llama, mesh: DeviceMesh) -> SpreadLlama:
    """The same weights in a model whose Linears know that they are parts of larger ones."""
    model = empty_model(part.config, SpreadLlama)
    assert isinstance(model, SpreadLlama)
    model.load_state_dict(part.state_dict(), assign=True)
    if part.config.tied_embeddings:
        model.output.weight = model.embedding.weight
    for block in model.blocks:
        for axis, names in enumerate((ROWS_OF, COLUMNS_OF)):
            for name in names:
                linear = block.get_submodule(name)
                here = linear.get_parameter("weight").data
                weight = DTensor.from_local(here, mesh, [Shard(axis)])
                linear.weight = nn.Parameter(weight, requires_grad=False)
    parallelize_module(
        model,
        mesh,
        {f"blocks.*.{name}": ColwiseParallel() for name in ROWS_OF}
        | {f"blocks.*.{name}": RowwiseParallel() for name in COLUMNS_OF},
    )
    return model.requires_grad_(False).eval()


# One process of the group


@dataclass(frozen=True)
class _Job:
    """What every process is told; path is where the first one writes the trace."""

    source: str
    prompt: Prompts
    path: str
    device: str | None
    progress: bool
    settings: dict[str, Any]

    def as_json(self) -> str:
        """For _Job(**json.loads(...)); numbers of numpy become Python's."""
        return json.dumps(vars(self), default=lambda number: number.item())


def _record_share(job: _Job, meeting: Path | None = None) -> None:
    """Record this process's part of the run; the first process writes the trace.

    meeting is a file by which the processes find each other; None leaves that to torchrun.
    """
    rank, n_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = _device(
        job.device,
        int(os.environ.get("LOCAL_RANK", rank)),
        int(os.environ.get("LOCAL_WORLD_SIZE", n_ranks)),
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        init_method=None if meeting is None else meeting.as_uri(),
        rank=rank,
        world_size=n_ranks,
    )
    share = Share(rank, n_ranks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = load(job.source, device="meta")
        lm = load_share(job.source, device, tokenizer=whole.tokenizer)
        if rank > 0:
            lm.path = None  # its checksum is asked for once
        trace = record(
            lm,
            job.prompt,
            progress=job.progress and rank == 0,
            **{**job.settings, "taps": _taps(share, job.settings), "memory_limit": None},
        )
        trace = _joined(trace, lm, share, whole.config)
        if rank == 0:
            sizes = _sizes(whole, job.prompt, job.settings)
            trace.attrs["bytes_planned"] = sum(size.total for size in sizes)
            save_trace(trace, job.path)
    for text in _warnings_of_all(caught, n_ranks):
        warnings.warn(text, stacklevel=3)
    dist.barrier()  # nobody hangs up on one who is still listening
    dist.destroy_process_group()


def _device(asked: str | None, number: int, n_here: int) -> torch.device:
    """The device of process `number` of the n_here on this machine."""
    kind = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in DEVICES:
        raise unknown_name("device", asked, DEVICES)
    pick_device(kind)
    if kind == "cpu":
        return torch.device(kind)
    if torch.cuda.device_count() < n_here:
        raise ValueError(
            f"{n_here} processes need {n_here} CUDA devices, this machine has "
            f"{torch.cuda.device_count()}; start fewer, or take the device 'cpu'"
        )
    return torch.device(kind, number)


def _taps(share: Share, settings: dict[str, Any]) -> list[str]:
    """What this process records: the first one all that is asked for, the others what is theirs."""
    asked = settings.get("taps")
    asked = [asked] if isinstance(asked, str) else list(VARIABLES) if asked is None else asked
    if share.rank == 0:
        return asked
    # A recording of nothing is refused; this variable is the smallest.
    return [name for name in asked if _divided_dim(name)] or ["step_positions"]


def _divided_dim(variable: str) -> str | None:
    """The dimension of a variable along which the processes hold different parts."""
    return next((dim for dim in DIVIDED if dim in VARIABLES[variable].dims), None)


def _joined(trace: xr.Dataset, lm: LanguageModel, share: Share, whole: ModelConfig) -> xr.Dataset:
    """On the first process the trace of the whole model; on the others their own, as it was.

    The pieces come one by one: beside the joined trace the first process holds its own share of it
    and one piece.
    """
    several = "prompt" in trace.dims
    n_positions = int(trace["n_positions"].sum()) if several else trace.sizes["position"]
    held = {
        "device": str(lm.device),
        **{f"{dim}s": share.held(dim, whole) for dim in ("head", "key_value_head")},
        "neurons": len(share.neurons(whole)),
        "weight_bytes": sum(_here(weight).nbytes for weight in lm.model.parameters()),
        "cache_bytes": lm.config.kv_cache_bytes(n_positions, itemsize=lm.dtype.itemsize),
    }
    everything: list[Any] | None = [None] * share.n_ranks if share.rank == 0 else None
    dist.gather_object((held, trace.token_id.values.tolist()), everything)
    if everything is None:
        for name, variable in trace.data_vars.items():
            if _divided_dim(str(name)):
                dist.send(torch.from_numpy(np.ascontiguousarray(variable.values)), dst=0)
        return trace
    if any(ids != everything[0][1] for _, ids in everything):
        raise RuntimeError("the processes have written different texts")
    values = {}
    for name, variable in trace.data_vars.items():
        dim = _divided_dim(str(name))
        if dim is not None:
            variable = _gathered(variable, dim, share.n_ranks, whole)
        elif name in ("cache_bytes_used", "cache_bytes_reserved"):
            # Every key/value head once, whoever holds copies of it.
            each = variable // len(share.key_value_heads(whole))
            whole_bytes = (each * whole.n_kv_heads).assign_attrs(variable.attrs)
            variable = whole_bytes.where(variable >= 0, -1)  # a shorter text has ended before
        values[name] = variable.variable
    coordinates = {
        name: value.variable for name, value in trace.coords.items() if name not in DIVIDED
    }
    coordinates["head"] = xr.Variable("head", np.arange(whole.n_heads))
    coordinates["kv_head_of_head"] = xr.Variable("head", whole.kv_head_of_head)
    if "key_value_head" in trace.coords:
        numbers = np.arange(whole.n_kv_heads)
        coordinates["key_value_head"] = xr.Variable("key_value_head", numbers)
    processes = [process for process, _ in everything]
    attributes = {**trace.attrs, "config": whole.to_dict(), "processes": processes}
    return xr.Dataset(values, coordinates, attributes)


def _gathered(own: xr.DataArray, dim: str, n_ranks: int, whole: ModelConfig) -> xr.DataArray:
    """One variable whole: this process's piece and those that the others send."""
    axis = own.dims.index(dim)
    shape = list(own.shape)
    shape[axis] = {
        "head": whole.n_heads,
        "key_value_head": whole.n_kv_heads,
        "neuron": whole.hidden_dim,
    }[dim]
    values = np.empty(shape, own.dtype)
    piece = np.array(own.values)
    for rank in range(n_ranks):
        if rank > 0:
            dist.recv(torch.from_numpy(piece), src=rank)
        # A key/value head that several hold is written several times, each time the same.
        values[(slice(None),) * axis + (Share(rank, n_ranks).held(dim, whole),)] = piece
    return xr.DataArray(values, dims=own.dims, attrs=own.attrs)


def _here(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _warnings_of_all(caught: list[warnings.WarningMessage], n_ranks: int) -> list[str]:
    """On the first process what it and the others were warned of, each once."""
    torch_folder = Path(torch.__file__).parent  # what is ours alone says something to people
    own = [
        str(one.message)
        for one in caught
        if one.category is UserWarning and not Path(one.filename).is_relative_to(torch_folder)
    ]
    everyones: list[Any] | None = [None] * n_ranks if dist.get_rank() == 0 else None
    dist.gather_object(own, everyones)
    return list(dict.fromkeys(text for texts in everyones or [] for text in texts))


# The processes of one machine


def _run(n_ranks: int, job: _Job) -> None:
    """Start the processes, wait for them, and end them all as soon as one fails."""
    with tempfile.TemporaryDirectory(prefix="llama-viz-") as name:
        folder = Path(name)
        with _started(n_ranks, job, folder) as processes:
            while True:
                codes = [process.poll() for process in processes]
                if any(codes):
                    raise _cause(codes, folder)
                if all(code == 0 for code in codes):
                    break
                time.sleep(0.02)
        for text in json.loads((folder / WARNINGS).read_text(encoding="utf-8")):
            warnings.warn(text, stacklevel=4)


@contextmanager
def _started(n_ranks: int, job: _Job, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes at work; when the block ends, however it does, none is left."""
    package = Path(__file__).parent.parent
    known = os.environ.get("PYTHONPATH")
    cores = os.cpu_count() or 1
    common = {
        "OMP_NUM_THREADS": str(max(1, cores // n_ranks)),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), known])),
        "WORLD_SIZE": str(n_ranks),
        "LOCAL_WORLD_SIZE": str(n_ranks),
    }
    (folder / JOB).write_text(job.as_json(), encoding="utf-8")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(n_ranks):
            process = subprocess.Popen(
                # -P: nothing in the folder that people stand in is taken for a module.
                [sys.executable, "-P", "-m", "llama_viz.parallel", str(folder)],
                stdin=subprocess.PIPE,  # nothing is said there: it ends when this process does
                stdout=subprocess.DEVNULL,
                stderr=None if rank == 0 else subprocess.DEVNULL,
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                # Ctrl-C reaches this process alone, which then ends the others.
                start_new_session=True,
            )
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _cause(codes: list[int | None], folder: Path) -> Exception:
    """Why the first process to fail failed; those that miss it fail a little later."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            guess = "; was the machine's memory too small?" if name == "SIGKILL" else ""
            return ChildProcessError(f"process {rank} of {len(codes)} was ended by {name}{guess}")
    reports = sorted(folder.glob("error-*"), key=lambda file: file.stat().st_mtime_ns)
    if not reports:
        rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
        return ChildProcessError(f"process {rank} of {len(codes)} ended with the status {code}")
    error = pickle.loads(reports[0].read_bytes())
    if isinstance(error, (ValueError, OSError)):
        return error
    rank = int(reports[0].name.removeprefix("error-"))
    return ChildProcessError(
        f"process {rank} of {len(codes)} failed: {type(error).__name__}: {one_line(error)}"
    )


def main(folder: Path) -> None:
    """One of the processes: it reads what to do and ends when the one that started it does."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    rank = os.environ["RANK"]
    try:
        job = _Job(**json.loads((folder / JOB).read_text(encoding="utf-8")))
        with warnings.catch_warnings(record=True) as caught:
            _record_share(job, folder / "meeting")
        if rank == "0":
            texts = [str(one.message) for one in caught]
            (folder / WARNINGS).write_text(json.dumps(texts), encoding="utf-8")
        os._exit(0)  # the libraries' threads are not waited for
    except BaseException as error:
        (folder / f"error-{rank}").write_bytes(_packed(error))
        os._exit(1)  # at once: the others wait for this process in a pass of theirs


def _packed(error: BaseException) -> bytes:
    """The error to be raised by the process that started this one."""
    if type(error).__module__.startswith(("builtins", "llama_viz")):
        return pickle.dumps(error)
    return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with_the_starter() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing comes but the end
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
