"""The attention explorer without a browser: what it sends equals what was recorded."""

import asyncio
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import llama_viz as lv
from llama_viz import cli
from llama_viz.widgets import EXPLORERS, AttentionExplorer, attention, pyramid
from llama_viz.widgets.packing import packed_message
from llama_viz.widgets.pyramid import Heads, Level, block_for, finished, largest
from tests.reference import random_ids, random_model
from tests.test_explorer import answer, unpacked

HOSTILE = "<s> <img src=x onerror=alert(1)> $x$ &amp; the the\nשלום 🙂"


@pytest.fixture(scope="module", params=["mha", "gqa", "mqa"])
def trace(request, family):
    return lv.record(family[request.param], "Once upon a time there was a girl named Lily.", 30)


@pytest.fixture
def explorer(trace):
    return AttentionExplorer(trace)


def synthetic(n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, n=40, spread=1.3, seed=0):
    """A trace with queries and keys alone, of any size."""
    rng = np.random.default_rng(seed)
    config = lv.ModelConfig(
        n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, dim=n_heads * head_dim,
        hidden_dim=8, vocab_size=10, max_seq_len=n,
    )  # fmt: skip

    def vectors(heads):
        shape = (n_layers, n, heads, head_dim)
        return spread * rng.standard_normal(shape, dtype=np.float32)

    return xr.Dataset(
        {
            "query_rotated": (("layer", "position", "head", "head_feature"), vectors(n_heads)),
            "key_rotated": (
                ("layer", "position", "key_value_head", "head_feature"), vectors(n_kv_heads),
            ),
        },
        {
            "layer": np.arange(n_layers),
            "head": np.arange(n_heads),
            "position": np.arange(n),
            "token": ("position", [f"▁t{place}" for place in range(n)]),
            "token_id": ("position", np.arange(n) % 10),
        },
        {"config": config.to_dict(), "model": "synthetic", "edited": []},
    )  # fmt: skip


class Reader:
    """The page's arithmetic, written anew: scores and weights from what it was sent."""

    def __init__(self, header, arrays, layer):
        self.header, self.arrays, self.layer = header, arrays, layer

    def scores(self, head):
        group = self.header["kv_head_of_head"][head]
        query, key = (
            self.arrays[f"query {self.layer} {head}"],
            self.arrays[f"key {self.layer} {group}"],
        )
        return query @ key.T / np.sqrt(self.header["head_dim"])

    def weights(self, head):
        normalizer = self.arrays[f"normalizer {self.layer} {head}"]
        return np.tril(np.exp(self.scores(head) - normalizer[:, None]))

    def overview(self, head):
        """The pooled weights that a page shows."""
        cells = self.arrays[f"weights {self.layer}"][head] / 255
        return cells**2 if self.header["by_root"] else cells

    def overview_of_scores(self, head):
        limit = self.header["limits"][str(self.layer)][head]
        return self.arrays[f"scores {self.layer}"][head] * limit / 127


def sent(explorer, *, whole):
    """Header and arrays as a page reads them; a live page asks for the overviews as well."""
    if whole:
        header, arrays = explorer.content(whole=True)
        return header, unpacked(*packed_message(arrays))
    content, buffers = answer(explorer, "content")
    header, arrays = content["header"], unpacked(content["arrays"], buffers)
    for layer in header["layers"]:
        for kind in explorer._kinds:
            content, buffers = answer(explorer, "summary", layer=layer, kind=kind)
            arrays[f"{kind} {layer}"] = unpacked(content["arrays"], buffers)["cells"]
            header["limits"][str(layer)] = content["header"]["limits"]
    return header, arrays


def heads_held(header):
    """How many heads of each layer a page has in full."""
    return [len(heads) for heads in header["heads_held"].values()]


