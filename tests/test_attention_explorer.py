"""The attention explorer without a browser: what it sends equals what was recorded."""

import re
import tracemalloc

import numpy as np
import pytest
import xarray as xr

import llama_viz as lv
from llama_viz import cli
from llama_viz.widgets import EXPLORERS, AttentionExplorer, attention
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
        self.header = header
        self.query, self.key = arrays[f"query {layer}"], arrays[f"key {layer}"]
        self.normalizer = arrays[f"normalizer {layer}"]
        self.corrected = None
        if f"corrected place {layer}" in arrays:
            self.corrected = [arrays[f"corrected {name} {layer}"] for name in ("place", "weight")]

    def scores(self, head):
        key = self.key[self.header["kv_head_of_head"][head]]
        return self.query[head] @ key.T / np.sqrt(self.header["head_dim"])

    def weights(self, head):
        weights = np.tril(np.exp(self.scores(head) - self.normalizer[head][:, None]))
        if self.corrected is not None:
            places, values = self.corrected
            own = places.astype(np.int64) // weights.size == head
            assert np.all(weights.ravel()[places[own].astype(np.int64) % weights.size] >= 0.01)
            weights.ravel()[places[own].astype(np.int64) % weights.size] = values[own] / 65535
        return weights


def sent(explorer, *, whole):
    """Header and arrays as a page reads them; a live page asks for the summaries as well."""
    if whole:
        header, arrays = explorer.content(whole=True)
        specs, buffers = attention_message(arrays)
        return header, unpacked(specs, buffers)
    content, buffers = answer(explorer, "content")
    header, arrays = content["header"], unpacked(content["arrays"], buffers)
    for layer in header["layers"]:
        content, buffers = answer(explorer, "summary", layer=layer)
        read = unpacked(content["arrays"], buffers)
        arrays |= {f"{name} {layer}": array for name, array in read.items()}
        header["limits"][str(layer)] = content["header"]["limit"]
    return header, arrays


def attention_message(arrays):
    from llama_viz.widgets.packing import packed_message

    return packed_message(arrays)


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


# What is shown equals what was recorded


@pytest.mark.parametrize("whole", [False, True])
def test_every_cell_equals_the_recorded_one_to_three_digits(trace, explorer, whole):
    header, arrays = sent(explorer, whole=whole)
    assert header["digits"] == 3
    assert header["layers_held"] == header["layers"] == trace["layer"].values.tolist()
    lower = np.tril_indices(trace.sizes["position"])
    for layer in header["layers"]:
        reader = Reader(header, arrays, layer)
        for head in range(header["n_heads"]):
            recorded = trace["attention_weights"].values[layer, head]
            np.testing.assert_allclose(reader.weights(head), recorded, rtol=5e-4, atol=1e-9)
            recorded = trace["attention_scores"].values[layer, head][lower]
            np.testing.assert_allclose(reader.scores(head)[lower], recorded, atol=2e-4, rtol=5e-4)


def test_the_pooled_maps_are_the_largest_of_each_block(trace, explorer):
    for side in (1, 7, 16, trace.sizes["position"]):
        edges = np.arange(side + 1) * trace.sizes["position"] // side
        for layer, head in ((0, 0), (2, 5)):
            scores, weights = exact(trace, layer, head)
            pooled, pooled_scores, normalizer = explorer.heads.pooled(layer, head, side)
            blocks = [
                [(slice(*edges[r : r + 2]), slice(*edges[c : c + 2])) for c in range(side)]
                for r in range(side)
            ]
            direct = np.array([[weights[block].max() for block in line] for line in blocks])
            np.testing.assert_allclose(pooled, direct, atol=1e-5)
            direct = np.array([[np.abs(scores[block]).max() for block in line] for line in blocks])
            np.testing.assert_allclose(np.abs(pooled_scores), direct, rtol=1e-4, atol=1e-5)
            direct = np.log(np.exp(np.where(np.tri(len(scores)) > 0, scores, -np.inf)).sum(axis=1))
            np.testing.assert_allclose(normalizer, direct, atol=1e-5)


