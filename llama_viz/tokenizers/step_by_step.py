"""What a tokenizer does to a text, one step at a time: merges by score, and the longest match.

The tokenizers themselves are run by their libraries; here the same is written to be looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from llama_viz.tokenizer import SPACE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from llama_viz.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Step(NamedTuple):
    """The pieces of a text at one moment, and what can be joined next.

    possible are the neighbours that form a piece of the vocabulary together: the place of the left
    one, and the score of that piece. chosen is the place of the best, None at the end.
    """

    pieces: list[str]
    possible: dict[int, float]
    chosen: int | None


class Learned(NamedTuple):
    """A piece that was learned, and how often its two halves stood side by side."""

    piece: str
    times: int


def marked(text: str) -> str:
    """The text as SentencePiece sees it: one space put in front, and every space written ▁."""
    return SPACE + text.replace(" ", SPACE) if text else ""


def piece_scores(tokenizer: Tokenizer) -> dict[str, float]:
    """The score of every piece that letters can be joined to; control tokens and bytes left out.

    Raises ValueError where the tokenizer has no scores, as byte-level BPE has none.
    """
    scores = getattr(tokenizer, "scores", None)
    if scores is None:
        raise ValueError(
            f"a tokenizer of the kind {tokenizer.kind} has no scores to merge by; "
            "give a SentencePiece model"
        )
    pieces = {token_id: tokenizer.piece(token_id) for token_id in range(tokenizer.vocab_size)}
    no_text = {*tokenizer.control_ids, 0}  # 0 is <unk>, which stands for no text either
    return {
        piece: score
        for (token_id, piece), score in zip(pieces.items(), scores(), strict=True)
        if token_id not in no_text and not _BYTE.fullmatch(piece)
    }


def merge_steps(text: str, scores: Mapping[str, float]) -> list[Step]:
    """Byte-pair encoding of a text: from its characters on, one merge a step, to the end.

    Of all neighbours that form a piece together those with the highest score are joined, the
    leftmost of equal ones (Sennrich et al. 2016; scores as in Kudo and Richardson 2018).
    """
    pieces = list(text)
    steps = []
    while True:
        joined = [left + right for left, right in pairwise(pieces)]
        possible = {place: scores[piece] for place, piece in enumerate(joined) if piece in scores}
        chosen = max(possible, key=possible.__getitem__, default=None)
        steps.append(Step(pieces, possible, chosen))
        if chosen is None:
            return steps
        pieces = [*pieces[:chosen], joined[chosen], *pieces[chosen + 2 :]]


def with_bytes(pieces: Sequence[str], known: Collection[str]) -> list[str]:
    """The pieces, and in place of one that is not known its bytes in UTF-8, such as <0xC3>."""
    spelled: list[str] = []
    for piece in pieces:
        spelled += [piece] if piece in known else [f"<0x{byte:02X}>" for byte in piece.encode()]
    return spelled


def pieces_of(text: str, scores: Mapping[str, float]) -> list[str]:
    """The tokens of a text without BOS: marked, merged to the end, the rest spelled in bytes."""
    return with_bytes(merge_steps(marked(text), scores)[-1].pieces, scores)


def learn_merges(words: Mapping[str, int], n_merges: int) -> list[Learned]:
    """Learn pieces from words and how often each occurs (Sennrich et al. 2016).

    Begin with letters; join the pair of neighbours that is most frequent, everywhere; again and
    again. The first pair found is taken of equally frequent ones. Ends early where nothing is left
    to join.
    """
    spelled = {word: list(SPACE + word) for word in words}
    learned: list[Learned] = []
    while len(learned) < n_merges:
        counts: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                counts[pair] += words[word]
        if not counts:
            break
        (left, right), count = counts.most_common(1)[0]
        learned.append(Learned(left + right, count))
        spelled = {word: _joined(pieces, left, right) for word, pieces in spelled.items()}
    return learned


def longest_match(
    word: str, pieces: Collection[str], *, continuation: str = "##", unknown: str = "[UNK]"
) -> list[str]:
    """WordPiece: the longest piece that the word begins with, then the same with the rest.

    Pieces inside a word begin with `continuation`. A word that cannot be cut in this way is unknown
    as a whole (Schuster and Nakajima 2012; greedy as in BERT, Devlin et al. 2018).
    """
    found: list[str] = []
    rest = word
    while rest:
        mark = continuation if found else ""
        ends = [end for end in range(1, len(rest) + 1) if mark + rest[:end] in pieces]
        if not ends:
            return [unknown]
        found.append(mark + rest[: ends[-1]])
        rest = rest[ends[-1] :]
    return found


def _joined(pieces: list[str], left: str, right: str) -> list[str]:
    """The pieces with every such pair of neighbours as one piece."""
    result: list[str] = []
    place = 0
    while place < len(pieces):
        is_pair = pieces[place : place + 2] == [left, right]
        result.append(left + right if is_pair else pieces[place])
        place += 2 if is_pair else 1
    return result
