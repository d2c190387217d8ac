"""The recorder: a recording of a real cached generation, and nothing left behind.

"Close" is |a - b| <= 1e-5 x max(1, max|b|), in float32.
"""

import asyncio
import logging
import threading

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.recorder import format_bytes, parse_bytes
from llama_viz.taps import norms, places
from llama_viz.trace import VARIABLES
from tests.reference import n_hooks, random_ids, random_model

KINDS = ["mha", "gqa", "mqa"]


def close(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    both_nan = np.isnan(a) & np.isnan(b)
    difference = np.where(both_nan, 0.0, np.abs(a - b))
    return bool(difference.max() <= 1e-5 * max(1.0, np.nanmax(np.abs(b))))


@pytest.fixture(scope="module", params=KINDS)
def run(request):
    """A model of each kind, a recorded generation, and the same generation unrecorded."""
    lm = random_model(request.param)
    prompt = random_ids(lm, 9)[0].tolist()
    return lm, lv.record(lm, prompt, max_new_tokens=30), lv.generate(lm, prompt, max_new_tokens=30)


def test_a_trace_holds_every_variable_with_its_dimensions(run):
    lm, trace, _ = run
    assert set(trace.data_vars) == set(VARIABLES)
    for name, variable in VARIABLES.items():
        assert trace[name].dims == variable.dims
        assert trace[name].dtype == variable.dtype
    config = lm.config
    assert dict(trace.sizes) == {
        "position": 9 + 30 - 1, "query_position": 38, "key_position": 38, "step": 30,
        "layer": 3, "norm": 7, "head": 8, "key_value_head": config.n_kv_heads, "head_feature": 8,
        "pair": 4, "feature": 64, "neuron": 96, "vocabulary": 120, "rank": 10,
    }  # fmt: skip


def test_recording_changes_no_token_and_no_logit(run):
    _, trace, done = run
    assert trace.sampled_id.values.tolist() == done.new_ids
    last = [step.end - 1 for step in done.steps]
    unrecorded = torch.stack([step.logits for step in done.steps]).numpy()
    assert close(trace.logits[last], unrecorded)


def test_a_cached_generation_equals_one_full_pass_variable_by_variable(run):
    lm, trace, done = run
    whole = lv.record_forward(lm, done.ids[:-1])
    compared = 0
    for name, variable in VARIABLES.items():
        if "step" in variable.dims:
            continue
        compared += 1
        if name == "lens_id":  # ids may trade places where probabilities are equal
            assert (trace[name] == whole[name]).mean() > 0.999
        else:
            assert close(trace[name], whole[name]), name
    assert compared == sum("step" not in variable.dims for variable in VARIABLES.values())


def test_rows_of_attention_sum_to_one_and_see_nothing_ahead(run):
    _, trace, _ = run
    weights = trace.attention_weights.values
    assert np.abs(weights.sum(axis=-1, dtype=np.float64) - 1).max() < 1e-6
    ahead = np.triu(np.ones(weights.shape[-2:], dtype=bool), k=1)
    assert (weights[..., ahead] == 0).all()
    scores = trace.attention_scores.values
    assert np.isnan(scores[..., ahead]).all()
    assert np.isfinite(scores[..., ~ahead]).all()


def test_weights_are_the_softmax_of_the_scaled_products(run):
    lm, trace, _ = run
    query = trace.query_rotated.values.astype(np.float64)
    key = trace.key_rotated.values[:, :, lm.config.kv_head_of_head].astype(np.float64)
    scores = np.einsum("lqhf,lkhf->lhqk", query, key) / np.sqrt(lm.config.head_dim)
    lower = np.tril(np.ones(scores.shape[-2:], dtype=bool))
    assert close(trace.attention_scores.values[..., lower], scores[..., lower])
    exponentials = np.where(lower, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    assert close(trace.attention_weights, exponentials / exponentials.sum(axis=-1, keepdims=True))


def test_the_residual_stream_adds_up(run):
    _, trace, _ = run
    assert close(trace.residual_in[0], trace.embedding)
    assert close(trace.residual_in[1:], trace.residual_out[:-1])
    assert close(trace.residual_middle, trace.residual_in.values + trace.attention_output.values)
    assert close(
        trace.residual_out, trace.residual_middle.values + trace.feed_forward_output.values
    )


def test_rms_is_that_of_the_recorded_residual(run):
    lm, trace, _ = run
    inputs = np.stack([trace.residual_in.values, trace.residual_middle.values], axis=1)
    inputs = np.concatenate([inputs.reshape(-1, *inputs.shape[2:]), trace.residual_out.values[-1:]])
    by_hand = np.sqrt((inputs.astype(np.float64) ** 2).mean(axis=-1) + lm.config.norm_eps)
    assert close(trace.rms, by_hand)


def test_applied_and_measured_rotation_agree_with_position_times_frequency(run):
    lm, trace, _ = run
    config = lm.config
    frequencies = config.rope_theta ** (-2 * np.arange(config.n_pairs) / config.head_dim)
    expected = trace.position.values[:, None] * frequencies
    assert np.abs(trace.rotation_angle.values - expected).max() < 1e-4
    for name in ("query", "key"):
        before, after = (
            trace[variable].values.astype(np.float64) for variable in (name, f"{name}_rotated")
        )
        assert close(np.linalg.norm(after, axis=-1), np.linalg.norm(before, axis=-1))
        before, after = (x[..., 0::2] + 1j * x[..., 1::2] for x in (before, after))
        turned = after / before * np.exp(-1j * expected[:, None])
        assert np.abs(np.angle(turned)).max() < 1e-4


def test_cache_variables_follow_the_formula_at_every_step(run):
    lm, trace, done = run
    config = lm.config
    per_position = 2 * config.n_kv_heads * config.head_dim * 4
    for step in done.steps:
        at = trace.isel(step=step.index)
        assert (at.cache_length == step.end).all()
        assert (at.cache_bytes_used == per_position * step.end).all()
        assert (at.cache_bytes_reserved == per_position * 38).all()
    assert int(trace.cache_bytes_used[-1].sum()) == config.kv_cache_bytes(38)


def test_what_each_step_chose_and_could_have_chosen(run):
    _, trace, done = run
    for step in done.steps:
        probabilities = step.logits.double().softmax(-1)
        best = probabilities.topk(10)
        at = trace.isel(step=step.index)
        assert at.candidate_id.values.tolist() == best.indices.tolist()
        assert close(at.candidate_probability, best.values)
        assert close(at.entropy, -(probabilities * probabilities.log()).sum())
        assert close(at.sampled_probability, probabilities[step.id])
        assert int(at.step_positions) == step.end - step.start
        assert float(at.step_seconds) > 0


def test_the_lens_of_the_last_layer_is_the_models_own_prediction(run):
    _, trace, _ = run
    logits = torch.tensor(trace.logits.values).softmax(-1).topk(10)
    assert close(trace.lens_probability[-1], logits.values)
    assert (trace.lens_id[-1, :, 0].values == logits.indices[:, 0].numpy()).all()


def test_the_lens_of_a_lower_layer_reads_its_residual(run):
    lm, trace, _ = run
    with torch.inference_mode():
        stream = torch.tensor(trace.residual_out[0].values)
        logits = lm.model.output(lm.model.norm(stream))
    assert close(trace.lens_probability[0], logits.softmax(-1).topk(10).values)


def test_head_contributions_add_up_to_the_attention_output(run):
    lm, trace, _ = run
    weight = lm.model.blocks[1].attention.output.weight.double().numpy()
    by_head = weight.reshape(weight.shape[0], lm.config.n_heads, -1)
    added = np.einsum("phf,dhf->phd", trace.head_output[1].values.astype(np.float64), by_head)
    assert close(trace.attention_output[1], added.sum(axis=1))
    assert close(trace.head_contribution_norm[1], np.linalg.norm(added, axis=-1).T)


def test_norm_gains_are_those_of_the_weights(run):
    lm, trace, _ = run
    for norm in norms(lm.config.n_layers):
        gain = lm.model.get_submodule(norm.path).weight
        assert np.array_equal(trace.norm_gain[norm.index], gain.numpy())


def test_coordinates_say_what_each_row_is(run):
    lm, trace, done = run
    assert trace.token_id.values.tolist() == done.ids[:-1]
    assert trace.token.values.tolist() == [str(token_id) for token_id in done.ids[:-1]]
    assert trace.step_of_position.values.tolist() == [0] * 9 + list(range(1, 30))
    assert trace.kv_head_of_head.values.tolist() == lm.config.kv_head_of_head
    assert trace.norm_layer.values.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert trace.norm_kind.values.tolist() == ["attention", "feed_forward"] * 3 + ["final"]


def test_attributes_describe_the_run(family):
    lm = family["gqa"]
    trace = lv.record(lm, "Once", max_new_tokens=3, temperature=0.5, top_k=9, seed=4)
    done = lv.generate(lm, "Once", max_new_tokens=3, temperature=0.5, top_k=9, seed=4)
    expected = {
        "model": "gqa", "prompt": "Once", "prompt_ids": lm.encode("Once"), "seed": 4,
        "temperature": 0.5, "top_k": 9, "top_p": 1.0, "dtype": "float32", "device": "cpu",
        "config": lm.config.to_dict(), "text": done.text, "stop_reason": "length", "edited": [],
        "checkpoint_sha256": lm.checksum,
    }  # fmt: skip
    assert {name: trace.attrs[name] for name in expected} == expected
    assert trace.attrs["versions"]["torch"] == torch.__version__


# Choosing


def test_taps_and_layers_select():
    lm = random_model()
    trace = lv.record(lm, [1, 2, 3], 5, taps=["rms", "gate"], layers=[2, 0])
    assert set(trace.data_vars) == {"rms", "gate"}
    whole = lv.record(lm, [1, 2, 3], 5)
    assert trace.layer.values.tolist() == [0, 2]
    assert trace.norm.values.tolist() == [0, 1, 4, 5]
    assert close(trace.gate, whole.gate[[0, 2]])
    assert close(trace.rms, whole.rms[[0, 1, 4, 5]])


def test_the_signals_are_recorded_alone():
    trace = lv.record(random_model(), [1, 2, 3], 5, taps=lv.SIGNALS)
    assert set(trace.data_vars) == set(lv.SIGNALS)


@pytest.mark.parametrize("name", list(VARIABLES))
def test_every_variable_can_be_recorded_alone(name):
    lm = random_model()
    alone = lv.record(lm, [1, 2, 3], 6, taps=[name], layers=[1])
    assert list(alone.data_vars) == [name]
    whole = lv.record(lm, [1, 2, 3], 6, layers=[1])
    if name != "step_seconds":
        assert close(alone[name], whole[name])


def test_the_fused_kernel_stays_while_nobody_asks_for_scores_or_weights():
    lm = random_model()
    attention = lm.model.blocks[0].attention
    seen = []
    attention.weights.forward = lambda value: seen.append(value) or value
    lv.record(lm, [1, 2, 3], 3, taps=["rms", "head_output"])
    assert seen == []
    lv.record(lm, [1, 2, 3], 3, taps=["attention_weights"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"taps": ["rsm"]}, "unknown tap 'rsm'. Did you mean 'rms'. Choose from: embedding, rms,"),
        ({"taps": []}, "taps= is empty"),
        ({"layers": [3]}, "unknown layer 3. Choose from: 0, 1, 2"),
        ({"layers": ["0"]}, "unknown layer '0'. Choose"),
        ({"layers": [-1]}, "unknown layer -1. Choose"),
        ({"layers": 1.5}, "unknown layer 1.5. Choose"),
        ({"n_candidates": 1.5}, "n_candidates must be a whole number, got 1.5"),
        ({"n_candidates": 0}, "n_candidates must be at least 1"),
        ({"memory_limit": "much"}, "cannot read 'much' as a size"),
    ],
)
def test_bad_choices_are_refused(arguments, message):
    lm = random_model()
    with pytest.raises(ValueError, match=message):
        lv.record(lm, [1, 2], 3, **arguments)
    assert n_hooks(lm.model) == 0


