"""The cache explorer without a browser: what it shows is the trace, and surgery is compare."""

import asyncio
import json
import re
import time

import matplotlib
import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import figures, surgery
from llama_viz.cost import step_coefficients
from llama_viz.figures.cache import multiply_adds
from llama_viz.widgets import CacheExplorer, cache
from llama_viz.widgets.cache import pooled
from llama_viz.widgets.packing import Packed
from tests.reference import random_ids, random_model

N_PROMPT, N_NEW = 7, 9


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def lm(request):
    return random_model(request.param)


@pytest.fixture(scope="module")
def trace(lm):
    return lv.record(lm, random_ids(lm, N_PROMPT)[0].tolist(), N_NEW)


def values(array):
    return array.values() if isinstance(array, Packed) else np.asarray(array)


def answer(explorer, name, **parameters):
    """What the page gets for a request: the header, or the error."""
    [content] = [one for one in asyncio.run(told(explorer, name, parameters))
                 if one["type"] == "answer"]  # fmt: skip
    return content.get("error") or content["header"]


async def told(explorer, name, parameters, heard=lambda content: None):
    """Everything that the page is sent for a request, each given to heard as it comes."""
    sent = []

    def send(content, buffers=None):
        json.dumps(content, allow_nan=False)
        sent.append(content)
        heard(content)

    explorer.send = send
    asked = {"type": "ask", "request": "r1", "name": name, "parameters": parameters}
    explorer._receive(explorer, json.loads(json.dumps(asked)), [])
    while explorer._answering:
        await asyncio.sleep(0)
    return sent


# What is shown is what was recorded


@pytest.mark.parametrize("whole", [True, False])
def test_the_page_gets_the_tensors_of_the_run(trace, whole):
    header, arrays = CacheExplorer(trace).content(whole=whole)
    json.dumps(header, allow_nan=False)
    assert header["sent"] == header["layers"] == [0, 1, 2]
    assert header["block"] == 1
    for name in ("query", "key", "value"):
        recorded = trace[cache.TENSORS[name]].values
        step = np.abs(recorded).max(axis=-1, keepdims=True) / 32767
        assert np.all(np.abs(values(arrays[name]) - recorded) <= 0.51 * step + 1e-12), name
    weights = trace["attention_weights"].values
    np.testing.assert_allclose(values(arrays["weights"]), weights, atol=0.5 / 255 + 1e-6)
    # 64 features of the output in 16 cells, each the largest of its four
    output = trace["residual_out"].values.reshape(3, -1, 16, 4)
    np.testing.assert_allclose(
        np.abs(values(arrays["output"])), np.abs(output).max(axis=-1), rtol=1e-3, atol=1e-3
    )


def test_steps_and_tokens_are_those_of_the_run(trace):
    header, _ = CacheExplorer(trace).content(whole=False)
    assert [(step["start"], step["end"]) for step in header["steps"]] == [
        (0, 7), *[(at, at + 1) for at in range(7, 15)],
    ]  # fmt: skip
    assert [step["probability"] for step in header["steps"]] == pytest.approx(
        trace["sampled_probability"].values.tolist()
    )
    ids = [*trace["token_id"].values.tolist(), int(trace["sampled_id"].values[-1])]
    assert [token["id"] for token in header["tokens"]] == ids
    # What a step writes is what the next one is fed.
    for step, shown in enumerate(header["steps"]):
        assert header["tokens"][shown["end"]]["id"] == trace["sampled_id"].values[step]


def test_bytes_are_recorded_and_by_formula(trace, lm):
    header, _ = CacheExplorer(trace).content(whole=False)
    assert header["used"] == header["formula"] == trace["cache_bytes_used"].values.tolist()
    assert header["reserved"] == trace["cache_bytes_reserved"].values.tolist()
    for step, row in enumerate(header["used"]):
        assert sum(row) == lm.config.kv_cache_bytes(N_PROMPT + step)


def counted(lm, use_cache):
    """Multiply-adds of each pass of a real generation, read from the shapes that pass."""
    counts, n_held = [], 0

    def of_linear(module, args, output):
        counts[-1] += output.numel() * args[0].shape[-1]

    def of_attention(module, args, output):
        rows = args[0].shape[1]
        counts[-1] += 2 * lm.config.n_heads * rows * (n_held + rows) * lm.config.head_dim

    def of_model(module, args):
        counts.append(0)

    handles = [lm.model.register_forward_pre_hook(of_model)]
    for name, module in lm.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            handles.append(module.register_forward_hook(of_linear))
        if name.endswith(".attention"):
            handles.append(module.register_forward_hook(of_attention))
    try:
        steps = lv.stream(lm, random_ids(lm, N_PROMPT)[0].tolist(), N_NEW, use_cache=use_cache)
        for step in steps:
            n_held = step.end if use_cache else 0
    finally:
        for handle in handles:
            handle.remove()
    return counts


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_work_is_that_of_a_real_run_counted(lm, trace, use_cache):
    assert multiply_adds(trace, use_cache=use_cache).tolist() == counted(lm, use_cache)
    header, _ = CacheExplorer(trace).content(whole=False)
    name = "work_with" if use_cache else "work_without"
    assert header[name] == counted(lm, use_cache)


