"""The embedded models' tokenizer: SentencePiece BPE, trained on the stories."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from sentencepiece import SentencePieceTrainer

from llama_viz.files import written_whole
from llama_viz.tokenizers.sentence_piece import SentencePieceTokenizer
from llama_viz.training.stories import tell_story

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llama_viz.tokenizer import Tokenizer


def train_tokenizer(vocab_size: int, *, seed: int = 0, n_stories: int = 4000) -> Tokenizer:
    """Learn pieces from a seed's first training stories; equal arguments give equal bytes.

    No text is changed before it is cut: what no piece covers is spelled in single bytes, so every
    text comes back as it was. vocab_size counts 3 special tokens and the 256 bytes.

    Raises ValueError where the stories cannot fill the vocabulary, or it cannot hold their letters.
    """
    stories = (tell_story(number, seed=seed).text for number in range(n_stories))
    return tokenizer_of(stories, vocab_size)


def tokenizer_of(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn pieces from texts of at most 4,192 bytes each, as train_tokenizer does from stories.

    Raises ValueError where the texts cannot fill the vocabulary, or it cannot hold their letters.
    """
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,  # several threads may break ties differently
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"no tokenizer of {vocab_size} tokens: {error}") from error
    return SentencePieceTokenizer(model.getvalue())


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as a SentencePiece model file."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(tokenizer.model)
