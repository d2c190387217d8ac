"""A trace in a folder, written while it is recorded and opened without being read: zarr, format 3.

What is on disk need not fit in memory. Values are stored in chunks: one layer, and BLOCK positions
of each kind. A chunk that holds nothing is not written; so of an attention map only the blocks that
reach the diagonal or lie below it take room. zarr takes a chunk that was lost for one that holds
nothing: so the description tells which files there are.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from llama_viz.errors import TraceError
from llama_viz.files import folder_written_whole
from llama_viz.trace import FORMAT_VERSION, VARIABLES, notes_of, region

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import zarr

SUFFIX = ".zarr"
BLOCK = 256  # positions of a chunk
CHUNK_BYTES = 2**22  # about; a chunk of long rows has fewer positions
POSITIONS = ("position", "query_position", "key_position")
ONE_BY_ONE = ("layer", "norm")
COORDINATES = (
    *POSITIONS, "token_id", "token", "step_of_position", "step", "layer", "head", "kv_head_of_head",
    "norm", "norm_layer", "norm_kind", "sampled_token", "query_token", "key_token",
    "key_value_head", "pair", "rank", "candidate_token", "lens_token", "vocabulary_token",
)  # fmt: skip

# What a stranger's folder may ask of the reader: numbers and texts, as they are or compressed.
CODECS = ("bytes", "vlen-utf8", "zstd")
KEYS: Any = {"name": "default", "configuration": {"separator": "."}}  # one folder for a variable
CHUNK = re.compile(r"c(\.[0-9]+)*")  # the name of its file
TYPES = ("float16", "float32", "float64", "int64", "string")
MOST_CHUNK_BYTES = 2**30
MOST_AT_ONCE = 2**26  # numbers or texts of a coordinate, which is read when the trace is opened


class TraceWriter:
    """Writes the variables of a trace into an empty folder, a few rows at a time."""

    def __init__(
        self, folder: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
    ) -> None:
        import zarr
        from zarr.storage import LocalStore

        self.folder = folder
        self._group: zarr.Group = zarr.create_group(LocalStore(folder), zarr_format=3)
        self._arrays = {name: self._create(name, VARIABLES[name].dims, shape, dtypes[name],
                                           notes_of(name)) for name, shape in shapes.items()
        }  # fmt: skip

    def put(
        self, name: str, values: np.ndarray, start: int, end: int, row: int | slice = slice(None)
    ) -> None:
        """Write positions start to end of a variable, in one row (a layer, a norm) or in all."""
        self._arrays[name][region(name, start, end, row)] = values

    def finish(
        self,
        sizes: Mapping[str, int],
        values: Mapping[str, np.ndarray],
        coordinates: Mapping[str, Any],
        attributes: Mapping[str, Any],
        labels: np.ndarray,
    ) -> None:
        """Cut to what was reached, add what was held in memory, and mark the trace as complete.

        labels (vocabulary,) are those of the tokens: the ids of the lens get theirs from here, a
        layer at a time.
        """
        for name, array in self._arrays.items():
            shape = tuple(sizes[dim] for dim in VARIABLES[name].dims)
            if shape != array.shape:
                array.resize(shape)
        for name, value in values.items():
            self._whole(name, VARIABLES[name].dims, value, notes_of(name))
        for name, value in coordinates.items():
            dims, numbers = value if isinstance(value, tuple) else ((name,), value)
            self._whole(name, (dims,) if isinstance(dims, str) else dims, np.asarray(numbers))
        if (ids := self._arrays.get("lens_id")) is not None:
            texts = self._create("lens_token", VARIABLES["lens_id"].dims, ids.shape, "str")
            for row in range(ids.shape[0]):
                texts[row] = labels[np.asarray(ids[row])]
        self._group.attrs.update({
            "attributes": json.dumps(attributes),
            "files": {name: _files(self.folder / name) for name in sorted(self._group.keys())},
            "llama_viz_trace": FORMAT_VERSION,
        })  # fmt: skip

    def _whole(
        self, name: str, dims: tuple[str, ...], values: np.ndarray, notes: Any = None
    ) -> None:
        dtype = "str" if values.dtype.kind == "U" else str(values.dtype)
        self._create(name, dims, values.shape, dtype, notes)[...] = values

    def _create(
        self,
        name: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: str,
        notes: Any = None,
    ) -> zarr.Array:
        from zarr.codecs import ZstdCodec

        nothing = {"str": "", "int64": 0}.get(dtype, 0.0)
        return self._group.create_array(
            name,
            shape=shape,
            chunks=_chunk(dims, shape, 8 if dtype == "str" else np.dtype(dtype).itemsize),
            dtype=dtype,
            fill_value=np.nan if name == "attention_scores" else nothing,
            compressors=[ZstdCodec(level=1, checksum=True)],
            dimension_names=dims,
            attributes=notes,
            chunk_key_encoding=KEYS,
            config={"write_empty_chunks": False},
        )


def _chunk(dims: tuple[str, ...], shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The shape of a chunk."""
    chunk = [
        1 if dim in ONE_BY_ONE else min(BLOCK, size) if dim in POSITIONS else size
        for dim, size in zip(dims, shape, strict=True)
    ]
    if "position" in dims:  # a map keeps its squares
        at = dims.index("position")
        of_one = math.prod(chunk) // max(1, chunk[at]) * itemsize
        chunk[at] = min(chunk[at], max(1, CHUNK_BYTES // max(1, of_one)))
    return tuple(max(1, size) for size in chunk)


@contextmanager
def trace_written_whole(path: str | Path) -> Iterator[Path]:
    """Give a folder to write a trace into, and put it at `path` when it is complete.

    A trace that is there already is replaced. After an error or an interrupt nothing is left.

    Raises ValueError for another name than one ending in .zarr, OSError where a folder is missing
    or something else is in the way.
    """
    check_path(path)
    with folder_written_whole(path, ("zarr.json", *VARIABLES, *COORDINATES)) as unfinished:
        yield unfinished


def check_path(path: str | Path) -> None:
    """Raise ValueError unless the name is one of a folder that a trace is written into."""
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(
            f"a trace that is written as it goes is a folder: end its name in {SUFFIX}, "
            f"got {str(path)!r}"
        )


def open_trace_folder(path: str | Path) -> xr.Dataset:
    """The trace in a folder; its values are read when they are asked for.

    Raises TraceError where the folder holds something else, is incomplete, or was not written by
    record(path=...): only numbers and texts in a few plain forms are read. So does reading values
    later, where the files of a variable are damaged or missing, or the folder is another one.
    """
    path = Path(path)
    try:
        attributes = _check(path)
        stored = xr.open_dataset(path, engine=_TraceFolder)
        found = {name: _with_texts(variable) for name, variable in stored.variables.items()}
    except TraceError:
        raise
    except Exception as error:  # a damaged description is wrong in any way it likes
        raise _damaged(path, type(error).__name__) from error
    return xr.Dataset(
        {name: found[name] for name in VARIABLES if name in found},
        {name: found[name] for name in COORDINATES if name in found},
        attributes,
    )


class _TraceFolder(BackendEntrypoint):
    """How xarray opens the folder; what it has read once it keeps, as of every file."""

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: Any = None) -> xr.Dataset:
        import zarr
        from zarr.storage import LocalStore

        path = Path(filename_or_obj)
        group = zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3)
        written = _written(path)
        return xr.Dataset({
            name: xr.Variable(
                array.metadata.to_dict()["dimension_names"],
                indexing.LazilyIndexedArray(_StoredArray(path, name, array, written)),
                dict(array.attrs),
            )
            for name, array in group.arrays()
        })  # fmt: skip


