"""The tokenizer: text to ids and back, and labels in which everything can be seen."""

import json
import struct

import pytest
import tokenizers

import llama_viz as lv
from llama_viz.tokenizer import Settings, visible
from llama_viz.tokenizers.llama2c import tokenizer_bin
from tests.reference import random_model
from tests.vocabularies import (
    CHAT_TEMPLATE,
    SAMPLES,
    byte_level_json,
    llama_json,
    sentence_piece_model,
)

TEXTS = [
    "Once upon a time",
    " leading and trailing  spaces ",
    "two\nlines\tand a tab",
    "<s> </s> <unk> <0x0A>",
    "<script>alert(1)</script> $x$ &amp;",
    "\U0001f600 \u05e9\u05dc\u05d5\u05dd \u4f60\u597d \u00e9 e\u0301",
    "NUL \x00 inside",
    "a\u200d\u2028b\ufeff",
]  # fmt: skip


@pytest.fixture
def tokenizer(family):
    return family["gqa"].tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back_as_it_was(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_control_tokens_in_a_text_are_spelled_out(tokenizer, text):
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(tokenizer.encode(text)[1:])


def test_ids_are_those_of_sentencepiece(tokenizer):
    for text in TEXTS:
        assert tokenizer.encode(text)[1:] == tokenizer._pieces.EncodeAsIds(text)


def test_decoding_a_part_keeps_its_leading_space(tokenizer):
    ids = tokenizer.encode("the big dog")
    assert tokenizer.decode(ids) == "the big dog"
    assert tokenizer.decode(ids[1:]) == " the big dog"


def test_control_tokens_leave_no_text(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("dog")[1:], tokenizer.eos_id]
    assert tokenizer.decode(ids) == "dog"


def test_a_cut_character_is_marked_and_not_lost(tokenizer):
    ids = tokenizer.encode("\U0001f600")
    assert tokenizer.decode(ids[:-1]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:-1]) == "\U0001f600".encode()[:-1]


def test_labels_show_what_cannot_be_seen(tokenizer):
    labels = [tokenizer.label(token_id) for token_id in tokenizer.encode("a\n\x00")]
    assert labels[0] == "<s>"
    assert labels[-2:] == ["<0x0A>", "<0x00>"]
    assert labels[1].startswith("\u2581")
    assert visible(" a\nb\u200d\u2028\x00") == "\u2581a\u23ceb<U+200D><U+2028><U+0000>"


def test_every_label_is_printable(tokenizer):
    labels = [tokenizer.label(token_id) for token_id in range(tokenizer.vocab_size)]
    assert all(label.isprintable() and label for label in labels)


def test_half_a_character_is_refused(tokenizer):
    with pytest.raises(ValueError, match="half of a character at position 1"):
        tokenizer.encode("a\ud83d")


@pytest.mark.parametrize("token_id", [-1, 100_000])
def test_ids_out_of_range_are_refused(tokenizer, token_id):
    for use in (tokenizer.label, tokenizer.piece, lambda i: tokenizer.decode([i])):
        with pytest.raises(ValueError, match="out of range"):
            use(token_id)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it does not begin with an object"),
        (b"[]", "it does not begin with an object"),
        (b"\xff\xfe", "it does not begin with an object"),
        (b"{}", "it lacks 'model'"),
    ],
)
def test_a_damaged_tokenizer_json_is_not_taken_for_another_kind(content, message, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(lv.CheckpointError, match=f"not a tokenizer.json.*: {message}"):
        lv.Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"not a tokenizer")
    with pytest.raises(
        lv.CheckpointError, match=r"tokenizer\.model: not a SentencePiece tokenizer"
    ):
        lv.Tokenizer.from_file(path)
    with pytest.raises(lv.CheckpointError, match="cannot be read"):
        lv.Tokenizer.from_file(tmp_path / "absent.model")


# Every kind, made on the spot


