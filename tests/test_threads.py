"""JupyterLab answers its widgets in a thread beside the cells: neither may disturb the other.

What another thread does in the midst of something is done at a place that the test chooses.
"""

import asyncio
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import deepcopy

import matplotlib
import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import cost, optimization, surgery
from llama_viz.checkpoints.native import save_native
from llama_viz.figures.style import styled
from llama_viz.training import live as training_live
from llama_viz.widgets import CompareExplorer, GenerationExplorer, LiveTraining, TrainingExplorer
from llama_viz.widgets import compare as compare_widget
from llama_viz.widgets import generation as generation_widget
from llama_viz.widgets import training as training_widget
from tests.reference import n_hooks, random_ids, random_model
from tests.test_live_training import tiny
from tests.test_training_explorer import tiny_model

IDS = [5, 9, 3, 5, 9, 7, 3, 11]
TEXT = "Once upon a time"


def elsewhere(work):
    """What a function returns in another thread, waited for."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(timeout=60)


def once(module, work):
    """Let another thread do something in the midst of the next pass, when it leaves a module."""

    def interrupt(*_):
        handle.remove()
        elsewhere(work)

    handle = module.register_forward_hook(interrupt)


def pressed(explorer, **settings):
    """Run an explorer to its end."""

    async def go():
        await explorer.start(**settings)

    asyncio.run(go())


# One model


def test_a_change_is_told_the_positions_of_its_own_pass():
    lm = random_model()
    told = []

    def change(value, context):
        told.append((value.shape[1], context.end - context.start, context.start))
        return value

    once(lm.model.blocks[0], lambda: lv.generate(lm, IDS, 3))
    with lv.intervene(lm, {"residual_out": change}):
        lm.model(random_ids(lm, 30))
    assert {positions for positions, _, _ in told} == {30, 8, 1}
    assert [positions for positions, _, _ in told] == [said for _, said, _ in told]
    assert {start for positions, _, start in told if positions == 30} == {0}


@pytest.mark.parametrize("others", ["intervene", "operating"])
def test_a_pass_goes_on_while_another_thread_leaves_its_block(others):
    lm = random_model()
    expected = lv.generate(lm, IDS, 3).ids
    block = {
        "intervene": lv.intervene(lm, {"blocks.2.residual_out": lambda value, _: value}),
        "operating": surgery.operating(lm, surgery.drop, at=50),
    }[others]
    leaving = ExitStack()
    leaving.enter_context(block)
    first = lm.model.register_forward_pre_hook(lambda *_: elsewhere(leaving.close), prepend=True)
    assert lv.generate(lm, IDS, 3).ids == expected
    first.remove()
    assert n_hooks(lm.model) == 0


def test_a_pass_goes_on_while_a_recording_in_another_thread_ends():
    lm = random_model()
    expected = lm.model(torch.tensor([IDS]))
    ending = [lambda: None]
    first = lm.model.register_forward_hook(lambda *_: elsewhere(ending[0]))
    steps = lv.record_steps(lm, IDS, 4)
    next(steps)
    ending[0] = steps.close
    # Attention in one kernel and written out are equal within rounding.
    assert torch.allclose(lm.model(torch.tensor([IDS])), expected, rtol=1e-5, atol=1e-5)
    first.remove()
    assert n_hooks(lm.model) == 0


def test_a_recording_says_that_it_was_edited_where_the_block_ends_in_mid_pass():
    lm = random_model()
    leaving = ExitStack()
    leaving.enter_context(lv.intervene(lm, {"blocks.0.residual_out": lambda value, _: 2 * value}))
    once(lm.model.blocks[1], leaving.close)
    changed, plain = lv.record(lm, IDS, 2), lv.record(lm, IDS, 2)
    assert not np.array_equal(changed["residual_out"][0, :8], plain["residual_out"][0, :8])
    assert (changed.attrs["edited"], plain.attrs["edited"]) == (["blocks.0.residual_out"], [])


def test_a_model_can_be_run_at_any_moment_while_it_is_optimized(monkeypatch):
    lm = random_model()
    expected = lv.generate(lm, IDS, 4)
    meanwhile = []
    become = optimization._become

    def run_after(*args, **keywords):
        become(*args, **keywords)
        meanwhile.append(elsewhere(lambda: lv.generate(lm, IDS, 4)))

    monkeypatch.setattr(optimization, "_become", run_after)
    for _ in range(2):  # what is laid out already can be laid out again
        lm.optimize()
    assert len(meanwhile) > 2 * 8 * lm.config.n_layers
    for run in meanwhile:
        assert run.ids == expected.ids
        for step, other in zip(run.steps, expected.steps, strict=True):
            assert torch.allclose(step.logits, other.logits, rtol=1e-4, atol=1e-4)


def test_a_count_leaves_out_what_another_thread_runs():
    lm = random_model()
    expected = cost.count(lm, IDS)
    once(lm.model.blocks[1].feed_forward_norm, lambda: lv.generate(lm, IDS, 3))
    assert cost.count(lm, IDS) == expected


# The process: warnings, and matplotlib's settings


def warn_in_a_cell():
    warnings.warn("of a cell", stacklevel=1)


def run_generation(lm):
    explorer = GenerationExplorer([lm], prompt=TEXT, max_new_tokens=3)
    once(lm.model, warn_in_a_cell)
    pressed(explorer)
    assert "of a cell" not in explorer.status["text"]  # it is no notice of the run
    explorer.close()


def run_compare(lm):
    explorer = CompareExplorer([lm, lm], prompt=TEXT, max_new_tokens=3)
    once(lm.model, warn_in_a_cell)
    pressed(explorer)
    explorer.close()


def run_training(lm):
    once(lm.model, lambda: once(lm.model, warn_in_a_cell))  # the pass after the recorded one
    TrainingExplorer([(0, lm)], prompt=TEXT, max_new_tokens=3).close()


@pytest.mark.parametrize("run", [run_generation, run_compare, run_training])
def test_what_a_cell_warns_of_is_not_lost_while_an_explorer_runs(run):
    lm = tiny_model()
    with pytest.warns(UserWarning, match="of a cell"):
        run(lm)
    assert n_hooks(lm.model) == 0


def test_a_full_context_is_told_by_the_explorer_alone():
    lm = tiny_model(max_seq_len=24)
    explorer = GenerationExplorer([lm], prompt=TEXT, max_new_tokens=20)
    with warnings.catch_warnings(record=True) as caught:
        pressed(explorer)
    assert "the context of 24 positions is full" in explorer.status["text"]
    assert not [one for one in caught if "is full" in str(one.message)]
    explorer.close()
    with pytest.warns(UserWarning, match="the context of 24 positions is full") as caught:
        lv.generate(lm, TEXT, 20)
    assert len(caught) == 1


def test_two_threads_that_draw_leave_the_readers_settings():
    readers = matplotlib.rcParams["axes.linewidth"] = 3.5
    inside, ended = threading.Event(), threading.Event()
    seen = {}

    @styled
    def first():
        second_thread.start()
        inside.wait(0.3)  # nobody should come in
        seen["first"] = matplotlib.rcParams["axes.linewidth"]

    @styled
    def second():
        inside.set()
        ended.wait(10)
        seen["second"] = matplotlib.rcParams["axes.linewidth"]

    second_thread = threading.Thread(target=second)
    try:
        first()
        assert matplotlib.rcParams["axes.linewidth"] in (readers, 0.8)  # the second may be inside
        ended.set()
        second_thread.join()
        assert seen == {"first": 0.8, "second": 0.8}
        assert matplotlib.rcParams["axes.linewidth"] == readers
    finally:
        matplotlib.rcParams["axes.linewidth"] = matplotlib.rcParamsDefault["axes.linewidth"]


# One explorer, in a cell and in its thread


def test_a_model_that_two_threads_load_is_one(tmp_path, monkeypatch):
    path = tmp_path / "small.safetensors"
    save_native(random_model().model, path)
    explorer = GenerationExplorer([path])
    load, found = generation_widget.load, []

    def load_twice(*args, **keywords):
        monkeypatch.setattr(generation_widget, "load", load)
        found.append(elsewhere(lambda: explorer.lm))
        return load(*args, **keywords)

    monkeypatch.setattr(generation_widget, "load", load_twice)
    found.append(explorer.lm)
    assert found[0] is found[1] is explorer.lm
    explorer.close()


def running_generation():
    return GenerationExplorer([tiny_model()], prompt=TEXT, max_new_tokens=2), "running"


def running_compare():
    lm = tiny_model()
    return CompareExplorer([lm, lm], prompt=TEXT, max_new_tokens=2), "settings"


@pytest.mark.parametrize("make", [running_generation, running_compare])
def test_of_two_who_press_run_the_second_is_told(make):
    explorer, changed = make()
    told = []

    async def press():
        with pytest.raises(RuntimeError, match="a run is under way; stop it first") as error:
            explorer.start()
        told.append(error)

    # Whatever it sends when it starts, another thread may press Run at that moment.
    explorer.observe(lambda change: told or elsewhere(lambda: asyncio.run(press())), changed)
    pressed(explorer, max_new_tokens=3)
    assert len(told) == 1
    explorer.close()


def test_a_compare_explorer_that_runs_keeps_its_prompt_when_another_is_refused():
    lm = tiny_model()
    ids = lm.prompt_ids(TEXT)
    explorer = CompareExplorer([lm, lm], prompt=ids, max_new_tokens=2)

    async def press_twice():
        running = explorer.start()
        with pytest.raises(RuntimeError, match="under way"):
            explorer.start(prompt="another")
        await running

    asyncio.run(press_twice())
    assert all(trace.attrs["prompt_ids"] == ids for trace in explorer.traces.values())
    explorer.close()


def test_of_two_who_start_a_training_the_second_is_told(monkeypatch):
    run = tiny()
    run.train()
    widget = LiveTraining(run)
    restart, told = run.restart, []

    def start_again():
        restart()
        with pytest.raises(RuntimeError, match="a run is under way"):
            widget.start()
        told.append(True)

    monkeypatch.setattr(run, "restart", start_again)

    async def go():
        task = widget.start()
        widget.stop()
        await task

    asyncio.run(go())
    assert told == [True]
    widget.close()


def test_a_training_can_be_described_while_it_is_measured(monkeypatch):
    run = tiny()
    widget = LiveTraining(run)
    write, described = training_live.generate, []

    def describe_and_write(*args, **keywords):
        described.append(elsewhere(widget.describe))
        return write(*args, **keywords)

    monkeypatch.setattr(training_live, "generate", describe_and_write)
    run.train()
    assert described
    assert ": 0 of " in described[0]
    widget.close()


def test_a_cell_sees_the_former_run_until_the_new_one_is_shown():
    explorer = GenerationExplorer([tiny_model()], prompt=TEXT, max_new_tokens=2)
    pressed(explorer)
    seen = []
    explorer.observe(lambda _: seen.append(elsewhere(lambda: explorer.trace)), "branches")
    pressed(explorer)
    assert seen
    assert all(trace is not None for trace in seen)
    assert list(explorer._traces) == [2]
    explorer.close()


def test_closing_ends_all_answers_while_one_of_them_ends_by_itself():
    explorer = TrainingExplorer([(0, tiny_model())], prompt=TEXT, max_new_tokens=2)
    cancelled = []

    class Answering:
        def cancel(self):
            cancelled.append(self)
            explorer._answering.pop("another", None)

    explorer._answering |= {"one": Answering(), "another": Answering()}
    explorer.close()
    assert len(cancelled) == 2


def grow_meanwhile(monkeypatch, explorer, name):
    """Let the run of the first column go on, or begin anew, when a function is called."""
    original = getattr(compare_widget, name)
    column = explorer.columns[0]

    def and_meanwhile(*args):
        column.trace = lv.record(column.lm, TEXT, 5) if column.trace is not None else None
        explorer.columns[1].trace = None
        return original(*args)

    monkeypatch.setattr(compare_widget, name, and_meanwhile)


@pytest.mark.parametrize("name", ["all_tokens", "candidates", "prompt_loss"])
def test_what_a_compare_explorer_shows_is_of_one_moment(monkeypatch, name):
    explorer = CompareExplorer([tiny_model(0), tiny_model(1)], prompt=TEXT, max_new_tokens=2)
    expected, arrays = deepcopy(explorer.content(whole=True))
    grow_meanwhile(monkeypatch, explorer, name)
    header, found = explorer.content(whole=True)
    assert header == expected
    assert list(found) == list(arrays)
    explorer.close()


def test_the_picture_of_a_compare_explorer_is_of_one_moment(monkeypatch):
    explorer = CompareExplorer([tiny_model(0), tiny_model(1)], prompt=TEXT, max_new_tokens=2)
    same_depth = compare_widget._same_depth

    def and_meanwhile(*args):
        explorer.columns[1].trace = None
        return same_depth(*args)

    monkeypatch.setattr(compare_widget, "_same_depth", and_meanwhile)
    assert len(explorer.picture().axes) > 2
    explorer.close()


def test_the_picture_of_a_training_explorer_is_of_one_moment(monkeypatch):
    explorer = TrainingExplorer([(n, tiny_model(n)) for n in range(3)], prompt=TEXT)
    draw, drawn = training_widget.figures.training_run, []

    def check(losses, kinds, texts, **keywords):
        drawn.append((kinds.sizes["step"], len(texts)))
        return draw(losses, kinds, texts, **keywords)

    class Readings(dict):
        """Another one is read when these have been listed."""

        def __iter__(self):
            listed = list(super().keys())
            if 0 not in listed:
                elsewhere(lambda: explorer.reading(0))
            return iter(listed)

    monkeypatch.setattr(training_widget.figures, "training_run", check)
    explorer._readings = Readings(explorer._readings)
    explorer.picture()
    assert drawn == [(1, 1)]
    explorer.close()