def test_a_pooled_score_keeps_its_sign():
    trace = synthetic(n=12)
    heads = attention.Heads(trace)
    scores, _ = exact(trace, 0, 0)
    _, pooled, _ = heads.pooled(0, 0, 3)
    for row in range(3):
        for column in range(3):
            block = scores[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel()
            assert pooled[row, column] == pytest.approx(block[np.abs(block).argmax()], abs=1e-4)


@pytest.mark.parametrize("whole", [False, True])
def test_overviews_are_within_one_step_of_a_byte(trace, explorer, whole):
    header, arrays = sent(explorer, whole=whole)
    n = trace.sizes["position"]
    assert header["side"] == n  # small enough to be shown in full
    for layer in header["layers"]:
        recorded = trace["attention_weights"].values[layer]
        assert np.abs(arrays[f"weights {layer}"] - recorded).max() <= 1 / 255
        limit = header["limits"][str(layer)]
        recorded = np.nan_to_num(trace["attention_scores"].values[layer])
        lower = np.tri(n, dtype=bool)
        difference = np.abs(arrays[f"scores {layer}"] - recorded)[:, lower]
        assert difference.max() <= limit / 127


def test_a_large_map_comes_at_the_resolution_that_is_shown():
    trace = synthetic(n=300)
    explorer = AttentionExplorer(trace)
    _, weights = exact(trace, 1, 2)
    content, buffers = answer(explorer, "map", layer=1, head=2, stage="weights", side=100)
    pooled = unpacked(content["arrays"], buffers)["map"]
    direct = weights.reshape(100, 3, 100, 3).max(axis=(1, 3))
    np.testing.assert_allclose(pooled, direct, atol=0.5 / 255 + 1e-6)
    content, buffers = answer(explorer, "map", layer=1, head=2, stage="masked", side=10**9)
    assert unpacked(content["arrays"], buffers)["map"].shape == (300, 300)
    for wrong in ({"layer": 9}, {"head": 4}, {"stage": "weight"}):
        asked = {"layer": 1, "head": 2, "stage": "weights", "side": 10, **wrong}
        content, _ = answer(explorer, "map", **asked)
        assert content["error"].startswith("unknown")


def test_the_mean_over_all_heads(trace, explorer):
    position = 9
    content, buffers = answer(explorer, "means", position=position)
    read = unpacked(content["arrays"], buffers)
    mean = trace["attention_weights"].values.mean(axis=(0, 1))
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
            recorded = trace["attention_weights"].values[layer][:, *lower]
            np.testing.assert_allclose(arrays[f"map {layer}"], recorded, rtol=6e-4, atol=1e-6)
            assert f"scores {layer}" not in arrays
    content, buffers = answer(explorer, "means", position=3)
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
        arrays["weights 1"], trace["attention_weights"].values[1], atol=0.5 / 255 + 1e-6
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
    assert np.abs(arrays["weights 3"] - recorded).max() <= 1 / 255
    assert list(header["limits"]) == ["1", "3"]


# Sizes


@pytest.mark.parametrize(
    ("head_dim", "n_kv_heads", "packing"), [(16, 8, "float32"), (32, 8, "int16"), (64, 8, "int8")]
)
def test_the_export_is_below_5_mb(tmp_path, head_dim, n_kv_heads, packing):
    trace = synthetic(6, 8, n_kv_heads, head_dim, n=512)
    explorer = AttentionExplorer(trace)
    path = tmp_path / "page.html"
    explorer.save(path)
    assert path.stat().st_size < 5_000_000
    assert explorer._packing(whole=True) == (packing, list(range(6)))
    header, arrays = sent(explorer, whole=True)
    limit, relative = {
        "float32": (1e-5, 1e-4), "int16": (5e-4, 1e-3), "int8": (0.51 / 255, 0.1),
    }[packing]  # fmt: skip
    for head in (0, 7):
        _, weights = exact(trace, 5, head)
        shown = Reader(header, arrays, 5).weights(head)
        assert np.abs(shown - weights).max() <= limit
        matter = weights > 1e-3
        assert (np.abs(shown - weights)[matter] / weights[matter]).max() <= relative


def test_a_page_that_cannot_hold_all_layers_holds_those_around_the_chosen_one():
    explorer = AttentionExplorer(synthetic(12, 9, 3, 64, n=700), layer=5)
    packing, rows = explorer._packing(whole=True)
    assert packing == "int8"
    assert 0 < len(rows) < 12
    assert 5 in rows
    assert rows == list(range(rows[0], rows[-1] + 1))
    header, arrays = explorer.content(whole=True)
    assert header["layers_held"] == rows
    assert len([name for name in arrays if name.startswith("weights")]) == 12


def test_memory_of_2048_tokens_and_270_heads_is_bounded():
    trace = synthetic(30, 9, 3, 64, n=2048)
    n_vectors = sum(trace[name].nbytes for name in attention.VECTORS)
    tracemalloc.start()
    explorer = AttentionExplorer(trace)
    header, arrays = explorer.content(whole=False)
    assert header["layers_held"] == []
    assert arrays == {}
    for layer in (0, 29):
        answer(explorer, "summary", layer=layer)
        answer(explorer, "layer", layer=layer)
        answer(explorer, "map", layer=layer, head=8, stage="weights", side=620)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one_head = 4 * 2048**2
    assert peak < 3 * one_head, "no more than a few maps' worth at once"
    assert peak < n_vectors / 3


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