def exact(trace, layer, head):
    """Scores and weights of one head, in float64 from the definition."""
    config = lv.ModelConfig(**trace.attrs["config"])
    query = trace["query_rotated"].values[layer, :, head].astype(np.float64)
    kv_head = head // (config.n_heads // config.n_kv_heads)
    key = trace["key_rotated"].values[layer, :, kv_head].astype(np.float64)
    scores = query @ key.T / np.sqrt(config.head_dim)
    masked = np.where(np.tri(len(scores)) > 0, scores, -np.inf)
    weights = np.exp(masked - masked.max(axis=1, keepdims=True))
    return scores, weights / weights.sum(axis=1, keepdims=True)


def exact_row(trace, layer, head, position):
    """One query of exact(): its scores with all keys, and its weights, 0 for later keys."""
    config = lv.ModelConfig(**trace.attrs["config"])
    query = trace["query_rotated"].values[layer, position, head].astype(np.float64)
    kv_head = head // (config.n_heads // config.n_kv_heads)
    scores = trace["key_rotated"].values[layer, :, kv_head] @ query / np.sqrt(config.head_dim)
    weights = np.exp(scores - scores[: position + 1].max())
    weights[position + 1 :] = 0
    return scores, weights / weights.sum()


# What is shown equals what was recorded


@pytest.mark.parametrize("whole", [False, True])
def test_every_cell_equals_the_recorded_one_to_three_digits(trace, explorer, whole):
    header, arrays = sent(explorer, whole=whole)
    assert header["layers"] == trace["layer"].values.tolist()
    assert heads_held(header) == [header["n_heads"]] * len(header["layers"])
    lower = np.tril_indices(trace.sizes["position"])
    for layer in header["layers"]:
        reader = Reader(header, arrays, layer)
        for head in range(header["n_heads"]):
            recorded = trace["attention_weights"].values[layer, head]
            np.testing.assert_allclose(reader.weights(head), recorded, rtol=5e-4, atol=1e-9)
            recorded = trace["attention_scores"].values[layer, head][lower]
            np.testing.assert_allclose(reader.scores(head)[lower], recorded, atol=2e-4, rtol=5e-4)


def blocks(values, block):
    """The parts of a map that its cells stand for."""
    starts = range(0, len(values), block)
    return [[values[r : r + block, c : c + block] for c in starts] for r in starts]


