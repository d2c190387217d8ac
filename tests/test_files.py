"""Files that are whole or not there: where none can be put, that is said before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_viz.files import folder_written_whole, written_whole

NO_FILE = {
    "folder": ("run.nc", "a folder of that name is there"),
    "pipe": ("run.nc", "it is not an ordinary file"),
    "long": ("x" * 300, "File name too long"),
    "NUL": ("a\0b", "embedded null byte"),
    "nowhere": ("a/b", "the folder .* does not exist"),
}
NO_FOLDER = {
    "pipe": ("run.nc", "a file of that name is there"),
    "long": NO_FILE["long"],
    "nowhere": NO_FILE["nowhere"],
}


def put(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":  # like /dev/null, which a file moved there would replace
        os.mkfifo(path)


@pytest.mark.parametrize("kind", NO_FILE)
def test_a_place_where_no_file_can_be_is_told_before_the_work(kind, tmp_path):
    name, message = NO_FILE[kind]
    put(kind, tmp_path / name)
    before = sorted(tmp_path.iterdir())
    refused = pytest.raises((OSError, ValueError), match=f"^cannot write .*{message}$")
    with refused, written_whole(tmp_path / name):
        pytest.fail("the work began")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", NO_FOLDER)
def test_a_place_where_no_folder_can_be_is_told_before_the_work(kind, tmp_path):
    name, message = NO_FOLDER[kind]
    put(kind, tmp_path / name)
    before = sorted(tmp_path.iterdir())
    refused = pytest.raises(OSError, match=f"^cannot write .*{message}$")
    with refused, folder_written_whole(tmp_path / name, ()):
        pytest.fail("the work began")
    assert sorted(tmp_path.iterdir()) == before
