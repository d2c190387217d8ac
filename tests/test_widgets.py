"""The generation explorer without a browser: what it sends, and what it does when it is told to."""

import asyncio
import base64
import functools
import json
import re
import time

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.widgets import GenerationExplorer, generation, messages
from tests.reference import random_model

PROMPT = "Once upon a time"
HOSTILE = '<script>alert(1)</script> $x$ <s> &amp; 🙂 שלום \0\n<img src=x onerror="alert(1)">'


class Page:
    """What the page keeps of an explorer's messages; it refuses gaps, as the page does."""

    def __init__(self, explorer):
        self.messages = []
        self.run, self.about = 0, None
        self.clear()
        send = explorer.send

        def heard(content, buffers=None):
            send(content, buffers)
            self.receive(content, buffers)

        explorer.send = heard

    def clear(self):
        self.steps, self.tokens, self.attention, self.rms, self.angles = [], {}, {}, {}, {}

    def receive(self, content, buffers):
        content = json.loads(json.dumps(content, allow_nan=False))
        self.messages.append(content)
        if content["type"] != "steps":
            return
        if content["about"] and content["run"] != self.run:
            self.run, self.about = content["run"], content["about"]
            self.clear()
        assert content["run"] == self.run
        assert content["first"] <= len(self.steps)
        for index, header in enumerate(content["steps"]):
            if content["first"] + index == len(self.steps):
                self.keep(header, *buffers[3 * index : 3 * index + 3])

    def keep(self, header, attention, rms, angles):
        self.steps.append(header)
        start, end = header["start"], header["end"]
        for place, token in enumerate(header["tokens"]):
            assert self.tokens.setdefault(start + place, token) == token
        self.tokens[end] = header["written"]
        cells = len(self.about["layers"]) * self.about["n_heads"]
        for position in range(header["first_row"], end):
            size = cells * (position + 1)
            row, attention = np.frombuffer(attention[:size], np.uint8), attention[size:]
            shape = (len(self.about["layers"]), self.about["n_heads"], position + 1)
            self.attention[position] = row.reshape(shape) / 255
        assert not attention
        self.rms |= self.columns(np.frombuffer(rms, "<f4").reshape(-1, end - start).T, start)
        self.angles |= self.columns(np.frombuffer(angles, "<f4").reshape(end - start, -1), start)

    @staticmethod
    def columns(rows, start):
        return {start + index: row for index, row in enumerate(rows)}

    def check(self, trace):
        """Everything that the panels show is what was recorded."""
        assert len(self.steps) == trace.sizes["step"]
        for position in range(trace.sizes["position"]):
            recorded = trace["attention_weights"].values[:, :, position, : position + 1]
            np.testing.assert_allclose(self.attention[position], recorded, atol=0.5 / 255 + 1e-6)
            np.testing.assert_array_equal(self.rms[position], trace["rms"][:, position])
            np.testing.assert_array_equal(self.angles[position], trace["rotation_angle"][position])
            assert self.tokens[position]["label"] == trace["token"].values[position]
            assert self.tokens[position]["id"] == trace["token_id"].values[position]
        for step, header in enumerate(self.steps):
            assert header["cache_used"] == trace["cache_bytes_used"].values[step].tolist()
            assert header["cache_reserved"] == trace["cache_bytes_reserved"].values[step].tolist()
            assert header["seconds"] == trace["step_seconds"].values[step]
            assert header["probability"] == trace["sampled_probability"].values[step]
            assert header["written"]["id"] == trace["sampled_id"].values[step]
            ids = [candidate["id"] for candidate in header["candidates"]]
            assert ids == trace["candidate_id"].values[step].tolist()


def n_hooks(lm):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def press(explorer, kind, **settings):
    """What the page sends when a button is pressed."""
    content = {"type": kind, **({"settings": settings} if kind in ("run", "plan") else {})}
    explorer._receive(explorer, content, [])


def ask(explorer, page):
    """What a page sends that misses steps."""
    explorer._receive(explorer, {"type": "ask", "run": page.run, "first": len(page.steps)}, [])


