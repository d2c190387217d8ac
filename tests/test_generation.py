"""Generation: what is drawn, where it stops, and what it refuses."""

import threading

import numpy as np
import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

import llama_viz as lv
from llama_viz.generation import Sampling
from tests.reference import random_ids, random_model

PROMPT = "Once upon a time"


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_cached_and_uncached_write_the_same_text(family, kind):
    cached = lv.generate(family[kind], PROMPT, max_new_tokens=60)
    uncached = lv.generate(family[kind], PROMPT, max_new_tokens=60, use_cache=False)
    assert cached.text == uncached.text
    assert cached.ids == uncached.ids


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_logits_of_every_step_agree_with_and_without_cache(kind):
    lm = random_model(kind)
    prompt = random_ids(lm, 7)[0].tolist()
    with_cache = lv.generate(lm, prompt, max_new_tokens=30).steps
    without = lv.generate(lm, prompt, max_new_tokens=30, use_cache=False).steps
    for a, b in zip(with_cache, without, strict=True):
        assert (a.logits - b.logits).abs().max() < 1e-4


def test_the_parts_of_a_generation_fit_together(family):
    lm = family["gqa"]
    done = lv.generate(lm, PROMPT, max_new_tokens=24, temperature=0.8, seed=3)
    assert done.ids == lm.encode(PROMPT) + done.new_ids
    assert lm.decode(done.ids) == PROMPT + done.text
    assert "".join(step.text for step in done.steps) == done.text
    assert [step.id for step in done.steps] == done.new_ids
    assert [(step.start, step.end) for step in done.steps][:2] == [
        (0, len(lm.encode(PROMPT))),
        (len(lm.encode(PROMPT)), len(lm.encode(PROMPT)) + 1),
    ]
    assert done.steps[-1].stop_reason == done.stop_reason == "length"
    assert all(step.stop_reason is None for step in done.steps[:-1])


def test_streaming_is_the_same_generation(family):
    settings = {"max_new_tokens": 20, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 7}
    streamed = [step.id for step in lv.stream(family["gqa"], PROMPT, **settings)]
    assert streamed == lv.generate(family["gqa"], PROMPT, **settings).new_ids


def test_a_seed_reproduces_and_another_seed_differs(family):
    def text(seed: int) -> str:
        return lv.generate(family["gqa"], PROMPT, temperature=1.0, seed=seed).text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_the_text_after_bos_alone_has_no_leading_space(family):
    lm = family["gqa"]
    done = lv.generate(lm, [lm.tokenizer.bos_id], max_new_tokens=10)
    assert done.text == lm.decode(done.ids)
    assert done.text[0] != " "
    assert "".join(step.text for step in done.steps) == done.text


def test_probability_is_the_models_own(family):
    step = next(lv.stream(family["gqa"], PROMPT, temperature=3.0, top_k=5, seed=1))
    assert step.probability == pytest.approx(float(step.logits.softmax(-1)[step.id]), abs=1e-7)


def test_it_stops_at_eos_and_keeps_it_in_the_ids(family):
    lm = family["gqa"]
    done = lv.generate(lm, PROMPT, max_new_tokens=400)
    assert done.stop_reason == "eos"
    assert done.new_ids[-1] == lm.tokenizer.eos_id
    assert lm.tokenizer.eos_id not in done.new_ids[:-1]
    assert "</s>" not in done.text


def test_a_model_without_eos_never_stops_early():
    lm = random_model()
    assert len(lv.generate(lm, [1, 2], max_new_tokens=50).new_ids) == 50


def test_a_full_context_stops_the_generation_and_says_so():
    lm = random_model()
    with pytest.warns(UserWarning, match="the context of 96 positions is full"):
        done = lv.generate(lm, random_ids(lm, 90)[0].tolist(), max_new_tokens=50)
    assert done.stop_reason == "context"
    assert len(done.ids) == 97  # the last token is written, but has no position to pass through


def test_a_prompt_as_long_as_the_context_still_gets_one_token():
    lm = random_model()
    done = lv.generate(lm, random_ids(lm, 96)[0].tolist(), max_new_tokens=1)
    assert len(done.new_ids) == 1
    assert done.stop_reason == "length"