# Memory


def test_the_size_is_stated_before_the_run_and_true_after_it(caplog):
    lm = random_model()
    size = lv.recording_size(lm, [1, 2, 3], 20)
    with caplog.at_level(logging.INFO, logger="llama_viz"):
        trace = lv.record(lm, [1, 2, 3], 20)
    assert {name: trace[name].nbytes for name in trace.data_vars} == size.by_variable
    assert trace.attrs["bytes_planned"] == size.total
    assert f"recording takes at most {format_bytes(size.total)}" in caplog.text
    once = lv.record_forward(lm, [1, 2, 3])
    assert lv.recording_size(lm, [1, 2, 3], 0).total == once.attrs["bytes_planned"]
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got -3"):
        lv.recording_size(lm, [1, 2, 3], -3)


def test_a_recording_over_its_limit_is_refused_before_it_runs():
    lm = random_model()
    calls = []
    lm.model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(
        lv.MemoryLimitError,
        match=r"would take \d+\.\d kB \(most: attention_scores .*the memory limit of 50.0 kB; .*"
        r"; record\(path='run.zarr'\) needs less of it$",
    ):
        lv.record(lm, [1, 2, 3], 20, memory_limit="50kB")
    assert calls == []
    lv.record(lm, [1, 2, 3], 20, memory_limit="50kB", taps=["rms"])
    assert calls


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("1.5 MiB", 1_572_864), ("12", 12), (7, 7), ("500kb", 500_000)],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


