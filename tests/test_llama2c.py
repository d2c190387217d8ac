"""llama2.c: files written by other code, and ours run by another computation."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.checkpoints import llama2c
from llama_viz.config import RopeScaling
from tests.reference import in_transformers, random_ids, random_model
from tests.vocabularies import SAMPLES, byte_level_json, sentence_piece_model
from tests.written import write_llama2c_int8, write_llama2c_legacy, write_llama2c_pt

WRITERS = {
    "legacy.bin": write_llama2c_legacy,
    "int8.bin": write_llama2c_int8,
    "ckpt.pt": write_llama2c_pt,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("tied", [True, False])
def test_files_of_llama2c_have_the_logits_of_transformers(tmp_path, name, kind, tied):
    lm = random_model(kind, tied_embeddings=tied)
    path = WRITERS[name](lm, tmp_path / name)
    loaded = lv.load(path)
    assert loaded.config == lm.config
    ids = random_ids(lm, 30)
    theirs = in_transformers(lm)(ids).logits
    assert (loaded.model(ids) - theirs).abs().max() < 1e-4 * theirs.abs().max().clamp(min=1)
    assert loaded.notes["format"].startswith("llama2.c")


def test_int8_weights_are_number_times_scale(tmp_path):
    lm = random_model(tied_embeddings=True)
    path = write_llama2c_int8(lm, tmp_path / "int8.bin", group_size=16)
    start = 256 + 4 * lm.config.dim * (2 * lm.config.n_layers + 1)
    data = path.read_bytes()
    n = lm.config.vocab_size * lm.config.dim
    numbers = struct.unpack_from(f"<{n}b", data, start)
    scales = struct.unpack_from(f"<{n // 16}f", data, start + n)
    weight = lv.load(path).model.embedding.weight.flatten().tolist()
    for i in (0, 15, 16, 1000, n - 1):
        assert weight[i] == pytest.approx(numbers[i] * scales[i // 16], rel=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_comes_back(tmp_path, tied):
    lm = random_model(tied_embeddings=tied)
    llama2c.save(lm, tmp_path / "small.bin")
    loaded = lv.load(tmp_path / "small.bin")
    assert loaded.config == lm.config
    assert loaded.tokenizer is None
    for name, weight in lm.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight)


@pytest.fixture
def written(tmp_path):
    """A model with a tokenizer, exported: (model, checkpoint)."""
    tokenizer = lv.Tokenizer.from_bytes(sentence_piece_model())
    model = random_model("gqa", vocab_size=tokenizer.vocab_size, seed=3).model
    lm = lv.LanguageModel(model, tokenizer)
    llama2c.save(lm, tmp_path / "words.bin")
    return lm, tmp_path / "words.bin"


def test_the_greedy_text_is_that_of_an_independent_computation(written):
    lm, path = written
    prompt = "Once upon a time, 3 dogs"
    expected_ids, expected_text = run_in_numpy(path, prompt, 24)
    for model in (lm, lv.load(path)):
        run = lv.generate(model, prompt, 24)
        assert run.ids == expected_ids[: len(run.ids)]
        assert len(run.new_ids) == 24 or run.ids[-1] == 2
        assert model.decode(run.ids[: len(expected_ids)]) == expected_text


def run_in_numpy(path, prompt, n_new):
    """llama2.c's run.c once more: one position at a time, from the two files alone."""
    data = path.read_bytes()
    magic, version = struct.unpack_from("<Ii", data)
    assert (magic, version) == (0x616B3432, 1)
    dim, hidden, layers, heads, kv_heads, vocabulary, _ = struct.unpack_from("<7i", data, 8)
    shared = data[36]
    head_dim = dim // heads
    numbers, place = np.frombuffer(data, "<f4", offset=256).astype(np.float64), 0

    def take(*shape):
        nonlocal place
        place += math.prod(shape)
        return numbers[place - math.prod(shape) : place].reshape(shape)

    attention_norm, ffn_norm = take(layers, dim), take(layers, dim)
    final_norm, embedding = take(dim), take(vocabulary, dim)
    wq, wk = take(layers, dim, dim), take(layers, kv_heads * head_dim, dim)
    wv, wo = take(layers, kv_heads * head_dim, dim), take(layers, dim, dim)
    w1, w2, w3 = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim)
    output = embedding if shared else take(vocabulary, dim)
    assert place == len(numbers)

    def normed(x, gain):
        return x / math.sqrt((x * x).mean() + 1e-5) * gain

    def turned(x, position):
        result = x.copy()
        for i in range(0, len(x), 2):
            angle = position * 10000.0 ** (-(i % head_dim) / head_dim)
            result[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
            result[i + 1] = x[i] * math.sin(angle) + x[i + 1] * math.cos(angle)
        return result

    keys = [[] for _ in range(layers)]
    values = [[] for _ in range(layers)]

    def logits(token, position):
        x = embedding[token].copy()
        for layer in range(layers):
            h = normed(x, attention_norm[layer])
            query = turned(wq[layer] @ h, position)
            keys[layer].append(turned(wk[layer] @ h, position))
            values[layer].append(wv[layer] @ h)
            mixed = []
            for head in range(heads):
                at = slice(head // (heads // kv_heads) * head_dim,
                           (head // (heads // kv_heads) + 1) * head_dim)  # fmt: skip
                q = query[head * head_dim : (head + 1) * head_dim]
                scores = np.array([q @ key[at] for key in keys[layer]]) / math.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed.append(sum(w * v[at] for w, v in zip(weights, values[layer], strict=True)))
            x += wo[layer] @ np.concatenate(mixed)
            h = normed(x, ffn_norm[layer])
            gate = w1[layer] @ h
            x += w2[layer] @ (gate / (1 + np.exp(-gate)) * (w3[layer] @ h))
        return output @ normed(x, final_norm)

    pieces, scores = read_tokenizer_bin(path.with_name("tokenizer.bin"))
    ids = naive_merge(pieces, scores, prompt)
    text = b""
    position = 0
    n_prompt = len(ids)
    while len(ids) < n_prompt + n_new:
        row = logits(ids[position], position)
        position += 1
        if position == len(ids):
            ids.append(int(row.argmax()))
            if ids[-1] == 2:
                break
    for before, token in pairwise(ids):
        piece = pieces[token]
        if token in (1, 2):
            continue
        if before == 1 and piece.startswith(b" "):
            piece = piece[1:]
        is_byte = len(piece) == 6 and piece.startswith(b"<0x")
        text += bytes([int(piece[3:5], 16)]) if is_byte else piece
    return ids, text.decode("utf-8", errors="replace")


def read_tokenizer_bin(path):
    data = path.read_bytes()
    pieces, scores, place = [], [], 4
    while place < len(data):
        score, n = struct.unpack_from("<fi", data, place)
        scores.append(score)
        pieces.append(data[place + 8 : place + 8 + n])
        place += 8 + n
    assert max(map(len, pieces)) == struct.unpack_from("<I", data)[0]
    return pieces, scores


def naive_merge(pieces, scores, text):
    """run.c's encode(): look through all pairs, merge the best, begin again."""
    ids = {piece: i for i, piece in reversed(list(enumerate(pieces)))}
    tokens = [1, ids[b" "]] if text else [1]
    for character in text:
        data = character.encode()
        tokens += [ids[data]] if data in ids else [byte + 3 for byte in data]
    while True:
        best = max(
            (
                (scores[ids[joined]], -i, ids[joined])
                for i in range(len(tokens) - 1)
                if (joined := pieces[tokens[i]] + pieces[tokens[i + 1]]) in ids
            ),
            default=None,
        )
        if best is None:
            return tokens
        tokens[-best[1] : -best[1] + 2] = [best[2]]


# Its tokenizer


@pytest.mark.parametrize("text", SAMPLES)
def test_both_forms_of_the_tokenizer_give_the_same_ids(written, text):
    lm, path = written
    own = lv.load(path).tokenizer
    assert own.kind != lm.tokenizer.kind
    assert own.encode(text) == lm.tokenizer.encode(text)
    assert own.encode(text) == naive_merge(*read_tokenizer_bin(path.parent / "tokenizer.bin"), text)
    assert own.decode(own.encode(text)) == text
    assert [own.label(i) for i in own.encode(text)] == [
        lm.tokenizer.label(i) for i in lm.tokenizer.encode(text)
    ]


def test_a_long_text_is_merged_in_little_time(written):
    own = lv.load(written[1]).tokenizer
    text = "the little dog ran. " * 2000
    assert own.decode(own.encode(text)) == text


def test_a_sentence_piece_file_beside_it_will_do(written, tmp_path):
    lm, path = written
    (tmp_path / "tokenizer.bin").unlink()
    (tmp_path / "tokenizer.model").write_bytes(lm.tokenizer.model)
    assert lv.load(path).encode("Once") == lm.encode("Once")


def test_a_tokenizer_that_llama2c_cannot_run_is_refused(tmp_path):
    tokenizer = lv.Tokenizer.from_bytes(byte_level_json())
    lm = lv.LanguageModel(random_model(vocab_size=tokenizer.vocab_size).model, tokenizer)
    with pytest.raises(ValueError, match="llama2.c merges by score"):
        llama2c.save(lm, tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"head_dim": 12}, "cannot run head_dim 12: it has 8 built in"),
        ({"rope_theta": 5e5}, "cannot run rope_theta 500000.0"),
        ({"norm_eps": 1e-6}, "cannot run norm_eps 1e-06"),
        ({"rope_scaling": RopeScaling("linear", factor=2.0)}, "cannot run rope_scaling"),
    ],
)
def test_a_model_that_llama2c_cannot_run_is_refused(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        llama2c.save(random_model(**sizes), tmp_path / "x.bin")
    with pytest.raises(ValueError, match="reads float32 weights"):
        llama2c.save(random_model(), tmp_path / "x.bin", torch.float16)
    assert list(tmp_path.iterdir()) == []


# Files that cannot be loaded


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [0, 3, 20, 100, 0.5, -1])
def test_a_file_cut_short_is_refused(tmp_path, name, kept):
    path = WRITERS[name](random_model(), tmp_path / name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(lv.CheckpointError, match=f"{name}: ") as caught:
        lv.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2**30, 96, 3, 8, 2, 120, 96), "makes no sense"),
        ((64, 96, 2**30, 8, 2, 120, 96), "makes no sense"),
        ((64, 96, 3, 8, 2, 2**31 - 1, 96), "makes no sense"),
        ((64, 96, 3, 7, 2, 120, 96), "must be a multiple of n_heads"),
        ((64, 96, 3, 0, 2, 120, 96), "must be a"),
        ((64, 96, 3, 8, 0, 120, 96), "n_kv_heads must be"),
        ((64, 96, 3, 8, 3, 120, 96), "multiple of n_kv_heads"),
        ((64, -96, 3, 8, 2, 120, 96), "hidden_dim must be"),
        ((64, 4096, 1000, 8, 2, 2**24, 96), "its header describes"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, sizes, message):
    path = tmp_path / "hostile.bin"
    path.write_bytes(struct.pack("<7i", *sizes) + bytes(1000))
    with pytest.raises(lv.CheckpointError, match=f"hostile.bin: .*{message}"):
        lv.load(path)
    path.write_bytes(struct.pack("<Ii7i", 0x616B3432, 9, *sizes) + bytes(1000))
    with pytest.raises(lv.CheckpointError, match="version 9, not 1 or 2"):
        lv.load(path)


