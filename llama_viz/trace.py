"""The trace: everything recorded from one run, as one labelled xarray.Dataset.

This module holds the vocabulary of variables and dimensions, and saves and loads traces. It needs
no model: a trace in a file can be explored with no weights at hand.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from llama_viz.errors import TraceError
from llama_viz.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Variable:
    """One variable of a trace: its dimensions in order, its numpy type and what it is."""

    name: str
    dims: tuple[str, ...]
    meaning: str
    dtype: str = "float32"
    unit: str = ""


_FEATURES = ("layer", "position", "feature")
_HEADS = ("layer", "position", "head", "head_feature")
_KV_HEADS = ("layer", "position", "key_value_head", "head_feature")
_MAP = ("layer", "head", "query_position", "key_position")
_NEURONS = ("layer", "position", "neuron")

VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable("embedding", ("position", "feature"), "row of the embedding for each token"),
        Variable("rms", ("norm", "position"), "sqrt(mean(x^2) + eps) of the input of each RMSNorm"),
        Variable("rotation_angle", ("position", "pair"), "angle applied to each pair of features",
                 unit="radian"),
        Variable("query", _HEADS, "queries before rotation"),
        Variable("key", _KV_HEADS, "keys before rotation"),
        Variable("value", _KV_HEADS, "values"),
        Variable("query_rotated", _HEADS, "queries after rotation"),
        Variable("key_rotated", _KV_HEADS, "keys after rotation, as the cache holds them"),
        Variable("attention_scores", _MAP,
                 "query times key / sqrt(head_dim), before the mask; NaN above the diagonal"),
        Variable("attention_weights", _MAP, "softmax of the masked scores; 0 above the diagonal"),
        Variable("head_output", _HEADS, "values mixed by the weights of each head"),
        Variable("attention_output", _FEATURES, "what attention adds to the residual stream"),
        Variable("residual_in", _FEATURES, "residual stream before each block"),
        Variable("residual_middle", _FEATURES, "residual stream after attention"),
        Variable("gate", _NEURONS, "gate of the feed-forward, before SiLU"),
        Variable("up", _NEURONS, "up of the feed-forward"),
        Variable("neuron_activation", _NEURONS, "silu(gate) * up"),
        Variable("feed_forward_output", _FEATURES,
                 "what the feed-forward adds to the residual stream"),
        Variable("residual_out", _FEATURES, "residual stream after each block"),
        Variable("logits", ("position", "vocabulary"), "scores of every next token"),
        Variable("cache_length", ("step", "layer"), "positions held by the KV cache after the step",
                 "int64"),
        Variable("cache_bytes_used", ("step", "layer"), "bytes of the positions held", "int64",
                 "byte"),
        Variable("cache_bytes_reserved", ("step", "layer"), "bytes of the cache's buffers", "int64",
                 "byte"),
        Variable("step_seconds", ("step",), "time of the step, recording included", "float64",
                 "second"),
        Variable("step_positions", ("step",), "positions that passed through the model", "int64"),
        Variable("sampled_id", ("step",), "the token that the step wrote", "int64"),
        Variable("sampled_probability", ("step",),
                 "the model's probability of that token, before temperature, top_k and top_p"),
        Variable("entropy", ("step",), "entropy of the next-token probabilities", unit="nat"),
        Variable("candidate_id", ("step", "rank"), "the likeliest next tokens", "int64"),
        Variable("candidate_probability", ("step", "rank"), "their probabilities"),
        Variable("lens_id", ("layer", "position", "rank"),
                 "the likeliest next tokens if the final norm and the output head read "
                 "residual_out here", "int64"),
        Variable("lens_probability", ("layer", "position", "rank"), "their probabilities"),
        Variable("norm_gain", ("norm", "feature"), "the gain of each RMSNorm"),
        Variable("head_contribution_norm", ("layer", "head", "position"),
                 "length of what each head adds to the residual stream"),
    )
}  # fmt: skip

# The four signals: RMS statistics, rotation angles (the queries and keys before and after let them
# be measured), attention maps, and the growth of the KV cache.
SIGNALS: tuple[str, ...] = (
    "rms", "rotation_angle", "query", "key", "query_rotated", "key_rotated",
    "attention_scores", "attention_weights",
    "cache_length", "cache_bytes_used", "cache_bytes_reserved",
)  # fmt: skip


def build(
    values: dict[str, np.ndarray], coordinates: dict[str, Any], attributes: dict[str, Any]
) -> xr.Dataset:
    """Put recorded arrays together; every variable gets its meaning and unit as attributes."""
    data = {}
    for name, value in values.items():
        data[name] = xr.Variable(VARIABLES[name].dims, value, notes_of(name))
    return xr.Dataset(data, coordinates, attributes)


def notes_of(name: str) -> dict[str, str]:
    """What a variable of a trace says of itself: its meaning and its unit."""
    variable = VARIABLES[name]
    unit = {"units": variable.unit} if variable.unit else {}
    return {"long_name": variable.meaning, **unit}


def region(
    name: str, start: int, end: int, row: int | slice = slice(None), first: int = 0
) -> tuple[int | slice, ...]:
    """Where positions start to end of a variable lie, in one row (a layer, a norm) or in all.

    first is the position that the array begins with.
    """
    here = slice(start - first, end - first)
    spans = {"layer": row, "norm": row, "position": here, "query_position": here,
             "key_position": slice(end)}  # fmt: skip
    return tuple(spans.get(dim, slice(None)) for dim in VARIABLES[name].dims)


# What the texts of a batch differ in: one value for each prompt, in a list.
_OF_EACH_PROMPT = ("prompt", "prompt_ids", "forced_ids", "text", "stop_reason")
_INDEX = ("position", "query_position", "key_position", "step")


def join_prompts(traces: Sequence[xr.Dataset]) -> xr.Dataset:
    """Traces of several prompts, recorded alike, as one with the leading dimension prompt.

    Each text begins at position 0. Behind the end of a shorter one stand NaN, -1 or an empty text.
    """
    longest = {dim: max(trace.sizes[dim] for trace in traces) for dim in traces[0].sizes}
    joined: dict[str, xr.Variable] = {}
    for name, variable in traces[0].variables.items():
        if name in variable.dims or not {*_INDEX} & {*variable.dims}:
            chosen = max((trace.variables[name] for trace in traces), key=lambda found: found.size)
            joined[str(name)] = chosen
            continue
        texts = [trace.variables[name].values for trace in traces]
        shape = (len(traces), *(longest[dim] for dim in variable.dims))
        dtype = np.result_type(*texts)
        filled = np.full(shape, _NOTHING[dtype.kind], dtype)
        for row, values in zip(filled, texts, strict=True):
            row[tuple(slice(size) for size in values.shape)] = values
        joined[str(name)] = xr.Variable(("prompt", *variable.dims), filled, variable.attrs)
    lengths = {
        f"n_{dim}s": ("prompt", [trace.sizes[dim] for trace in traces])
        for dim in ("position", "step")
    }
    attributes = {**traces[0].attrs, "bytes_planned": sum(t.attrs["bytes_planned"] for t in traces)}
    for name in _OF_EACH_PROMPT:
        attributes[name] = [trace.attrs[name] for trace in traces]
    data = {name: joined[name] for name in map(str, traces[0].data_vars)}
    coordinates = {name: joined[name] for name in map(str, traces[0].coords)}
    prompt = {"prompt": np.arange(len(traces)), **lengths}
    return xr.Dataset(data, {**coordinates, **prompt}, attributes)


_NOTHING = {"f": np.nan, "i": -1, "U": ""}


def select_prompt(trace: xr.Dataset, number: int) -> xr.Dataset:
    """The trace of one prompt of a batch, as if it had been recorded alone.

    Raises ValueError where the trace is of a single prompt, or has no such number.
    """
    if "prompt" not in trace.dims:
        raise ValueError("this trace is of a single prompt: use it as it is")
    n_prompts = trace.sizes["prompt"]
    is_whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not is_whole or not 0 <= number < n_prompts:
        raise ValueError(f"prompt {number!r} is not in this trace; choose 0 to {n_prompts - 1}")
    one = trace.isel(prompt=number)
    n_positions, n_steps = int(one.n_positions), int(one.n_steps)
    ends = {dim: slice(n_steps if dim == "step" else n_positions) for dim in _INDEX}
    one = one.isel({dim: end for dim, end in ends.items() if dim in one.dims})
    one = one.drop_vars(["prompt", "n_positions", "n_steps"])
    # Of a trace that was saved when nothing could be forced in a batch, forced_ids is empty.
    told = {name: trace.attrs[name] for name in _OF_EACH_PROMPT}
    attributes = {name: values[number] if values else values for name, values in told.items()}
    return one.assign_attrs(attributes)


def save_trace(trace: xr.Dataset, path: str | Path) -> None:
    """Write a trace to one netCDF4 (HDF5) file; texts are JSON, since HDF5 refuses NUL.

    Nothing is left behind when writing fails, and an older file stays as it was. Raises TypeError
    for what is no trace.
    """
    if not isinstance(trace, xr.Dataset):
        raise TypeError(f"expected a trace (xarray.Dataset), got {type(trace).__name__}")
    packed = _map_texts(trace, json.dumps)
    packed.attrs = {
        "llama_viz_trace": FORMAT_VERSION,
        "attributes": json.dumps(trace.attrs, default=_plain),
    }
    compressed = {
        name: {"zlib": True, "complevel": 1, "shuffle": True}
        for name, variable in packed.data_vars.items()
        if variable.nbytes > 4096
    }
    with written_whole(path) as unfinished:
        packed.to_netcdf(unfinished, engine="h5netcdf", encoding=compressed)


def _plain(value: Any) -> Any:
    """What JSON can say of an attribute that somebody added, such as a number of numpy."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(
        f"an attribute of the trace is of the type {type(value).__name__}, which a file cannot "
        "hold; use texts, numbers, lists and dicts"
    )


