"""GGUF: the same logits as transformers, blocks as their formulas say, and files that are none."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.checkpoints import gguf as ours
from llama_viz.config import RopeScaling
from tests.reference import in_transformers, random_ids, random_model
from tests.vocabularies import SAMPLES, byte_level_library, sentence_piece_model
from tests.written import GGUF_KINDS, gguf_in_transformers, gguf_weights, write_gguf

KINDS = ["mha", "gqa", "mqa"]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [{}, {"tied_embeddings": True}, {"head_dim": 12}])
def test_logits_are_those_of_transformers(tmp_path, kind, sizes):
    lm = random_model(kind, **sizes)
    loaded = lv.load(write_gguf(lm, tmp_path / "small.gguf"))
    assert loaded.config == lm.config
    assert loaded.tokenizer is None
    assert loaded.notes["rope_layout"] == "interleaved"
    ids = random_ids(lm, 40)
    assert difference(loaded.model(ids), in_transformers(lm)(ids).logits) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_file_alike(tmp_path, kind):
    lm = random_model(kind)
    write_gguf(lm, tmp_path / "small.gguf", vocabulary=None)
    theirs = gguf_in_transformers(tmp_path / "small.gguf", lm.config.n_layers)
    loaded = lv.load(tmp_path / "small.gguf")
    ids = random_ids(lm, 30)
    with torch.no_grad():
        assert difference(loaded.model(ids), theirs(ids).logits) < 1e-4
        greedy = theirs.generate(ids[:, :4], max_new_tokens=24, do_sample=False, pad_token_id=0)
    assert lv.generate(loaded, ids[0, :4], 24).ids == greedy[0].tolist()


@pytest.mark.parametrize("kind", [GGUF_KINDS.F16, GGUF_KINDS.BF16])
def test_half_precision_is_read_as_it_is(tmp_path, kind):
    lm = random_model()
    path = write_gguf(lm, tmp_path / "half.gguf", kind=kind)
    stored = {GGUF_KINDS.F16: torch.float16, GGUF_KINDS.BF16: torch.bfloat16}[kind]
    kept = ours.load(path).model
    assert kept.blocks[0].attention.query.weight.dtype == stored
    loaded = lv.load(path)
    assert loaded.dtype == torch.float32
    for name, weight in lm.model.named_parameters():
        if weight.dim() == 2:
            assert torch.equal(loaded.model.get_parameter(name), weight.to(stored).float())


# Rotary positions that are scaled


def test_a_linear_scaling_is_read(tmp_path):
    lm = random_model()
    ids = random_ids(lm, 40)
    for fields in (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ):
        loaded = lv.load(write_gguf(lm, tmp_path / "long.gguf", fields=fields))
        assert loaded.config.rope_scaling == RopeScaling("linear", factor=4.0)
        scaled = random_model(rope_scaling=RopeScaling("linear", factor=4.0))
        assert difference(loaded.model(ids), scaled.model(ids)) < 1e-4
        assert difference(loaded.model(ids), lm.model(ids)) > 1e-2


def test_llama3s_divisors_are_read(tmp_path):
    scaling = RopeScaling("llama3", factor=8.0, original_max_seq_len=32)
    lm = random_model(rope_scaling=scaling)
    n_pairs = lm.config.n_pairs
    # As llama.cpp's converter writes them (Llama 3.1's rule, pair by pair).
    divisors = []
    for pair in range(n_pairs):
        wavelength = 2 * np.pi * lm.config.rope_theta ** (2 * pair / lm.config.head_dim)
        smooth = (32 / wavelength - 1) / (4 - 1)
        slow, fast = wavelength > 32 / 1, wavelength < 32 / 4
        divisors.append(8.0 if slow else 1.0 if fast else 1 / ((1 - smooth) / 8 + smooth))
    assert len(set(divisors)) > 1
    plain = random_model()
    tensors = {"rope_freqs.weight": np.array(divisors, np.float32)}
    loaded = lv.load(write_gguf(plain, tmp_path / "l3.gguf", tensors=tensors))
    assert loaded.config.rope_scaling.kind == "divided"
    ids = random_ids(lm, 40)
    assert difference(loaded.model(ids), lm.model(ids)) < 1e-4
    assert difference(loaded.model(ids), plain.model(ids)) > 1e-2


def test_an_unknown_scaling_is_refused(tmp_path):
    path = write_gguf(
        random_model(), tmp_path / "yarn.gguf", fields={"llama.rope.scaling.type": "yarn"}
    )
    with pytest.raises(lv.CheckpointError, match="yarn.gguf: scales its rotary positions by 'yarn"):
        lv.load(path)


# Quantized blocks, number by number as ggml's formulas say (llama.cpp, ggml-quants.c)


def half(block: bytes, place: int) -> float:
    return struct.unpack_from("<e", block, place)[0]


def q8_0(block):
    return [half(block, 0) * q for q in struct.unpack("<32b", block[2:])]


def nibbles(data):
    return [byte & 15 for byte in data] + [byte >> 4 for byte in data]


def q4_0(block):
    return [half(block, 0) * (q - 8) for q in nibbles(block[2:])]


def q4_1(block):
    return [half(block, 0) * q + half(block, 2) for q in nibbles(block[4:])]


def fifth_bits(block, place):
    (bits,) = struct.unpack_from("<I", block, place)
    return [(bits >> i & 1) << 4 for i in range(32)]


def q5_0(block):
    low, high = nibbles(block[6:]), fifth_bits(block, 2)
    return [half(block, 0) * ((a | b) - 16) for a, b in zip(low, high, strict=True)]


def q5_1(block):
    low, high = nibbles(block[8:]), fifth_bits(block, 4)
    return [half(block, 0) * (a | b) + half(block, 2) for a, b in zip(low, high, strict=True)]


def q2_k(block):
    scales, quants = block[:16], block[16:80]
    d, least = half(block, 80), half(block, 82)
    values = []
    for i in range(256):
        side, inside = divmod(i, 128)
        shift, place = divmod(inside, 32)
        scale = scales[i // 16]
        quant = quants[32 * side + place] >> 2 * shift & 3
        values.append(d * (scale & 15) * quant - least * (scale >> 4))
    return values


def q3_k(block):
    high, quants, packed, d = block[:32], block[32:96], block[96:108], half(block, 108)
    scales = []
    for i in range(16):
        low = packed[i] & 15 if i < 8 else packed[i - 8] >> 4
        scales.append((low | (packed[8 + i % 4] >> 2 * (i // 4) & 3) << 4) - 32)
    values = []
    for i in range(256):
        side, inside = divmod(i, 128)
        shift, place = divmod(inside, 32)
        quant = quants[32 * side + place] >> 2 * shift & 3
        missing = 0 if high[place] >> (4 * side + shift) & 1 else 4
        values.append(d * scales[i // 16] * (quant - missing))
    return values


def scale_and_least(packed, i):
    if i < 4:
        return packed[i] & 63, packed[i + 4] & 63
    return (
        packed[i + 4] & 15 | packed[i - 4] >> 6 << 4,
        packed[i + 4] >> 4 | packed[i] >> 6 << 4,
    )


def q4_k(block, fifth=None):
    d, least, packed = half(block, 0), half(block, 2), block[4:16]
    quants = block[16:] if fifth is None else block[48:]
    values = []
    for i in range(256):
        group, place = divmod(i, 32)
        byte = quants[32 * (group // 2) + place]
        quant = byte >> 4 if group % 2 else byte & 15
        if fifth is not None:
            quant |= (fifth[place] >> group & 1) << 4
        scale, minimum = scale_and_least(packed, group)
        values.append(d * scale * quant - least * minimum)
    return values


def q5_k(block):
    return q4_k(block, fifth=block[16:48])


def q6_k(block):
    low, high, d = block[:128], block[128:192], half(block, 208)
    scales = struct.unpack_from("<16b", block, 192)
    values = []
    for i in range(256):
        side, inside = divmod(i, 128)
        quarter, place = divmod(inside, 32)
        byte = low[64 * side + 32 * (quarter % 2) + place]
        four = byte >> 4 if quarter >= 2 else byte & 15
        two = high[32 * side + place] >> 2 * quarter & 3
        values.append(d * scales[i // 16] * ((four | two << 4) - 32))
    return values


FORMULAS = {
    GGUF_KINDS.Q8_0: (q8_0, [0]), GGUF_KINDS.Q4_0: (q4_0, [0]), GGUF_KINDS.Q4_1: (q4_1, [0, 2]),
    GGUF_KINDS.Q5_0: (q5_0, [0]), GGUF_KINDS.Q5_1: (q5_1, [0, 2]),
    GGUF_KINDS.Q2_K: (q2_k, [80, 82]), GGUF_KINDS.Q3_K: (q3_k, [108]),
    GGUF_KINDS.Q4_K: (q4_k, [0, 2]), GGUF_KINDS.Q5_K: (q5_k, [0, 2]),
    GGUF_KINDS.Q6_K: (q6_k, [208]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMULAS, ids=lambda kind: kind.name)
def test_quantized_blocks_are_what_their_formulas_say(tmp_path, kind):
    formula, halves = FORMULAS[kind]
    in_block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    chance = np.random.default_rng(0)
    lm = random_model(dim=256, hidden_dim=256, n_layers=1, vocab_size=9)
    blocks = chance.integers(0, 256, (9, 256 // in_block * n_bytes), np.uint8)
    for place in halves:  # sensible scales: any bytes could be NaN
        scales = chance.uniform(-0.5, 0.5, (9, 256 // in_block)).astype("<f2")
        for i in range(256 // in_block):
            start = i * n_bytes + place
            blocks[:, start : start + 2] = scales[:, i : i + 1].view(np.uint8)
    writer_input = gguf_weights(lm)
    path = tmp_path / "blocks.gguf"
    write_with_blocks(lm, path, writer_input, {"token_embd.weight": (blocks, kind)})
    loaded = lv.load(path)
    expected = [
        [v for i in range(0, len(row), n_bytes) for v in formula(row[i : i + n_bytes].tobytes())]
        for row in blocks
    ]
    weight = loaded.model.embedding.weight
    assert (weight - torch.tensor(expected)).abs().max() < 1e-5 * max(1, weight.abs().max())
    assert kind.name in loaded.notes["stored_dtype"]


def write_with_blocks(lm, path, weights, quantized):
    """As write_gguf, with some tensors given as blocks."""
    config = lm.config
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": config.max_seq_len, "embedding_length": config.dim,
        "block_count": config.n_layers, "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads, "attention.head_count_kv": config.n_kv_heads,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, array in weights.items():
        if name in quantized:
            blocks, kind = quantized[name]
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_quantized_model_is_the_model_of_its_dequantized_weights(tmp_path):
    lm = random_model(dim=64, hidden_dim=96)
    path = write_gguf(lm, tmp_path / "q8.gguf", kind=GGUF_KINDS.Q8_0)
    rounded = {
        name: gguf.quants.dequantize(gguf.quants.quantize(array, GGUF_KINDS.Q8_0), GGUF_KINDS.Q8_0)
        if array.ndim == 2
        else array
        for name, array in gguf_weights(lm).items()
    }
    same = lv.load(write_gguf(lm, tmp_path / "f32.gguf", tensors=rounded))
    ids = random_ids(lm, 30)
    assert torch.equal(lv.load(path).model(ids), same.model(ids))


# The header and the tokenizer


def test_the_header_is_what_the_gguf_library_reads(tmp_path):
    path = write_gguf(random_model(vocab_size=360), tmp_path / "words.gguf", vocabulary="gpt2")
    header = ours.read_header(path)
    theirs = gguf.GGUFReader(path)
    for name, value in header.metadata.items():
        value = value.tolist() if isinstance(value, np.ndarray) else value
        assert theirs.fields[name].contents() == value
    assert len(theirs.fields) == len(header.metadata) + 3  # three of the file itself
    assert {tensor.name: (tuple(tensor.shape[::-1]), tensor.data_offset, tensor.n_bytes)
            for tensor in theirs.tensors} == {
        name: (tensor.shape, tensor.start, tensor.n_bytes)
        for name, tensor in header.tensors.items()
    }  # fmt: skip


@pytest.mark.parametrize("text", SAMPLES)
def test_a_byte_level_vocabulary_gives_the_ids_of_its_tokenizer(tmp_path, text):
    path = write_gguf(random_model(vocab_size=360), tmp_path / "words.gguf", vocabulary="gpt2")
    lm = lv.load(path, device="meta")
    library = byte_level_library()
    library.encode_special_tokens = True
    assert lm.encode(text) == library.encode(text, add_special_tokens=False).ids
    assert lm.decode(lm.encode(text)) == text
    assert (lm.tokenizer.bos_id, lm.tokenizer.eos_id, lm.tokenizer.add_bos) == (1, 2, False)


@pytest.mark.parametrize("text", SAMPLES)
def test_a_sentence_piece_vocabulary_gives_the_ids_of_its_tokenizer(tmp_path, text):
    path = write_gguf(random_model(vocab_size=360), tmp_path / "words.gguf", vocabulary="llama")
    lm = lv.load(path, device="meta")
    original = lv.Tokenizer.from_bytes(sentence_piece_model())
    assert lm.encode(text) == original.encode(text)
    assert lm.decode(lm.encode(text)) == text
    for token_id in range(original.vocab_size):
        assert lm.tokenizer.piece(token_id) == original.piece(token_id)


def test_a_vocabulary_without_a_leading_space(tmp_path):
    path = write_gguf(
        random_model(vocab_size=360), tmp_path / "words.gguf", vocabulary="llama",
        fields={"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False},
    )  # fmt: skip
    lm = lv.load(path, device="meta")
    assert lm.tokenizer.label(lm.encode("Once")[0])[0] == "O"
    assert lm.decode(lm.encode("Once upon")) == "Once upon"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer.ggml.pre": "qwen2"}, "cuts texts by the rule 'qwen2'"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer of the kind 'rwkv'"),
        ({"tokenizer.ggml.model": [1, 2]}, r"tokenizer of the kind '\[1 2\]'"),
        ({"tokenizer.ggml.pre": [1, 2]}, r"cuts texts by the rule '\[1 2\]'"),
        ({"tokenizer.ggml.pre": ["a", "b"]}, "cuts texts by the rule .*'a', 'b'"),
    ],
)
def test_an_unknown_tokenizer_leaves_a_model_for_ids(tmp_path, fields, message):
    path = write_gguf(
        random_model(vocab_size=360), tmp_path / "words.gguf", vocabulary="gpt2", fields=fields
    )
    with pytest.warns(UserWarning, match=message):
        lm = lv.load(path)
    assert lm.tokenizer is None
    assert lv.generate(lm, [1, 2], 2).text == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer.ggml.merges": ["zz yy"]}, "Token `zz` out of vocabulary"),
        ({"tokenizer.ggml.eos_token_id": 5000}, "EOS has the id 5000"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "holds a token twice"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "is not a list of 2 numbers"),
        ({"tokenizer.ggml.merges": [1, 2]}, "merges is not a list of texts"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path, fields, message):
    path = write_gguf(
        random_model(vocab_size=360), tmp_path / "words.gguf", vocabulary="gpt2", fields=fields
    )
    with pytest.raises(lv.CheckpointError, match=rf"words.gguf: its tokenizer .*{message}"):
        lv.load(path)


# Files that cannot be loaded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "qwen2"}, "its architecture is 'qwen2', expected 'llama'"),
        (
            {"fields": {"general.architecture": [1, 2]}},
            r"its architecture is '\[1 2\]', expected 'llama'",
        ),
        ({"fields": {"llama.expert_count": 8}}, "mixture of experts"),
        ({"fields": {"split.count": 3}}, "one of 3 parts"),
        ({"fields": {"llama.rope.dimension_count": 4}}, "turns 4 of the 8 features"),
        ({"fields": {"llama.block_count": 4000000000}}, "asks for 4000000000 layers"),
        ({"fields": {"llama.attention.head_count": 7}}, "head"),
        ({"fields": {"llama.embedding_length": "wide"}}, "is wide, expected a whole number"),
        ({"fields": {"llama.rope.freq_base": "high"}}, "is high, expected a number"),
        ({"fields": {"llama.attention.head_count_kv": [8, 8, 2]}}, "expected a whole number"),
        ({"tensors": {"blk.0.attn_q.bias": np.zeros(64, np.float32)}}, "blk.0.attn_q.bias is not"),
        ({"tensors": {"blk.0.ffn_gate_exps.weight": np.zeros((2, 3, 4), np.float32)}}, "exps"),
        ({"tensors": {"blk.1.attn_q.weight": None}}, "blocks.1.attention.query.weight is missing"),
        ({"tensors": {"token_embd.weight": None}}, "has no token_embd.weight"),
        ({"tensors": {"output_norm.weight": np.zeros(5, np.float32)}}, r"has shape \(5,\)"),
        ({"tensors": {"rope_freqs.weight": np.zeros(4, np.float32)}}, "divisors"),
        ({"tensors": {"rope_freqs.weight": np.full(9, 2.0, np.float32)}}, "9 divisors for 4"),
        ({"tensors": {"output.weight": np.zeros((120, 64), np.int8)}}, "holds I8 weights"),
    ],
)
def test_what_is_no_llama_is_refused(tmp_path, change, message):
    path = write_gguf(random_model(), tmp_path / "other.gguf", **change)
    with pytest.raises(lv.CheckpointError, match=f"other.gguf: .*{message}") as caught:
        lv.load(path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_nan_load_with_a_warning(tmp_path):
    bad = np.full((64,), np.nan, np.float32)
    path = write_gguf(random_model(), tmp_path / "nan.gguf", tensors={"output_norm.weight": bad})
    with pytest.warns(UserWarning, match="nan.gguf: norm.weight holds weights that are NaN"):
        lv.load(path)


@pytest.mark.parametrize("kept", [4, 8, 20, 40, 100, 0.3, 0.6, 0.9, -1])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = write_gguf(random_model(vocab_size=360), tmp_path / "cut.gguf", vocabulary="gpt2")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(lv.CheckpointError, match="cut.gguf: its header is damaged or cut short"):
        lv.load(path)


def header(n_tensors=0, n_fields=0, rest=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_fields) + rest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(n_tensors=2**60), "promises 0 fields and 1152921504606846976 tensors"),
        (header(n_fields=2**60), "promises 1152921504606846976 fields"),
        (header(n_fields=1, rest=struct.pack("<Q", 2**60)), "promises 1152921504606846976 more"),
        (header(n_fields=1, rest=struct.pack("<QcIIQ", 1, b"a", 9, 0, 2**60)), "a list promises"),
        (header(n_fields=1, rest=struct.pack("<QcIIQ", 1, b"a", 9, 0, 2**20)), "promises 1048576"),
        (header(n_fields=1, rest=struct.pack("<QcIIQ", 1, b"a", 9, 9, 5)), "values of the kind 9"),
        (header(n_fields=1, rest=struct.pack("<QcI", 1, b"a", 77)), "unknown kind 77"),
        (header(n_fields=1, rest=struct.pack("<QcI", 1, b"\xff", 77)), "utf-8"),
        (header(version=1), "version is 1"),
        (header(version=3 << 24), "big-endian"),
        (
            header(n_tensors=1, rest=struct.pack("<QcIQQIQ", 1, b"a", 2, 2**40, 2**20, 0, 0)),
            "the tensor a ends at byte",
        ),
        (
            header(n_tensors=1, rest=struct.pack("<QcIQIQ", 1, b"a", 1, 5, 8, 0)),
            "rows of a broken block",
        ),
        (header(n_tensors=1, rest=struct.pack("<QcI", 1, b"a", 9)), "has 9 axes"),
        (
            header(n_tensors=1, rest=struct.pack("<QcIQIQ", 1, b"a", 1, 5, 99, 0)),
            "unknown kind 99",
        ),
    ],
)
def test_a_hostile_header_is_refused_at_once(tmp_path, data, message):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    with pytest.raises(lv.CheckpointError, match=f"hostile.gguf: .*{message}") as caught:
        lv.load(path)
    assert "\n" not in str(caught.value)


def test_shapes_alone_read_no_weight(tmp_path):
    path = write_gguf(random_model(), tmp_path / "small.gguf")
    lm = lv.load(path, device="meta")
    assert lm.device.type == "meta"
    assert lm.config == random_model().config