def test_sizes_are_written():
    numbers = (0, 999, 1500, 999_949, 999_950, 2_000_000, 999_999_999, 18_000_000_000, 10**13)
    assert [format_bytes(n) for n in numbers] == [
        "0 B", "999 B", "1.5 kB", "999.9 kB", "1.0 MB", "2.0 MB", "1.0 GB", "18.0 GB",
        "10000.0 GB",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["forward", "steps"])
def test_half_precision_in_a_forward_pass_and_in_steps(kind):
    lm = random_model()

    def record(**options):
        if kind == "forward":
            return lv.record_forward(lm, [1, 2, 3, 4, 5], **options)
        *_, (_, trace) = lv.record_steps(lm, [1, 2, 3], 6, **options)
        return trace

    wide, half = record(), record(half_precision=True)
    assert half["attention_weights"].dtype == half["logits"].dtype == np.float16
    assert half["rotation_angle"].dtype == half["rms"].dtype == np.float32
    assert half.attrs["bytes_planned"] < 0.6 * wide.attrs["bytes_planned"]
    for name in ("attention_scores", "residual_in", "residual_out", "logits"):
        np.testing.assert_array_equal(half[name], wide[name].astype(np.float16))


STREAM = ["embedding", "residual_in", "residual_out"]


def recorded_apart(record):
    """The variables of the residual stream, each from a recording of it alone."""
    return {name: record([name])[name] for name in STREAM}


