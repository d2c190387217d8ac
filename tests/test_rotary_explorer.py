"""The rotary explorer's data: vectors, frequencies and scores that agree with the trace."""

import re

import numpy as np
import pytest

import llama_viz as lv
from llama_viz.widgets import RotaryExplorer, link
from llama_viz.widgets.packing import Packed
from tests.reference import random_ids, random_model
from tests.test_explorer import answer, unpacked

VECTORS = ("query", "key", "query_rotated", "key_rotated")


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def trace(request):
    lm = random_model(request.param)
    return lv.record(lm, random_ids(lm, 9)[0].tolist(), max_new_tokens=6)


def read(packed):
    return packed.values() if isinstance(packed, Packed) else packed


def test_the_page_gets_what_was_recorded(trace):
    content, buffers = answer(RotaryExplorer(trace), "content")
    header, arrays = content["header"], unpacked(content["arrays"], buffers)
    assert header["positions"] == list(range(14))
    assert [token["label"] for token in header["tokens"]] == trace.token.values.tolist()
    assert header["kv_head_of_head"] == trace.kv_head_of_head.values.tolist()
    assert header["notes"] == []
    for layer in header["layers"]:
        for name in VECTORS:
            np.testing.assert_array_equal(arrays[f"{name} {layer}"], trace[name].sel(layer=layer))
        scores = trace.attention_scores.sel(layer=layer)
        np.testing.assert_array_equal(arrays[f"attention_scores {layer}"], scores)
    rows = np.array(header["frequencies"])[arrays["frequency_of_position"].astype(int)]
    angles = np.arange(14)[:, None] * rows
    np.testing.assert_allclose(angles, trace.rotation_angle, atol=1e-5)
    np.testing.assert_array_equal(arrays["rotation_angle"], trace.rotation_angle)


def test_turning_in_the_page_gives_the_recorded_score(trace):
    """The page's arithmetic, done here: turn the vectors before rotation, sum over the pairs."""
    content, buffers = answer(RotaryExplorer(trace), "content")
    header, arrays = content["header"], unpacked(content["arrays"], buffers)
    frequency = np.array(header["frequencies"][0])
    query = arrays["query 1"][12, 5]
    key = arrays["key 1"][4, header["kv_head_of_head"][5]]

    def score(query_place, key_place):
        hands = [
            (vector[0::2] + 1j * vector[1::2]) * np.exp(1j * place * frequency)
            for vector, place in ((query, query_place), (key, key_place))
        ]
        return (hands[0] * hands[1].conj()).real.sum() / np.sqrt(header["head_dim"])

    recorded = float(trace.attention_scores.sel(layer=1, head=5, query_position=12, key_position=4))
    assert score(12, 4) == pytest.approx(recorded, abs=1e-5 * max(1, abs(recorded)))
    assert score(112, 104) == pytest.approx(score(12, 4), abs=1e-9)
    assert abs(score(13, 4) - score(12, 4)) > 1e-3
    assert abs(score(5, 4) - score(3, 4)) > 1e-3  # +1 and -1 are not the same


@pytest.mark.parametrize("kind", ["llama3", "dynamic"])
def test_scaled_frequencies_are_those_of_the_run(kind):
    scaling = lv.RopeScaling(kind, factor=4.0, original_max_seq_len=8)
    lm = random_model("gqa", rope_scaling=scaling)
    trace = lv.record(lm, random_ids(lm, 12)[0].tolist(), max_new_tokens=4)
    header, arrays = RotaryExplorer(trace).content(whole=False)
    rows = np.array(header["frequencies"])[arrays["frequency_of_position"]]
    angles = trace.position.values[:, None] * rows
    np.testing.assert_allclose(angles, trace.rotation_angle, atol=1e-5)
    assert header["scaling"] == kind
    assert len(header["frequencies"]) == (4 if kind == "dynamic" else 1)
    assert any("Dynamic scaling" in note for note in header["notes"]) == (kind == "dynamic")