class _StoredArray(BackendArray):
    """The values of a variable, read when they are asked for."""

    def __init__(self, folder: Path, name: str, array: zarr.Array, written: int | None) -> None:
        self.folder, self.name, self.array, self._written = folder, name, array, written
        self._chunks = _chunks(folder / name)
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        if _written(self.folder) != self._written:
            raise TraceError(
                f"{self.folder}: moved, deleted or replaced since it was opened, {self.name} "
                "cannot be read; load the trace again"
            )
        if _chunks(self.folder / self.name) != self._chunks:
            raise self._damaged("some are missing")
        try:
            return self.array.oindex[key]
        except (MemoryError, OSError):  # of the machine, not of what is written there
            raise
        except Exception as error:  # damaged chunks raise whatever their damage leads to
            raise self._damaged(type(error).__name__) from error

    def _damaged(self, what: str) -> TraceError:
        return TraceError(
            f"{self.folder}: the files of {self.name} are damaged, its values cannot be read "
            f"({what}); record the run again"
        )


def _with_texts(variable: xr.Variable) -> xr.Variable:
    """A variable whose texts are those of NumPy, as in a trace in memory; numbers stay on disk."""
    if variable.dtype.kind != "T":
        return variable
    texts = np.array(variable.values.tolist(), dtype=str).reshape(variable.shape)
    return xr.Variable(variable.dims, texts, variable.attrs)