@pytest.mark.parametrize("group_size", [0, -4, 7, 2**31 - 1])
def test_groups_that_do_not_fill_a_row_are_refused(tmp_path, group_size):
    path = write_llama2c_int8(random_model(), tmp_path / "int8.bin")
    data = bytearray(path.read_bytes())
    data[37:41] = struct.pack("<i", group_size)
    path.write_bytes(data)
    with pytest.raises(lv.CheckpointError, match="do not fill its rows"):
        lv.load(path)


class Harmful:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"model_args": {}, "model": Harmful()}, tmp_path / "ckpt.pt")
    with pytest.raises(lv.CheckpointError, match=r"ckpt.pt: refused.* could run code"):
        lv.load(tmp_path / "ckpt.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "is not a checkpoint"),
        ({"model": {}, "model_args": 3}, "holds no model_args and model"),
        ({"model": {}, "model_args": {}}, "lacks an embedding"),
        ({"model": {"tok_embeddings.weight": "x"}, "model_args": {}}, "expected a tensor"),
        (
            {
                "model": {
                    "tok_embeddings.weight": torch.tensor(1.0),
                    "output.weight": torch.tensor(1.0),
                    "layers.0.feed_forward.w1.weight": torch.tensor(1.0),
                },
                "model_args": {"n_layers": 1, "n_heads": 2, "dim": 8},
            },
            "model_args cannot be used",
        ),
        (
            {"model": {"norm.weight": torch.zeros(1).expand(2**40)}, "model_args": {}},
            "is not stored whole",
        ),
    ],
)
def test_a_pickle_of_another_shape_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(lv.CheckpointError, match=f"ckpt.pt: .*{message}"):
        lv.load(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 10**9}, "asks for 1000000000 layers"),
        ({"n_heads": 0}, "model_args cannot be used"),
        ({"n_heads": "many"}, "model_args cannot be used"),
        ({"dim": 65}, "head_dim|shape"),
        ({"max_seq_len": -1}, "model_args cannot be used"),
    ],
)
def test_model_args_that_do_not_fit_are_refused(tmp_path, change, message):
    path = write_llama2c_pt(random_model(), tmp_path / "ckpt.pt")
    content = torch.load(path, weights_only=True)
    content["model_args"].update(change)
    torch.save(content, path)
    with pytest.raises(lv.CheckpointError, match=f"ckpt.pt: .*({message})"):
        lv.load(path)


def test_weights_that_are_nan_load_with_a_warning(tmp_path):
    lm = random_model()
    lm.model.norm.weight[0] = float("nan")
    llama2c.save(lm, tmp_path / "nan.bin")
    with pytest.warns(UserWarning, match="nan.bin: norm.weight holds weights that are NaN"):
        lv.load(tmp_path / "nan.bin")