def run(explorer, **settings):
    """Press Run and wait for the end."""

    async def pressed():
        press(explorer, "run", **settings)
        await explorer._task

    asyncio.run(pressed())


async def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0)


@pytest.fixture
def lm(family):
    return family["gqa"]


@pytest.fixture
def explorer(lm):
    explorer = GenerationExplorer([lm], prompt=PROMPT, max_new_tokens=12)
    yield explorer
    explorer.close()
    assert n_hooks(lm) == 0


# A run


def test_a_run_sends_one_step_after_the_other(explorer):
    page = Page(explorer)
    run(explorer)
    steps = [message for message in page.messages if message["type"] == "steps"]
    assert [message["first"] for message in steps] == list(range(12))
    assert all(len(message["steps"]) == 1 for message in steps)
    assert [message["about"] is not None for message in steps] == [True] + [False] * 11
    page.check(explorer.trace)


def test_the_trace_afterwards_is_that_of_record(explorer, lm):
    run(explorer, temperature=0.8, seed=7)
    expected = lv.record(lm, PROMPT, 12, lv.SIGNALS, temperature=0.8, seed=7)
    assert explorer.trace["token_id"].equals(expected["token_id"])
    for name in lv.SIGNALS:
        assert explorer.trace[name].equals(expected[name]), name
    assert explorer.trace.attrs["text"] == expected.attrs["text"]
    assert explorer.status["level"] == "status"
    words = r"12 tokens in \d+\.\d s: as many tokens as asked for\."
    assert re.fullmatch(words, explorer.status["text"])


def test_a_second_run_starts_anew(explorer):
    page = Page(explorer)
    run(explorer)
    run(explorer, prompt="Mia and Tom", max_new_tokens=5)
    assert page.run == 2
    assert explorer.settings["prompt"] == "Mia and Tom"
    page.check(explorer.trace)


def test_a_run_can_be_started_from_a_cell(explorer):
    async def cell():
        await explorer.start(max_new_tokens=3)

    asyncio.run(cell())
    assert explorer.trace.sizes["step"] == 3


def test_the_text_may_end_by_itself(family):
    explorer = GenerationExplorer([family["mha"]])
    run(explorer, prompt="Once upon a time there was a girl named Mia.", max_new_tokens=230)
    assert explorer.trace.attrs["stop_reason"] == "eos"
    assert "the model ended its text" in explorer.status["text"]


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_a_switch_of_the_model_runs_that_model(family, kind):
    explorer = GenerationExplorer(list(family.values()))
    page = Page(explorer)
    run(explorer, model=kind, max_new_tokens=4)
    assert explorer.lm is family[kind]
    assert page.about["kind"] == kind.upper()
    assert page.about["kv_head_of_head"] == family[kind].config.kv_head_of_head
    page.check(explorer.trace)


def test_the_switch_names_heads_and_key_value_heads():
    choices = GenerationExplorer().choices
    assert [
        (model["kind"], model["n_heads"], model["n_kv_heads"]) for model in choices["models"]
    ] == [("GQA", 8, 2), ("MHA", 8, 8), ("MQA", 8, 1)]
    assert choices["devices"][-1] == "cpu"


def test_equal_names_are_told_apart(lm):
    explorer = GenerationExplorer([lm, lm])
    assert [model["name"] for model in explorer.choices["models"]] == ["gqa", "gqa (2)"]


def test_another_device_gets_a_copy(explorer, lm):
    assert explorer._load("gqa", "meta").device.type == "meta"
    assert lm.device.type == "cpu"
    assert explorer._load("gqa", "cpu") is lm


# Stop


def test_stop_is_heard_within_a_token_and_a_tenth_of_a_second(explorer, lm):
    page = Page(explorer)

    async def pressed():
        page.clear()
        press(explorer, "run", max_new_tokens=200)
        await until(lambda: len(page.steps) == 5)
        began = time.monotonic()
        press(explorer, "stop")
        await explorer._task
        return time.monotonic() - began

    # The best of three, since the machine may be busy with something else.
    assert min(asyncio.run(pressed()) for _ in range(3)) < 0.1
    assert len(page.steps) <= 6
    assert not explorer.running
    assert n_hooks(lm) == 0
    assert explorer.status["text"].startswith(f"Stopped after {len(page.steps)} tokens")
    page.check(explorer.trace)


