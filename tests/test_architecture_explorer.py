"""The architecture map in Python: what it takes, what it sends, what it opens."""

import json
import re

import pytest

import llama_viz as lv
from llama_viz import widgets
from llama_viz.architecture import VARIABLES_OF
from llama_viz.config import PRESETS
from llama_viz.taps import find_places
from llama_viz.widgets import ArchitectureMap
from llama_viz.widgets.architecture import DTYPES, EXPLORER_OF, taps_of
from llama_viz.widgets.bundle import WIDGET_VIEW
from tests.reference import random_ids, random_model


@pytest.fixture(scope="module")
def lm():
    return random_model("gqa")


@pytest.fixture(scope="module")
def trace(lm):
    return lv.record(lm, random_ids(lm, 7)[0].tolist(), max_new_tokens=3)


def header(made):
    found, arrays = made.content(whole=False)
    assert arrays == {}
    json.dumps(found, allow_nan=False)
    return found


def test_it_takes_sizes_a_name_a_model_and_a_trace(lm, trace):
    for source in (lm.config, lm, trace):
        assert ArchitectureMap(source).config == lm.config
    assert ArchitectureMap("llama2-70b").config == PRESETS["llama2-70b"]
    assert ArchitectureMap(trace).name == ArchitectureMap(lm).name == "random gqa"
    with pytest.raises(ValueError, match="unknown published model 'llama2-7'. Did you mean 'll"):
        ArchitectureMap("llama2-7")
    with pytest.raises(TypeError, match="expected a ModelConfig, the name of a published model"):
        ArchitectureMap(7)


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_gets_sizes_that_add_up(name):
    found = header(ArchitectureMap(name))
    own, other = found["drawings"]
    total = sum(box["n_parameters"] * box["n_copies"] for box in own["boxes"])
    assert total == PRESETS[name].n_parameters
    assert {box["name"] for box in own["boxes"]}.isdisjoint(box["name"] for box in other["boxes"])
    assert [model["name"] for model in found["models"]] == [
        name, *(one for one in PRESETS if one != name)
    ]  # fmt: skip
    for model in found["models"]:
        config = PRESETS[model["name"]]
        assert sum(model["parameters"].values()) == model["total"] == config.n_parameters
        for dtype, itemsize in DTYPES.items():
            cached = config.kv_cache_bytes(1, itemsize=itemsize)
            assert model["numbers_per_position"] * found["dtypes"][dtype] == cached


def test_every_box_says_where_to_listen(lm, trace):
    for box in VARIABLES_OF:
        for tap in taps_of(box):
            for layer in range(lm.config.n_layers):
                (place,) = find_places(tap.format(layer=layer), lm.config.n_layers)
                assert place.variable in VARIABLES_OF[box]
    assert taps_of("query") == ["blocks.{layer}.attention.query"]
    assert taps_of("final_norm") == ["norm.rms"]
    assert set(taps_of("feed_forward_norm")) == {"blocks.{layer}.feed_forward_norm.rms"}
    boxes = {box["name"]: box for box in header(ArchitectureMap(trace))["drawings"][0]["boxes"]}
    assert boxes["gate"]["recorded"] == ["gate"]
    part = trace.drop_vars(["gate", "rms"])
    boxes = {box["name"]: box for box in header(ArchitectureMap(part))["drawings"][0]["boxes"]}
    assert boxes["gate"]["recorded"] == []
    assert boxes["final_norm"]["recorded"] == ["norm_gain"]
    boxes = {box["name"]: box for box in header(ArchitectureMap(lm))["drawings"][0]["boxes"]}
    assert boxes["gate"]["recorded"] is None


