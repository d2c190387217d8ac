"""Several prompts recorded in one run: padded on the left, so that all of them end together."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from llama_viz.errors import MemoryLimitError
from llama_viz.generation import Writer, check_new_tokens, forced_ids
from llama_viz.kv_cache import KVCache
from llama_viz.recorder import Recorder, RecordingSize, format_bytes, parse_bytes
from llama_viz.trace import join_prompts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import xarray as xr

    from llama_viz.generation import Sampling
    from llama_viz.language_model import LanguageModel


def record_prompts(
    lm: LanguageModel,
    prompts: Sequence[str | Sequence[int]],
    max_new_tokens: int,
    taps: Iterable[str] | None,
    layers: Iterable[int] | None,
    memory_limit: str | int | None,
    n_candidates: int,
    sampling: Sampling,
    forced: Sequence[Sequence[int]] = (),
    *,
    half_precision: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """What record() does with a list of prompts; the trace has the leading dimension prompt.

    Each prompt has a recorder of its own, which takes its row of every value and leaves out its
    padding. A text that has ended passes on with the others, unheard.

    Raises ValueError where the longest prompt leaves no room in the context, or forced ids are not
    those of each prompt, MemoryLimitError where all traces together could pass memory_limit.
    """
    max_new_tokens = check_new_tokens(max_new_tokens)
    all_ids = ids_of_prompts(lm, prompts, max_new_tokens)
    all_forced = forced_of_prompts(lm, forced, len(prompts), max_new_tokens)
    longest = max(len(ids) for ids in all_ids)
    n_columns = longest + max_new_tokens - 1
    # Each recorder goes through them: an iterator would be spent by the first.
    kept = layers if layers is None or isinstance(layers, int) else list(layers)
    named = taps if taps is None or isinstance(taps, str) else list(taps)
    recorders = [
        Recorder(
            lm, prompt, ids, max_new_tokens, named, kept, None, n_candidates, sampling, first,
            batch_row=row, padding=longest - len(ids), half_precision=half_precision,
        )
        for row, (prompt, ids, first) in enumerate(zip(prompts, all_ids, all_forced, strict=True))
    ]  # fmt: skip
    check_size([recorder.plan.size for recorder in recorders], memory_limit)
    writers = [
        Writer(lm, ids, max_new_tokens, sampling, first)
        for ids, first in zip(all_ids, all_forced, strict=True)
    ]
    paddings = [recorder.padding for recorder in recorders]
    cache = KVCache(lm.config, len(prompts), n_columns, padding=paddings)
    # Which ids stand in the padding does not matter: nobody looks at them.
    columns = [[0] * padding + ids for padding, ids in zip(paddings, all_ids, strict=True)]
    with ExitStack() as stack:
        for recorder in recorders:
            stack.enter_context(recorder.listening())
        for _ in tqdm(range(max_new_tokens), "recording", unit="token", disable=not progress):
            _step(lm, recorders, writers, cache, columns)
            if all(writer.done for writer in writers):
                break
            columns = [[writer.ids[-1]] for writer in writers]
    return join_prompts([recorder.trace() for recorder in recorders])


def ids_of_prompts(
    lm: LanguageModel, prompts: Sequence[str | Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """The ids of each prompt; raises ValueError where the longest leaves no room to write."""
    all_ids = [lm.prompt_ids(prompt) for prompt in prompts]
    longest = max(len(ids) for ids in all_ids)
    if longest + max_new_tokens - 1 > lm.config.max_seq_len:
        raise ValueError(
            f"the longest prompt has {longest} tokens, and {max_new_tokens} new ones do not fit "
            f"beside it in the context of {lm.config.max_seq_len}; write fewer"
        )
    return all_ids


def forced_of_prompts(
    lm: LanguageModel, forced: Sequence[Sequence[int]], n_prompts: int, max_new_tokens: int
) -> list[list[int]]:
    """The ids that each of several prompts is to write first; raises ValueError as forced_ids()."""
    if not len(forced):
        return [[] for _ in range(n_prompts)]
    if len(forced) != n_prompts or any(np.ndim(each) != 1 for each in forced):
        raise ValueError(
            f"{n_prompts} prompts need {n_prompts} lists of ids in forced=, [] where nothing is "
            f"forced; got {forced!r}"
        )
    return [forced_ids(lm, each, max_new_tokens) for each in forced]


def check_size(sizes: Sequence[RecordingSize], memory_limit: str | int | None) -> None:
    """Raise MemoryLimitError where the traces of several prompts could pass it together."""
    size = RecordingSize(
        {name: sum(each.by_variable[name] for each in sizes) for name in sizes[0].by_variable}
    )
    if memory_limit is not None and size.total > parse_bytes(memory_limit):
        raise MemoryLimitError(
            f"the traces of {len(sizes)} prompts would take {size}, more than the memory limit "
            f"of {format_bytes(parse_bytes(memory_limit))}; choose taps= or layers=, give fewer "
            "prompts, or raise memory_limit="
        )


def _step(
    lm: LanguageModel,
    recorders: list[Recorder],
    writers: list[Writer],
    cache: KVCache,
    columns: list[list[int]],
) -> None:
    """Pass one more column, or the prompts, and let every text that goes on write a token."""
    began = time.perf_counter()
    going_on: list[tuple[Recorder, Writer, int]] = []
    with ExitStack() as passes, torch.inference_mode():
        for recorder, writer in zip(recorders, writers, strict=True):
            if not writer.done:
                start = max(0, cache.length - recorder.padding)
                passes.enter_context(recorder.passing(start, len(writer.ids)))
                going_on.append((recorder, writer, start))
        logits = lm.model(torch.tensor(columns, device=lm.device), cache=cache)
    for recorder, writer, start in going_on:
        recorder.keep_step(writer.write(logits[recorder.batch_row, -1], start, began))