@pytest.mark.parametrize("k", [1, 3, 50])
def test_top_k_agrees_with_transformers(k):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(k))
    theirs = TopKLogitsWarper(k)(None, logits[None])[0].softmax(-1)
    assert torch.allclose(Sampling(1.0, top_k=k).distribution(logits), theirs, atol=1e-7)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_agrees_with_transformers(p):
    logits = 3 * torch.randn(50, generator=torch.Generator().manual_seed(5))
    theirs = TopPLogitsWarper(p)(None, logits[None])[0].softmax(-1)
    assert torch.allclose(Sampling(1.0, top_p=p).distribution(logits), theirs, atol=1e-6)


def test_temperature_divides_the_logits():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(2))
    cold = Sampling(0.25).distribution(logits)
    assert torch.allclose(cold, (logits / 0.25).softmax(-1), atol=1e-6)
    assert Sampling(1e-30).distribution(logits).argmax() == logits.argmax()


def test_draws_follow_the_distribution():
    sampling = Sampling(1.0, seed=0)
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sampling.draw(logits, generator) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=3) / 4000
    # Four standard deviations of a share over 4,000 draws are 0.032.
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.032)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1] * 97}, "the prompt has 97 tokens and the context holds 96"),
        ({"prompt": [1, 120]}, "token id 120 is out of range"),
        ({"prompt": [1, -5]}, "token id -5 is out of range"),
        ({"prompt": [1.5]}, "flat list of whole numbers"),
        ({"prompt": [[1], 2]}, "flat list of whole numbers: an id must be .*, got .1."),
        ({"prompt": None}, "flat list of whole numbers, got NoneType"),
        ({"prompt": torch.tensor(1)}, "flat list of whole numbers, got Tensor"),
        ({"prompt": b"text"}, "flat list of whole numbers, got bytes"),
        ({"prompt": "text"}, "has no tokenizer to encode text"),
        ({"forced": None}, "forced= of ids must be a flat list of whole numbers, got NoneType"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number, got None"),
        ({"temperature": "1"}, "temperature must be a number, got '1'"),
        ({"temperature": -1}, "temperature must be finite and 0 or more"),
        ({"temperature": float("nan")}, "temperature must be finite and 0 or more"),
        ({"top_k": 1.5}, "top_k must be a whole number, got 1.5"),
        ({"top_k": 0}, "top_k must be None or at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"top_p": None}, "top_p must be a number, got None"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"seed": 2**64}, "seed must be from -2.63 to 2.64 - 1, got 18446744073709551616"),
    ],
)
@pytest.mark.parametrize("run", [lv.generate, lv.stream, lv.record, lv.record_steps])
def test_bad_requests_are_refused_at_once(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(random_model(), **{"prompt": [1, 2], **arguments})


@pytest.mark.parametrize("run", [lv.generate, lv.record, lv.record_forward])
def test_a_model_of_shapes_alone_does_not_run(run, tmp_path):
    lv.save_checkpoint(random_model(), tmp_path / "shapes.safetensors")
    lm = lv.load(tmp_path / "shapes.safetensors", device="meta")
    with pytest.raises(ValueError, match="shapes was opened by its shapes alone"):
        run(lm, [1, 2])


@pytest.mark.parametrize(
    "ids",
    [np.array([1, 2]), torch.tensor([1, 2]), [np.int16(1), np.int64(2)], [torch.tensor(1), 2]],
)
def test_ids_may_be_numbers_of_numpy_and_torch(ids):
    lm = random_model()
    assert lv.generate(lm, ids, 3).ids == lv.generate(lm, [1, 2], 3).ids


def test_settings_may_be_numbers_of_numpy(tmp_path):
    lm = random_model()
    plain = {"max_new_tokens": 3, "temperature": 0.5, "top_k": 5, "top_p": 0.75, "seed": 3}
    kinds = [np.int64, np.float32, np.int32, np.float64, np.uint8]
    settings = {name: kind(plain[name]) for name, kind in zip(plain, kinds, strict=True)}
    lv.save_trace(lv.record(lm, [1, 2], taps=["rms"], **settings), tmp_path / "run.nc")
    expected = lv.record(lm, [1, 2], taps=["rms"], **plain)
    assert lv.load_trace(tmp_path / "run.nc").attrs == expected.attrs


@pytest.mark.parametrize("settings", [{"temperature": 1e-320}, {"temperature": 1, "top_p": 1e-300}])
def test_what_float32_would_take_for_zero_draws_the_likeliest(settings):
    lm = random_model()
    assert lv.generate(lm, [1, 2], 8, **settings).ids == lv.generate(lm, [1, 2], 8).ids


def test_nothing_is_drawn_from_nan():
    lm = random_model()
    lm.model.output.weight[5] = float("nan")
    with pytest.raises(ValueError, match="the logits hold NaN, so nothing can be drawn"):
        lv.generate(lm, [1, 2], 2, temperature=1)


def test_an_empty_text_is_refused(family):
    with pytest.raises(ValueError, match="the prompt is empty"):
        lv.generate(family["gqa"], "")


def test_generations_in_turns_do_not_disturb_each_other():
    lm = random_model()
    prompts = [random_ids(lm, 5, seed=seed)[0].tolist() for seed in (1, 2)]
    alone = [lv.generate(lm, prompt, max_new_tokens=20).new_ids for prompt in prompts]
    in_turns = zip(*(lv.stream(lm, prompt, max_new_tokens=20) for prompt in prompts), strict=True)
    assert [list(ids) for ids in zip(*([a.id, b.id] for a, b in in_turns), strict=True)] == alone


def test_generations_in_threads_do_not_disturb_each_other():
    lm = random_model()
    prompts = [random_ids(lm, 5, seed=seed)[0].tolist() for seed in range(4)]
    alone = [lv.generate(lm, prompt, max_new_tokens=30).new_ids for prompt in prompts]
    found: dict[int, list[int]] = {}

    def run(number: int) -> None:
        found[number] = lv.generate(lm, prompts[number], max_new_tokens=30).new_ids

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == alone


# Forced tokens


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "seed": 3}])
@pytest.mark.parametrize("use_cache", [True, False])
def test_forced_tokens_are_a_run_whose_prompt_ends_with_them(settings, use_cache):
    lm = random_model()
    prompt, forced = [5, 6, 7], [11, 3, 90]
    run = lv.generate(lm, prompt, 9, forced=forced, use_cache=use_cache, **settings)
    expected = lv.generate(lm, prompt + forced, 6, **settings)
    assert run.ids == expected.ids
    assert run.new_ids == forced + expected.new_ids
    for own, other in zip(run.steps[3:], expected.steps, strict=True):
        assert torch.allclose(own.logits, other.logits, atol=1e-5, rtol=1e-5)
    first = run.steps[0]
    assert first.probability == pytest.approx(float(first.logits.softmax(-1)[11]))