KINDS = {
    "tokenizer.model": sentence_piece_model,
    "tokenizer.bin": lambda: tokenizer_bin(lv.Tokenizer.from_bytes(sentence_piece_model())),
    "byte-level.json": byte_level_json,
    "llama.json": llama_json,
}


@pytest.fixture(params=KINDS)
def any_kind(request, tmp_path):
    path = tmp_path / request.param
    path.write_bytes(KINDS[request.param]())
    return lv.Tokenizer.from_file(path)


@pytest.mark.parametrize("text", SAMPLES)
def test_every_kind_gives_every_text_back(any_kind, text):
    ids = any_kind.encode(text)
    assert any_kind.decode(ids) == text
    assert not set(any_kind.control_ids) & set(ids[any_kind.add_bos :])
    assert [any_kind.bos_id] * any_kind.add_bos == ids[: any_kind.add_bos]


def test_every_kind_shows_all_its_tokens(any_kind):
    for token_id in range(any_kind.vocab_size):
        label = any_kind.label(token_id)
        assert label
        assert label.isprintable()
        assert " " not in label
    for use in (any_kind.label, any_kind.piece, lambda i: any_kind.decode([i])):
        for token_id in (-1, any_kind.vocab_size):
            with pytest.raises(ValueError, match="out of range"):
                use(token_id)
    with pytest.raises(ValueError, match="half of a character at position 1"):
        any_kind.encode("a\ud83d")


def test_every_kind_puts_control_tokens_of_a_template_in_by_id(any_kind):
    for token_id in any_kind.control_ids:
        name = any_kind.piece(token_id)
        ids = any_kind.encode_with_control(f"{name}dog{name}")
        assert ids[0] == ids[-1] == token_id
        assert any_kind.decode(ids).strip() == "dog"
        guarded = any_kind.guarded(f"a {name}", "\ufdd0")
        assert token_id not in any_kind.encode_with_control(guarded, "\ufdd0")
        spelled = any_kind.encode_with_control(guarded, "\ufdd0")
        assert any_kind.decode(spelled).strip() == f"a {name}"


@pytest.mark.parametrize("text", SAMPLES)
def test_the_forms_of_one_vocabulary_give_the_same_ids(text):
    forms = [
        lv.Tokenizer.from_bytes(KINDS[name]())
        for name in ("tokenizer.model", "tokenizer.bin", "llama.json")
    ]
    ids = [form.encode(text) for form in forms]
    assert ids[0] == ids[1] == ids[2]
    assert len({form.decode(ids[0][2:]) for form in forms}) == 1  # from the middle of a text
    labels = [[form.label(i) for i in ids[0]] for form in forms]
    assert labels[0] == labels[1] == labels[2]


def test_bytes_under_other_names_are_shown_as_text():
    words = lv.Tokenizer.from_bytes(byte_level_json())
    cut = words.encode(" \u2603\n")
    assert "".join(words.label(i) for i in cut) == "\u2581<0xE2><0x98><0x83>\u23ce"
    assert words.piece(words.encode(" the")[0]).startswith("\u0120")
    assert words.label(words.encode(" the")[0]).startswith("\u2581")
    assert words.decode_bytes(cut[:-2]) == " \u2603".encode()[:-1]
    assert words.decode(words.encode(" the")) == " the"


@pytest.mark.parametrize("add_bos", [True, False])
def test_bos_comes_where_the_tokenizers_own_file_says_so(add_bos):
    words = lv.Tokenizer.from_bytes(byte_level_json(add_bos=add_bos))
    assert words.add_bos == add_bos
    assert words.encode("dog")[:1] == ([0] if add_bos else words.encode("dog")[:1])
    assert (0 in words.encode("dog")) == add_bos