def test_the_residual_stream_is_kept_once():
    lm = random_model()
    trace = lv.record(lm, [1, 2, 3], 6, taps=STREAM)
    assert np.shares_memory(trace.residual_in[1:].values, trace.residual_out[:-1].values)
    assert np.shares_memory(trace.residual_in[0].values, trace.embedding.values)
    apart = recorded_apart(lambda taps: lv.record(lm, [1, 2, 3], 6, taps=taps))
    for name in STREAM:
        np.testing.assert_array_equal(trace[name], apart[name])
    some = lv.record(lm, [1, 2, 3], 6, taps=STREAM, layers=[0, 2])
    np.testing.assert_array_equal(some.residual_in, trace.residual_in[[0, 2]])
    np.testing.assert_array_equal(some.residual_out, trace.residual_out[[0, 2]])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["embedding", "blocks.1.residual_in", "blocks.1.residual_out"])
def test_a_changed_stream_is_kept_apart(name, in_place):
    lm = random_model()

    def change(value, context):
        return value.mul_(3) if in_place else 3 * value

    with lv.intervene(lm, {name: change}):
        trace = lv.record(lm, [1, 2, 3], 6, taps=STREAM)
        apart = recorded_apart(lambda taps: lv.record(lm, [1, 2, 3], 6, taps=taps))
    for variable in STREAM:
        np.testing.assert_array_equal(trace[variable], apart[variable])
    assert not np.shares_memory(trace.residual_in.values, trace.residual_out.values)
    factor = 3 if name == "blocks.1.residual_in" else 1
    assert close(trace.residual_in[1], factor * trace.residual_out[0])


def test_a_stream_that_is_changed_in_mid_run_parts_from_there():
    lm = random_model()
    steps = lv.record_steps(lm, [1, 2, 3], 6, taps=STREAM)
    next(steps)
    _, earlier = next(steps)
    kept = earlier.copy(deep=True)
    with lv.intervene(lm, {"blocks.2.residual_in": lambda value, context: 3 * value}):
        next(steps)
    *_, (_, trace) = steps
    assert earlier.identical(kept)
    inside, outside = trace.isel(position=[4]), trace.isel(position=[0, 1, 2, 3, 5, 6, 7])
    assert close(inside.residual_in[2], 3 * inside.residual_out[1])
    assert close(outside.residual_in[1:], outside.residual_out[:-1])
    assert not close(inside.residual_in[2], inside.residual_out[1])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("n_prompt", [1, 4])  # a single column is collected, more are not
