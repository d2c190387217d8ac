"""The norms explorer's data: the residual stream, RMS and gains, as the trace has them."""

import re

import numpy as np
import pytest

import llama_viz as lv
from llama_viz.analysis import RESIDUALS
from llama_viz.widgets import NormsExplorer, link
from llama_viz.widgets.packing import Packed
from tests.reference import random_ids, random_model
from tests.test_explorer import answer, unpacked


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def trace(request):
    lm = random_model(request.param)
    return lv.record(lm, random_ids(lm, 9)[0].tolist(), max_new_tokens=6)


def page(explorer):
    content, buffers = answer(explorer, "content")
    return content["header"], unpacked(content["arrays"], buffers)


def test_the_page_gets_what_was_recorded(trace):
    header, arrays = page(NormsExplorer(trace))
    np.testing.assert_array_equal(arrays["rms"], trace.rms)
    np.testing.assert_array_equal(arrays["norm_gain"], trace.norm_gain)
    assert header["norms"] == header["gain_norms"] == list(range(7))
    assert header["rms_is_recorded"]
    assert header["notes"] == []
    # Out of a block is into the next one, and sent once.
    assert header["stages"] == [
        [0, "residual_in"], [0, "residual_middle"], [1, "residual_in"], [1, "residual_middle"],
        [2, "residual_in"], [2, "residual_middle"], [2, "residual_out"],
    ]  # fmt: skip
    for row, (layer, residual) in enumerate(header["stages"]):
        recorded = trace[residual].sel(layer=layer).values
        np.testing.assert_array_equal(arrays[f"{residual} {layer}"], recorded)
        medians = np.median(np.abs(recorded), axis=-1)
        np.testing.assert_allclose(arrays["median"][row], medians, rtol=1e-6)
        # What is sent leads to the recorded RMS of the norm that reads it.
        computed = np.sqrt((recorded.astype(np.float64) ** 2).mean(axis=-1) + header["eps"])
        norm = 2 * layer + RESIDUALS.index(residual)
        np.testing.assert_allclose(computed, arrays["rms"][norm], rtol=1e-5)
    np.testing.assert_array_equal(trace.residual_out[0], trace.residual_in[1])


def test_a_large_stream_is_sent_when_it_is_asked_for(trace, monkeypatch):
    monkeypatch.setattr("llama_viz.widgets.norms.AT_HAND_BYTES", 1000)
    explorer = NormsExplorer(trace, layer=1, residual="residual_middle")
    _, arrays = explorer.content(whole=False)
    assert [name for name in arrays if name.startswith("residual")] == ["residual_middle 1"]
    content, buffers = answer(explorer, "vectors", layer=0, residual="residual_out")
    sent = unpacked(content["arrays"], buffers)["residual_out 0"]
    np.testing.assert_array_equal(sent, trace.residual_out.sel(layer=0))
    content, buffers = answer(explorer, "feature", feature=7)
    rows = unpacked(content["arrays"], buffers)["feature"]
    np.testing.assert_array_equal(rows[3], trace.residual_middle.sel(layer=1)[:, 7])
    np.testing.assert_array_equal(rows[6], trace.residual_out.sel(layer=2)[:, 7])
    content, _ = answer(explorer, "feature", feature=64)
    assert content["error"].startswith("feature must be a whole number from 0 to 63")
    content, _ = answer(explorer, "vectors", layer=0, residual="residual")
    assert content["error"].startswith("unknown residual 'residual'")
    # A page without a kernel holds all of it, in half the bytes.
    header, arrays = explorer.content(whole=True)
    assert any("three digits" in note for note in header["notes"])
    for layer, residual in header["stages"]:
        packed = arrays[f"{residual} {layer}"]
        assert isinstance(packed, Packed)
        recorded = trace[residual].sel(layer=layer).values
        np.testing.assert_allclose(packed.values(), recorded, rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize(
    ("missing", "stages"),
    [
        (["rms"], 7),
        (["norm_gain"], 7),
        (["residual_in", "residual_middle"], 3),
        (["residual_out"], 6),
        (list(RESIDUALS), 0),
        (["rms", "norm_gain"], 7),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(trace, missing, stages):
    explorer = NormsExplorer(trace.drop_vars(missing))
    header, arrays = page(explorer)
    assert len(header["stages"]) == stages
    for name in missing:
        assert name in header["notes"][0]
    np.testing.assert_allclose(arrays["rms"][-1], trace.rms[-1], rtol=1e-5)
    assert header["rms_is_recorded"] == ("rms" not in missing)
    assert explorer.still().startswith(b"\x89PNG")
    assert explorer.describe()


def test_without_anything_it_says_how_to_record_it(trace):
    with pytest.raises(ValueError, match=r"has no rms and .*residual_in.*record it with"):
        NormsExplorer(trace.drop_vars(["rms", *RESIDUALS]))


def test_some_layers_keep_their_numbers():
    lm = random_model("gqa")
    trace = lv.record_forward(lm, random_ids(lm, 10)[0].tolist(), layers=[0, 2])
    explorer = NormsExplorer(trace.isel(position=slice(4, 8)), layer=0, residual="residual_out")
    header, arrays = page(explorer)
    assert header["norms"] == [0, 1, 4, 5]
    assert [0, "residual_out"] in header["stages"]
    assert header["positions"] == [4, 5, 6, 7]
    np.testing.assert_array_equal(arrays["residual_out 0"], trace.residual_out.sel(layer=0)[4:8])
    assert explorer.still()  # the norm that reads it was not recorded: another picture
    with pytest.raises(ValueError, match=re.escape("unknown layer 1. Choose from: 0, 2")):
        explorer.show(layer=1)


def test_a_model_and_a_prompt_are_recorded(family):
    explorer = NormsExplorer(family["mqa"], "Once upon a time")
    assert page(explorer)[0]["notes"] == []
    assert NormsExplorer(family["mqa"], [1]).still()


def test_the_words_tell_the_largest_features(trace):
    explorer = NormsExplorer(trace, layer=2, residual="residual_middle", position=11)
    words = explorer.describe()
    vector = np.abs(trace.residual_middle.sel(layer=2, position=11).values.astype(np.float64))
    feature, times = re.search(r"Largest: feature (\d+) ([\d.]+) times", words).groups()
    assert int(feature) == vector.argmax()
    assert float(times) == pytest.approx(vector.max() / np.median(vector), rel=0.01)
    rms = float(re.search(r"RMS ([\d.]+)\. ", words)[1])
    assert rms == pytest.approx(float(trace.rms[5, 11]), rel=1e-4)
    before = explorer.still()
    explorer.show(position=10)
    assert explorer.still() != before


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"constant": 3.5}, "constant must be a number from -3.0 to 3.0"),
        ({"feature": 64}, "feature must be a whole number from 0 to 63, or None"),
        ({"order": "share"}, "unknown order 'share'"),
        ({"residual": "middle"}, "unknown residual 'middle'"),
    ],
)
def test_a_wrong_state_is_refused(trace, state, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        NormsExplorer(trace, **state)


def test_it_follows_another_explorer(trace):
    one, other = NormsExplorer(trace), NormsExplorer(trace, residual="residual_out")
    link(one, other, "layer", "position")
    one.show(layer=2, position=3)
    assert (other.state["layer"], other.state["position"]) == (2, 3)
    assert other.state["residual"] == "residual_out"


def test_a_page_is_written(trace, tmp_path):
    NormsExplorer(trace).save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>Normalization</title>" in text