def test_settings_beside_the_file_are_heeded(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(byte_level_json())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({
            "bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>",
            "add_bos_token": True, "chat_template": CHAT_TEMPLATE,
        })
    )  # fmt: skip
    words = lv.Tokenizer.from_file(path)
    assert (words.bos_id, words.eos_id, words.add_bos) == (1, 2, True)
    assert words.chat_template == CHAT_TEMPLATE
    assert words.encode("dog")[0] == 1
    (tmp_path / "copy").mkdir()
    for name, content in words.files().items():
        (tmp_path / "copy" / name).write_bytes(content)
    copy = lv.Tokenizer.from_file(tmp_path / "copy" / "tokenizer.json")
    assert (copy.bos_id, copy.eos_id, copy.add_bos) == (1, 2, True)
    assert copy.chat_template == CHAT_TEMPLATE
    assert copy.checksum == words.checksum
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert lv.Tokenizer.from_file(path).chat_template == "{{ messages }}"


def test_settings_that_are_damaged_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(byte_level_json())
    for damaged in ("{", "[]", "[" * 100_000):
        (tmp_path / "tokenizer_config.json").write_text(damaged)
        with pytest.raises(lv.CheckpointError, match="tokenizer_config.json: not the settings"):
            lv.Tokenizer.from_file(path)


def changed_json(**changes):
    told = json.loads(byte_level_json())
    told["model"].update(changes)
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not a tokenizer.json"),
        (b"{}", "not a tokenizer.json"),
        (b"[" * 100_000, "not a SentencePiece"),
        (b'{"model":' * 100_000, "not a tokenizer.json"),
        (changed_json(type="WordPiece"), "of the kind 'WordPiece', expected BPE"),
        (changed_json(merges=["no such"]), "not a tokenizer.json"),
        (changed_json(vocab={"a": 0, "b": 4_000_000_000}, merges=[]), "not numbered from 0 on"),
        (b"", "not a SentencePiece"),
        (bytes(1000), "not a SentencePiece"),
        (struct.pack("<IfI", 3, 0.0, 3) + b"abc", "tokenizer.bin of llama2.c with 1 tokens"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path, data, message):
    path = tmp_path / "tokenizer.any"
    path.write_bytes(data)
    with pytest.raises(lv.CheckpointError, match=rf"tokenizer\.any: .*{message}") as caught:
        lv.Tokenizer.from_file(path)
    assert "\n" not in str(caught.value)


def test_a_file_too_large_for_a_tokenizer_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no room
    with pytest.raises(lv.CheckpointError, match="too large for a tokenizer"):
        lv.Tokenizer.from_file(path)


def test_a_space_that_only_begins_a_text_is_not_put_after_a_control_token():
    told = json.loads(llama_json())
    told["normalizer"] = None
    told["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False
    }  # fmt: skip
    words = lv.Tokenizer.from_bytes(json.dumps(told).encode())
    library = tokenizers.Tokenizer.from_str(json.dumps(told))
    for text in ("<s>dog</s>dog", "dog<s>dog", "dog </s> dog"):
        assert words.encode_with_control(text) == library.encode(text, add_special_tokens=False).ids


def test_every_kind_is_saved_beside_a_model_and_found_again(any_kind, tmp_path):
    words = lv.Tokenizer.from_bytes(
        any_kind.model, Settings(add_bos=False, chat_template="{{ messages }}")
    )
    lm = lv.LanguageModel(random_model(vocab_size=words.vocab_size).model, words)
    (tmp_path / "saved").mkdir()
    lv.save_checkpoint(lm, tmp_path / "saved" / "small.safetensors")
    found = lv.load(tmp_path / "saved").tokenizer
    assert type(found) is type(words)
    assert (found.add_bos, found.chat_template) == (False, "{{ messages }}")
    for text in SAMPLES:
        assert found.encode(text) == words.encode(text)


def test_two_tokenizers_do_not_lie_in_one_folder(tmp_path):
    lm = lv.LanguageModel(
        random_model(vocab_size=320).model, lv.Tokenizer.from_bytes(byte_level_json())
    )
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(ValueError, match="tokenizer.model is another model's tokenizer"):
        lv.save_checkpoint(lm, tmp_path / "small.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]
