"""A model spread over processes: the trace of one process, and nothing left when one fails.

"Close" is |a - b| <= 1e-5 x max(1, max|b|), in float32.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import llama_viz as lv
from llama_viz import cli, parallel
from llama_viz.checkpoints.loaded import expected_shapes
from llama_viz.model import Attention, FeedForward
from llama_viz.parallel import SpreadLlama, record_parallel
from llama_viz.shares import Share
from llama_viz.trace import VARIABLES
from tests.reference import random_ids, random_model

PROMPT = "Once upon a time"
SAMPLED = {"temperature": 1.2, "top_k": 50, "top_p": 0.95, "seed": 3}


def close(a: xr.DataArray, b: xr.DataArray) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    assert (np.isnan(a) == np.isnan(b)).all()
    return bool(np.nanmax(np.abs(a - b)) <= 1e-5 * max(1.0, np.nanmax(np.abs(b))))


def assert_the_same(trace: xr.Dataset, alone: xr.Dataset) -> None:
    """Every variable, coordinate and attribute but those that tell of the run itself."""
    assert list(trace.data_vars) == list(alone.data_vars)
    assert set(trace.coords) == set(alone.coords)
    assert dict(trace.sizes) == dict(alone.sizes)
    for name, expected in alone.variables.items():
        found = trace[name]
        assert (found.dims, found.attrs) == (expected.dims, expected.attrs), name
        if name == "step_seconds":
            assert (found.values[~np.isnan(expected.values)] > 0).all()
        elif expected.dtype.kind == "f":
            assert found.dtype == expected.dtype
            assert close(found, expected), name
        elif str(name).startswith(("lens", "candidate")):
            # What is equally likely within rounding may trade places.
            assert (found.values == expected.values).mean() > 0.999, name
        else:
            assert (found.values == expected.values).all(), name
    assert set(trace.attrs) - set(alone.attrs) == {"processes"}
    assert {name: trace.attrs[name] for name in alone.attrs} == alone.attrs


# What each process holds


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "n_ranks", "held"),
    [
        (8, 8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (8, 2, 2, [[0], [1]]),
        (8, 2, 4, [[0], [0], [1], [1]]),
        (8, 1, 2, [[0], [0]]),
        (9, 3, 3, [[0], [1], [2]]),
        (9, 3, 9, [[0], [0], [0], [1], [1], [1], [2], [2], [2]]),
        (12, 2, 3, [[0], [0, 1], [1]]),  # the second process has heads of both
        (12, 3, 2, [[0, 0, 1], [1, 2, 2]]),
    ],
)
def test_the_shares_add_up_to_the_whole(n_heads, n_kv_heads, n_ranks, held):
    config = lv.ModelConfig(
        n_layers=1, n_heads=n_heads, n_kv_heads=n_kv_heads, dim=32, head_dim=8, hidden_dim=72,
        vocab_size=20,
    )  # fmt: skip
    whole = random_model(**config.to_dict())
    block = whole.model.blocks[0]
    x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    rotation = whole.model.rotary(0, 6, x.device)
    attended, fed = torch.zeros_like(x), torch.zeros_like(x)
    heads, neurons, key_value_heads = [], [], []
    for rank in range(n_ranks):
        share = Share(rank, n_ranks)
        part = share.config(config)
        attention, feed_forward = Attention(part), FeedForward(part)
        for name, module in (("attention", attention), ("feed_forward", feed_forward)):
            for place, parameter in module.named_parameters():
                path = f"blocks.0.{name}.{place}"
                parameter.data = share.part(path, whole.model.get_parameter(path), config)
        with torch.no_grad():
            attended += attention(x, rotation)
            fed += feed_forward(x)
        assert share.held("head", config) == list(share.heads(config))
        # Every query head finds, by its own counting, the key/value head that is its.
        found = [share.key_value_heads(config)[i] for i in part.kv_head_of_head]
        assert found == [config.kv_head_of_head[head] for head in share.heads(config)]
        heads += share.heads(config)
        neurons += share.neurons(config)
        key_value_heads.append(sorted(set(share.key_value_heads(config))))
    with torch.no_grad():
        assert close(attended, block.attention(x, rotation))
        assert close(fed, block.feed_forward(x))
    assert heads == list(range(n_heads))
    assert neurons == list(range(72))
    assert key_value_heads == [sorted(set(one)) for one in held]


@pytest.mark.parametrize(
    ("n_ranks", "message"),
    [
        (0, "at least 1 process is needed, got 0"),
        (-2, "at least 1 process"),
        (True, "at least 1 process"),
        (3, "3 processes cannot divide 8 query heads and 96 neurons evenly; choose from 1, 2, 4"),
        (16, "16 processes cannot divide 8 query heads"),
    ],
)
def test_what_cannot_be_divided_is_refused(n_ranks, message):
    with pytest.raises(ValueError, match=message):
        Share(0, n_ranks).config(random_model().config)


def test_a_rank_is_one_of_the_processes():
    with pytest.raises(ValueError, match="rank 2 is not one of 2 processes"):
        Share(2, 2)


@pytest.mark.parametrize("format", ["llama_viz", "huggingface", "meta", "llama2c", "gguf"])
def test_every_format_reads_a_share(tmp_path, format):
    lm = random_model(vocab_size=128)
    suffix = {"llama_viz": ".safetensors", "llama2c": ".bin", "gguf": ".gguf"}.get(format, "")
    path = tmp_path / f"model{suffix}"
    lv.save_checkpoint(lm, path, format=format)
    whole = lv.load(path, device="cpu")
    for rank in range(4):
        share = Share(rank, 4)
        part = lv.load(path, device="cpu", share=share)
        assert (part.config.n_heads, part.config.n_kv_heads, part.config.hidden_dim) == (2, 1, 24)
        for name, _ in expected_shapes(part.config):
            expected = share.part(name, whole.model.get_parameter(name), whole.config)
            assert torch.equal(part.model.get_parameter(name), expected), name


MEASURE = """
import re, sys
from pathlib import Path
import llama_viz as lv
from llama_viz.checkpoints import detect
from llama_viz.shares import Share
def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
detect(Path(sys.argv[1]))  # what is imported is not what a model takes
before = memory("VmRSS")
lm = lv.load(sys.argv[1], device="cpu", share=Share(1, 4))
held = sum(weight.nbytes for weight in lm.model.parameters())
print(memory("VmHWM") - before, held)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("format", ["llama_viz", "huggingface"])
def test_a_process_holds_its_share_and_one_weight(tmp_path, format):
    lm = random_model(n_layers=12, dim=512, hidden_dim=2048, vocab_size=2000)
    path = tmp_path / "large.safetensors"
    lv.save_checkpoint(lm, path, format=format)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    peak, held = map(int, done.stdout.split())
    weights = [weight.nbytes for weight in lm.model.parameters()]
    assert held < 0.35 * sum(weights)
    assert peak < held + 2 * max(weights) + 8 * 2**20 < 0.5 * sum(weights)