def _damaged(path: Path, what: str) -> TraceError:
    return TraceError(
        f"{path}: cannot be read as a trace; it may be damaged or incomplete ({what})"
    )


def _check(path: Path) -> dict[str, Any]:
    """The attributes of a trace, where its description holds nothing but what we write."""
    names = {inside.name for inside in path.iterdir()}
    if names & {".zgroup", ".zarray", ".zmetadata", ".zattrs"}:
        raise TraceError(
            f"{path}: zarr format 2, whose codecs may run code; only traces that "
            "llama_viz.record(path=...) wrote, in format 3, are read"
        )
    if "zarr.json" not in names:
        raise TraceError(f"{path}: a folder, but not a trace that llama_viz.record(path=...) wrote")
    group = _description(path, "group")
    version = group["attributes"].get("llama_viz_trace")
    if version is None:
        raise TraceError(
            f"{path}: holds data, but not a complete trace written by llama_viz.record(path=...)"
        )
    if int(version) > FORMAT_VERSION:
        raise TraceError(
            f"{path}: written in trace format {version}, this version reads up to "
            f"{FORMAT_VERSION}; update llama_viz"
        )
    files = group["attributes"]["files"]
    if names - {"zarr.json"} != {*files}:
        raise _damaged(path, "its variables are not those that were written")
    sizes: dict[str, int] = {}
    for name in files:
        if name not in VARIABLES and name not in COORDINATES:
            raise TraceError(f"{path}: {name!r} is no variable of a trace")
        _check_array(path, name, sizes)
        # Folders that were written before names were told have the first two numbers.
        if _files(path / name)[: max(2, len(files[name]))] != files[name]:
            raise _damaged(path, f"files of {name} are missing or cut short")
    found = json.loads(group["attributes"]["attributes"])
    if not isinstance(found, dict):
        raise _damaged(path, "no attributes")
    return found


def _check_array(path: Path, name: str, sizes: dict[str, int]) -> None:
    """Refuse an array that is stored in another way than ours, or that does not fit the others."""
    array = _description(path / name, "array")
    codecs = [codec["name"] for codec in array["codecs"]]
    for codec in codecs:
        if codec not in CODECS:
            raise TraceError(
                f"{path}: {name} is stored with the codec {codec!r}; only {', '.join(CODECS)} "
                "are read"
            )
    dims, shape, chunk = array["dimension_names"], array["shape"], _chunk_shape(array)
    is_read_at_once = name not in VARIABLES
    if (
        array["data_type"] not in TYPES
        or array["chunk_key_encoding"] != KEYS
        or array.get("storage_transformers")
        or not all(type(size) is int and size >= 0 for size in (*shape, *chunk))
        or not len(dims) == len(shape) == len(chunk)
        or math.prod(chunk) * 8 > MOST_CHUNK_BYTES
        or (name in VARIABLES and tuple(dims) != VARIABLES[name].dims)
        or any(sizes.setdefault(dim, size) != size for dim, size in zip(dims, shape, strict=True))
        or (is_read_at_once and math.prod(shape) > MOST_AT_ONCE)
    ):
        raise TraceError(f"{path}: {name} is not stored as llama_viz.record(path=...) stores it")


def _chunk_shape(array: dict[str, Any]) -> list[int]:
    grid = array["chunk_grid"]
    return grid["configuration"]["chunk_shape"] if grid["name"] == "regular" else []


def _description(folder: Path, kind: str) -> dict[str, Any]:
    """What zarr says of a group or an array in a folder."""
    described = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    if described["zarr_format"] != 3 or described["node_type"] != kind:
        raise TraceError(f"{folder}: not {kind} data of zarr format 3")
    return described


def _chunks(folder: Path) -> list[str]:
    """The names of the chunks in the folder of an array."""
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if CHUNK.fullmatch(name))


def _files(folder: Path) -> list[int]:
    """How many chunks lie in the folder of an array, their bytes, and a checksum of their names."""
    names = _chunks(folder)
    n_bytes = sum((folder / name).stat().st_size for name in names)
    return [len(names), n_bytes, zlib.crc32(" ".join(names).encode())]


def _written(folder: Path) -> int | None:
    """When the description of a trace was written, in nanoseconds; None where none is there."""
    described = folder / "zarr.json"
    return described.stat().st_mtime_ns if described.exists() else None