@pytest.mark.parametrize("block", [1, 2, 8, 64])
def test_pooled_maps_are_the_largest_of_each_block(trace, block):
    heads = Heads(trace)
    for layer, head in ((0, 0), (2, 5)):
        scores, weights = exact(trace, layer, head)
        pooled, normalizer = finished(heads.pooling(layer, head, "weights", block))
        direct = [[part.max() for part in line] for line in blocks(weights, block)]
        np.testing.assert_allclose(pooled, direct, atol=1e-5)
        direct = np.log(np.exp(np.where(np.tri(len(scores)) > 0, scores, -np.inf)).sum(axis=1))
        np.testing.assert_allclose(normalizer, direct, atol=1e-5)
        pooled, _ = finished(heads.pooling(layer, head, "scores", block))
        direct = [
            [part.ravel()[np.abs(part).argmax()] for part in line] for line in blocks(scores, block)
        ]
        np.testing.assert_allclose(pooled, direct, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("n", [600, 1500])
def test_levels_are_what_pooling_the_full_map_gives(n):
    trace = synthetic(n_layers=1, n=n)
    heads = Heads(trace)
    assert heads.by_root == (n > pyramid.LONG)
    scores, weights = exact(trace, 0, 3)
    by_kind = {"weights": weights, "scores": scores}
    for kind, full in by_kind.items():
        level = finished(heads.level(0, 3, kind))
        assert len(level.cells) <= pyramid.FINEST_SIDE < 2 * len(level.cells)
        assert level.cells.itemsize == 1
        for block in (level.block, 2 * level.block, 16 * level.block):
            pooled = np.array([
                [part.ravel()[np.abs(part).argmax()] for part in line]
                for line in blocks(full, block)
            ])  # fmt: skip
            shown = level.coarser(block).values
            if kind == "scores":
                step = level.limit / 127
                assert np.abs(np.abs(shown) - np.abs(pooled)).max() <= 0.5 * step + 1e-5
                other = np.array([
                    [np.sort(np.abs([part.min(), part.max()]))[0] for part in line]
                    for line in blocks(full, block)
                ])  # fmt: skip
                is_clear = np.abs(pooled) - other > step  # else one of either sign is the largest
                assert (np.sign(shown) == np.sign(pooled))[is_clear].all()
                assert is_clear.any()
            elif heads.by_root:  # half a step of the root
                assert np.abs(np.sqrt(shown) - np.sqrt(pooled)).max() <= 0.5 / 255 + 1e-5
            else:
                assert np.abs(shown - pooled).max() <= 0.5 / 255 + 1e-5
            # What a page is told about a map of scores holds for all of them.
            assert np.abs(pooled).max() <= level.limit + 1e-4


def test_a_level_pools_what_is_left_over():
    values = np.array([[0.1, 0.9, 0.2], [0.3, 0.4, 0.5], [0.6, 0.7, 0.8]])
    np.testing.assert_array_equal(largest(values, 2), [[0.9, 0.5], [0.7, 0.8]])
    np.testing.assert_array_equal(largest(-values, 2), [[-0.9, -0.5], [-0.7, -0.8]])
    assert Level.of(np.zeros((2, 2)), 1, False, None).values.tolist() == [[0, 0], [0, 0]]
    sizes = [(1, 1, 1), (512, 512, 1), (513, 512, 2), (4096, 512, 8), (4097, 512, 16), (5, 0.1, 8)]
    assert all(block_for(n, cells) == block for n, cells, block in sizes)


def test_rows_from_queries_and_keys_are_the_recorded_weights():
    """900 tokens of a random model: what the model attended with, without its maps being kept."""
    lm = random_model("gqa", n_layers=2, max_seq_len=900)
    ids = random_ids(lm, 900)[0].tolist()
    whole = lv.record_forward(lm, ids, taps=[*pyramid.VECTORS, "attention_weights"])
    heads = Heads(whole[list(pyramid.VECTORS)])
    assert heads.has_vectors
    for layer, head in ((0, 0), (1, 7)):
        recorded = whole["attention_weights"].values[layer, head]
        for first, rows, _ in heads.rows(layer, head, "weights"):
            part = recorded[first : first + len(rows), : rows.shape[1]]
            np.testing.assert_allclose(rows, part, atol=1e-5)
        level = finished(heads.level(layer, head, "weights"))
        direct = [[part.max() for part in line] for line in blocks(recorded, level.block)]
        assert np.abs(np.sqrt(level.values) - np.sqrt(direct)).max() <= 0.5 / 255 + 1e-5


@pytest.mark.parametrize(("start", "end"), [(0, None), (37, 38), (30, 100)])
def test_rows_are_exact_wherever_they_begin(start, end, monkeypatch):
    trace = synthetic(n=100)
    monkeypatch.setattr(pyramid, "NUMBERS_AT_ONCE", 700)  # seven rows at a time
    scores, weights = exact(trace, 1, 2)
    for kind, full in {"weights": weights, "scores": scores}.items():
        seen = 0
        for first, rows, normalizers in Heads(trace).rows(1, 2, kind, start, end):
            assert first == start + seen
            assert len(rows) == len(normalizers) <= 7
            part = full[first : first + len(rows), : rows.shape[1]]
            np.testing.assert_allclose(rows, part, rtol=1e-4, atol=1e-5)
            assert not weights[first : first + len(rows), rows.shape[1] :].any()
            seen += len(rows)
        assert seen == (100 if end is None else end) - start


@pytest.mark.parametrize("whole", [False, True])
def test_overviews_are_within_one_step_of_a_byte(trace, explorer, whole):
    header, arrays = sent(explorer, whole=whole)
    n = trace.sizes["position"]
    assert header["block"] == 1  # small enough to be shown in full
    lower = np.tri(n, dtype=bool)
    for layer in header["layers"]:
        reader = Reader(header, arrays, layer)
        for head in range(header["n_heads"]):
            recorded = trace["attention_weights"].values[layer, head]
            assert np.abs(reader.overview(head) - recorded).max() <= 1 / 255
            recorded = np.nan_to_num(trace["attention_scores"].values[layer, head])
            difference = np.abs(reader.overview_of_scores(head) - recorded)[lower]
            assert difference.max() <= header["limits"][str(layer)][head] / 127


def test_a_live_page_asks_for_single_maps_and_heads():
    trace = synthetic(n=1300)
    explorer = AttentionExplorer(trace)
    scores, weights = exact(trace, 1, 2)
    content, buffers = answer(explorer, "map", layer=1, head=2, kind="weights")
    assert content["header"]["block"] == 4
    cells = unpacked(content["arrays"], buffers)["cells"]
    direct = [[part.max() for part in line] for line in blocks(weights, 4)]
    assert np.abs(cells / 255 - np.sqrt(direct)).max() <= 0.5 / 255 + 1e-5
    content, buffers = answer(explorer, "map", layer=1, head=2, kind="scores")
    assert content["header"]["limit"] == pytest.approx(np.abs(scores).max(), rel=1e-5)
    content, buffers = answer(explorer, "head", layer=1, head=2)
    read = unpacked(content["arrays"], buffers)
    shown = np.exp(read["query"] @ read["key"].T / 4 - read["normalizer"][:, None])
    np.testing.assert_allclose(np.tril(shown), weights, rtol=1e-4, atol=1e-9)
    for wrong in ({"layer": 9}, {"head": 4}, {"kind": "weight"}):
        asked = {"layer": 1, "head": 2, "kind": "weights", **wrong}
        content, _ = answer(explorer, "map", **asked)
        assert content["error"].startswith("unknown")


def test_the_strongest_keys(trace, explorer):
    layers = [1, 0]
    content, buffers = answer(explorer, "strongest", layers=layers, position=9)
    read = unpacked(content["arrays"], buffers)
    recorded = trace["attention_weights"].values[layers, :, 9].reshape(-1, trace.sizes["position"])
    np.testing.assert_array_equal(read["key"], recorded.argmax(axis=1))
    np.testing.assert_allclose(read["weight"], recorded.max(axis=1), rtol=1e-5)


def test_others_are_heard_while_maps_are_pooled(monkeypatch):
    """Two requests at a time: the short one is answered first, and no map is computed twice."""
    monkeypatch.setattr(attention, "SLICE_SECONDS", 0.0)
    explorer = AttentionExplorer(synthetic(head_dim=128, n=1300))
    order, pooled = [], []
    level = explorer.heads.level
    explorer.heads.level = lambda *place: (pooled.append(place), level(*place))[1]
    explorer.send = lambda content, buffers=None: order.append(content["request"])

    async def ask():
        for name, kind in (("long", "weights"), ("again", "weights")):
            parameters = {"layer": 0, "kind": kind}
            message = {"type": "ask", "request": name, "name": "summary", "parameters": parameters}
            explorer._receive(explorer, message, [])
        await asyncio.sleep(0.01)
        message = {"type": "ask", "request": "short", "name": "content", "parameters": {}}
        explorer._receive(explorer, message, [])
        while len(order) < 3:
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    assert order[0] == "short"
    assert len(pooled) == len(set(pooled)) == 4


@pytest.mark.parametrize(("scope", "rows"), [("model", slice(None)), ("layer", slice(1, 2))])
def test_the_mean_over_heads(trace, explorer, scope, rows):
    position = 9
    content, buffers = answer(explorer, "means", scope=scope, layer=1, position=position)
    read = unpacked(content["arrays"], buffers)
    mean = trace["attention_weights"].values[rows].mean(axis=(0, 1))
    np.testing.assert_allclose(read["row"], mean[position], atol=1e-6)
    np.testing.assert_allclose(read["column"], mean[:, position], atol=1e-6)


# What a trace may lack


def test_weights_alone_will_do(trace):
    bare = trace.drop_vars(["query_rotated", "key_rotated", "attention_scores"])
    explorer = AttentionExplorer(bare)
    with pytest.raises(ValueError, match="unknown view 'product'"):
        explorer.show(view="product")
    with pytest.raises(ValueError, match="unknown stage 'scores'. Choose from: weights"):
        explorer.show(stage="scores")
    lower = np.tril_indices(trace.sizes["position"])
    for whole in (False, True):
        header, arrays = sent(explorer, whole=whole)
        assert not header["has_vectors"]
        for layer in header["layers"]:
            for head in range(header["n_heads"]):
                recorded = trace["attention_weights"].values[layer, head][lower]
                shown = arrays[f"map {layer} {head}"]
                np.testing.assert_allclose(shown, recorded, rtol=6e-4, atol=1e-6)
            assert f"scores {layer}" not in arrays
    content, buffers = answer(explorer, "means", scope="model", layer=0, position=3)
    mean = trace["attention_weights"].values.mean(axis=(0, 1))
    read = unpacked(content["arrays"], buffers)
    np.testing.assert_allclose(read["row"], mean[3], atol=1e-6)
    for view in ("model", "layer", "head", "row"):
        explorer.show(view=view)
        assert explorer.still()


def test_what_was_changed_on_the_way_is_shown_as_it_was(family):
    change = {"blocks.1.attention.weights": lambda weights, context: 0.5 * weights}
    with lv.intervene(family["gqa"], change):
        trace = lv.record(family["gqa"], "One sunny morning", 4)
    explorer = AttentionExplorer(trace)
    assert not explorer.heads.has_vectors
    _, arrays = sent(explorer, whole=False)
    np.testing.assert_allclose(
        arrays["weights 1"] / 255, trace["attention_weights"].values[1], atol=0.5 / 255 + 1e-6
    )


def test_neither_is_refused(trace, family):
    with pytest.raises(ValueError, match="neither query_rotated and key_rotated nor"):
        AttentionExplorer(trace[["rms"]])
    with pytest.raises(TypeError, match="expected a trace"):
        AttentionExplorer("run.nc")
    with pytest.raises(ValueError, match="a model needs a prompt"):
        AttentionExplorer(family["gqa"])
    with pytest.raises(ValueError, match="a trace holds its own text"):
        AttentionExplorer(trace, "text")


def test_a_model_reads_a_prompt_once(family):
    explorer = AttentionExplorer(family["gqa"], HOSTILE, layer=1, head=3)
    assert explorer.state["layer"] == 1
    assert [token["id"] for token in explorer.content(whole=False)[0]["tokens"]] == family[
        "gqa"
    ].prompt_ids(HOSTILE)
    ids = AttentionExplorer(family["gqa"], [1, 70, 70])
    assert ids.heads.n_positions == 3


def test_some_layers_of_a_model(family):
    trace = lv.record(family["gqa"], "One sunny morning", 3, layers=[1, 3])
    explorer = AttentionExplorer(trace)
    assert explorer.state["layer"] == 1
    explorer.show(layer=3)
    with pytest.raises(ValueError, match="unknown layer 2. Choose from: 1, 3"):
        explorer.show(layer=2)
    header, arrays = sent(explorer, whole=True)
    recorded = trace["attention_weights"].sel(layer=3).values
    assert np.abs(arrays["weights 3"] / 255 - recorded).max() <= 1 / 255
    assert list(header["limits"]) == ["1", "3"]


# Sizes


@pytest.mark.parametrize(
    ("head_dim", "n_kv_heads", "packing", "n_held"),
    [(16, 8, "float32", 48), (32, 8, "int16", 48), (64, 2, "int16", 36), (64, 8, "int16", 24)],
)
def test_an_export_is_below_5_mb_and_exact_to_three_digits(
    tmp_path, head_dim, n_kv_heads, packing, n_held
):
    """512 tokens of 6 layers x 8 heads; with 64 features there is no room for all in full."""
    trace = synthetic(6, 8, n_kv_heads, head_dim, n=512)
    explorer = AttentionExplorer(trace, layer=2, head=5)
    path = tmp_path / "page.html"
    explorer.save(path)
    assert path.stat().st_size < 5_000_000
    held_packing, held = explorer._held(whole=True)
    assert held_packing == packing
    assert len(held) >= n_held
    assert {(2, head) for head in range(8)} <= set(held)  # the chosen layer first
    header, arrays = sent(explorer, whole=True)
    assert sum(heads_held(header)) == len(held)
    for row, head in (held[0], (2, 5), held[-1]):
        scores, weights = exact(trace, row, head)
        reader = Reader(header, arrays, row)
        # Half a unit of the third digit, at most a thousandth of the number.
        np.testing.assert_allclose(reader.weights(head), weights, rtol=1e-3)
        np.testing.assert_allclose(reader.scores(head), scores, rtol=5e-4, atol=5e-4)
        shown, right = (
            three_digits(one[np.tri(512) > 0]) for one in (reader.weights(head), weights)
        )
        assert np.mean(shown == right) > 0.9
        # Where a rounding falls to the other side, it is one unit of the third digit.
        assert (np.abs(shown - right) <= 1.01 * unit_of_third_digit(right)).all()


def three_digits(values):
    """Numbers as a page writes them."""
    return np.array([float(f"{value:.2e}") for value in values])


def unit_of_third_digit(values):
    return 10.0 ** (np.floor(np.log10(np.abs(values))) - 2)


def test_a_page_that_cannot_hold_all_heads_holds_those_around_the_chosen_one():
    explorer = AttentionExplorer(synthetic(12, 9, 3, 64, n=700), layer=5, head=7)
    _, held = explorer._held(whole=True)
    header, arrays = explorer.content(whole=True)
    n_held = heads_held(header)
    assert n_held[5] == 9
    assert 9 < sum(n_held) < 12 * 9
    layers = [layer for layer, count in enumerate(n_held) if count]
    assert layers == list(range(layers[0], layers[-1] + 1))
    assert len(held) == sum(n_held)
    assert sum(name.startswith("weights") for name in arrays) == 12
    assert sum(name.startswith("query") for name in arrays) == len(held)
    assert sum(name.startswith("key") for name in arrays) < len(held)  # heads that share hold one


def test_an_export_of_4096_tokens_is_bounded(tmp_path, capfd):
    explorer = AttentionExplorer(synthetic(3, 9, 3, 64, n=4096), layer=1, head=4)
    path = tmp_path / "page.html"
    explorer.save(path)
    assert path.stat().st_size < 5_000_000
    header, _ = explorer.content(whole=True)
    held = header["heads_held"]["1"]
    assert 4 in held
    assert held == sorted(held)
    assert header["heads_held"]["0"] == header["heads_held"]["2"] == []
    assert "pooling maps: 100%" in capfd.readouterr().err  # with the time left


# One process records nothing and holds only queries and keys: what more it takes is counted.
COUNTED = """
import sys, tracemalloc
import numpy as np
from tests.test_attention_explorer import synthetic
from tests.test_explorer import answer
from llama_viz.widgets import AttentionExplorer
trace = synthetic(8, 16, 4, 32, n=2048)
explorer = AttentionExplorer(trace)
answer(explorer, "content")
tracemalloc.start()
for layer in range(8):
    answer(explorer, "summary", layer=layer, kind="weights")
    answer(explorer, "summary", layer=layer, kind="scores")
kept, peak = tracemalloc.get_traced_memory()
print(kept, peak, sum(level.nbytes for level in explorer._levels.values()))
"""


def test_memory_of_all_maps_is_bounded():
    """2,048 tokens of 128 heads: their maps would take 2.1 GB in float32, twice with scores."""
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    told = subprocess.run(
        [sys.executable, "-c", COUNTED], cwd=root, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    kept, peak, levels = map(int, told.stdout.split())
    one_level = 512**2
    assert levels <= 2 * 128 * (one_level + 4 * 2048)
    assert kept < levels + 2_000_000
    # In the making: some blocks of rows, a head's queries and keys, one message. Not one whole map.
    assert peak - kept < 4 * 2048**2


def test_memory_of_2048_tokens_and_270_heads_is_bounded():
    trace = synthetic(30, 9, 3, 64, n=2048)
    tracemalloc.start()
    explorer = AttentionExplorer(trace)
    header, arrays = explorer.content(whole=False)
    assert heads_held(header) == [0] * 30
    assert arrays == {}
    for layer in (0, 29):
        answer(explorer, "summary", layer=layer, kind="weights")
        answer(explorer, "head", layer=layer, head=8)
        answer(explorer, "map", layer=layer, head=8, kind="scores")
        answer(explorer, "means", scope="layer", layer=layer, position=2000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 4 * 2048**2, "no more than two maps' worth at once"


# Without a kernel


@pytest.mark.parametrize("view", attention.VIEWS)
@pytest.mark.parametrize("stage", attention.STAGES)
def test_every_view_has_a_picture_and_its_words(family, view, stage):
    trace = lv.record(family["gqa"], HOSTILE, 4)
    explorer = AttentionExplorer(trace, view=view, stage=stage, layer=2, head=5)
    still = explorer.still()
    assert still.startswith(b"\x89PNG")
    assert still == explorer.still()
    words = explorer.describe()
    assert stage in words
    assert "8 query heads read 2 key/value heads" in words
    if view != "model":
        assert "layer 2" in words


def test_the_picture_draws_the_maps(family):
    trace = lv.record(family["gqa"], "One sunny morning", 4)
    figure = AttentionExplorer(trace, view="head", layer=1, head=6).picture()
    [panel] = [panel for panel in figure.axes if panel.get_label() == "map"]
    drawn = np.ma.filled(panel.images[0].get_array(), 0)
    recorded = trace["attention_weights"].values[1, 6]
    np.testing.assert_allclose(np.nan_to_num(drawn), recorded, atol=1e-6)
    last = trace.sizes["position"] - 4
    part = {"first_query": last, "first_key": 1, "span": 4}
    figure = AttentionExplorer(trace, view="head", layer=1, head=6, **part).picture()
    [panel] = [panel for panel in figure.axes if panel.get_label() == "map"]
    drawn = np.nan_to_num(np.ma.filled(panel.images[0].get_array(), 0))
    np.testing.assert_allclose(drawn, recorded[last:, 1:5], atol=1e-6)
    assert "(1 to 4 of" in panel.get_xlabel()
    figure = AttentionExplorer(trace, view="product", layer=1, head=6, key_position=2).picture()
    bars = [bar.get_height() for bar in figure.axes[0].patches]
    recorded = trace["attention_scores"].values[1, 6, -1, 2]
    assert sum(bars) == pytest.approx(recorded, abs=1e-5)
    figure = AttentionExplorer(trace, view="row", layer=1, head=6).picture()
    bars = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(bars, trace["attention_weights"].values[1, 6, -1], atol=1e-6)


def test_the_command_writes_a_page(family, tmp_path, capsys):
    trace = lv.record(family["gqa"], HOSTILE, 4)
    lv.save_trace(trace, tmp_path / "run.nc")
    for suffix, start in ((".html", b"<!doctype"), (".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = tmp_path / f"page{suffix}"
        assert cli.main(["export", str(tmp_path / "run.nc"), str(path)]) == 0
        assert path.read_bytes().startswith(start)
        assert str(path) in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.nc", "page.pdf"], "unknown suffix '.pdf'"),
        (["run.nc", "page.html", "--explorer", "atention"], "Did you mean 'attention'?"),
        (["missing.nc", "page.html"], "there is no such file"),
    ],
)
def test_a_wrong_command_is_one_line(family, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    lv.save_trace(lv.record(family["gqa"], "Mia", 2), "run.nc")
    assert cli.main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_every_registered_explorer_opens_on_a_trace(trace):
    for explorer in EXPLORERS.values():
        assert explorer(trace).describe()
