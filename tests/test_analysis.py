"""Derived arrays against formulas written out here, for MHA, GQA and MQA."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import llama_viz as lv
from llama_viz import analysis
from tests.reference import random_ids, random_model

TURN = 2 * math.pi


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def run(request):
    """A model of each kind and a recording of 12 prompt tokens and 40 new ones."""
    lm = random_model(request.param)
    return lm, lv.record(lm, random_ids(lm, 12)[0].tolist(), max_new_tokens=40)


@pytest.fixture(scope="module")
def trace():
    lm = random_model("gqa")
    return lv.record(lm, random_ids(lm, 5)[0].tolist(), max_new_tokens=7)


# Rotary positions


@pytest.mark.parametrize("of", ["query", "key"])
def test_measured_angles_are_position_times_frequency_up_to_turns(run, of):
    lm, trace = run
    measured = analysis.measured_rotation_angle(trace, of)
    heads = lm.config.n_heads if of == "query" else lm.config.n_kv_heads
    assert measured.shape == (3, 51, heads, 4)
    assert measured.dims[2] == trace[of].dims[2]
    assert not measured.isnull().any()
    for position in range(51):
        for pair in range(4):
            expected = position * 10000 ** (-2 * pair / 8)
            turns = (measured.values[:, position, :, pair] - expected) / TURN
            assert np.abs(turns - turns.round()).max() * TURN <= 1e-4


def test_applied_angles_are_the_recorded_ones(run):
    _, trace = run
    applied = analysis.applied_rotation_angle(trace)
    assert applied.dims == ("position", "pair")
    np.testing.assert_allclose(applied, trace.rotation_angle, atol=1e-5)
    assert applied.values[50].tolist() == [50 * 10000 ** (-pair / 4) for pair in range(4)]


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        lv.RopeScaling("linear", factor=4.0),
        lv.RopeScaling("llama3", factor=8.0, original_max_seq_len=32),
        lv.RopeScaling("dynamic", factor=2.0, original_max_seq_len=8),
        lv.RopeScaling("divided", divisors=(1.0, 2.0, 3.0, 4.0)),
    ],
    ids=lambda scaling: scaling and scaling.kind,
)
def test_frequencies_are_those_of_the_run_whatever_the_scaling(scaling):
    lm = random_model("gqa", rope_scaling=scaling)
    trace = lv.record(lm, random_ids(lm, 12)[0].tolist(), max_new_tokens=5)
    frequency = analysis.rotation_frequency(trace)
    assert frequency.dims == ("position", "pair")
    assert frequency.attrs["units"] == "radian per position"
    angle = trace.position.values[:, None] * frequency.values
    np.testing.assert_allclose(angle, trace.rotation_angle, atol=1e-5)
    is_constant = np.array_equal(frequency[0], frequency[-1])
    assert is_constant == (scaling is None or scaling.kind != "dynamic")


def test_the_score_is_the_sum_of_its_pairs(run):
    _, trace = run
    split = analysis.score_by_pair(trace, layer=1, head=5, query_position=40)
    assert split.dims == ("key_position", "pair")
    recorded = trace.attention_scores.sel(layer=1, head=5, query_position=40)
    largest = np.abs(recorded).max()
    total = split.sum("pair").values
    np.testing.assert_allclose(total[:41], recorded[:41], atol=1e-5 * max(1, largest))
    # One of them by hand, feature by feature.
    query = trace.query_rotated.values[1, 40, 5].tolist()
    key = trace.key_rotated.values[1, 7, int(trace.kv_head_of_head[5])].tolist()
    by_hand = (query[4] * key[4] + query[5] * key[5]) / math.sqrt(8)
    assert split.values[7, 2] == pytest.approx(by_hand, rel=1e-12)


def test_unknown_places_of_a_score_are_refused(trace):
    with pytest.raises(ValueError, match="unknown head 8"):
        analysis.score_by_pair(trace, layer=0, head=8, query_position=0)
    with pytest.raises(ValueError, match="unknown position 11"):
        analysis.score_by_pair(trace, layer=0, head=0, query_position=11)


def test_rotation_keeps_norms(run):
    _, trace = run
    for name in ("query", "key"):
        before, after = (
            np.linalg.norm(trace[variable].values.astype(np.float64), axis=-1)
            for variable in (name, f"{name}_rotated")
        )
        np.testing.assert_allclose(after, before, rtol=1e-6)


def test_a_wrong_pairing_or_a_wrong_position_is_noticed(run):
    """The measurement can fail: it is not made from the angles that it is compared with."""
    _, trace = run
    halves = trace["query_rotated"].values
    halves = np.concatenate([halves[..., 0::2], halves[..., 1::2]], axis=-1)
    late = trace["query_rotated"].shift(position=1, fill_value=1.0).values
    for wrong in (halves, late):
        broken = trace.assign(query_rotated=(trace["query_rotated"].dims, wrong))
        measured = analysis.measured_rotation_angle(broken)
        off = np.abs(analysis.wrapped(measured - trace.rotation_angle))
        assert off.max() > 0.1


def test_a_pair_without_a_direction_has_no_angle(trace):
    query = trace["query"].copy(deep=True)
    query[0, 3, 2, 4:6] = 0.0  # the third pair
    rotated = trace["query_rotated"].copy(deep=True)
    rotated[0, 3, 2, 4:6] = 0.0
    measured = analysis.measured_rotation_angle(trace.assign(query=query, query_rotated=rotated))
    assert measured.isnull().sum() == 1
    assert np.isnan(measured.values[0, 3, 2, 2])


@pytest.mark.parametrize("turns", range(-3, 4))
def test_angles_wrap_into_one_turn(turns):
    for angle in (-3.0, -1e-9, 0.0, 1.0, 3.0, math.pi):
        assert analysis.wrapped(angle + turns * TURN) == pytest.approx(angle, abs=1e-9)
    assert analysis.wrapped(-math.pi) == math.pi
    beyond = np.nextafter(math.pi, 4)
    assert -math.pi < analysis.wrapped(beyond) <= math.pi


def test_wrapping_keeps_labels(trace):
    angle = analysis.wrapped(analysis.applied_rotation_angle(trace))
    assert isinstance(angle, xr.DataArray)
    assert angle.dims == ("position", "pair")


def test_an_unknown_vector_is_refused(trace):
    with pytest.raises(ValueError, match="unknown vector 'queries'.*query, key"):
        analysis.measured_rotation_angle(trace, "queries")


# Attention


def test_masked_scores_lead_to_the_recorded_weights(run):
    _, trace = run
    masked = analysis.masked_scores(trace)
    assert masked.dims == trace.attention_scores.dims
    above = np.triu(np.ones((51, 51), dtype=bool), 1)
    assert (masked.values[..., above] == -np.inf).all()
    assert np.isfinite(masked.values[..., ~above]).all()
    weights = np.exp(masked - masked.max("key_position"))
    weights = weights / weights.sum("key_position")
    np.testing.assert_allclose(weights, trace.attention_weights, atol=1e-5)


def test_rows_of_attention_sum_to_one_and_never_look_ahead(run):
    _, trace = run
    weights = trace.attention_weights
    assert float(np.abs(weights.sum("key_position") - 1).max()) <= 1e-6
    assert not weights.where(trace.key_position > trace.query_position, 0.0).any()


# RMS statistics


def test_rms_follows_from_the_recorded_residual_stream(run):
    lm, trace = run
    again = analysis.rms_of_residual(trace)
    assert again.dims == ("norm", "position")
    assert float(np.abs(again - trace.rms).max()) <= 1e-5 * max(1.0, float(trace.rms.max()))
    stream = trace.residual_middle.values[1, 20].astype(float)
    by_hand = math.sqrt(sum(x * x for x in stream) / len(stream) + lm.config.norm_eps)
    assert float(again.sel(norm=3, position=20)) == pytest.approx(by_hand, rel=1e-12)


def test_rms_of_some_layers_only():
    lm = random_model("gqa")
    trace = lv.record(lm, [1, 2, 3], max_new_tokens=4, layers=[1])
    again = analysis.rms_of_residual(trace)
    assert again["norm_layer"].values.tolist() == [1, 1]
    np.testing.assert_allclose(again, trace.rms, rtol=1e-5)


# The KV cache


@pytest.mark.parametrize("of", analysis.RESIDUALS)
def test_normalized_is_what_torch_computes(run, of):
    lm, trace = run
    stream = torch.tensor(trace[of].values, dtype=torch.float64)
    shape, eps = stream.shape[-1:], lm.config.norm_eps
    for kind, function in (
        ("rms", torch.nn.functional.rms_norm), ("layer", torch.nn.functional.layer_norm)
    ):  # fmt: skip
        ours = analysis.normalized(trace, of, kind=kind)
        assert ours.dims == ("layer", "position", "feature")
        np.testing.assert_allclose(ours, function(stream, shape, eps=eps), rtol=1e-12, atol=1e-13)


def test_normalized_times_gain_is_what_the_queries_read(run):
    """The norm that the model has: its output times the query weight is the recorded query."""
    lm, trace = run
    normed = analysis.normalized(trace, "residual_in").sel(layer=1)
    gain = trace.norm_gain.sel(norm=2).values
    weight = lm.model.get_parameter("blocks.1.attention.query.weight").numpy()
    query = (normed.values * gain) @ weight.T.astype(np.float64)
    recorded = trace["query"].sel(layer=1).values.reshape(51, -1)
    np.testing.assert_allclose(query, recorded, atol=1e-5 * np.abs(recorded).max())


def test_an_outlier_is_told_by_size_and_share(trace):
    of = trace["residual_out"].copy(deep=True)
    of[1, 3] = 1.0
    of[1, 3, 7] = -100.0
    of[2, 4] = 0.0
    changed = trace.assign(residual_out=of)
    size = analysis.relative_size(changed)
    share = analysis.share_of_mean_square(changed)
    assert size.dims == share.dims == ("layer", "position", "feature")
    assert size.values[1, 3, 7] == 100
    assert size.values[1, 3, 8] == 1
    assert share.values[1, 3, 7] == pytest.approx(10_000 / 10_063)
    np.testing.assert_allclose(share.values[0].sum(axis=-1), 1)
    assert np.isnan(size.values[2, 4]).all()
    assert np.isnan(share.values[2, 4]).all()
    assert list(size.coords["token"].values) == list(trace.token.values)


def test_unknown_residuals_and_kinds_are_refused(trace):
    with pytest.raises(ValueError, match="unknown residual 'residual'.*residual_in"):
        analysis.relative_size(trace, "residual")
    with pytest.raises(ValueError, match="unknown kind 'batch'. Choose from: rms, layer"):
        analysis.normalized(trace, kind="batch")
    with pytest.raises(ValueError, match="the trace has no residual_middle; record it"):
        analysis.normalized(trace.drop_vars("residual_middle"), "residual_middle")


def test_cache_bytes_are_exact_at_every_step(run):
    lm, trace = run
    expected = analysis.cache_bytes(trace)
    assert expected.dims == ("step", "layer")
    assert expected.equals(trace.cache_bytes_used.astype(np.int64))
    kv_heads = {"MHA": 8, "GQA": 2, "MQA": 1}[lm.config.attention_kind]
    for step in (0, 1, 39):
        assert (expected.values[step] == 2 * kv_heads * 8 * (12 + step) * 4).all()
    total = lm.config.kv_cache_bytes(51)
    assert int(expected.isel(step=-1).sum()) == total


def test_cache_bytes_follow_the_type_of_the_numbers():
    lm = random_model("mqa")
    lm.model.bfloat16()
    trace = lv.record(lm, [1, 2, 3], max_new_tokens=4)
    assert analysis.cache_bytes(trace).equals(trace.cache_bytes_used.astype(np.int64))
    assert int(analysis.cache_bytes(trace)[0, 0]) == 2 * 1 * 8 * 3 * 2


# Tokens


def test_token_probability_is_the_softmax_at_the_position_before(run):
    _, trace = run
    probability = analysis.token_probability(trace)
    ids = [*trace.token_id.values.tolist(), int(trace.sampled_id[-1])]
    assert probability.sizes == {"position": 52}
    assert np.isnan(probability.values[0])
    assert probability.is_prompt.values.tolist() == [True] * 12 + [False] * 40
    logits = trace.logits.values.astype(float)
    for position in (1, 11, 12, 40, 51):
        exponentials = np.exp(logits[position - 1])
        expected = exponentials[ids[position]] / exponentials.sum()
        assert float(probability[position]) == pytest.approx(expected, rel=1e-5)
    assert probability.token.values[-1] == trace.sampled_token.values[-1]


def test_token_probability_from_what_there_is(trace):
    whole = analysis.token_probability(trace).values
    no_logits = analysis.token_probability(trace.drop_vars("logits")).values
    assert np.isnan(no_logits[:5]).all()
    np.testing.assert_array_equal(no_logits[5:], whole[5:])
    only_logits = analysis.token_probability(trace.drop_vars("sampled_probability")).values
    np.testing.assert_allclose(only_logits[1:-1], whole[1:-1], rtol=1e-5)
    with pytest.raises(ValueError, match="has no sampled_probability"):
        analysis.token_probability(trace.drop_vars(["logits", "sampled_probability"]))


def test_token_probability_of_a_single_pass_and_of_one_position():
    lm = random_model("gqa")
    forward = analysis.token_probability(lv.record_forward(lm, [1, 2, 3, 4]))
    assert forward.is_prompt.all()
    assert np.isfinite(forward.values[1:]).all()
    one = analysis.token_probability(lv.record_forward(lm, [7]))
    assert one.sizes == {"position": 1}
    assert one.isnull().all()


# Looks back


def test_a_look_back_is_found_where_it_was_put():
    ids = [1, 7, 8, 9, 5, 6, 7, 4, 8, 2]  # 7 comes again at 6, 8 at 8
    trace = lv.record_forward(random_model("gqa"), ids, taps=["attention_weights"])
    weights = np.zeros(trace["attention_weights"].shape, dtype=np.float32)
    weights[2, 5, 5, 1] = 0.75  # before 7 is said again, at 7
    weights[1, 3, 7, 2] = 0.5  # before 8 is said again, at 8
    weights[0, 0, 4, 0] = 1.0  # at nothing that comes next
    trace = trace.assign(attention_weights=(trace["attention_weights"].dims, weights))
    first, second = analysis.look_backs(trace, count=2, at_least=4)
    assert first[:5] == (2, 5, 5, 1, 0.75)
    assert second[:5] == (1, 3, 7, 2, 0.5)
    assert repr(first).startswith("layer 2, head 5: at position 5 it gives 0.75 to position 1, 4")
    assert first.token == trace["token"].values[6]
    with pytest.raises(
        ValueError, match="says 1 tokens again that stood at least 5 .* asked for 2"
    ):
        analysis.look_backs(trace, count=2, at_least=5)
    # A row that was dropped from the cache in every layer is looked at by nobody.
    weights[:, :, 7, 2] = np.nan
    dropped = trace.assign(attention_weights=(trace["attention_weights"].dims, weights))
    assert analysis.look_backs(dropped, at_least=4) == [first]


# Kinds of heads


def heads_that_look(trace, chooser):
    """The trace with weights that give all attention to the key that chooser names."""
    weights = np.zeros(trace["attention_weights"].shape, dtype=np.float32)
    for query in range(weights.shape[2]):
        weights[:, :, query, chooser(query)] = 1.0
    return trace.assign(attention_weights=(trace["attention_weights"].dims, weights))


REPEATED = [1, 7, 8, 9, 7, 8, 9, 5, 7, 8]


@pytest.fixture(scope="module")
def repeated():
    return lv.record_forward(random_model("gqa"), REPEATED, taps=["attention_weights"])


@pytest.mark.parametrize(
    ("kind", "chooser"),
    [
        ("previous", lambda query: max(query - 1, 0)),
        ("first", lambda query: 0),
        # What followed 7, 8 and 9 the last time, by hand; the others look at themselves.
        ("induction", lambda query: {4: 2, 5: 3, 6: 4, 8: 5, 9: 6}.get(query, query)),
    ],
)
def test_a_head_that_only_looks_at_one_place_is_of_that_kind(repeated, kind, chooser):
    scores = analysis.head_kinds(heads_that_look(repeated, chooser))
    assert scores.dims == ("kind", "layer", "head")
    assert scores.sel(kind=kind).values == pytest.approx(1.0)
    others = scores.drop_sel(kind=kind).values
    assert others.max() < 0.5


def test_head_kinds_are_means_of_the_recorded_weights(repeated):
    scores = analysis.head_kinds(repeated)
    weights = repeated["attention_weights"].values
    by_hand = np.mean([weights[1, 2, query, query - 1] for query in range(2, 10)])
    assert scores.sel(kind="previous", layer=1, head=2) == pytest.approx(by_hand)
    pairs = [(4, 2), (5, 3), (6, 4), (8, 5), (9, 6)]
    by_hand = np.mean([weights[0, 3, query, key] for query, key in pairs])
    assert scores.sel(kind="induction", layer=0, head=3) == pytest.approx(by_hand)


def test_without_a_repeat_there_is_no_induction():
    trace = lv.record_forward(random_model("gqa"), [1, 2, 3, 4], taps=["attention_weights"])
    assert np.isnan(analysis.head_kinds(trace).sel(kind="induction")).all()


# What every function asks of a trace


@pytest.mark.parametrize(
    ("function", "variable"),
    [
        (analysis.measured_rotation_angle, "query_rotated"),
        (analysis.masked_scores, "attention_scores"),
        (analysis.rms_of_residual, "residual_middle"),
    ],
)
def test_a_missing_variable_says_how_to_record_it(trace, function, variable):
    with pytest.raises(
        ValueError, match=rf'has no {variable}; record it with .*taps=\["{variable}"'
    ):
        function(trace.drop_vars(variable))


def test_sampled_tokens_come_from_record(trace):
    with pytest.raises(ValueError, match=r"written by lv\.record"):
        analysis.require(trace.drop_vars("sampled_id"), "sampled_id")


def test_what_is_no_trace_is_refused(trace):
    with pytest.raises(TypeError, match="expected a trace"):
        analysis.require({"rms": 1}, "rms")
    with pytest.raises(ValueError, match="unknown variable 'rsm'. Did you mean 'rms'"):
        analysis.require(trace, "rsm")
    with pytest.raises(ValueError, match=r"lv\.select_prompt\(trace, 0\)"):
        analysis.require(trace.expand_dims("prompt"), "rms")


@pytest.mark.parametrize("wrong", [3, -1, 1.0, "1", True, None])
def test_a_number_along_a_dimension_is_one_that_is_there(trace, wrong):
    with pytest.raises(ValueError, match="unknown layer.*Choose from: 0, 1, 2"):
        analysis.pick(trace, "layer", wrong)
    assert analysis.pick(trace, "layer", np.int64(2)) == 2


def test_a_trace_from_a_file_gives_the_same(tmp_path, trace):
    lv.save_trace(trace, tmp_path / "run.nc")
    loaded = lv.load_trace(tmp_path / "run.nc")
    for function in (
        analysis.applied_rotation_angle,
        analysis.measured_rotation_angle,
        analysis.masked_scores,
        analysis.rms_of_residual,
        analysis.cache_bytes,
        analysis.token_probability,
    ):
        xr.testing.assert_equal(function(loaded), function(trace))


def test_analysis_needs_no_weights_and_no_torch():
    code = "import sys, llama_viz.analysis, llama_viz.figures; print('torch' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "False"


# Kinds of heads


def test_head_kinds_are_means_of_three_places():
    lm = random_model("gqa")
    ids = [4, 9, 2, 4, 9, 7, 9, 4, 4]
    trace = lv.record_forward(lm, ids, taps=["attention_weights"])
    kinds = analysis.head_kinds(trace)
    assert kinds.dims == ("kind", "layer", "head")
    assert kinds.shape == (3, 3, 8)
    weights = trace["attention_weights"].values.astype(np.float64)
    positions = range(2, len(ids))
    # Written out: position, and the one after its token's last occurrence.
    after = {3: 1, 4: 2, 6: 5, 7: 4, 8: 8}
    for layer in range(3):
        for head in range(8):
            w = weights[layer, head]
            expected = {
                "previous": np.mean([w[i, i - 1] for i in positions]),
                "first": np.mean([w[i, 0] for i in positions]),
                "induction": np.mean([w[i, key] for i, key in after.items()]),
            }
            for kind, value in expected.items():
                assert float(kinds.sel(kind=kind, layer=layer, head=head)) == pytest.approx(value)


def test_an_even_spread_is_what_a_head_without_scores_gives():
    """All weights of a query alike: head_kinds of such a run is even_spread, for every head."""
    lm = random_model("gqa")
    with lv.intervene(lm, {"attention_scores": lambda scores, context: 0 * scores}):
        trace = lv.record_forward(lm, [4, 9, 2, 4, 9, 7, 9, 4, 4], taps=["attention_weights"])
    even = analysis.even_spread(trace)
    assert even.dims == ("kind",)
    for kinds in analysis.head_kinds(trace).stack(of=["layer", "head"]).values.T:
        np.testing.assert_allclose(kinds, even, rtol=1e-6)
    by_hand = [np.mean([1 / (position + 1) for position in (3, 4, 6, 7, 8)])]
    np.testing.assert_allclose(even.sel(kind="induction"), by_hand)


def test_an_even_spread_without_a_repeat_is_nan_for_induction():
    trace = lv.record_forward(random_model("gqa"), [1, 2, 3, 4], taps=["attention_weights"])
    assert np.isfinite(analysis.even_spread(trace).values).tolist() == [True, True, False]


def test_head_kinds_of_short_and_of_new_tokens_are_nan():
    lm = random_model("mqa")
    for ids in ([3], [3, 4]):
        assert analysis.head_kinds(lv.record_forward(lm, ids)).isnull().all()
    kinds = analysis.head_kinds(lv.record_forward(lm, [3, 4, 5, 6]))
    assert kinds.sel(kind="induction").isnull().all()
    assert not kinds.sel(kind=["previous", "first"]).isnull().any()
    with pytest.raises(ValueError, match="the trace has no attention_weights"):
        analysis.head_kinds(lv.record_forward(lm, [3, 4], taps=["rms"]))


# Neurons of the feed-forward


def test_silu_is_torchs_and_does_not_overflow():
    x = np.linspace(-200, 200, 4001)
    expected = torch.nn.functional.silu(torch.tensor(x)).numpy()
    np.testing.assert_allclose(analysis.silu(x), expected, rtol=1e-12, atol=1e-80)
    assert analysis.silu(np.float32([-1e4, 0, 1e4])).tolist() == [0, 0, 1e4]
    assert analysis.silu(np.float32([1])).dtype == np.float32


def test_the_product_is_the_recorded_one_whether_recorded_or_not(run):
    _, trace = run
    computed = analysis.neuron_activation(trace.drop_vars("neuron_activation"), 1)
    recorded = analysis.neuron_activation(trace, 1)
    assert recorded.dims == computed.dims == ("position", "neuron")
    np.testing.assert_array_equal(recorded.values, trace.neuron_activation.values[1])
    largest = np.abs(recorded.values).max()
    np.testing.assert_allclose(computed, recorded, atol=1e-6 * largest)
    with pytest.raises(ValueError, match="has no neuron_activation; record it with"):
        analysis.neuron_activation(trace.drop_vars(["neuron_activation", "up"]), 1)
    with pytest.raises(ValueError, match="unknown layer 3"):
        analysis.neuron_activation(trace, 3)


def test_neurons_near_zero_are_counted_one_by_one(trace):
    limits = [0.001, 0.1, 1e9]
    share = analysis.neurons_near_zero(trace, limits)
    assert share.dims == ("layer", "position", "threshold")
    assert share.threshold.values.tolist() == limits
    for layer in range(3):
        for position in (0, 6, 10):
            row = trace.neuron_activation.values[layer, position].tolist()
            for place, limit in enumerate(limits):
                count = sum(-limit < value < limit for value in row)
                assert share.values[layer, position, place] == count / len(row)
    assert (share[..., 2] == 1).all()
    assert analysis.neurons_near_zero(trace, 0.1).equals(share[..., 1:2])
    for wrong in (0, -1, [], [0.1, 0]):
        with pytest.raises(ValueError, match="thresholds must be numbers above 0"):
            analysis.neurons_near_zero(trace, wrong)


def test_favourite_positions_of_one_trace_and_of_several(run):
    lm, trace = run
    other = lv.record_forward(lm, random_ids(lm, 9, seed=5)[0].tolist())
    found = analysis.favourite_positions([trace, other], layer=2, neuron=17, count=7)
    all_values = [
        (-abs(value), number, position, value)
        for number, one in enumerate((trace, other))
        for position, value in enumerate(one.neuron_activation.values[2, :, 17].tolist())
    ]
    for rank, (_, number, position, value) in enumerate(sorted(all_values)[:7]):
        row = found.isel(rank=rank)
        assert (int(row.trace), int(row.position)) == (number, position)
        assert float(row.neuron_activation) == value
        source = (trace, other)[number]
        assert str(row.token.values) == source.token.values[position]
        assert int(row.token_id) == source.token_id.values[position]
    alone = analysis.favourite_positions(other, layer=2, neuron=17, count=100)
    assert alone.sizes["rank"] == 9
    assert sorted(alone.position.values.tolist()) == list(range(9))


def test_favourite_positions_put_the_earlier_of_equals_first_and_leave_out_what_is_missing(trace):
    values = trace.neuron_activation.copy(deep=True)
    values[1, :, 3] = 0.5
    values[1, 4, 3] = np.nan
    values[1, 9, 3] = -2.0
    found = analysis.favourite_positions(
        trace.assign(neuron_activation=values), layer=1, neuron=3, count=50
    )
    assert found.position.values.tolist() == [9, 0, 1, 2, 3, 5, 6, 7, 8, 10]
    assert found.neuron_activation.values[0] == -2.0


def written_traces(trace):
    """Two traces with tokens and products of neuron 3 of layer 1 that can be read at a glance."""
    ids = [7, 5, 7, 6, 7, 5, 5, 8, 9, 6, 8][: trace.sizes["position"]]
    values = trace.neuron_activation.copy(deep=True)
    values[1, :, 3] = [-4.0 if token == 7 else 0.1 * token for token in ids]
    values[1, 4, 3] = -5.0
    named = trace.assign(neuron_activation=values).assign_coords(
        token_id=("position", np.array(ids)),
        token=("position", np.array([f"t{token}" for token in ids], dtype=object)),
    )
    return [named, named]


def test_favourite_tokens_are_means_over_all_traces(trace):
    several = written_traces(trace)
    n = trace.sizes["position"]
    found = analysis.favourite_tokens(several, layer=1, neuron=3, at_least=1)
    first = found.isel(rank=0)
    assert (str(first.token.values), int(first.token_id), int(first.occurrences)) == ("t7", 7, 6)
    assert float(first["mean"]) == pytest.approx(-13 / 3)
    assert (float(first.lowest), float(first.highest)) == (-5.0, -4.0)
    assert int(found.occurrences.sum()) == 2 * n
    rest = dict(zip(found.token.values[1:], found["mean"].values[1:], strict=True))
    assert rest == {f"t{token}": pytest.approx(0.1 * token) for token in (9, 8, 6, 5)}
    assert list(rest) == ["t9", "t8", "t6", "t5"]
    common = analysis.favourite_tokens(several, layer=1, neuron=3, at_least=5)
    assert common.token.values.tolist() == ["t7", "t5"]
    assert analysis.favourite_tokens(several, layer=1, neuron=3, at_least=7).sizes["rank"] == 0


def test_alike_favourites_are_the_share_of_the_commonest_token(trace):
    several = written_traces(trace)
    for count, share in ((6, 1.0), (8, 0.75)):
        alike = analysis.favourites_alike(several, layer=1, count=count)
        assert alike.dims == ("neuron",)
        assert float(alike[3]) == share
        product = np.concatenate([one.neuron_activation.values[1] for one in several])
        ids = np.concatenate([one.token_id.values for one in several])
        for neuron in range(0, product.shape[1], 7):
            strongest = np.argsort(-abs(product[:, neuron]), kind="stable")[:count]
            commonest = max(np.bincount(ids[strongest]))
            assert float(alike[neuron]) == commonest / count


def test_positions_that_were_dropped_are_nobodys_favourites(trace):
    (named, _) = written_traces(trace)
    values = named.neuron_activation.copy(deep=True)
    values[1, 4, :] = np.nan
    found = analysis.favourite_tokens(named.assign(neuron_activation=values), layer=1, neuron=3,
                                      at_least=1)  # fmt: skip
    assert int(found.occurrences.sum()) == trace.sizes["position"] - 1
    assert float(found.lowest[0]) == -4.0


def test_favourite_tokens_that_cannot_be_told_are_refused(trace):
    for neuron in (96, -1, 1.0, True):
        with pytest.raises(ValueError, match=f"from 0 to 95, got {neuron}"):
            analysis.favourite_tokens(trace, layer=0, neuron=neuron)
    with pytest.raises(ValueError, match="at least one trace"):
        analysis.favourite_tokens([], layer=0, neuron=0)
    for count in (0, 1000, 2.5):
        expected = f"count must be a whole number from 1 .*, got {count}"
        with pytest.raises(ValueError, match=expected):
            analysis.favourites_alike(trace, layer=0, count=count)
    small = lv.record_forward(random_model("gqa", hidden_dim=32), [1, 2])
    with pytest.raises(ValueError, match="different sizes"):
        analysis.favourites_alike([trace, small], layer=0, count=1)


def test_favourites_that_cannot_be_told_are_refused(trace):
    small = random_model("gqa", hidden_dim=32)
    for arguments, words in (
        ({"neuron": 96}, "neuron must be a whole number from 0 to 95, got 96"),
        ({"neuron": True}, "got True"),
        ({"neuron": 0, "count": 0}, "count must be a whole number of at least 1"),
        ({"neuron": 0, "layer": 7}, "unknown layer 7"),
    ):
        with pytest.raises(ValueError, match=words):
            analysis.favourite_positions(trace, **{"layer": 0, **arguments})
    with pytest.raises(ValueError, match="at least one trace"):
        analysis.favourite_positions([], layer=0, neuron=0)
    with pytest.raises(ValueError, match="different sizes"):
        analysis.favourite_positions(
            [trace, lv.record_forward(small, [1, 2])], layer=0, neuron=0
        )  # fmt: skip


# The next token


def test_entropy_is_minus_the_sum_of_p_ln_p(run):
    _, trace = run
    entropy = analysis.next_token_entropy(trace)
    assert entropy.dims == ("position",)
    logits = torch.tensor(trace.logits.values, dtype=torch.float64)
    truth = torch.distributions.Categorical(logits=logits).entropy()
    np.testing.assert_allclose(entropy, truth, rtol=1e-12)
    # The last position of each step has it recorded, from probabilities in float32.
    np.testing.assert_allclose(entropy.values[11:], trace.entropy, atol=1e-5)


def test_the_entropy_of_what_is_even_and_of_what_is_certain(trace):
    logits = trace.logits.copy(deep=True)
    logits[0], logits[1] = 3.0, -1e4
    logits[1, 7] = 0.0
    entropy = analysis.next_token_entropy(trace.assign(logits=logits))
    assert entropy.values[0] == pytest.approx(math.log(120), rel=1e-12)
    assert entropy.values[1] == 0


def test_ranked_probabilities_are_the_softmax_in_order(trace):
    ranked = analysis.ranked_probabilities(trace)
    logits = torch.tensor(trace.logits.values, dtype=torch.float64)
    truth = logits.softmax(dim=-1).sort(descending=True).values
    np.testing.assert_allclose(ranked, truth, rtol=1e-12)
    np.testing.assert_allclose(ranked.sum("rank"), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="the trace has no logits"):
        analysis.ranked_probabilities(trace.drop_vars("logits"))


def test_the_rank_in_the_lens_counts_what_is_likelier():
    lm = random_model("gqa")
    trace = lv.record(lm, [5, 6, 7], 6, n_candidates=120)
    rank = analysis.rank_in_lens(trace)
    assert rank.shape == (3, 8)
    ids = [5, 6, 7, *trace.sampled_id.values]
    for layer in range(3):
        stream = torch.tensor(trace.residual_out.values[layer])
        logits = lm.model.output(lm.model.norm(stream))
        for position in range(8):
            own = logits[position]
            assert rank[layer, position] == (own > own[ids[position + 1]]).sum()
    assert (rank.values[-1, 2:] == 0).all()  # greedy writes what the last layer says


def test_a_rank_that_was_not_kept_is_missing_and_so_is_a_token_that_never_came():
    lm = random_model("gqa")
    full = analysis.rank_in_lens(lv.record_forward(lm, [5, 6, 7, 8], n_candidates=120))
    few = analysis.rank_in_lens(lv.record_forward(lm, [5, 6, 7, 8], n_candidates=3))
    assert full.values[:, -1].tolist() == pytest.approx([math.nan] * 3, nan_ok=True)
    assert not np.isnan(full.values[:, :-1]).any()
    np.testing.assert_array_equal(few, full.where(full < 3))


def test_the_written_ids_are_those_of_the_generation(run):
    lm, trace = run
    prompt = trace.attrs["prompt_ids"]
    assert analysis.written_ids(trace).tolist() == lv.generate(lm, prompt, 40).ids
    assert analysis.written_ids(lv.record_forward(lm, prompt)).tolist() == prompt


def read(*ids):
    return lv.record_forward(random_model("gqa"), ids, ["entropy"])


def test_the_share_of_runs_that_were_there_before():
    # Runs of two: 12 23 31 12 23 34; the second 12 and the second 23 were there.
    assert analysis.repeated_share(read(1, 2, 3, 1, 2, 3, 4), length=2) == pytest.approx(2 / 6)
    assert analysis.repeated_share(read(1, 2, 3, 4, 5), length=2) == 0
    assert analysis.repeated_share(read(1, 1, 1, 1, 1), length=1) == pytest.approx(4 / 5)
    for length in (0, 4):
        with pytest.raises(ValueError, match="length must be from 1 to the text's 3 tokens"):
            analysis.repeated_share(read(1, 2, 3), length=length)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ((1, 2, 3, 9, 1, 2, 3, 4), (0, 4, 3)),
        ((9, 1, 2, 8, 7, 1, 2, 6), (1, 5, 2)),
        ((1, 1, 1, 1, 1), (0, 3, 2)),  # twice two of the five, without overlap
        ((4, 5, 4, 5, 4, 5), (0, 4, 2)),
        ((1, 2, 3), (0, 0, 0)),
    ],
)
def test_the_longest_repeat(ids, found):
    assert analysis.longest_repeat(read(*ids)) == found


def test_the_longest_repeat_is_the_one_of_a_search_through_all_pairs():
    numbers = np.random.default_rng(0)
    for _ in range(20):
        ids = numbers.integers(0, 3, 24).tolist()
        longest = max(
            length
            for length in range(12)
            for first in range(25 - 2 * length)
            for again in range(first + length, 25 - length)
            if ids[first : first + length] == ids[again : again + length]
        )
        first, again, length = analysis.longest_repeat(read(*ids))
        assert length == longest
        assert first + length <= again
        assert ids[first : first + length] == ids[again : again + length]
