"""Exercises of notebook 02: the first merge, the tokens of an emoji, the size of a table."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llama_viz.exercises.grading import NOT_YET, Verdict, grade_number
from llama_viz.tokenizer import visible
from llama_viz.tokenizers.step_by_step import marked, merge_steps, piece_scores

if TYPE_CHECKING:
    from llama_viz.config import ModelConfig
    from llama_viz.tokenizer import Tokenizer


def first_merge(tokenizer: Tokenizer, answer: Any, *, word: str) -> Verdict:
    """Grade which piece the tokenizer's first merge makes of a word.

    Raises ValueError for a word of which nothing can be joined.
    """
    scores = piece_scores(tokenizer)
    start = merge_steps(marked(word), scores)[0]
    if start.chosen is None:
        raise ValueError(f"no two letters of {word!r} form a piece; ask for another word")
    if answer is None:
        return NOT_YET
    if not isinstance(answer, str):
        return Verdict(False, "Answer with a piece in quotation marks, such as 'th'.")
    pairs = [left + right for left, right in pairwise(start.pieces)]
    best = pairs[start.chosen]
    shown, piece = visible(answer), answer.replace(" ", "\u2581")
    if piece == best:
        return Verdict(True, f"Right: {best!r} has the highest score, {scores[best]:g}.")
    if piece in pairs and piece in scores:
        return Verdict(
            False,
            f"Not {shown!r}: its score is {scores[piece]:g}, and another pair has a higher one. "
            "Nearer to 0 is higher.",
        )
    if piece in pairs:
        return Verdict(False, f"Not {shown!r}: the vocabulary has no such piece.")
    if len(piece) != 2:
        return Verdict(False, f"Not {shown!r}: the first merge joins two single letters.")
    return Verdict(False, f"Not {shown!r}: these two do not stand side by side in {start.pieces}.")


def token_count(tokenizer: Tokenizer, answer: Any, *, text: str) -> Verdict:
    """Grade how many tokens a text becomes, BOS included where the tokenizer adds one."""
    ids = tokenizer.encode(text)
    pieces = " ".join(tokenizer.label(token_id) for token_id in ids)
    n_bytes = len(text.encode())
    slips: dict[float, str] = {
        len(ids) - 1: "One is missing: the token that begins every text.",
        len(ids) - 2: "The text gets two things in front: BOS, and a space.",
        len(text): "That counts characters; what no piece covers is spelled in its bytes.",
    }
    slips.pop(len(ids), None)
    return grade_number(
        answer,
        len(ids),
        right=f"{len(ids)} tokens, {pieces}.",
        hint=f"Its UTF-8 has {n_bytes} bytes: len(text.encode()). What stands before them?",
        slips=slips,
    )


def table_parameters(config: ModelConfig, answer: Any) -> Verdict:
    """Grade how many parameters the embedding of a model has."""
    truth = config.vocab_size * config.dim
    slips: dict[float, str] = {
        2 * truth: "That is the embedding and the output head together.",
        4 * truth: "That counts bytes of float32; count numbers.",
        truth * config.n_layers: "There is one embedding, below all layers.",
        config.vocab_size + config.dim: "Multiply: every one of the tokens has a whole row.",
        config.vocab_size**2: "A one-hot row is as long as the vocabulary; an embedding is not.",
    }
    slips.pop(truth, None)
    return grade_number(
        answer,
        truth,
        right=f"{config.vocab_size:,} rows of {config.dim:,} numbers are {truth:,} parameters, "
        f"{truth / config.n_parameters:.1%} of all.",
        hint="One row for each token of the vocabulary, each with dim numbers.",
        slips=slips,
        write="{:,.10g}".format,
    )
