"""Loading with proof: a checkpoint's model beside an independent implementation of it."""

from __future__ import annotations

import html
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llama_viz.checkpoints import load
from llama_viz.checkpoints.huggingface import save_huggingface
from llama_viz.errors import CheckpointError
from llama_viz.generation import check_new_tokens, generate
from llama_viz.language_model import LanguageModel
from llama_viz.recorder import record_forward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

LOGITS_TOLERANCE = 1e-4  # absolute
TOLERANCE = 1e-5  # times the largest value, or 1 where that is smaller
N_POSITIONS = 16


@dataclass(frozen=True)
class Comparison:
    """One quantity in both implementations: the largest difference, and what is allowed."""

    quantity: str
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed; one that is NaN is not."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """The comparison of a checkpoint with transformers, as a table.

    weights_read_by says who read the file for the other side: "transformers", or "llama_viz" where
    transformers cannot, so that the computation is compared and the reading is not. n_agreed counts
    the greedy tokens that are the same, from the first, of n_tokens.
    """

    source: str
    weights_read_by: str
    comparisons: tuple[Comparison, ...]
    n_agreed: int
    n_tokens: int

    @property
    def ok(self) -> bool:
        """Whether every difference is within its tolerance and every greedy token is the same."""
        return self.n_agreed == self.n_tokens and all(one.ok for one in self.comparisons)

    @property
    def summary(self) -> str:
        """The outcome in one sentence."""
        outcome = "agrees with transformers" if self.ok else "DIFFERS from transformers"
        return f"{self.source} {outcome} (weights read by {self.weights_read_by})"

    def by_layer(self) -> dict[str, list[float]]:
        """Differences as shares of the largest value (or of 1), layer after layer, by what it is.

        At most TOLERANCE of each is allowed.
        """
        found: dict[str, list[float]] = {}
        for one in self.comparisons:
            kind, layer, _ = one.quantity.partition("layer ")
            if layer:
                kind = kind.rstrip(", ").removesuffix(" after")
                found.setdefault(kind, []).append(one.difference / one.tolerance * TOLERANCE)
        return found

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Quantity, largest difference, tolerance and verdict, as text."""
        for one in self.comparisons:
            verdict = "ok" if one.ok else "DIFFERS"
            yield one.quantity, f"{one.difference:.1e}", f"{one.tolerance:.1e}", verdict
        agreed = f"{self.n_agreed} of {self.n_tokens}"
        verdict = "ok" if self.n_agreed == self.n_tokens else "DIFFERS"
        yield "greedy tokens that are the same", agreed, "all", verdict

    def __str__(self) -> str:
        lines = [_HEAD, *self.rows()]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        table = (
            "  ".join(
                cell.ljust(width) if number in (0, 3) else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return "\n".join([self.summary, *table])

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(line(row, "td") for row in self.rows())
        return (
            f"<table><caption>{html.escape(self.summary)}</caption>"
            f"<thead>{line(_HEAD, 'th')}</thead><tbody>{body}</tbody></table>"
        )


_HEAD = ("quantity", "largest difference", "tolerance", "verdict")


def verify(path: str | Path, *, n_tokens: int = 64, seed: int = 0) -> Verification:
    """Compare a checkpoint, computed here, with the same in transformers, both in float32.

    Hidden states and attention weights of every layer and the logits are compared over 16 random
    token ids (seed), then a greedy continuation of n_tokens. Logits may differ by 1e-4, the rest by
    1e-5 of the largest value. Both models are in memory at once.

    Raises CheckpointError where the checkpoint cannot be loaded, ImportError without transformers.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "lv.verify compares with transformers, which is not installed: pip install transformers"
        ) from error
    n_tokens = check_new_tokens(n_tokens, "n_tokens")
    lm = load(path, device="cpu", dtype=torch.float32)
    # Ids alone, and no EOS that only one of the two would stop at.
    lm = LanguageModel(lm.model, None, lm.name, lm.path, lm.notes)
    n_positions = min(N_POSITIONS, max(1, lm.config.max_seq_len // 2))
    n_tokens = min(n_tokens, lm.config.max_seq_len - n_positions)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(lm.config.vocab_size, (1, n_positions), generator=generator)

    theirs, read_by = _in_transformers(transformers, lm)
    with torch.inference_mode():
        expected = theirs(ids, output_hidden_states=True, output_attentions=True)
        everywhere = torch.ones_like(ids)  # no id stands for padding here
        continued = ids if not n_tokens else theirs.generate(  # a context of one position is full
            ids, attention_mask=everywhere, max_new_tokens=n_tokens, do_sample=False, pad_token_id=0
        )  # fmt: skip
    their_ids = continued[0, n_positions:].tolist()
    our_ids = generate(lm, ids[0].tolist(), n_tokens).new_ids if n_tokens else []
    agreed = [ours == other for ours, other in zip(our_ids, their_ids, strict=False)]
    return Verification(
        source=str(path),
        weights_read_by=read_by,
        comparisons=tuple(_compare(lm, ids, expected)),
        n_agreed=[*agreed, False].index(False),
        n_tokens=n_tokens,
    )


def _compare(lm: LanguageModel, ids: Tensor, expected: Any) -> Iterator[Comparison]:
    wanted = ["embedding", "residual_out", "attention_weights", "logits"]
    trace = record_forward(lm, ids[0].tolist(), taps=wanted, memory_limit="64GB")
    ours = {name: torch.from_numpy(trace[name].values) for name in wanted}
    states = [ours["embedding"], *ours["residual_out"]]
    with torch.inference_mode():
        states[-1] = lm.model.norm(states[-1])  # transformers gives the last one normed
    yield _difference("embedding", states[0], expected.hidden_states[0][0])
    for layer, weights in enumerate(ours["attention_weights"]):
        last = " and the last norm" if layer == lm.config.n_layers - 1 else ""
        theirs = expected.attentions[layer][0]
        yield _difference(f"attention weights, layer {layer}", weights.nan_to_num(), theirs)
        theirs = expected.hidden_states[layer + 1][0]
        yield _difference(f"hidden state after layer {layer}{last}", states[layer + 1], theirs)
    logits = _difference("logits", ours["logits"], expected.logits[0])
    yield Comparison(logits.quantity, logits.difference, LOGITS_TOLERANCE)


def _difference(quantity: str, ours: Tensor, theirs: Tensor) -> Comparison:
    largest = max(1.0, float(theirs.abs().max()))
    return Comparison(quantity, float((ours - theirs).abs().max()), TOLERANCE * largest)


def _in_transformers(transformers: Any, lm: LanguageModel) -> tuple[Any, str]:
    """The model in transformers, written out so that it returns attention, and who read the file.

    The rest of what a checkpoint brings with it, code above all, is not touched.
    """
    path, kind = lm.path, lm.notes.get("format")
    assert path is not None  # it was loaded from there
    with tempfile.TemporaryDirectory() as folder:
        place, read_by, options = path, "transformers", {}
        if kind == "gguf" and find_spec("accelerate"):  # without which transformers reads no GGUF
            place, options = path.parent, {"gguf_file": path.name}
        elif kind != "huggingface":
            place, read_by = Path(folder) / "copy", "llama_viz"
            save_huggingface(LanguageModel(lm.model), place)
        try:
            with _no_progress_bar(transformers.utils.logging):
                model = transformers.LlamaForCausalLM.from_pretrained(
                    place,
                    attn_implementation="eager",
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                    **options,
                )
        except Exception as error:  # whatever is wrong with it there
            message = " ".join(str(error).split())
            raise CheckpointError(f"{path}: transformers cannot open it ({message})") from error
    # Sampling settings and an EOS that lie beside the weights would change what greedy means.
    model.generation_config = transformers.GenerationConfig()
    return model.eval().requires_grad_(False), read_by


@contextmanager
def _no_progress_bar(logging: Any) -> Iterator[None]:
    """Let transformers load in silence, and leave its bars as they were."""
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