def load_trace(path: str | Path) -> xr.Dataset:
    """Read a trace written by save_trace, whole, into memory.

    A folder that record(path=...) wrote is opened, and its values are read as they are asked for.

    Raises TraceError where the file is missing, damaged, cut short, or holds something else.
    """
    path = Path(path)
    if os.path.isdir(path):  # which takes a name that no file can have for one that is not there
        from llama_viz.trace_folder import open_trace_folder

        return open_trace_folder(path)
    if not os.path.isfile(path):
        raise TraceError(f"{path}: there is no such file")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as file:
            packed = file.load()
        version = packed.attrs.get("llama_viz_trace")
        if version is None:
            raise TraceError(f"{path}: holds data, but not a trace written by llama_viz.save_trace")
        if int(version) > FORMAT_VERSION:
            raise TraceError(
                f"{path}: written in trace format {version}, this version reads up to "
                f"{FORMAT_VERSION}; update llama_viz"
            )
        attributes = json.loads(packed.attrs["attributes"])
        if not isinstance(attributes, dict):
            raise ValueError("the attributes of a trace are an object")
        trace = _map_texts(packed, json.loads)
        trace.attrs = attributes
        return trace
    except TraceError:
        raise
    except Exception as error:  # a damaged HDF5 file raises whatever its damage leads to
        raise TraceError(
            f"{path}: cannot be read as a trace; it may be damaged or cut short "
            f"({type(error).__name__})"
        ) from error


def _map_texts(dataset: xr.Dataset, convert: Any) -> xr.Dataset:
    """The dataset with every text in its variables and coordinates converted."""
    dataset = dataset.copy()
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "UOT":
            flat = [convert(str(text)) for text in variable.values.ravel()]
            texts = np.array(flat, dtype=object).reshape(variable.shape)
            dataset[name] = xr.Variable(variable.dims, texts, variable.attrs)
    return dataset