def test_models_are_a_list_of_published_names():
    made = ArchitectureMap("llama-7b", models=["llama2-7b", "smollm2-135m"])
    assert made.state["models"] == ["llama2-7b", "smollm2-135m"]
    made.show(models=("llama-65b",))
    assert made.state["models"] == ["llama-65b"]
    for value, words in (
        (["llama2-7"], "unknown models 'llama2-7'. Did you mean"),
        (["llama-7b"], "unknown models 'llama-7b'"),  # it is there already
        (["llama2-7b", "llama2-7b"], "models holds 'llama2-7b' twice"),
        ("llama2-7b", "models must be a list, got 'llama2-7b'"),
        (3, "models must be a list, got 3"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            made.show(models=value)
    assert made.state["models"] == ["llama-65b"]


def test_a_state_of_one_explorer_is_not_that_of_the_next():
    one, other = ArchitectureMap("llama-7b"), ArchitectureMap("llama-7b")
    one.state["models"].append("llama-65b")
    assert other.state["models"] == []


def test_what_is_wrong_is_said(lm):
    made = ArchitectureMap(lm)
    for state, words in (
        ({"box": "querry"}, "Did you mean 'query'?"),
        ({"difference": "rope"}, "unknown difference 'rope'"),
        ({"dtype": "float64"}, "unknown dtype 'float64'"),
        ({"opened": "cross_attention"}, "unknown opened"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            made.show(**state)


@pytest.mark.parametrize("box", VARIABLES_OF)
def test_every_box_opens_an_explorer(trace, lm, box):
    made = ArchitectureMap(trace)
    made.set_state({"state": {**made.state, "box": box, "opened": box}})  # as the page does
    opened = made.open_explorer()
    name = EXPLORER_OF.get(box)
    if name in widgets.__all__:
        assert type(opened).__name__ == name
    else:
        assert isinstance(opened, widgets.GenerationExplorer)
    assert opened.trace is trace


def test_a_model_reads_the_prompt_for_its_explorer(lm):
    made = ArchitectureMap(lm, prompt=[5, 6, 7])
    name = EXPLORER_OF["gate"]
    opened = made.open_explorer("gate")
    if name in widgets.__all__:
        assert opened.trace["token_id"].values.tolist() == [5, 6, 7]
        with pytest.raises(ValueError, match="no tokenizer; give ArchitectureMap token ids"):
            ArchitectureMap(lm).open_explorer("gate")
    generation = made.open_explorer("output_head")
    assert generation.lm is lm


def test_what_cannot_be_opened_is_said(trace):
    with pytest.raises(ValueError, match="made from sizes alone; give ArchitectureMap a trace"):
        ArchitectureMap("llama2-7b").open_explorer("query")
    made = ArchitectureMap(trace, box="cross_attention")
    with pytest.raises(ValueError, match="pick a box of LLaMA first"):
        made.open_explorer()
    with pytest.raises(ValueError, match="unknown box 'querry'. Did you mean 'query'?"):
        made.open_explorer("querry")


def test_explorers_open_below_the_map(trace):
    made = ArchitectureMap(trace)
    below = made.with_explorers()
    assert below.children == (made,)
    made.show(box="output_head", opened="output_head")
    assert isinstance(below.children[1], widgets.GenerationExplorer)
    first = below.children[1]
    made.show(box="query")
    assert below.children[1] is first
    made.show(opened=None)
    assert below.children == (made,)
    assert first.comm is None  # closed
    sizes = ArchitectureMap("llama2-7b")
    below = sizes.with_explorers()
    sizes.show(opened="query")
    assert "made from sizes alone" in below.children[1].value


def test_a_map_that_can_open_explorers_is_shown_with_them(trace, lm):
    for source in (trace, lm):
        made = ArchitectureMap(source)
        bundle, _ = made._repr_mimebundle_()
        below = made.with_explorers()
        assert bundle[WIDGET_VIEW]["model_id"] == below.model_id
        assert made.with_explorers() is below
        made.show(opened="output_head")
        assert [type(one).__name__ for one in below.children] == [
            "ArchitectureMap", "GenerationExplorer",
        ]  # fmt: skip
    sizes = ArchitectureMap("llama2-7b")
    assert sizes._repr_mimebundle_()[0][WIDGET_VIEW]["model_id"] == sizes.model_id


def test_the_still_and_the_words_follow_the_state():
    made = ArchitectureMap("llama2-70b")
    first = made.still()
    assert "68,976,648,192 parameters in 80 layers" in made.describe()
    made.show(difference="rotary", box="rotation")
    assert made.still() != first
    assert "turned by an angle" in made.describe()
    bundle, _ = made._repr_mimebundle_()
    assert bundle["text/plain"] == made.describe()


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg"])
def test_it_can_be_saved(tmp_path, lm, suffix):
    lm.name = "<img src=x onerror=alert(1)> $x$"
    try:
        path = tmp_path / f"map{suffix}"
        ArchitectureMap(lm).save(path)
        assert "<img src=x" not in path.read_bytes().decode("utf-8", errors="ignore")
        assert path.stat().st_size > 10_000
    finally:
        lm.name = "random gqa"