def test_the_coefficients_are_those_of_a_step():
    config = lv.PRESETS["llama2-7b"]
    per_position, per_pair = step_coefficients(config)
    # Every weight but the embedding and the gains once; 2 products x 32 layers x 4096
    assert per_position == config.n_parameters - 32000 * 4096 - 65 * 4096
    assert per_pair == 2 * 32 * 4096


# Long texts and partial recordings


def test_a_long_text_goes_in_blocks_that_fit(monkeypatch, trace):
    monkeypatch.setattr(cache, "MOST_ROWS", 6)
    explorer = CacheExplorer(trace)
    assert explorer.block == 3
    header, arrays = explorer.content(whole=False)
    assert header["block"] == 3
    weights = trace["attention_weights"].values
    blocks = weights.reshape(3, 8, 5, 3, 5, 3).max(axis=(3, 5))
    np.testing.assert_allclose(values(arrays["weights"]), blocks, atol=0.5 / 255 + 1e-6)
    monkeypatch.setattr(cache, "MOST_BYTES", explorer._bytes(5))
    header, arrays = explorer.content(whole=True)
    assert header["block"] == 5
    assert values(arrays["key"]).shape[1] == 3
    header, arrays = explorer.content(whole=False)
    assert (header["sent"], arrays) == ([], {})
    header, arrays = explorer.answer_layer(2)
    assert values(arrays["query"]).shape == (1, 5, 8, 8)


def test_a_block_keeps_its_largest_number_with_its_sign():
    pairs = pooled(np.array([[1.0, -3, 2, 2, -1]]), 2, 1)
    assert pairs.tolist() == [[-3.0, 2.0, -1.0]]


def test_what_was_not_recorded_is_said_with_the_way_to_record_it(lm):
    trace = lv.record(lm, [1, 2, 3], 3, taps=["key_rotated", "sampled_id"], layers=[1])
    explorer = CacheExplorer(trace)
    header, arrays = explorer.content(whole=True)
    assert set(arrays) == {"key"}
    assert "Not recorded: query_rotated, value, attention_weights" in header["missing"]
    assert 'taps=["query_rotated", "value",' in header["missing"]
    assert header["used"] is None
    assert header["layers"] == [1]
    assert explorer.state == {"step": 1, "layer": 1, "head": 0}
    with pytest.raises(ValueError, match="cache_bytes_used"):
        explorer.picture()


def test_one_pass_has_one_step(lm):
    explorer = CacheExplorer(lv.record_forward(lm, [1, 2, 3, 4]), lm=lm)
    header, _ = explorer.content(whole=False)
    assert header["steps"] == [{"start": 0, "end": 4, "probability": None}]
    assert len(header["tokens"]) == 4
    assert explorer.picture()
    found = answer(explorer, "surgery", step=0, operation="blank")
    assert found["fed"]["id"] == int(lm.model(torch.tensor([[1, 2, 3, 4]]))[0, -1].argmax())


# Opening it


def test_a_model_writes_first(family):
    explorer = CacheExplorer(family["gqa"], "Once upon a time", max_new_tokens=5, step=3)
    assert explorer.trace.attrs["text"] == lv.generate(family["gqa"], "Once upon a time", 5).text
    header, _ = explorer.content(whole=False)
    assert header["has_model"]
    assert header["missing"] == ""


def test_what_does_not_fit_together_is_said(trace, lm):
    with pytest.raises(ValueError, match="a model needs a prompt"):
        CacheExplorer(lm)
    with pytest.raises(ValueError, match="leave out the prompt"):
        CacheExplorer(trace, "Once")
    with pytest.raises(TypeError, match="expected a trace"):
        CacheExplorer(3)
    with pytest.raises(ValueError, match="has other sizes; give the model of the trace"):
        CacheExplorer(trace, lm=random_model("gqa", hidden_dim=80))
    with pytest.raises(ValueError, match="step must be a whole number from 0 to 8, got 9"):
        CacheExplorer(trace, step=9)
    with pytest.raises(ValueError, match="unknown layer 7. Choose from: 0, 1, 2"):
        CacheExplorer(trace, layer=7)


# The still


