"""Files that are whole or not there: where none can be put, that is said before the work."""

from __future__ import annotations

import os

import pytest

from llama_viz.files import folder_written_whole, written_whole


def place(kind, folder):
    """A path at which nothing can be written."""
    path = folder / "run.nc"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":  # like /dev/null, which a file moved there would replace
        os.mkfifo(path)
    return {"long": folder / ("x" * 300), "NUL": folder / "a\0b", "nowhere": folder / "a" / "b"}.get(
        kind, path
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "a folder of that name is there"),
        ("pipe", "it is not an ordinary file"),
        ("long", "File name too long"),
        ("NUL", "embedded null byte"),
        ("nowhere", "the folder .* does not exist"),
    ],
)
def test_a_place_where_no_file_can_be_is_told_before_the_work(kind, message, tmp_path):
    path = place(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((OSError, ValueError), match=f"^cannot write .*{message}$"):
        with written_whole(path):
            pytest.fail("the work began")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "a file of that name is there"),
        ("long", "File name too long"),
        ("nowhere", "the folder .* does not exist"),
    ],
)
def test_a_place_where_no_folder_can_be_is_told_before_the_work(kind, message, tmp_path):
    path = place(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match=f"^cannot write .*{message}$"):
        with folder_written_whole(path, ()):
            pytest.fail("the work began")
    assert sorted(tmp_path.iterdir()) == before
