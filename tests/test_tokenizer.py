"""The tokenizer: text to ids and back, and labels in which everything can be seen."""

import pytest

import llama_viz as lv
from llama_viz.tokenizer import visible

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


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"not a tokenizer")
    with pytest.raises(
        lv.CheckpointError, match=r"tokenizer\.model: not a SentencePiece tokenizer"
    ):
        lv.Tokenizer.from_file(path)
    with pytest.raises(lv.CheckpointError, match="cannot be read"):
        lv.Tokenizer.from_file(tmp_path / "absent.model")