def test_the_picture_follows_the_state(trace):
    explorer = CacheExplorer(trace, step=4, layer=1, head=6)
    figure = explorer.picture()
    assert "Step 4" in figure.texts[0].get_text()
    kv_head = int(trace["kv_head_of_head"].values[6])
    keys = trace["key_rotated"].values[1, :11, kv_head]
    [panel] = [axes for axes in figure.axes if axes.get_label() == "keys with"]
    np.testing.assert_array_equal(panel.images[0].get_array(), keys)
    [panel] = [axes for axes in figure.axes if axes.get_label() == "weights with"]
    drawn = np.ma.filled(panel.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(drawn[10], trace["attention_weights"].values[1, 6, 10, :11])
    assert np.isnan(drawn[:10]).all()
    assert matplotlib.colors.to_hex(panel.get_facecolor()) == "#ffffff", "grey is computed again"
    [panel] = [axes for axes in figure.axes if axes.get_label() == "work"]
    [line] = [line for line in panel.lines if line.get_gid() == "without"]
    expected = multiply_adds(trace, use_cache=False).cumsum() / 1e6
    np.testing.assert_allclose(line.get_ydata(), expected)
    [text] = [text for text in panel.texts if text.get_gid() == "without"]
    assert text.get_text() == f"without, up to step 4: {expected[4]:,.4g} M"
    words = explorer.describe()
    assert "step 4" in words
    assert "11 queries" in words
    assert f"{multiply_adds(trace, use_cache=True)[:5].sum():,} with" in words
    with pytest.raises(ValueError, match="unknown step"):
        figures.with_and_without_cache(trace, layer=0, head=0, step=30)


# Surgery


def test_surgery_is_compare_at_that_step(trace, lm):
    explorer = CacheExplorer(trace, lm=lm)
    found = answer(
        explorer, "surgery", step=4, operation="drop", layers=[1], kv_heads=[0], first_position=2,
        last_position=6, max_new_tokens=5,
    )  # fmt: skip
    ids = [*trace["token_id"].values[:12].tolist()]
    expected = surgery.compare(
        lm, ids, surgery.drop, layers=[1], kv_heads=[0], positions=range(2, 7), max_new_tokens=5
    )
    assert found["held"] == 11
    assert found["fed"]["id"] == trace["sampled_id"].values[4]
    assert found["kl_divergence"] == expected.kl_divergence
    assert [token["id"] for token in found["before"]] == expected.before.new_ids
    assert [token["id"] for token in found["after"]] == expected.after.new_ids
    # Before is the run itself: a greedy one goes on as it was recorded.
    assert (
        expected.before.new_ids
        == trace["sampled_id"].values[5:].tolist()[:4] + (expected.before.new_ids[4:])
    )
    before, after = expected.probabilities
    for row in found["candidates"]:
        assert row["before"] == pytest.approx(float(before[row["id"]]))
        assert row["after"] == pytest.approx(float(after[row["id"]]))
    shown = {row["id"] for row in found["candidates"]}
    assert {int(before.argmax()), int(after.argmax())} <= shown
    assert not lm.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("operation", "made"),
    [
        ("blank", surgery.blank),
        ("rounded", surgery.rounded(2)),
        ("window", surgery.window(3)),
        ("first_and_window", surgery.first_and_window(2, 3)),
    ],
)
@pytest.mark.parametrize("repeat", [False, True])
def test_every_operation_is_the_one_of_the_package(trace, lm, operation, made, repeat):
    explorer = CacheExplorer(trace, lm=lm)
    found = answer(
        explorer, "surgery", step=8, operation=operation, bits=2, size=3, first=2, repeat=repeat,
        max_new_tokens=4,
    )  # fmt: skip
    ids = [*trace["token_id"].values.tolist(), int(trace["sampled_id"].values[-1])]
    expected = surgery.compare(lm, ids, made, repeat=repeat, max_new_tokens=4)
    assert found["kl_divergence"] == expected.kl_divergence
    assert [token["id"] for token in found["after"]] == expected.after.new_ids


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"operation": "burn"}, "unknown operation 'burn'. Choose from: drop, blank"),
        ({"step": 40}, "step must be a whole number from 0 to 8, got 40"),
        ({"first_position": 5, "last_position": 3}, "the last position must be from 5 to 6, got 3"),
        ({"last_position": 7}, "the last position must be from 0 to 6, got 7"),
        ({"first_position": None}, "the first position must be from 0 to 6, got None"),
        ({"max_new_tokens": 0}, "further tokens must be from 1 to 64, got 0"),
        ({"operation": "rounded", "bits": None}, "bits must be a whole number from 1 to 16"),
        ({"operation": "window", "size": 0}, "size must be a whole number of at least 1"),
        ({"layers": [9]}, "unknown layer 9"),
    ],
)
def test_what_cannot_be_operated_on_is_said_in_one_line(trace, lm, parameters, words):
    explorer = CacheExplorer(trace, lm=lm)
    said = answer(explorer, "surgery", **{"step": 0, "operation": "drop", **parameters})
    assert isinstance(said, str)
    assert words in said
    assert "\n" not in said
    assert not lm.model._forward_pre_hooks


