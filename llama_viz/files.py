"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

DATA_VARIABLE = "LLAMA_VIZ_DATA"


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, and move it to `path` when the block ends without an error.

    After an error or an interrupt nothing is left behind, and an older file stays as it was.

    Raises OSError, before the block begins, where no file can be put there.
    """
    path = Path(path)
    handle, name = _made_beside(path, partial(tempfile.mkstemp, suffix=path.suffix))
    os.close(handle)
    unfinished = Path(name)
    try:
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: a folder of that name is there")
        if path.exists() and not path.is_file():  # a device, which would be replaced by a file
            raise FileExistsError(f"cannot write {path}: it is not an ordinary file")
        yield unfinished
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)  # mkstemp's files are private; a saved file is not
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | Path, replaceable: Collection[str]) -> Iterator[Path]:
    """Give a folder to write into, and put it at `path` when the block ends without an error.

    A folder that is there already is replaced if it holds nothing but files with names in
    `replaceable`. After an error or an interrupt nothing is left behind.

    Raises FileExistsError where another file or folder is in the way.
    """
    path = Path(path)
    with _made_beside(path, tempfile.TemporaryDirectory) as name:
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"cannot write the folder {path}: a file of that name is there")
        others = [inside.name for inside in path.glob("*") if inside.name not in replaceable]
        if others:
            raise FileExistsError(
                f"cannot write {path}: it holds {min(others)}; choose a new folder"
            )
        unfinished, replaced = Path(name) / "new", Path(name) / "old"
        unfinished.mkdir()
        yield unfinished
        if path.exists():
            path.rename(replaced)
        unfinished.rename(path)


def _made_beside(path: Path, make: Callable[..., Any]) -> Any:
    """What is written before it is moved to the path; an error names the path, not what is hidden.

    Where the disk is full or nobody may write there, it is said before any work is done.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    try:
        return make(prefix=f".{path.name}.", dir=path.parent)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise type(error)(f"cannot write {path}: {reason}") from error


def checksum(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and contents of the files in it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(inside for inside in path.iterdir() if inside.is_file())
    lines = [f"{checksum(file)}  {file.name}\n" for file in files]  # as sha256sum writes them
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def data_folder() -> Path:
    """The folder with the embedded models: LLAMA_VIZ_DATA, or that of the package.

    It is inside an installed package, else beside it. Nothing here is written to but by training,
    by benchmarks/ and by the tests that store what figures draw: it may be read-only.
    """
    if given := os.environ.get(DATA_VARIABLE):
        return Path(given).expanduser()
    package = Path(__file__).parent
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def measurement(name: str) -> dict[str, Any]:
    """What a command in benchmarks/ has measured and stored in data/measurements."""
    path = data_folder() / "measurements" / f"{name}.json"
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def store_measurement(name: str, **measured: Any) -> None:
    """Store what a command in benchmarks/ has measured, with the command and the processor."""
    command = f"python benchmarks/{name}.py"
    path = data_folder() / "measurements" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    made = {"command": command, "processor": _processor(), **measured}
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    """The name of the processor, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
