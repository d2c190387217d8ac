"""The cache explorer: what a step computes without a KV cache and with one, and surgery on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz import figures, surgery
from llama_viz.analysis import ITEMSIZE, cache_bytes, config_of, require
from llama_viz.errors import unknown_name
from llama_viz.figures.cache import in_bytes, multiply_adds, step_bounds
from llama_viz.recorder import record
from llama_viz.widgets.explorer import Choice, Explorer
from llama_viz.widgets.messages import characters
from llama_viz.widgets.packing import as_bytes, as_int16

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from llama_viz.language_model import LanguageModel
    from llama_viz.widgets.explorer import Answer
    from llama_viz.widgets.packing import Packed

NEW_TOKENS = 24
# What the two ways are drawn from, and the bytes that are compared with the formula.
TENSORS = {
    "query": "query_rotated",
    "key": "key_rotated",
    "value": "value",
    "weights": "attention_weights",
    "output": "residual_out",
}
CACHE = ("cache_length", "cache_bytes_used", "cache_bytes_reserved")
RECORDED = (
    *TENSORS.values(), *CACHE, "sampled_id", "sampled_probability", "candidate_id",
    "candidate_probability",
)  # fmt: skip

# Longer texts go to the page in blocks of positions, each shown by its largest number.
MOST_ROWS = 256
MOST_BYTES = 24_000_000  # of all layers at once: a saved page, or a small model
MOST_FURTHER_TOKENS = 64
OUTPUT_CELLS = 16  # of each row of the block's output
BARS = 8  # candidates before and after

OPERATIONS = {
    "drop": lambda **_: surgery.drop,
    "blank": lambda **_: surgery.blank,
    "rounded": lambda *, bits, **_: surgery.rounded(bits),
    "window": lambda *, size, **_: surgery.window(size),
    "first_and_window": lambda *, first, size, **_: surgery.first_and_window(first, size),
}


class CacheExplorer(Explorer):
    """A recorded generation with and without its KV cache, side by side and in step.

    source is a trace, or a model that first writes max_new_tokens after a prompt. With a model
    (lm, or the source) rows of the cache can be operated on in mid-run, see llama_viz.surgery.
    state are step, layer and head.

    Raises ValueError for a model without a prompt, a trace with one, and a trace of another model.
    """

    page = "cache"
    title = "KV cache: with and without"

    def __init__(
        self,
        source: xr.Dataset | LanguageModel,
        prompt: str | Sequence[int] | None = None,
        *,
        lm: LanguageModel | None = None,
        max_new_tokens: int = NEW_TOKENS,
        **state: Any,
    ) -> None:
        from llama_viz.language_model import LanguageModel

        if isinstance(source, LanguageModel):
            if prompt is None:
                raise ValueError("a model needs a prompt: give a text or token ids as well")
            lm, self.trace = source, record(source, prompt, max_new_tokens, RECORDED)
        elif prompt is not None:
            raise ValueError("a trace holds its own text; leave out the prompt")
        else:
            require(source)
            self.trace = source
        self.lm = lm
        self.config = config_of(self.trace)
        if lm is not None and lm.config != self.config:
            raise ValueError(
                f"the trace was recorded from {self.trace.attrs['model']}, and {lm.name} has other "
                "sizes; give the model of the trace"
            )
        self.starts, self.ends = step_bounds(self.trace)
        super().__init__(**state)

    def fields(self) -> dict[str, Choice]:
        """The step of the run, and whose tensors are shown."""
        n_steps = self.trace.sizes["step"]
        layers = [int(layer) for layer in self.trace["layer"].values]
        return {
            "step": Choice(range(n_steps), min(1, n_steps - 1)),
            "layer": Choice(layers, layers[0]),
            "head": Choice(range(self.config.n_heads), 0),
        }

    # What the page shows

    def content(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """Sizes, steps, work and bytes; and the tensors of all layers, if they are small."""
        config, trace = self.config, self.trace
        layers = [int(layer) for layer in trace["layer"].values]
        is_small = self._bytes(self.block) <= MOST_BYTES
        sent = layers if whole or is_small else []
        block = self._block_of_all if whole else self.block
        missing = [name for name in TENSORS.values() if name not in trace]
        has_bytes = all(name in trace for name in CACHE)
        header = {
            "model": trace.attrs["model"],
            "tokens": self._tokens(),
            "steps": self._steps(),
            "layers": layers,
            "sent": sent,
            "block": block,
            "n_layers": config.n_layers,
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "kv_head_of_head": config.kv_head_of_head,
            "item_bytes": ITEMSIZE[trace.attrs["dtype"]],
            "formula": cache_bytes(trace).values.tolist(),
            "used": trace["cache_bytes_used"].values.tolist() if has_bytes else None,
            "reserved": trace["cache_bytes_reserved"].values.tolist() if has_bytes else None,
            "work_without": multiply_adds(trace, use_cache=False).tolist(),
            "work_with": multiply_adds(trace, use_cache=True).tolist(),
            "missing": _how_to_record(missing),
            "edited": list(trace.attrs.get("edited", [])),
            "has_model": self.lm is not None,
            "has_written": "sampled_token" in trace.coords,
        }
        return header, self._tensors(sent, block) if sent else {}

    def answer_layer(self, layer: int) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
        """The tensors of one layer."""
        layer = self.fields()["layer"].checked("layer", layer)
        return {"layer": layer}, self._tensors([layer], self.block)

    def answer_surgery(
        self,
        step: int,
        operation: str,
        layers: Sequence[int] | None = None,
        kv_heads: Sequence[int] | None = None,
        first_position: int = 0,
        last_position: int | None = None,
        bits: int = 4,
        size: int = 8,
        first: int = 1,
        repeat: bool = False,
        max_new_tokens: int = 12,
    ) -> Generator[str, None, Answer]:
        """What the model writes after a step with its cache as it was, and operated on."""
        if self.lm is None:
            raise ValueError("surgery runs the model: open CacheExplorer(trace, lm=lm)")
        if operation not in OPERATIONS:
            raise unknown_name("operation", operation, OPERATIONS)
        step = self.fields()["step"].checked("step", step)
        held = int(self.ends[step])
        last_position = held - 1 if last_position is None else last_position
        for name, number, low, high in (
            ("the first position", first_position, 0, held - 1),
            ("the last position", last_position, first_position, held - 1),
            ("the number of further tokens", max_new_tokens, 1, MOST_FURTHER_TOKENS),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {number!r}")
        if held + 1 > self.config.max_seq_len:
            raise ValueError("the context is full after this step: choose an earlier one")
        ids = [int(token_id) for token_id in self.trace["token_id"].values[:held]]
        # A window that moves along applies to what comes later too.
        positions = range(first_position, last_position + 1)
        everything = len(positions) == held
        written = self._written_id(step)
        ids.append(written)
        n_new = min(max_new_tokens, self.config.max_seq_len - held)
        steps = surgery.compare_steps(
            self.lm,
            ids,
            OPERATIONS[operation](bits=bits, size=size, first=first),
            layers=layers,
            kv_heads=kv_heads,
            positions=None if everything else positions,
            repeat=repeat,
            max_new_tokens=n_new,
        )
        taken = []
        for is_operated, taken_step in steps:
            taken.append((is_operated, taken_step))
            way = "operated on" if is_operated else "as it was"
            yield f"With the cache {way}: token {taken_step.index + 1} of {n_new}."
        found = surgery.compared(self.lm, ids, taken)
        before, after = found.probabilities
        likely = dict.fromkeys(
            [*before.topk(min(BARS, len(before))).indices.tolist(),
             *after.topk(min(BARS, len(after))).indices.tolist()]
        )  # fmt: skip
        ranked = sorted(likely, key=lambda i: -max(float(before[i]), float(after[i])))
        candidates = [
            {"id": i, "label": self.lm.label(i), "before": float(before[i]),
             "after": float(after[i])}
            for i in ranked
        ]  # fmt: skip
        return {
            "step": step,
            "held": held,
            "fed": self._labelled([written])[0],
            "kl_divergence": found.kl_divergence,
            "candidates": candidates[: BARS + 2],
            "before": self._labelled(found.before.new_ids),
            "after": self._labelled(found.after.new_ids),
            "first_difference": found.first_difference,
        }, {}

    # For a page without a kernel

    def picture(self) -> Figure:
        """The step as a figure: both ways, and the work of all steps."""
        if any(TENSORS[name] not in self.trace for name in ("query", "key", "value", "weights")):
            require(self.trace, *CACHE)
            return figures.cache_growth(self.trace)
        return figures.with_and_without_cache(self.trace, **self.state)

    def describe(self) -> str:
        """The step in words."""
        step = self.state["step"]
        start, end = int(self.starts[step]), int(self.ends[step])
        without, cached = (
            int(multiply_adds(self.trace, use_cache=way)[: step + 1].sum()) for way in (False, True)
        )
        held = in_bytes(int(cache_bytes(self.trace).values[step].sum()))
        return (
            f"Cache explorer: step {step} of a run of {self.trace.attrs['model']}, layer "
            f"{self.state['layer']}, head {self.state['head']}. Without a KV cache {end} queries, "
            f"keys and values are computed, with one {end - start}. Multiply-adds so far: "
            f"{without:,} without, {cached:,} with. The cache holds {held}."
        )

    # Parts

    @property
    def block(self) -> int:
        """Positions that one row of the page stands for."""
        return -(-self.trace.sizes["position"] // MOST_ROWS)

    @property
    def _block_of_all(self) -> int:
        """The same where all layers must fit in one page."""
        block = self.block
        while self._bytes(block) > MOST_BYTES and block < self.trace.sizes["position"]:
            block += 1
        return block

    def _bytes(self, block: int) -> int:
        """What the tensors of all layers take on their way."""
        n_rows = -(-self.trace.sizes["position"] // block)
        config = self.config
        vectors = 2 * (config.n_heads + 2 * config.n_kv_heads) * config.head_dim + 2 * config.dim
        return self.trace.sizes["layer"] * n_rows * (vectors + config.n_heads * n_rows)

    def _tensors(self, layers: list[int], block: int) -> dict[str, np.ndarray | Packed]:
        """Each (layer, row, head, head_feature); weights (layer, head, row, row); output pooled."""
        arrays: dict[str, np.ndarray | Packed] = {}
        for name, variable in TENSORS.items():
            if variable not in self.trace:
                continue
            values = self.trace[variable].sel(layer=layers).values
            if name == "weights":
                values = pooled(pooled(np.nan_to_num(values), block, 2), block, 3)
                arrays[name] = as_bytes(values)
            elif name == "output":
                width = -(-values.shape[-1] // OUTPUT_CELLS)
                arrays[name] = as_int16(pooled(pooled(values, block, 1), width, 2))
            else:
                arrays[name] = as_int16(pooled(values, block, 1))
        return arrays

    def _tokens(self) -> list[dict[str, Any]]:
        """The tokens along position, and after them the one that was written last."""
        labels = [str(label) for label in self.trace["token"].values]
        ids = [int(token_id) for token_id in self.trace["token_id"].values]
        if "sampled_token" in self.trace.coords and self.trace.sizes["step"]:
            labels.append(str(self.trace["sampled_token"].values[-1]))
            known = "sampled_id" in self.trace
            ids.append(int(self.trace["sampled_id"].values[-1]) if known else -1)
        return [
            {"id": token_id, "label": label, "character": character}
            for token_id, label, character in zip(ids, labels, characters(labels), strict=True)
        ]

    def _steps(self) -> list[dict[str, Any]]:
        known = "sampled_probability" in self.trace
        return [
            {
                "start": int(start),
                "end": int(end),
                "probability": float(self.trace["sampled_probability"].values[step])
                if known
                else None,
            }
            for step, (start, end) in enumerate(zip(self.starts, self.ends, strict=True))
        ]

    def _written_id(self, step: int) -> int:
        """The token that a step wrote; of a text that was only read, the likeliest."""
        ids = self.trace["token_id"].values
        if self.ends[step] < len(ids):
            return int(ids[self.ends[step]])
        for name in ("sampled_id", "candidate_id"):
            if name in self.trace:
                return int(np.ravel(self.trace[name].values[step])[0])
        raise ValueError(
            "which token the last step wrote was not recorded: choose an earlier step, or record "
            'with lv.record(lm, prompt, taps=["sampled_id", ...])'
        )

    def _labelled(self, ids: list[int]) -> list[dict[str, Any]]:
        assert self.lm is not None
        labels = [self.lm.label(token_id) for token_id in ids]
        return [
            {"id": token_id, "label": label, "character": character}
            for token_id, label, character in zip(ids, labels, characters(labels), strict=True)
        ]


def pooled(values: np.ndarray, block: int, axis: int) -> np.ndarray:
    """Blocks along an axis, each the one of its numbers that is largest in size."""
    if block == 1:
        return values
    n_rows = -(-values.shape[axis] // block)
    missing = n_rows * block - values.shape[axis]
    padding = [(0, missing if other == axis else 0) for other in range(values.ndim)]
    padded = np.moveaxis(np.pad(values, padding), axis, -1)
    parts = padded.reshape(*padded.shape[:-1], n_rows, block)
    largest = np.abs(parts).argmax(axis=-1)[..., None]
    return np.moveaxis(np.take_along_axis(parts, largest, axis=-1)[..., 0], -1, axis)


def _how_to_record(missing: list[str]) -> str:
    if not missing:
        return ""
    taps = ", ".join(f'"{name}"' for name in missing)
    return (
        f"Not recorded: {', '.join(missing)}. Record with lv.record(lm, prompt, taps=[{taps}, …])."
    )