def test_surgery_needs_a_model_and_room(trace, lm):
    said = answer(CacheExplorer(trace), "surgery", step=0, operation="drop")
    assert said == "surgery runs the model: open CacheExplorer(trace, lm=lm)"
    full = random_model("gqa", max_seq_len=12)
    recorded = lv.record(full, random_ids(full, 8)[0].tolist(), 5)
    said = answer(CacheExplorer(recorded, lm=full), "surgery", step=4, operation="drop")
    assert "the context is full after this step" in said
    unnamed = recorded.drop_vars(["sampled_id", "candidate_id"])
    explorer = CacheExplorer(unnamed.isel(step=slice(0, 4), position=slice(0, 11)), lm=full)
    said = answer(explorer, "surgery", step=3, operation="drop")
    assert re.search("which token the last step wrote was not recorded", said)


# Surgery is heard and stopped

LONG = {"step": 0, "operation": "drop", "last_position": 2, "max_new_tokens": 6}


@pytest.fixture
def passes(lm):
    """When each pass through the model began; each takes 10 ms and more."""
    began = []

    def before_pass(module, args):
        began.append(time.perf_counter())
        time.sleep(0.01)

    handle = lm.model.register_forward_pre_hook(before_pass)
    yield began
    handle.remove()


def test_every_token_is_told_as_it_is_written(trace, lm):
    explorer = CacheExplorer(trace, lm=lm)
    sent = asyncio.run(told(explorer, "surgery", LONG))
    assert [content["type"] for content in sent] == ["progress"] * 12 + ["answer"]
    assert [content["text"] for content in sent[:-1]] == [
        f"With the cache {way}: token {number} of 6."
        for way in ("as it was", "operated on") for number in range(1, 7)
    ]  # fmt: skip


def test_others_run_between_two_tokens_on_the_model_as_it_was(trace, lm, passes):
    explorer = CacheExplorer(trace, lm=lm)
    n_passes, own = [], []

    async def other():
        while not n_passes or explorer._answering:
            n_passes.append(len(passes))
            own.append(len(lm.model._forward_pre_hooks))
            await asyncio.sleep(0)

    async def both():
        await asyncio.gather(told(explorer, "surgery", LONG), other())

    asyncio.run(both())
    # The prompt, then 6 tokens both ways; each time another coroutine looked before the next.
    assert set(range(2, 14)) <= set(n_passes)
    assert set(own) == {1}, "the operation is on the model for its own passes alone"
    assert not lm.model.interventions


@pytest.mark.parametrize("after", [1, 5, 8])
def test_stop_is_heard_after_the_token_under_way(trace, lm, passes, after):
    explorer = CacheExplorer(trace, lm=lm)
    stopped = []

    async def press(sent):
        while len(sent) < after:
            await asyncio.sleep(0)
        stopped.append(time.perf_counter())
        explorer._receive(explorer, {"type": "stop", "request": "r1"}, [])
        stopped.append(len(passes))

    async def both():
        sent = []
        running = asyncio.create_task(told(explorer, "surgery", LONG, sent.append))
        await asyncio.gather(running, press(sent))
        stopped.append(time.perf_counter())
        await asyncio.sleep(0.1)  # one that goes on would show
        return sent

    sent = asyncio.run(both())
    assert sent[-1]["error"] == "stopped"
    assert len(sent) == after + 1
    pressed, n_passes, ended = stopped
    assert len(passes) == n_passes == after + 1, "and the pass of the prompt"
    assert ended - pressed < 0.1
    assert not lm.model.interventions
    assert len(lm.model._forward_pre_hooks) == 1


def test_a_closed_explorer_writes_no_further(trace, lm, passes):
    explorer = CacheExplorer(trace, lm=lm)

    async def close():
        running = asyncio.create_task(told(explorer, "surgery", LONG))
        while len(passes) < 4:
            await asyncio.sleep(0)
        explorer.close()
        await running

    asyncio.run(close())
    assert len(passes) == 4


def test_what_nobody_expected_goes_to_the_log_too(trace, lm, monkeypatch, caplog):
    def burn(*args):
        raise RuntimeError("out\nof memory")

    monkeypatch.setitem(cache.OPERATIONS, "drop", lambda **_: burn)
    said = answer(CacheExplorer(trace, lm=lm), "surgery", **LONG)
    assert said == "RuntimeError: out of memory"
    assert "CacheExplorer could not answer its page" in caplog.text
    assert not lm.model._forward_pre_hooks
