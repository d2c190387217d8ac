"""The public names: all there, loaded lazily, and importing them costs little."""

import subprocess
import sys
from pathlib import Path

import pytest

import llama_viz as lv


@pytest.mark.parametrize("name", lv.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(lv, name)
    if not isinstance(value, (dict, tuple)):
        assert value.__doc__
    assert name in dir(lv)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'recrod'"):
        lv.recrod  # noqa: B018


def test_importing_loads_nothing_heavy():
    heavy = {"torch", "xarray", "plotly", "matplotlib", "zarr"}
    code = f"import sys, llama_viz; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_figures_need_no_model():
    code = (
        "import sys, pkgutil, importlib, llama_viz.figures as package\n"
        "for found in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'{package.__name__}.{found.name}')\n"
        "print(sorted({'llama_viz.model', 'torch'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_no_widget_reaches_past_the_recorder_for_the_model():
    for path in (Path(lv.__file__).parent / "widgets").glob("*.py"):
        assert "llama_viz.model" not in path.read_text(encoding="utf-8")