def test_stop_does_not_wait_for_a_slow_pace(explorer):
    async def pressed():
        press(explorer, "run", tokens_per_second=0.01)
        await until(lambda: explorer.trace is not None)
        press(explorer, "stop")
        await asyncio.wait_for(explorer._task, timeout=5)

    asyncio.run(pressed())
    assert explorer.trace.sizes["step"] == 1


def test_others_are_heard_between_tokens(explorer):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def pressed():
        other = asyncio.create_task(others())
        await explorer.start()
        other.cancel()

    asyncio.run(pressed())
    assert turns > 3 * explorer.trace.sizes["step"]  # a message takes several turns to arrive


def test_a_pace_slows_the_run(explorer):
    began = time.monotonic()
    run(explorer, max_new_tokens=4, tokens_per_second=20)
    assert time.monotonic() - began > 3 / 20


def test_one_run_at_a_time(explorer):
    async def pressed():
        task = explorer.start()
        with pytest.raises(RuntimeError, match="stop it first"):
            explorer.start()
        press(explorer, "run")
        assert explorer._task is task
        await task

    asyncio.run(pressed())
    assert explorer.trace.sizes["step"] == 12


def test_close_ends_the_run(explorer, lm):
    async def pressed():
        task = explorer.start(max_new_tokens=200)
        await until(lambda: explorer.trace is not None)
        assert n_hooks(lm) > 0
        explorer.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(pressed())
    assert n_hooks(lm) == 0
    assert explorer.trace.sizes["step"] < 200


# Late views


def test_a_late_view_gets_all_steps(explorer, monkeypatch):
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 2000)  # so that one message does not do
    page = Page(explorer)

    async def pressed():
        task = explorer.start(max_new_tokens=40)
        await until(lambda: len(page.steps) >= 10)
        late = Page(explorer)
        while len(late.steps) < len(page.steps):
            ask(explorer, late)
        assert len(late.messages) > 1
        await task
        return late

    late = asyncio.run(pressed())
    late.check(explorer.trace)
    page.check(explorer.trace)


def test_a_recorded_run_is_there_at_once(lm):
    trace = lv.record(lm, PROMPT, 6, temperature=0.5, seed=3)
    explorer = GenerationExplorer([lm], trace=trace)
    page = Page(explorer)
    ask(explorer, page)
    page.check(trace)
    assert explorer.settings["prompt"] == PROMPT
    assert (explorer.settings["temperature"], explorer.settings["seed"]) == (0.5, 3)


def test_a_trace_needs_no_model(lm):
    explorer = GenerationExplorer((), trace=lv.record(lm, PROMPT, 3))
    page = Page(explorer)
    ask(explorer, page)
    assert len(page.steps) == 3
    run(explorer)
    assert explorer.status["level"] == "error"
    assert "runs none" in explorer.status["text"]
    with pytest.raises(ValueError, match="at least one model"):
        GenerationExplorer(())


def test_a_trace_may_lack_what_a_panel_shows(lm):
    for trace in (lv.record(lm, PROMPT, 3, taps=["rms"]), lv.record_forward(lm, PROMPT)):
        explorer = GenerationExplorer([lm], trace=trace)
        sent = []
        explorer.send = lambda content, buffers, sent=sent: sent.append((content, buffers))
        explorer._receive(explorer, {"type": "ask", "run": 0, "first": 0}, [])
        [(content, buffers)] = sent
        assert len(content["steps"]) == trace.sizes["step"]
        assert len(buffers) == 3 * trace.sizes["step"]
        assert buffers[1]  # RMS is there in both
        assert explorer._repr_mimebundle_()[0]["image/png"]


