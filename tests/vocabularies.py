"""Small tokenizers of every kind, trained or written out on the spot."""

from __future__ import annotations

import io
from functools import cache

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

TEXT = (
    "Once upon a time there was a little dog called Tim. He liked to run in the park, and every "
    "day he found 3 red balls and 12 blue ones. \"Look!\" said Mia, \"the dog is here.\" They're "
    "happy; it's a sunny day.\nThe cat sat on the mat.  Two spaces, a\ttab.\n\n"
)  # fmt: skip
SAMPLES = [
    "Once upon a time",
    " leading and trailing  spaces ",
    "two\nlines\tand a tab",
    "<s> </s> <unk> <0x0A> <|im_start|>",
    "They're 12345 and it's 3.14",
    "\U0001f600 \u05e9\u05dc\u05d5\u05dd \u4f60\u597d \u00e9 e\u0301",
    "a\u200d\u2028b\ufeff",
    "",
    " ",
    "\n\n  x",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def sentence_piece_model(vocab_size: int = 340, model_type: str = "bpe") -> bytes:
    """A tokenizer.model made as Llama 2's was: BPE, every byte, no normalization."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 3), model_writer=model, vocab_size=vocab_size,
        model_type=model_type, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
        allow_whitespace_only_pieces=True, hard_vocab_limit=True, num_threads=1,
    )  # fmt: skip
    return model.getvalue()


@cache
def byte_level_library() -> tokenizers.Tokenizer:
    """A byte-level BPE as SmolLM2's: control tokens first, digits apart."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))  # fmt: skip
    return library


def byte_level_json(*, add_bos: bool = False) -> bytes:
    """The same as a tokenizer.json, with or without a BOS in front of every text."""
    library = tokenizers.Tokenizer.from_str(byte_level_library().to_str())
    if add_bos:
        library.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return library.to_str().encode()


def llama_json() -> bytes:
    """The SentencePiece vocabulary as the tokenizer.json that Hugging Face makes of it."""
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(sentence_piece_model())
    names = [pieces.IdToPiece(i) for i in range(pieces.GetPieceSize())]
    ids = {name: i for i, name in enumerate(names)}
    merges = []
    for name in names[259:]:
        cuts = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        merges += [(ids[name], a, b) for a, b in cuts if a in ids and b in ids]
    merges.sort(key=lambda merge: (merge[0], ids[merge[1]], ids[merge[2]]))
    library = tokenizers.Tokenizer(models.BPE(
        vocab=ids, merges=[(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True,
        byte_fallback=True,
    ))  # fmt: skip
    library.normalizer = tokenizers.normalizers.Sequence([
        tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581"),
    ])  # fmt: skip
    library.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return library.to_str().encode()