def test_forcing_what_the_model_writes_changes_nothing_to_the_bit(family):
    lm = family["gqa"]
    plain = lv.generate(lm, "Once upon a time", 12)
    run = lv.generate(lm, "Once upon a time", 12, forced=plain.new_ids[:7])
    assert run.text == plain.text
    for own, other in zip(run.steps, plain.steps, strict=True):
        assert torch.equal(own.logits, other.logits)


def test_a_forced_end_of_text_ends_the_run(family):
    lm = family["gqa"]
    run = lv.generate(lm, "Once", 9, forced=[lm.encode("Once")[-1], lm.tokenizer.eos_id])
    assert len(run.new_ids) == 2
    assert run.stop_reason == "eos"


@pytest.mark.parametrize(
    ("forced", "words"),
    [
        ([120], "token id 120 is out of range"),
        ([1.5], "flat list of whole numbers"),
        ("ab", "flat list of whole numbers"),
        ([1, 2, 3, 4], "4 tokens are forced and max_new_tokens is 3; raise it"),
    ],
)
def test_what_cannot_be_forced_is_said_at_once(forced, words):
    with pytest.raises(ValueError, match=words):
        lv.stream(random_model(), [1, 2], 3, forced=forced)


def test_a_recording_may_be_forced(family):
    lm = family["gqa"]
    forced = lm.encode("Tom had a ball")[1:]
    trace = lv.record(lm, "Once upon a time", 12, forced=forced)
    run = lv.generate(lm, "Once upon a time", 12, forced=forced)
    assert trace.sampled_id.values.tolist() == run.new_ids
    assert trace.attrs["forced_ids"] == forced
    assert trace.attrs["text"] == run.text
    assert lv.record(lm, "Once", 2).attrs["forced_ids"] == []
    last = lv.record_steps(lm, "Once upon a time", 12, forced=forced)
    assert [step.step.id for step in last] == run.new_ids
