"""Several prompts in one run: every row is what its prompt alone would have given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llama_viz as lv
from tests.reference import random_ids, random_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3], [20, 21, 22, 23]]


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def lm(request):
    return random_model(request.param)


def assert_same(one, alone):
    assert set(one.variables) == set(alone.variables)
    for name, variable in alone.variables.items():
        if name in ("step_seconds", "cache_bytes_reserved"):
            continue
        values = one[name].values
        assert one[name].dims == variable.dims, name
        if variable.dtype.kind != "f":
            np.testing.assert_array_equal(values, variable.values, err_msg=str(name))
            continue
        bound = 1e-5 * max(1.0, float(np.nanmax(np.abs(variable.values))))
        np.testing.assert_allclose(values, variable.values, rtol=0, atol=bound, err_msg=str(name))


def test_rows_are_those_of_single_runs(lm):
    together = lv.record(lm, PROMPTS, 9)
    assert together.sizes["prompt"] == len(PROMPTS)
    assert together["attention_weights"].dims[0] == "prompt"
    for number, prompt in enumerate(PROMPTS):
        one, alone = lv.select_prompt(together, number), lv.record(lm, prompt, 9)
        assert_same(one, alone)
        for name in ("prompt_ids", "text", "stop_reason", "config", "seed"):
            assert one.attrs[name] == alone.attrs[name], name


def test_sampled_rows_are_those_of_single_runs(lm):
    together = lv.record(lm, PROMPTS, 7, temperature=0.9, top_k=20, seed=3, taps=["rms"])
    for number, prompt in enumerate(PROMPTS):
        alone = lv.record(lm, prompt, 7, temperature=0.9, top_k=20, seed=3, taps=["rms"])
        assert_same(lv.select_prompt(together, number), alone)


def test_forced_ids_are_those_of_each_prompt(lm):
    forced = [[30, 31, 32], [], (40,), torch.tensor([50, 51])]
    settings = {"temperature": 0.9, "seed": 3, "taps": ["rms", "sampled_id"]}
    together = lv.record(lm, PROMPTS, 7, forced=forced, **settings)
    for number, prompt in enumerate(PROMPTS):
        alone = lv.record(lm, prompt, 7, forced=forced[number], **settings)
        one = lv.select_prompt(together, number)
        assert_same(one, alone)
        assert one.attrs["forced_ids"] == alone.attrs["forced_ids"]
        assert one.attrs["forced_ids"] == [int(token_id) for token_id in forced[number]]
    assert together.sampled_id[0, :3].values.tolist() == forced[0]


def test_an_older_batch_says_that_nothing_was_forced(lm):
    together = lv.record(lm, PROMPTS, 2, taps=["rms"]).assign_attrs(forced_ids=[])
    assert lv.select_prompt(together, 1).attrs["forced_ids"] == []


def test_a_text_that_ends_early_ends_in_the_trace():
    lm = lv.load("gqa")
    ends = [*lm.encode("Once there was a girl named Lily."), lm.tokenizer.eos_id]
    stories = [lm.encode("One sunny morning"), ends, lm.encode("Once there was a boy")]
    together = lv.record(lm, stories, 12, taps=lv.SIGNALS, temperature=1.2, seed=4)
    for number, ids in enumerate(stories):
        alone = lv.record(lm, ids, 12, taps=lv.SIGNALS, temperature=1.2, seed=4)
        assert_same(lv.select_prompt(together, number), alone)


def test_what_is_not_there_is_marked():
    lm = random_model("gqa")
    trace = lv.record(lm, [[1, 2, 3, 4], [5]], 3, taps=["rms", "attention_weights", "sampled_id"])
    assert trace["n_positions"].values.tolist() == [6, 3]
    assert np.isnan(trace["rms"].values[1, :, 3:]).all()
    assert np.isfinite(trace["rms"].values[1, :, :3]).all()
    assert trace["token_id"].values[1].tolist()[3:] == [-1, -1, -1]
    assert trace["token"].values[1, 3] == ""


def test_the_texts_of_a_batch(lm):
    prompts = ["".join(chr(97 + i) for i in range(n)) for n in (2, 5)]
    embedded = lv.load("gqa")
    trace = lv.record(embedded, prompts, 4, taps=["logits"])
    assert trace.attrs["prompt"] == prompts
    assert trace.attrs["text"] == [lv.generate(embedded, prompt, 4).text for prompt in prompts]


def test_a_batch_is_saved_and_loaded(tmp_path):
    lm = random_model("gqa")
    trace = lv.record(lm, [[1, 2, 3], [4]], 3)
    lv.save_trace(trace, tmp_path / "batch.nc")
    loaded = lv.load_trace(tmp_path / "batch.nc")
    assert loaded.identical(trace)
    assert_same(lv.select_prompt(loaded, 1), lv.record(lm, [4], 3))


def test_padding_hides_nothing_else(lm):
    """Rows without padding are computed as without a batch; what stands in padding is no matter."""
    ids = random_ids(lm, 6, batch=2)
    padded = torch.cat([torch.full((2, 3), 7), ids], dim=1)
    other = torch.cat([torch.full((2, 3), 50), ids], dim=1)
    with torch.inference_mode():
        alone = lm.model(ids)
        for columns in (padded, other):
            cache = lv.KVCache(lm.config, 2, padding=[3, 3])
            torch.testing.assert_close(
                lm.model(columns, cache=cache)[:, 3:], alone, rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("padding", [[1], [0, -1], [0, 99], [0, 1, 2]])
def test_impossible_padding(padding):
    with pytest.raises(ValueError, match="padding must give each of 2 rows"):
        lv.KVCache(random_model("gqa").config, 2, padding=padding)


def test_taps_and_layers_are_named_as_for_a_single_prompt():
    lm = random_model("gqa")
    alone = lv.record(lm, PROMPTS[0], 2, taps="rms", layers=1)
    for taps, layers in (("rms", 1), (iter(["rms"]), iter([1]))):
        together = lv.record(lm, PROMPTS, 2, taps=taps, layers=layers)
        assert_same(lv.select_prompt(together, 0), alone)


def test_what_cannot_be_recorded_together():
    lm = random_model("gqa")
    with pytest.raises(ValueError, match="do not fit beside it in the context of 96"):
        lv.record(lm, [[1] * 90, [2]], 10)
    with pytest.raises(lv.MemoryLimitError, match="the traces of 2 prompts would take"):
        lv.record(lm, [[1, 2], [3]], 10, memory_limit="10KB")
    expected = r"2 prompts need 2 lists of ids in forced=, \[\] where nothing is forced; got"
    for forced in ([1], [1, 2], [[1]], [[1], [2], [3]], ["a", "b"], torch.tensor([1, 2])):
        with pytest.raises(ValueError, match=expected):
            lv.record(lm, [[1, 2], [3]], 4, forced=forced)
    with pytest.raises(ValueError, match="5 tokens are forced and max_new_tokens is 4"):
        lv.record(lm, [[1, 2], [3]], 4, forced=[[], [1] * 5])
    with pytest.raises(ValueError, match="single prompt: use it as it is"):
        lv.select_prompt(lv.record(lm, [1, 2], 2, taps=["rms"]), 0)
    batch = lv.record(lm, [[1, 2], [3]], 2, taps=["rms"])
    with pytest.raises(ValueError, match="prompt 2 is not in this trace; choose 0 to 1"):
        lv.select_prompt(batch, 2)
    for number in ("0", 0.0, -1, True):
        with pytest.raises(ValueError, match="is not in this trace; choose 0 to 1"):
            lv.select_prompt(batch, number)
    assert lv.select_prompt(batch, np.int64(1)).attrs["prompt_ids"] == [3]


def test_half_precision_halves_what_fills_memory():
    lm = random_model("gqa")
    wide, half = (lv.record(lm, [1, 2, 3], 20, half_precision=on) for on in (False, True))
    assert half["attention_weights"].dtype == np.float16
    assert half["rotation_angle"].dtype == half["rms"].dtype == np.float32
    assert half.attrs["bytes_planned"] < 0.56 * wide.attrs["bytes_planned"]
    for name in ("attention_scores", "residual_out", "logits"):
        np.testing.assert_allclose(half[name].values, wide[name].values, rtol=1e-3, atol=1e-3)