def test_of_a_long_prompt_the_newest_rows_are_sent(lm, monkeypatch):
    trace = lv.record(lm, list(range(10, 60)), 2)
    monkeypatch.setattr(messages, "ATTENTION_BYTES", 4 * 8 * 50 * 10)
    packed = messages.pack_step(trace, 0)
    assert packed.header["first_row"] == 40
    assert len(packed.buffers[0]) == 4 * 8 * sum(range(41, 51))


# What goes wrong


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "word " * 300}, "the context holds 256; shorten the prompt"),
        ({"prompt": None}, "the prompt must be a text"),
        ({"model": "gpa"}, "unknown model 'gpa'. Did you mean 'gqa'? Choose from: gqa"),
        ({"device": "tpu9"}, "unknown device"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, got 2.5"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number, got None"),
        ({"temperature": -1}, "temperature must be finite and 0 or more, got -1"),
        ({"temperature": None}, "temperature must be a number, got None"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"tokens_per_second": 0}, "tokens_per_second must be above 0"),
        ({"beams": 4}, "unknown setting 'beams'"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(explorer, settings, words):
    run(explorer)
    trace, before = explorer.trace, explorer.settings
    page = Page(explorer)
    run(explorer, **settings)
    assert explorer.status["level"] == "error"
    assert words in explorer.status["text"]
    assert "\n" not in explorer.status["text"]
    assert explorer.trace is trace
    assert not explorer.running
    assert page.messages == []
    run(explorer, **before)
    assert explorer.status["level"] == "status"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(explorer):
    run(explorer, device="cuda")
    assert "there is no device 'cuda' on this machine" in explorer.status["text"]
    with pytest.raises(ValueError, match="there is no device"):
        GenerationExplorer(device="cuda")


def test_a_model_that_cannot_be_loaded(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    explorer = GenerationExplorer([broken, tmp_path / "missing.safetensors", "gqaa"])
    for model, words in [
        (str(broken), "cannot be read as a safetensors file"),
        (str(tmp_path / "missing.safetensors"), "there is no such file"),
        ("gqaa", "unknown model 'gqaa'. Did you mean 'gqa'?"),
    ]:
        run(explorer, model=model)
        assert explorer.status["level"] == "error"
        assert words in explorer.status["text"]
        assert explorer.trace is None


def test_a_model_without_a_tokenizer():
    explorer = GenerationExplorer([random_model()])
    run(explorer)
    assert "has no tokenizer" in explorer.status["text"]


def test_a_checkpoint_is_read_when_it_runs(lm, tmp_path):
    lv.save_checkpoint(lm, tmp_path / "mine.safetensors")
    explorer = GenerationExplorer([tmp_path / "mine.safetensors"], max_new_tokens=2)
    name = str(tmp_path / "mine.safetensors")
    assert explorer.choices["models"] == [{"name": name}]
    run(explorer)
    assert explorer.choices["models"][0]["kind"] == "GQA"
    assert explorer.trace.sizes["step"] == 2


def test_the_memory_limit_is_said(explorer, monkeypatch):
    limited = functools.partial(lv.record_steps, memory_limit="10 kB")
    monkeypatch.setattr(generation, "record_steps", limited)
    run(explorer)
    assert explorer.status["level"] == "error"
    assert "more than the memory limit of 10.0 kB" in explorer.status["text"]


def test_a_full_context_is_noticed(explorer, lm):
    prompts = ["a" + " cat" * n_words for n_words in range(256)]
    prompt = next(text for text in prompts if len(lm.encode(text)) > 250)
    page = Page(explorer)
    run(explorer, prompt=prompt, max_new_tokens=200)
    assert explorer.trace.attrs["stop_reason"] == "context"
    assert explorer.status["level"] == "notice"
    assert "the context of 256 positions is full" in explorer.status["text"]
    page.check(explorer.trace)


def test_an_error_in_mid_run_is_said_and_logged(explorer, lm, caplog):
    n_passes = 0

    def fail(module, args):
        nonlocal n_passes
        n_passes += 1
        if n_passes == 4:
            raise ZeroDivisionError("a fault\nof two lines")

    handle = lm.model.register_forward_pre_hook(fail)
    try:
        run(explorer)
    finally:
        handle.remove()
    assert explorer.status == {
        "level": "error",
        "text": "ZeroDivisionError: a fault of two lines",
    }
    assert "ZeroDivisionError" in caplog.text
    assert explorer.trace.sizes["step"] == 3
    assert n_hooks(lm) == 0
    run(explorer)
    assert explorer.trace.sizes["step"] == 12


def test_an_interrupt_of_the_kernel_is_a_stop(explorer, lm, monkeypatch):
    def interrupted(steps, notices):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "_next", interrupted)
    run(explorer)
    assert explorer.status["level"] == "notice"
    assert n_hooks(lm) == 0


def test_a_broken_message_is_said(explorer, caplog):
    explorer._receive(explorer, {"type": "ask"}, [])
    assert explorer.status["level"] == "error"
    assert "could not answer its page" in caplog.text


# Two users of one model


def test_another_generation_between_two_steps(explorer, lm):
    alone = lv.generate(lm, "The red ball", 6)
    expected = lv.record(lm, PROMPT, 12)
    seen = []

    async def pressed():
        task = explorer.start()
        while not task.done():
            seen.append(lv.generate(lm, "The red ball", 6).ids)
            await asyncio.sleep(0)

    asyncio.run(pressed())
    assert len(seen) > 5
    assert all(ids == alone.ids for ids in seen)
    for name in ("token_id", "attention_weights", "rms"):
        assert explorer.trace[name].equals(expected[name])


def test_two_explorers_on_one_model(lm):
    prompts = (PROMPT, "The red ball")
    both = [GenerationExplorer([lm], prompt=prompt, max_new_tokens=8) for prompt in prompts]

    async def pressed():
        await asyncio.gather(*(explorer.start() for explorer in both))

    asyncio.run(pressed())
    for explorer in both:
        expected = lv.record(lm, explorer.settings["prompt"], 8)
        assert explorer.trace["attention_weights"].equals(expected["attention_weights"])
    assert n_hooks(lm) == 0


# The plan


def plan(explorer, **settings):
    sent = []
    explorer.send = lambda content, buffers=None: sent.append(content)
    explorer._receive(explorer, {"type": "plan", "settings": settings, "view": "v"}, [])
    [content] = sent
    assert content["view"] == "v"
    return content


def test_the_plan_says_what_a_run_takes(explorer, lm):
    content = plan(explorer, prompt="The red ball", max_new_tokens=30)
    size = lv.recording_size(lm, "The red ball", 30, generation.RECORDED)
    assert not content["problem"]
    assert f"prompt of {len(lm.encode('The red ball'))} tokens" in content["text"]
    assert generation.format_bytes(size.total) in content["text"]


def test_the_plan_says_what_is_wrong(explorer):
    content = plan(explorer, prompt="")
    assert content["problem"]
    assert "the prompt is empty" in content["text"]
    assert explorer.settings["prompt"] == PROMPT


# Without a kernel


def test_the_bundle_holds_the_view_a_picture_and_its_words(lm):
    explorer = GenerationExplorer([lm], trace=lv.record(lm, PROMPT, 8))
    bundle, _ = explorer._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert set(bundle) == {"text/plain", "image/png", view}
    assert bundle[view]["model_id"] == explorer.model_id
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "GQA, 4 layers, 8 query heads, 2 key/value heads" in bundle["text/plain"]


def test_the_picture_is_the_same_each_time(lm):
    bundles = []
    for slower in (1, 10):
        trace = lv.record(lm, PROMPT, 8)
        trace["step_seconds"] = slower * trace["step_seconds"]
        bundles.append(GenerationExplorer([lm], trace=trace)._repr_mimebundle_()[0])
    for mime in ("text/plain", "image/png"):
        assert bundles[0][mime] == bundles[1][mime]


def test_without_a_run_there_are_words(lm):
    bundle, _ = GenerationExplorer([lm])._repr_mimebundle_()
    assert bundle["text/plain"] == "Generation explorer: nothing has run yet."
    assert "image/png" not in bundle


def test_a_hostile_prompt_has_a_picture(lm):
    trace = lv.record(lm, HOSTILE, 4)
    bundle, _ = GenerationExplorer([lm], trace=trace)._repr_mimebundle_()
    assert bundle["image/png"]
    assert "\0" not in bundle["text/plain"]


# Text


def test_hostile_tokens_travel_as_they_are(explorer, lm):
    page = Page(explorer)
    run(explorer, prompt=HOSTILE, max_new_tokens=2)
    ids = lm.encode(HOSTILE)
    assert [page.tokens[position]["label"] for position in range(len(ids))] == [
        lm.label(token_id) for token_id in ids
    ]
    shown = "".join(
        page.tokens[position]["character"] or page.tokens[position]["label"]
        for position in range(1, len(ids))
    )
    for text in ("<script>alert(1)</script>", "$x$", "<s>", "&amp;", "🙂", "שלום", "<0x00>⏎<img"):
        assert text in re.sub("<0x(?!00)[0-9A-F]{2}>", "", shown), text


def test_the_characters_of_bytes():
    labels = ["<s>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "▁a", "<0x0A>", "<0x00>", "<0x20>"]
    assert messages.characters(labels) == [
        None, None, None, None, "🙂", None, "⏎", None, None,
    ]  # fmt: skip
    assert messages.characters(["<0xD7>", "a", "<0xA9>"]) == [None, None, None]


def test_the_page_makes_no_markup_and_asks_nobody():
    script, styles = GenerationExplorer._esm, GenerationExplorer._css
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert unsafe not in script
    namespace = "http://www.w3.org/2000/svg"
    for text in (script.replace(namespace, ""), styles):
        assert not re.search(r"https?:|//[a-z]|\bimport\b|fetch\(|url\(", text)


# Branches


def fork(explorer, **content):
    """Click on a candidate and wait for the end."""

    async def pressed():
        explorer._receive(explorer, {"type": "fork", "run": explorer.shown, **content}, [])
        await explorer._task

    asyncio.run(pressed())


def rival(trace, step, rank=0):
    """A likely token that the step did not write."""
    written = int(trace["sampled_id"].values[step])
    others = [int(i) for i in trace["candidate_id"].values[step] if i != written]
    return others[rank]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "seed": 5}])
