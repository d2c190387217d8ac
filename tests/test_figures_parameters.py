"""Parameters as areas: every tile is as large as its share, and all tiles fill their panel."""

import numpy as np
import pytest

from llama_viz import figures
from llama_viz.config import PRESETS
from llama_viz.cost import parameters
from tests.reference import random_model

SMALL = {"small": random_model("gqa").config}


def tiles(figure, name):
    (panel,) = [axes for axes in figure.axes if axes.get_label() == name]
    return {patch.get_gid(): patch for patch in panel.patches}


def area(tile):
    return tile.get_width() * tile.get_height()


@pytest.mark.parametrize("model", PRESETS)
def test_areas_are_to_scale(model):
    config = PRESETS[model]
    sizes, figure = parameters(config), figures.parameter_treemap(PRESETS, model=model)
    block = tiles(figure, "one block")
    assert set(block) == {"query", "key", "value", "attention_output", "gate", "up", "down"}
    in_block = sum(sizes[name] for name in (*block, "attention_norm", "feed_forward_norm"))
    for name, tile in block.items():
        assert area(tile) == pytest.approx(sizes[name] / in_block, rel=1e-3)
    whole = tiles(figure, "whole model")
    ends = ("embedding",) if config.tied_embeddings else ("embedding", "output_head")
    assert set(whole) == {*ends, *(f"block {layer}" for layer in range(config.n_layers))}
    for name in ends:
        assert area(whole[name]) == pytest.approx(sizes[name] / config.n_parameters, rel=1e-9)
    blocks = [area(whole[f"block {layer}"]) for layer in range(config.n_layers)]
    assert len({round(size, 12) for size in blocks}) == 1
    assert sum(blocks) == pytest.approx(in_block / config.n_parameters, rel=1e-4)


@pytest.mark.parametrize(("name", "panels"), [("whole model", 1), ("one block", 1)])
def test_no_tile_covers_another(name, panels):
    corners = [
        (tile.get_x(), tile.get_y(), tile.get_x() + tile.get_width(),
         tile.get_y() + tile.get_height())
        for tile in tiles(figures.parameter_treemap(SMALL, model="small"), name).values()
    ]  # fmt: skip
    places = np.random.default_rng(0).random((500, 2))
    for x, y in places:
        inside = sum(left <= x < right and top <= y < low for left, top, right, low in corners)
        assert inside <= panels


def test_words_stay_in_their_tiles():
    for model in PRESETS:
        figure = figures.parameter_treemap(PRESETS, model=model)
        figure.draw_without_rendering()
        for axes in figure.axes:
            patches = {patch.get_gid(): patch.get_window_extent() for patch in axes.patches}
            for text in axes.texts:
                name = text.get_gid()
                if name is None:
                    continue
                words, tile = text.get_window_extent(), patches[name.removeprefix("words of ")]
                assert words.x0 >= tile.x0, (model, name)
                assert words.x1 <= tile.x1, (model, name)
                assert words.y0 >= tile.y0 - 1, (model, name)
                assert words.y1 <= tile.y1 + 1, (model, name)


def test_large_parts_say_how_large_they_are():
    figure = figures.parameter_treemap(PRESETS, model="llama2-7b")
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "gate\n45,088,768\n22.3%" in said
    assert "query\n16,777,216\n8.3%" in said


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="unknown model 'llama2-7'. Did you mean 'llama2-7b'"):
        figures.parameter_treemap(PRESETS, model="llama2-7")
