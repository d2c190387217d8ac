"""Small runs to look on at: a step at a time, stopped and gone on with, from stories or a text."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import replace

import pytest
import torch

import llama_viz as lv
from llama_viz.analysis import HEAD_KINDS
from llama_viz.files import measurement
from llama_viz.training.corpus import all_alike, example_text, read_corpus
from llama_viz.training.evaluation import HeldOut
from llama_viz.training.live import LIVE, Course, LiveRun
from llama_viz.widgets import LiveTraining
from llama_viz.widgets.generation import InUseError

TINY = replace(LIVE, n_layers=1, n_heads=2, dim=16, hidden_dim=32, steps=6, rows=2, row_length=32)


def tiny(**settings):
    return LiveRun(recipe=TINY, **{"measured_every": 2, "new_tokens": 4, **settings})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "my <b>text.txt"
    path.write_text(example_text(20), encoding="utf-8")
    return read_corpus(path, vocab_size=400)


# The run


def test_a_run_is_measured_before_its_first_step_and_whenever_due():
    run = tiny()
    assert list(run.course.held_out) == [0]
    assert not run.course.train
    assert [run.advance() for _ in range(5)] == [False, True, False, True, False]
    assert not run.done
    assert run.advance()
    assert run.done
    course = run.course
    assert list(course.held_out) == list(course.texts) == [0, 2, 4, 6]
    assert list(course.train) == [2, 4, 6]
    assert {*course.heads} == {*HEAD_KINDS, "answer"}


def test_a_last_step_is_measured_though_it_is_not_due():
    run = tiny(measured_every=4)
    assert list(run.train().held_out) == [0, 4, 6]


def test_the_held_out_loss_is_that_of_the_evaluation():
    run = tiny()
    run.train(3)
    run.advance()
    score = HeldOut(run.tokenizer, 12).score(run.lm.model)
    assert run.course.held_out[4] == pytest.approx(score.loss, rel=1e-6)
    assert run.course.references["the stories' choices"] == HeldOut(run.tokenizer, 12).bound


def test_the_training_loss_is_the_mean_since_the_last_measurement(monkeypatch):
    run = tiny()
    losses = []
    advance = run.trainer.advance
    monkeypatch.setattr(run.trainer, "advance", lambda: losses.append(advance()))
    run.train(4)
    assert run.course.train[4] == pytest.approx((losses[2] + losses[3]) / 2, rel=1e-6)


def test_the_references_are_in_order():
    references = list(tiny().course.references.values())
    assert references == sorted(references, reverse=True)
    assert references[0] == all_alike(1408)


def test_to_begin_anew_is_the_same_run_again():
    run = tiny()
    before = run.train(4).to_dict()
    run.restart()
    assert run.step == 0
    assert run.train(4).to_dict() == before


def test_a_run_learns_though_the_reader_has_switched_gradients_off():
    run = tiny()
    before = run.lm.model.output.weight.detach().clone()
    with torch.no_grad():
        run.advance()
    assert not torch.equal(before, run.lm.model.output.weight)


def test_the_loss_falls_on_a_text_of_the_readers_own(corpus):
    recipe = replace(TINY, steps=80, rows=4)
    run = LiveRun(corpus, recipe, measured_every=80, new_tokens=4)
    course = run.train()
    assert run.lm.config.vocab_size == corpus.tokenizer.vocab_size == 400
    assert course.held_out[0] == pytest.approx(all_alike(400), abs=0.4)
    assert course.held_out[80] < course.held_out[0] - 0.5
    assert course.train[80] < course.held_out[0]
    assert "answer" not in course.heads


def test_a_text_too_short_for_the_rows_is_refused(corpus):
    with pytest.raises(ValueError, match=r"held-out part has \d+ tokens, and a row takes 5000"):
        LiveRun(corpus, replace(TINY, row_length=5000, max_seq_len=5000))


def test_measured_every_needs_a_step():
    with pytest.raises(ValueError, match="measured_every must be at least 1, got 0"):
        tiny(measured_every=0)


def test_a_course_comes_back_from_json():
    course = tiny().train(2)
    assert Course.from_dict(json.loads(json.dumps(course.to_dict()))) == course


@pytest.mark.parametrize("name", ["stories", "text"])
def test_the_stored_courses_are_those_of_whole_runs(name):
    course = Course.from_dict(measurement("live_training")["courses"][name])
    assert course.steps == LIVE.steps == max(course.held_out) == max(course.texts)
    assert list(course.held_out) == list(range(0, LIVE.steps + 1, 20))
    assert course.held_out[0] == pytest.approx(course.references["all tokens alike"], abs=0.3)


# The widget


def run_for(widget, seconds=20.0, until=lambda: False):
    """Start, and let the loop run until something is so; the seconds that it took to stop."""

    async def go():
        task = widget.start()
        began = time.perf_counter()
        while not (task.done() or until()) and time.perf_counter() - began < seconds:
            await asyncio.sleep(0.001)
        asked = time.perf_counter()
        widget.stop()
        await task
        return time.perf_counter() - asked

    return asyncio.run(go())


def test_it_trains_to_the_end_and_shows_every_measurement():
    widget = LiveTraining(tiny())
    pictures = []
    widget._image.observe(lambda change: pictures.append(change["new"]), names="value")
    texts = []
    widget._text.observe(lambda change: texts.append(change["new"]), names="value")
    assert widget._button.description == "Start"
    run_for(widget)
    assert widget.run.done
    assert not widget.running
    assert len(set(pictures)) >= 3
    assert [text.partition(":")[0] for text in texts] == ["step 2", "step 4", "step 6"]
    assert widget._status.value == "Done. Step 6 of 6."
    assert widget._button.description == "Train again"
    assert widget._progress.value == 6


def test_stop_is_heard_after_the_step_under_way_and_start_goes_on():
    widget = LiveTraining(LiveRun(recipe=replace(TINY, steps=10_000), measured_every=500))
    run_for(widget, until=lambda: widget.run.step >= 3)
    stopped = widget.run.step
    assert 3 <= stopped <= 5
    assert widget._button.description == "Go on"
    assert widget._status.value == f"Stopped. Step {stopped} of 10000."
    run_for(widget, until=lambda: widget.run.step >= stopped + 2)
    assert stopped + 2 <= widget.run.step <= stopped + 4


def test_the_button_stops_what_it_started():
    widget = LiveTraining(LiveRun(recipe=replace(TINY, steps=10_000), measured_every=500))

    async def go():
        widget._button.click()
        while widget.run.step < 2:
            await asyncio.sleep(0.001)
        assert widget.running
        assert widget._button.description == "Stop"
        assert widget._anew.disabled
        task = widget._task
        widget._button.click()
        await task

    asyncio.run(go())
    assert not widget.running
    assert not widget._anew.disabled
    widget._anew.click()
    assert widget.run.step == 0
    assert widget._button.description == "Start"


def test_two_runs_at_once_are_refused():
    widget = LiveTraining(LiveRun(recipe=replace(TINY, steps=10_000), measured_every=500))

    async def go():
        task = widget.start()
        for attempt in (widget.start, widget.restart):
            with pytest.raises(InUseError, match="stop it first"):
                attempt()
        widget.stop()
        await task

    asyncio.run(go())


def test_a_recorded_course_is_shown_until_the_first_start():
    recorded = Course.from_dict(measurement("live_training")["courses"]["stories"])
    widget = LiveTraining(tiny(), recorded=recorded)
    assert widget.course is recorded
    assert "600 of 600 steps" in widget.describe()
    assert widget._status.value == "A recorded run. Press Start to train your own."
    run_for(widget)
    assert widget.course is widget.run.course
    assert "6 of 6 steps" in widget.describe()


def test_what_goes_wrong_is_said_in_one_line(caplog):
    widget = LiveTraining(tiny())
    widget.run.advance = lambda: 1 / 0
    run_for(widget)
    assert widget._status.value.startswith("ZeroDivisionError: division by zero.")
    assert widget._button.description == "Start"
    assert not widget.running
    assert "the live training failed" in caplog.text


def test_without_a_kernel_it_leaves_a_picture_and_words(corpus):
    widget = LiveTraining(LiveRun(corpus, TINY, measured_every=2, new_tokens=4))
    bundle, _ = widget._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == widget.png
    assert bundle["text/plain"].startswith("Live training on my <b>text.txt: 0 of 6 steps.")
    assert "text/html" not in bundle


def test_the_model_can_be_used_between_two_steps():
    run = tiny()
    run.train(2)
    text = lv.generate(run.lm, "Once", 3).text
    run.train(2)
    assert isinstance(text, str)
    assert run.step == 4