def test_a_fork_is_the_run_that_begins_with_these_tokens(explorer, lm, settings):
    page = Page(explorer)
    run(explorer, **settings)
    first = explorer.trace
    token = rival(first, 4)
    fork(explorer, step=4, id=token)
    branch = explorer.trace
    forced = [*first["sampled_id"].values[:4].tolist(), token]
    assert branch["sampled_id"].values[:5].tolist() == forced
    page.check(branch)
    # To the bit a run in which these are forced; and the text of one whose prompt ends with them.
    expected = lv.record(lm, PROMPT, 12, generation.RECORDED, forced=forced, **settings)
    for name in lv.SIGNALS:
        assert branch[name].equals(expected[name]), name
    longer = lv.generate(lm, lm.encode(PROMPT) + forced, 12 - 5, **settings)
    assert branch["sampled_id"].values[5:].tolist() == longer.new_ids
    # What stood before the fork is the same to the bit.
    n_same = first.attrs["prompt_ids"].__len__() + 4
    same = first["attention_weights"].values[:, :, :n_same, :n_same]
    assert np.array_equal(branch["attention_weights"].values[:, :, :n_same, :n_same], same)


def test_branches_are_kept_named_and_compared(explorer):
    run(explorer)
    first = explorer.trace
    fork(explorer, step=4, id=rival(first, 4))
    second = explorer.trace
    fork(explorer, step=7, id=rival(second, 7))
    third = explorer.trace
    fork(explorer, step=2, id=rival(first, 2, rank=1), run=1)
    fourth = explorer.trace
    traces = [first, second, third, fourth]
    assert [(one["run"], one["parent"], one["step"]) for one in explorer.branches] == [
        (1, None, None), (2, 1, 4), (3, 2, 7), (4, 1, 2),
    ]  # fmt: skip
    parents = [None, first, second, first]
    for shown, trace, parent in zip(explorer.branches, traces, parents, strict=True):
        assert shown["n_prompt"] == len(trace.attrs["prompt_ids"])
        assert shown["text"] == trace.attrs["text"]
        expected = np.log(trace["sampled_probability"].values.astype(float))
        np.testing.assert_allclose(shown["log_probabilities"], expected)
        if parent is not None:
            step = shown["step"]
            assert shown["written"] == str(trace["sampled_token"].values[step])
            assert shown["instead"] == str(parent["sampled_token"].values[step])
        explorer.shown = shown["run"]
        assert explorer.trace is trace
        page = Page(explorer)
        ask(explorer, page)
        page.check(trace)
    json.dumps(explorer.branches, allow_nan=False)
    run(explorer)  # a new run begins a new tree
    assert [one["run"] for one in explorer.branches] == [5]
    assert explorer.shown == 5