# The trace of several processes


def test_two_processes_give_the_trace_of_one(family, tmp_path):
    path = tmp_path / "trace.nc"
    record_parallel("gqa", PROMPT, path, 2, max_new_tokens=12)
    trace = lv.load_trace(path)
    lm = family["gqa"]
    alone = lv.record(lm, PROMPT, max_new_tokens=12)
    assert set(trace.data_vars) == set(VARIABLES)
    assert_the_same(trace, alone)
    processes = trace.attrs["processes"]
    n_heads, n_kv_heads = lm.config.n_heads, lm.config.n_kv_heads
    assert [process["heads"] for process in processes] == [
        list(range(n_heads // 2)),
        list(range(n_heads // 2, n_heads)),
    ]
    assert sum(len(process["key_value_heads"]) for process in processes) == n_kv_heads
    assert sum(process["cache_bytes"] for process in processes) == trace.cache_bytes_used[-1].sum()
    assert list(tmp_path.iterdir()) == [path]


def test_processes_outnumber_the_key_value_heads(tmp_path):
    """Sampled, from ids, into a full context; each key/value head is held twice."""
    lm = random_model("gqa", max_seq_len=20)
    checkpoint, path = tmp_path / "model.safetensors", tmp_path / "trace.nc"
    lv.save_checkpoint(lm, checkpoint)
    lm = lv.load(checkpoint, device="cpu")
    prompt = random_ids(lm, 9)[0]
    with pytest.warns(UserWarning, match="the context of 20 positions is full") as caught:
        record_parallel(checkpoint, prompt, path, 4, max_new_tokens=30, layers=(2, 0), **SAMPLED)
    assert len(caught) == 1
    trace = lv.load_trace(path)
    with pytest.warns(UserWarning, match="is full"):
        alone = lv.record(lm, prompt.tolist(), 30, layers=[0, 2], **SAMPLED)
    assert_the_same(trace, alone)
    assert len(set(trace.sampled_id.values.tolist())) > 5
    processes = trace.attrs["processes"]
    assert [process["key_value_heads"] for process in processes] == [[0], [0], [1], [1]]
    assert sum(process["cache_bytes"] for process in processes) == 2 * lm.config.kv_cache_bytes(20)


def test_torchrun_starts_the_processes_as_well(family, tmp_path):
    path = tmp_path / "trace.nc"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "llama_viz", "record", "mqa", PROMPT, "--out", str(path),
            "--max-new-tokens", "6", "--temperature", "1.2", "--seed", "5",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}\n"
    assert done.stderr.count("recording:   0%") == 1
    alone = lv.record(family["mqa"], PROMPT, max_new_tokens=6, temperature=1.2, seed=5)
    assert_the_same(lv.load_trace(path), alone)


@pytest.fixture
def ends_at_once(tmp_path) -> tuple[Path, list[str]]:
    """A checkpoint, and two prompts of different lengths: after the second it writes its EOS."""
    tokenizer = Path(lv.load("gqa").path).parent / "tokenizer.model"
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    lm = random_model("gqa", vocab_size=lv.load("gqa", device="meta").config.vocab_size)
    lm.tokenizer = lv.Tokenizer.from_file(tokenizer)
    prompts = ["One sunny morning", PROMPT + ", there"]
    normed: list[torch.Tensor] = []
    with torch.no_grad():
        hook = lm.model.norm.register_forward_hook(lambda *passed: normed.append(passed[2][0, -1]))
        logits = lm.model(torch.tensor([lm.encode(prompts[1])]))[0, -1]
        hook.remove()
        eos = normed[0] * 1.5 * logits.max() / normed[0].square().sum()
        lm.model.output.weight[lm.tokenizer.eos_id] = eos
    lv.save_checkpoint(lm, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", prompts


def test_two_processes_record_several_prompts(ends_at_once, tmp_path):
    checkpoint, prompts = ends_at_once
    path = tmp_path / "trace.nc"
    forced = [torch.tensor([5, 7]), []]
    record_parallel(checkpoint, prompts, path, 2, max_new_tokens=6, forced=forced)
    trace, lm = lv.load_trace(path), lv.load(checkpoint, device="cpu")
    assert trace.attrs["stop_reason"] == ["length", "eos"]
    assert trace.sampled_id[0, :2].values.tolist() == trace.attrs["forced_ids"][0] == [5, 7]
    assert (trace.cache_bytes_used[1, 1:] == -1).all()
    assert_the_same(trace, lv.record(lm, prompts, 6, forced=forced))
    held = sum(process["cache_bytes"] for process in trace.attrs["processes"])
    assert held == lm.config.kv_cache_bytes(int(trace.n_positions.sum()))


def test_every_process_draws_from_the_logits_of_the_first(monkeypatch):
    lm = random_model()
    spread = SpreadLlama(lm.config)
    spread.load_state_dict(lm.model.state_dict())
    monkeypatch.setattr(parallel.dist, "broadcast", lambda tensor, src: tensor.fill_(7.0))
    ids = random_ids(lm, 5)
    with torch.inference_mode():
        logits = spread(ids)
        assert (logits[:, -1] == 7).all()
        assert torch.equal(logits[:, :-1], lm.model(ids)[:, :-1])


# The command


def test_one_process_records_in_its_place(family, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "_started", None)
    path = tmp_path / "trace.nc"
    options = ["--taps", "rms,gate", "--layers", "1,0", "--max-new-tokens", "3", "--top-k", "5"]
    assert cli.main(["record", "gqa", PROMPT, "--out", str(path), "--nproc", "1", *options]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    alone = lv.record(family["gqa"], PROMPT, 3, taps=["rms", "gate"], layers=[0, 1], top_k=5)
    assert lv.load_trace(path).identical(alone)


def test_several_prompts_are_several_arguments(family, tmp_path, capsys):
    path, prompts = tmp_path / "trace.nc", [PROMPT, "One sunny morning"]
    options = ["--out", str(path), "--taps", "rms", "--max-new-tokens", "3", "--temperature", "1.2"]
    assert cli.main(["record", "gqa", *prompts, *options]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    alone = lv.record(family["gqa"], prompts, 3, taps=["rms"], temperature=1.2)
    assert lv.load_trace(path).identical(alone)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--nproc", "0"], "at least 1 process is needed, got 0"),
        (["--nproc", "7"], "7 processes cannot divide"),
        (["--nproc", "2", "--taps", "rsm"], "unknown tap 'rsm'. Did you mean 'rms'?"),
        (["--nproc", "2", "--layers", "99"], "unknown layer 99"),
        (["--nproc", "2", "--memory-limit", "1kB"], "more than the memory limit of 1.0 kB"),
        (["--nproc", "2", "--memory-limit", "much"], "cannot read 'much' as a size"),
        (["--nproc", "2", "--temperature", "-1"], "temperature"),
        (["--nproc", "2", "--max-new-tokens", "0"], "max_new_tokens"),
        (["--nproc", "2", "--device", "tpu"], "unknown device 'tpu'"),
        (["--nproc", "2", "--out", "t.zarr"], "several processes are written to one file"),
        (["more", "--out", "t.zarr"], "several prompts are written to one file in the end, not to"),
        (["more", "--nproc", "2", "--memory-limit", "1kB"], "the traces of 2 prompts would take"),
        (["more", "--nproc", "2", "--max-new-tokens", "9999"], "the longest prompt has"),
    ],
)
def test_a_wrong_request_is_one_line_and_starts_nothing(
    arguments, part, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(parallel, "_started", None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["record", "--out", "t.nc", "gqa", PROMPT, *arguments]) == 2
    output = capsys.readouterr()
    assert part in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


def test_forced_ids_that_are_not_those_of_each_prompt_start_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "_started", None)
    for prompt, forced, expected in (
        ([PROMPT, "One"], [5], "2 prompts need 2 lists of ids in forced="),
        (PROMPT, [[5], []], "flat list of whole numbers"),
        ([PROMPT, "One"], [[5], [9**9]], f"token id {9**9} is out of range"),
    ):
        with pytest.raises(ValueError, match=expected):
            record_parallel("gqa", prompt, tmp_path / "trace.nc", 2, forced=forced)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_file_in_no_folder_starts_nothing(n_processes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "_started", None)
    path = tmp_path / "nowhere" / "trace.nc"
    assert cli.main(["record", "gqa", PROMPT, "--out", str(path), "--nproc", f"{n_processes}"]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error
    assert error.count("\n") == 1


def test_another_number_than_torchruns_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="4 processes were started and 2 asked for"):
        record_parallel("gqa", PROMPT, tmp_path / "trace.nc", 2)


def test_more_processes_than_cuda_devices_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert parallel._device("cpu", 1, 2) == torch.device("cpu")
    assert parallel._device(None, 0, 1) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="2 processes need 2 CUDA devices, this machine has 1"):
        parallel._device(None, 0, 2)


# Ends before their time


def test_the_first_failure_is_the_one_told(tmp_path):
    for rank, error in ((1, ValueError("the cause")), (0, RuntimeError("connection closed"))):
        (tmp_path / f"error-{rank}").write_bytes(parallel._packed(error))
        os.utime(tmp_path / f"error-{rank}", ns=(0, 10**9 * (2 - rank)))
    error = parallel._cause([1, 1], tmp_path)
    assert (type(error), str(error)) == (ValueError, "the cause")
    (tmp_path / "error-1").unlink()
    assert str(parallel._cause([1, None], tmp_path)) == (
        "process 0 of 2 failed: RuntimeError: connection closed"
    )
    (tmp_path / "error-0").unlink()
    assert str(parallel._cause([3, None], tmp_path)) == "process 0 of 2 ended with the status 3"


def test_errors_of_libraries_are_sent_as_text():
    packed = parallel._packed(torch.OutOfMemoryError("too much"))
    assert str(pickle.loads(packed)) == "OutOfMemoryError: too much"


@pytest.fixture
def at_work(tmp_path) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """A command with two processes that are generating: itself, their ids, where it writes."""
    lm = random_model(vocab_size=lv.load("gqa", device="meta").config.vocab_size, max_seq_len=4096)
    lv.save_checkpoint(lm, tmp_path / "model.safetensors")
    tokenizer = Path(lv.load("gqa").path).parent / "tokenizer.model"
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    (tmp_path / "out").mkdir()
    command = subprocess.Popen(
        [
            sys.executable, "-m", "llama_viz", "record", str(tmp_path / "model.safetensors"),
            PROMPT, "--out", str(tmp_path / "out" / "trace.nc"), "--nproc", "2",
            "--max-new-tokens", "4000", "--taps", "rms",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=0,
        # Where the tests run in the background, a shell has told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert command.stderr is not None
    shown = ""
    while "recording:" not in shown:
        shown += command.stderr.read(1)
        assert command.poll() is None, shown
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    yield command, [int(pid) for pid in children], tmp_path / "out"
    command.kill()
    command.communicate()


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")


@linux
def test_ctrl_c_ends_all_processes_and_leaves_nothing(at_work):
    command, children, folder = at_work
    assert len(children) == 2
    assert all(map(is_alive, children))
    command.send_signal(signal.SIGINT)
    output, _ = command.communicate(timeout=60)
    assert (command.returncode, output) == (cli.INTERRUPTED, "")
    assert not any(map(is_alive, children))
    assert list(folder.iterdir()) == []


@linux
def test_a_process_that_dies_ends_all_with_one_line(at_work):
    command, children, folder = at_work
    os.kill(children[1], signal.SIGKILL)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 2
    told = [line for line in errors.splitlines() if "llama-viz:" in line]
    assert len(told) == 1
    assert "process 1 of 2 was ended by SIGKILL" in told[0]
    assert "Traceback" not in errors
    assert not any(map(is_alive, children))
    assert list(folder.iterdir()) == []


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    """It would wait half an hour for the other one."""
    job = parallel._Job("gqa", PROMPT, str(tmp_path / "trace.nc"), "cpu", False, {})
    (tmp_path / parallel.JOB).write_text(json.dumps(vars(job)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "llama_viz.parallel", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert not list(tmp_path.glob("error-*"))


def test_what_a_process_is_told_is_json():
    settings = {"taps": ["rms"], "layers": list(np.arange(2)), "seed": np.int64(3)}
    job = parallel._Job("gqa", [1, 2], "trace.nc", None, True, settings)
    assert parallel._Job(**json.loads(job.as_json())) == job