def test_a_hook_of_somebody_else_may_change_the_stream(n_prompt, layer):
    lm = random_model()
    block = lm.model.blocks[layer]
    handle = block.register_forward_pre_hook(lambda module, args: (2 * args[0], *args[1:]))
    trace = lv.record(lm, [5, 6, 7, 8][:n_prompt], 3, taps=STREAM)
    handle.remove()
    stream = np.concatenate([trace.embedding.values[None], trace.residual_out.values])
    stream[layer] *= 2
    assert close(trace.residual_in, stream[:-1])


# Step by step


def test_progress_is_shown_when_it_is_asked_for(capsys):
    lv.record(random_model(), [1, 2, 3], 6)
    assert capsys.readouterr() == ("", "")
    lv.record(random_model(), [1, 2, 3], 6, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_each_step_comes_with_the_trace_so_far():
    lm = random_model()
    whole = lv.record(lm, [1, 2, 3], 6)
    for number, (step, trace) in enumerate(lv.record_steps(lm, [1, 2, 3], 6)):
        assert step.index == number
        assert trace.sizes["step"] == number + 1
        assert trace.sizes["position"] == step.end
        assert trace.sampled_id.values.tolist() == whole.sampled_id[: number + 1].values.tolist()
        assert close(trace.attention_weights, whole.attention_weights[..., : step.end, : step.end])


def test_an_earlier_trace_does_not_change_while_the_run_goes_on():
    steps = lv.record_steps(random_model(), [1, 2, 3], 6)
    _, first = next(steps)
    kept = first.copy(deep=True)
    list(steps)
    assert first.identical(kept)


# Hooks


def test_no_hook_is_left_after_a_recording():
    lm = random_model()
    lv.record(lm, [1, 2, 3], 4)
    lv.record_forward(lm, [1, 2, 3])
    assert n_hooks(lm.model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_is_left_after_an_exception_or_an_interrupt(error):
    lm = random_model()

    def fail(*_):
        raise error

    with pytest.raises(error), lv.intervene(lm, {"blocks.1.attention.weights": fail}):
        lv.record(lm, [1, 2, 3], 4)
    assert n_hooks(lm.model) == 0
    assert lm.model.interventions == []
    assert len(lv.generate(lm, [1, 2, 3], 4).new_ids) == 4


def test_no_hook_is_left_by_an_iterator_that_is_dropped_or_never_started():
    lm = random_model()
    steps = lv.record_steps(lm, [1, 2, 3], 4)
    next(steps)
    assert n_hooks(lm.model) > 0
    del steps
    assert n_hooks(lm.model) == 0
    lv.record_steps(lm, [1, 2, 3], 4)
    assert n_hooks(lm.model) == 0


def test_every_place_of_the_table_exists_and_passes_its_axes(run):
    lm, _, _ = run
    for place in places(lm.config.n_layers):
        module = lm.model.get_submodule(place.path)
        axes = getattr(module, "axes", None)
        if axes is not None:
            assert axes == place.axes


# Two users of one model


def test_a_recording_hears_only_its_own_run():
    lm = random_model()
    alone = lv.record(lm, [1, 2, 3], 8)
    other_alone = lv.record(lm, [9, 8, 7, 6], 8)
    ours, theirs = lv.record_steps(lm, [1, 2, 3], 8), lv.record_steps(lm, [9, 8, 7, 6], 8)
    for (_, trace), (_, other) in zip(ours, theirs, strict=True):  # noqa: B007
        lv.generate(lm, [5, 5, 5], 2)
        lm.model(torch.tensor([[4, 4]]))
    for name in set(VARIABLES) - {"step_seconds"}:
        assert close(trace[name], alone[name]), name
        assert close(other[name], other_alone[name]), name


def test_recordings_in_threads_hear_only_their_own_run():
    lm = random_model()
    prompts = [random_ids(lm, 5, seed=seed)[0].tolist() for seed in range(3)]
    alone = [lv.record(lm, prompt, 10) for prompt in prompts]
    found = {}

    def run(number: int) -> None:
        found[number] = lv.record(lm, prompts[number], 10)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, trace in enumerate(alone):
        for name in set(VARIABLES) - {"step_seconds"}:
            assert close(found[number][name], trace[name]), name
    assert n_hooks(lm.model) == 0


def test_recordings_in_tasks_hear_only_their_own_run():
    lm = random_model()

    async def run(prompt: list[int]) -> list[int]:
        ids = []
        for step, _trace in lv.record_steps(lm, prompt, 8):
            ids.append(step.id)
            await asyncio.sleep(0)
        return ids

    async def both() -> list[list[int]]:
        return await asyncio.gather(run([1, 2, 3]), run([9, 8, 7]))

    alone = [lv.generate(lm, prompt, 8).new_ids for prompt in ([1, 2, 3], [9, 8, 7])]
    assert asyncio.run(both()) == alone


# Interventions


def test_a_change_is_computed_with_and_recorded():
    lm = random_model()
    plain = lv.record(lm, [1, 2, 3], 5)
    with lv.intervene(lm, {"blocks.1.attention.weights": lambda value, context: 0 * value}):
        trace = lv.record(lm, [1, 2, 3], 5)
    assert (trace.attention_weights[1] == 0).all()
    assert (trace.attention_output[1] == 0).all()
    assert close(trace.attention_weights[0, :, :3, :3], plain.attention_weights[0, :, :3, :3])
    assert not close(trace.logits[:3], plain.logits[:3])
    assert trace.attrs["edited"] == ["blocks.1.attention.weights"]
    assert lv.record(lm, [1, 2, 3], 5).attrs["edited"] == []


def test_every_tap_can_be_changed_and_the_change_is_seen():
    lm = random_model()
    for place in places(lm.config.n_layers):
        with lv.intervene(lm, {place.name: lambda value, context: torch.full_like(value, 0.25)}):
            trace = lv.record(lm, [1, 2, 3], 3, taps=[place.variable])
        values = trace[place.variable]
        values = values if place.row is None else values[place.row]
        seen = values.values[np.isfinite(values.values) & (values.values != 0)]
        assert seen.size
        assert (seen == 0.25).all(), place.name
        assert trace.attrs["edited"] == [place.name]


def test_a_change_knows_where_it_stands():
    lm = random_model()
    seen = []

    def look(value, context):
        seen.append((context.name, context.variable, context.layer, context.axes,
                     context.start, context.end, tuple(value.shape)))  # fmt: skip
        return value

    with lv.intervene(lm, {"blocks.2.attention.query": look}):
        lv.generate(lm, [1, 2, 3], 2)
    name, axes = "blocks.2.attention.query", ("position", "head", "head_feature")
    assert seen == [
        (name, "query", 2, axes, 0, 3, (1, 3, 8, 8)),
        (name, "query", 2, axes, 3, 4, (1, 1, 8, 8)),
    ]


def test_a_variable_stands_for_all_its_layers():
    lm = random_model()
    with lv.intervene(lm, {"gate": lambda value, context: value + context.layer}):
        trace = lv.record(lm, [1, 2, 3], 1, taps=["gate"])
    plain = lv.record(lm, [1, 2, 3], 1, taps=["gate"])
    assert close(trace.gate[0], plain.gate[0])
    assert len(trace.attrs["edited"]) == 3


def test_a_change_in_mid_run_is_recorded_from_there():
    lm = random_model()
    steps = lv.record_steps(lm, [1, 2, 3], 4)
    next(steps)
    with lv.intervene(lm, {"blocks.0.attention.weights": lambda value, context: 0 * value}):
        _, trace = next(steps)
    steps.close()
    assert (trace.attention_weights[0, :, 3] == 0).all()
    assert (trace.attention_weights[0, :, :3].sum("key_position") > 0).all()
    assert trace.attrs["edited"] == ["blocks.0.attention.weights"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"blocks.9.attention.weights": lambda v, c: v},
            "unknown tap 'blocks.9.attention.weights'",
        ),
        ({"weights": lambda v, c: v}, "unknown tap 'weights'"),
        ({"gate": lambda v, c: None}, "the change of blocks.0.feed_forward.gate returned NoneType"),
        ({"gate": lambda v, c: v[..., :5]}, r"returned \(1, 2, 5\), expected .*\(1, 2, 96\)"),
    ],
)
def test_bad_changes_are_refused(changes, message):
    lm = random_model()
    with pytest.raises(ValueError, match=message), lv.intervene(lm, changes):
        lv.generate(lm, [1, 2], 1)
    assert n_hooks(lm.model) == 0