def test_a_fork_after_stop_goes_on_and_at_the_end_writes_more(explorer):
    async def stopped():
        press(explorer, "run", max_new_tokens=200)
        await until(lambda: explorer.trace is not None and explorer.trace.sizes["step"] > 5)
        press(explorer, "stop")
        await explorer._task

    asyncio.run(stopped())
    fork(explorer, step=3, id=rival(explorer.trace, 3))
    assert explorer.trace.sizes["step"] > 20
    run(explorer, max_new_tokens=5)
    fork(explorer, step=4, id=rival(explorer.trace, 4))
    assert explorer.trace.sizes["step"] <= 5 + generation.FURTHER_TOKENS
    assert explorer.trace.sizes["step"] > 5 or explorer.trace.attrs["stop_reason"] == "eos"


def test_a_recorded_run_can_be_forked(lm, family):
    trace = lv.record(lm, PROMPT, 6, top_k=5, temperature=0.8, seed=3)
    explorer = GenerationExplorer([lm], trace=trace)
    fork(explorer, step=2, id=rival(trace, 2))
    assert explorer.branches[1]["parent"] == 1
    assert explorer.trace.attrs["top_k"] == 5
    assert explorer.trace["token_id"].values[0] == trace["token_id"].values[0]
    for other, words in (
        ([family["mha"]], "made by gqa, and this model is mha: branches need the run's own model"),
        ((), "made with models=(): it shows a trace and runs none"),
    ):
        explorer = GenerationExplorer(other, trace=trace)
        fork(explorer, step=2, id=rival(trace, 2))
        assert words in explorer.status["text"]
        assert len(explorer.branches) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"step": 12, "id": 5}, "step must be from 0 to 11, got 12"),
        ({"step": 0, "id": 10**6}, "is out of range"),
        ({"step": 0, "id": 5, "run": 9}, "unknown branch 9. Choose from: 1"),
    ],
)
def test_what_cannot_be_forked_is_said(explorer, content, words):
    run(explorer)
    trace = explorer.trace
    fork(explorer, **content)
    assert explorer.status["level"] == "error"
    assert words in explorer.status["text"]
    assert explorer.trace is trace
    fork(explorer, step=1, id=int(trace["sampled_id"].values[1]))
    assert "wrote this token already" in explorer.status["text"]
    with pytest.raises(ValueError, match="unknown branch 7"):
        explorer.shown = 7


def test_a_fork_waits_for_the_run_that_is_under_way(explorer):
    async def pressed():
        task = explorer.start()
        await until(lambda: explorer.trace is not None)
        explorer._receive(explorer, {"type": "fork", "run": 1, "step": 0, "id": 5}, [])
        said = dict(explorer.status)
        await task
        return said

    said = asyncio.run(pressed())
    assert said == {"level": "error", "text": "a run is under way; stop it first"}
    assert len(explorer.branches) == 1