def test_large_layers_are_sent_when_they_are_asked_for(trace, monkeypatch):
    monkeypatch.setattr("llama_viz.widgets.rotary.AT_HAND_BYTES", 1000)
    explorer = RotaryExplorer(trace, layer=1)
    _, arrays = explorer.content(whole=False)
    assert "query 1" in arrays
    assert not any(name.endswith((" 0", " 2")) for name in arrays)
    content, buffers = answer(explorer, "layer", layer=2)
    np.testing.assert_array_equal(
        unpacked(content["arrays"], buffers)["query 2"], trace["query"].sel(layer=2)
    )
    content, _ = answer(explorer, "layer", layer=3)
    assert content["error"] == "layer must be a whole number from 0 to 2, got 3"
    # A page without a kernel holds all layers, in sixteen bits.
    header, arrays = explorer.content(whole=True)
    assert not header["is_exact"]
    for layer in range(3):
        for name in VECTORS:
            recorded = trace[name].sel(layer=layer).values
            step = np.abs(recorded).max(axis=-1, keepdims=True) / 32767
            assert (np.abs(read(arrays[f"{name} {layer}"]) - recorded) <= 0.51 * step).all()
        np.testing.assert_array_equal(
            arrays[f"attention_scores {layer}"], trace.attention_scores.sel(layer=layer)
        )


def test_some_layers_and_positions_keep_their_numbers():
    lm = random_model("gqa")
    trace = lv.record_forward(lm, random_ids(lm, 10)[0].tolist(), layers=[0, 2])
    part = trace.isel(position=slice(4, 8))
    explorer = RotaryExplorer(part, layer=2, key_position=5)
    header, arrays = explorer.content(whole=True)
    assert header["layers"] == [0, 2]
    assert header["positions"] == [4, 5, 6, 7]
    assert header["key_positions"] == list(range(10))
    np.testing.assert_array_equal(arrays["query 2"], trace["query"].sel(layer=2)[4:8])
    with pytest.raises(ValueError, match=re.escape("unknown layer 1. Choose from: 0, 2")):
        explorer.show(layer=1)
    with pytest.raises(ValueError, match="key_position must be a whole number from 4 to 7, got 3"):
        explorer.show(key_position=3)


@pytest.mark.parametrize("missing", [["query_rotated", "key_rotated"], ["attention_scores"],
                                     ["key"], ["query", "key", "rotation_angle"]])  # fmt: skip
def test_what_is_missing_is_said_and_the_rest_is_shown(trace, missing):
    explorer = RotaryExplorer(trace.drop_vars(missing))
    header, arrays = explorer.content(whole=True)
    for name in missing:
        assert name not in header["recorded"]
        assert name in header["notes"][0]
        assert not any(array.startswith(f"{name} ") for array in arrays)
    assert "taps=[" in header["notes"][0]
    assert explorer.still().startswith(b"\x89PNG")
    assert explorer.describe()


def test_without_any_vector_it_says_how_to_record_them(trace):
    with pytest.raises(ValueError, match=r"has no query and key and .*record it with"):
        RotaryExplorer(trace.drop_vars(list(VECTORS)))
    with pytest.raises(TypeError, match="expected a trace"):
        RotaryExplorer({"query": 1})


def test_a_model_and_a_prompt_are_recorded(family):
    explorer = RotaryExplorer(family["mqa"], "Once upon a time", layer=1)
    assert explorer.content(whole=True)[0]["recorded"] == [
        *VECTORS, "attention_scores", "rotation_angle"
    ]  # fmt: skip
    single = RotaryExplorer(family["mqa"], [1])
    assert single.state["position"] == single.state["key_position"] == 0
    assert single.still()


def test_the_words_tell_the_score_of_the_state(trace):
    explorer = RotaryExplorer(trace, layer=2, head=3, position=11, key_position=6)
    words = explorer.describe()
    recorded = float(trace.attention_scores.sel(layer=2, head=3, query_position=11, key_position=6))
    told = float(re.search(r"Score ([-\d.e]+), the sum", words)[1])
    assert told == pytest.approx(recorded, abs=1e-4 * max(1, abs(recorded)))
    for part in ("layer 2, head 3", "query at position 11", str(trace.token.values[6])):
        assert part in words
    before = explorer.still()
    explorer.show(head=4)
    assert explorer.still() != before


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"shift": 129}, "shift must be a whole number from -128 to 128"),
        ({"pair": 4}, "pair must be a whole number from 0 to 3"),
        ({"head": 8}, "head must be a whole number from 0 to 7"),
        ({"hands": "lengths"}, "unknown hands 'lengths'. Did you mean 'length'"),
    ],
)
def test_a_wrong_state_is_refused(trace, state, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        RotaryExplorer(trace, **state)


def test_two_of_them_follow_each_other(trace):
    one, other = RotaryExplorer(trace), RotaryExplorer(trace, head=2)
    link(one, other, "layer", "position", "key_position")
    one.show(layer=2, position=3)
    assert (other.state["layer"], other.state["position"], other.state["head"]) == (2, 3, 2)


def test_a_page_is_written(trace, tmp_path):
    RotaryExplorer(trace).save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>Rotary positions</title>" in text
