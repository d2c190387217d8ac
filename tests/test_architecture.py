"""The architecture: parameters against independent counts, drawings that hold together."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import figures
from llama_viz.architecture import (
    KINDS,
    VARIABLES_OF,
    WORDS,
    EncoderDecoderConfig,
    differences,
    encoder_decoder,
    llama,
)
from llama_viz.config import PRESETS
from llama_viz.cost import parameters
from llama_viz.model import Llama
from llama_viz.taps import TAP_POINTS
from llama_viz.trace import VARIABLES
from tests.reference import random_model

ODD = lv.ModelConfig(
    n_layers=1, n_heads=9, n_kv_heads=3, dim=36, head_dim=10, hidden_dim=52, vocab_size=77,
    tied_embeddings=True,
)  # fmt: skip
CONFIGS = {**PRESETS, "odd": ODD, "one head": lv.ModelConfig(1, 1, 8, 5)}
every_config = pytest.mark.parametrize("name", CONFIGS)

# Where a weight of the model belongs; everything else in a name is the number of its block.
PART = {
    "embedding": "embedding",
    "attention_norm": "attention_norm",
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.output": "attention_output",
    "feed_forward_norm": "feed_forward_norm",
    "feed_forward.gate": "gate",
    "feed_forward.up": "up",
    "feed_forward.down": "down",
    "norm": "final_norm",
    "output": "output_head",
}


@every_config
def test_parts_add_up_to_the_model(name):
    config = CONFIGS[name]
    assert sum(parameters(config).values()) == config.n_parameters
    assert llama(config).n_parameters == config.n_parameters


@pytest.mark.parametrize("name", ["odd", "smollm2-135m", "llama2-70b"])
def test_parts_are_those_of_the_real_modules(name):
    config = CONFIGS[name]
    with torch.device("meta"):
        model = Llama(config)
    counted = dict.fromkeys(parameters(config), 0)
    for path, weight in model.named_parameters():  # a tied weight comes once
        part = re.sub(r"^blocks\.\d+\.", "", path).removesuffix(".weight")
        part = part.removesuffix(".gain")
        counted[PART[part]] += weight.numel()
    assert counted == parameters(config)


def test_the_sizes_of_llama_2_7b_stand_in_its_boxes():
    boxes = {box.name: box for box in llama(PRESETS["llama2-7b"]).boxes}
    assert boxes["query"].n_parameters == 4096 * 4096
    assert boxes["query"].total == 32 * 4096 * 4096
    assert boxes["gate"].shape == "4096 → 11008"
    assert boxes["kv_cache"].numbers_per_position == 2 * 4096
    assert boxes["embedding"].total == boxes["output_head"].total == 32000 * 4096


def test_the_transformer_has_the_parameters_of_torchs_own():
    config = EncoderDecoderConfig()
    with torch.device("meta"):
        theirs = torch.nn.Transformer(
            config.dim, config.n_heads, config.n_layers, config.n_layers, config.hidden_dim,
            batch_first=True,
        )  # fmt: skip
    n_theirs = sum(weight.numel() for weight in theirs.parameters())
    # torch's attention has biases, and its two stacks end with a norm of their own.
    n_attentions = 3 * config.n_layers
    n_theirs -= n_attentions * 4 * config.dim + 2 * 2 * config.dim
    drawing = encoder_decoder(config, 780)
    embedding = config.vocab_size * config.dim
    assert drawing.n_parameters == n_theirs + embedding == 63_045_632


@every_config
def test_boxes_keep_apart_and_stay_in_the_drawing(name):
    own = llama(CONFIGS[name])
    for drawing in (own, encoder_decoder(EncoderDecoderConfig(), own.height)):
        names = [box.name for box in drawing.boxes]
        assert len(set(names)) == len(names)
        for box in drawing.boxes:
            left, top, width, height = box.place
            assert left >= 0
            assert left + width <= drawing.width
            assert top >= 0
            assert top + height <= drawing.height
            assert box.kind in KINDS
        for one, other in combinations(drawing.boxes, 2):
            (x, y, width, height), (x2, y2, width2, height2) = one.place, other.place
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
            assert apart, (one.name, other.name)
        for line in (*drawing.arrows, *drawing.lines):
            points = np.array(line)
            assert points.min() >= 0
            assert (points <= (drawing.width, drawing.height)).all()
            steps = np.diff(points, axis=0)
            assert (np.abs(steps).min(axis=1) < 1e-9).all()  # level or upright
            assert (np.abs(steps).max(axis=1) > 0.5).all()


@pytest.mark.parametrize("name", ["llama2-7b", "odd"])
def test_arrows_end_at_boxes(name):
    own = llama(CONFIGS[name])
    for drawing in (own, encoder_decoder(EncoderDecoderConfig(), own.height)):
        for arrow in drawing.arrows:
            x, y = arrow[-1]
            if y == 16:  # the logits
                continue
            touched = [
                box.name for box in drawing.boxes
                if box.place[0] - 1 <= x <= box.place[0] + box.place[2] + 1
                and box.place[1] - 1 <= y <= box.place[1] + box.place[3] + 1
            ]  # fmt: skip
            assert len(touched) == 1, (arrow, touched)


def test_every_box_has_two_sentences_and_every_tap_a_box():
    own = llama(ODD)
    drawn = {box.name for box in own.boxes}
    drawn |= {box.name for box in encoder_decoder(EncoderDecoderConfig(), own.height).boxes}
    assert drawn == set(WORDS)
    for name, words in WORDS.items():
        assert len(re.findall(r"[.](?= |$)", words)) == 2, name
    assert set(VARIABLES_OF) == {box.name for box in own.boxes}
    shown = {name for names in VARIABLES_OF.values() for name in names}
    assert shown <= set(VARIABLES)
    assert {*TAP_POINTS, "rms"} <= shown


@pytest.mark.parametrize("name", ["llama2-7b", "llama2-70b", "odd"])
def test_every_difference_shows_in_both_drawings(name):
    config = CONFIGS[name]
    own = llama(config)
    after = {box.name for box in own.boxes}
    before = {box.name for box in encoder_decoder(EncoderDecoderConfig(), own.height).boxes}
    found = differences(config)
    assert len(found) == 8
    for one in found.values():
        assert one.boxes_before
        assert set(one.boxes_before) <= before
        assert one.boxes_after
        assert set(one.boxes_after) <= after
    grouped = found["grouped_queries"].after
    assert ("Not in this model" in grouped) == (config.attention_kind == "MHA")
    if name == "llama2-70b":
        assert "64 query heads share 8 key/value heads (GQA)" in grouped


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_the_figure_draws_every_box_and_every_part(kind):
    config = random_model(kind).config
    figure = figures.architecture(config, name="$x$ <b>", difference="norm_first")
    one = differences(config)["norm_first"]
    for drawing, marked in (
        (llama(config), one.boxes_after),
        (encoder_decoder(EncoderDecoderConfig(), llama(config).height), one.boxes_before),
    ):
        (panel,) = [axes for axes in figure.axes if axes.get_label() == drawing.name]
        drawn = {patch.get_gid() for patch in panel.patches if patch.get_gid()}
        names = {box.name for box in drawing.boxes}
        assert drawn == {f"marked {n}" if n in marked else n for n in names}
        texts = {text.get_text() for text in panel.texts}
        assert {box.title for box in drawing.boxes} <= texts
        assert {f"{box.n_parameters:,}" for box in drawing.boxes if box.n_parameters} <= texts
    (bars,) = [axes for axes in figure.axes if axes.get_label() == "parameters"]
    heights = {patch.get_gid(): patch.get_height() for patch in bars.patches}
    for part, count in parameters(config).items():
        assert heights[part] == pytest.approx(count / config.n_parameters, rel=1e-9)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_figure_refuses_an_unknown_difference():
    with pytest.raises(ValueError, match="unknown difference 'rotery'. Did you mean 'rotary'"):
        figures.architecture(ODD, difference="rotery")
