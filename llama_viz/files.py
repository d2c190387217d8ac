"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, and move it to `path` when the block ends without an error.

    After an error or an interrupt nothing is left behind, and an older file stays as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)  # mkstemp's files are private; a saved file is not
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def data_folder() -> Path:
    """The folder with the embedded models: inside an installed package, else beside it."""
    package = Path(__file__).parent
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"
