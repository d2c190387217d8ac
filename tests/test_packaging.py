"""What is installed is what is needed, exactly; what is shipped and told is what is there."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent

# Direct dependencies that no line imports, and what they are for.
NEVER_IMPORTED = {
    "h5netcdf": "xarray reads and writes trace files through it",
    "h5py": "h5netcdf reads and writes through it",
    "mypy": "a command of make lint",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "a command of make lint",
    "types-tqdm": "mypy reads it",
}

# Module -> distributions. What a benchmark compares with is installed by those who run it.
MEASURED_AGAINST = {"bertviz": ["bertviz"]}

# Resolved by pip on top of the lock, where PyTorch comes with CUDA.
BROUGHT_BY_TORCH = ("cuda-", "nvidia-", "triton")

TOP_LEVEL = {
    ".binder",
    ".ci",
    ".gitattributes",
    ".gitignore",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "data",
    "environment.yml",
    "labconfig",
    "llama_viz",
    "notebooks",
    "pyproject.toml",
    "requirements.lock",
    "tests",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def direct(project: dict[str, Any]) -> list[str]:
    """The requirements that pyproject.toml names to run and to test."""
    extras = project["project"]["optional-dependencies"]
    return [*project["project"]["dependencies"], *extras["test"]]


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    return dict(line.split("==") for line in lock_lines())


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Every file of the project: those that git knows, and new ones that it does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = filter(None, listing.stdout.split("\0"))
    return sorted(name for name in names if (ROOT / name).exists())


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


# --- the lock -----------------------------------------------------------------------------------


def test_the_lock_is_a_sorted_list_of_exact_pins() -> None:
    lines = lock_lines()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert "torch==2.13.0" in lines


def test_the_lock_says_how_it_is_made() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert text.startswith("#")
    assert "make lock" in text


def test_every_locked_package_is_needed_and_every_needed_one_is_locked(
    project: dict[str, Any], direct: list[str], locked: dict[str, str]
) -> None:
    needed = closure([*project["build-system"]["requires"], *direct])
    needed = {name for name in needed if not name.startswith(BROUGHT_BY_TORCH)}
    assert set(locked) == needed


def test_what_is_installed_is_what_is_locked(locked: dict[str, str]) -> None:
    installed = {name: importlib.metadata.version(name) for name in locked}
    # A local version (2.13.0+cpu) is another build of the same release.
    assert {name: Version(version).public for name, version in installed.items()} == locked


def test_the_lock_fulfils_pyproject(
    project: dict[str, Any], direct: list[str], locked: dict[str, str]
) -> None:
    for text in [*project["build-system"]["requires"], *direct]:
        requirement = Requirement(text)
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text
        assert requirement.specifier, f"{text} has no lower bound"


def closure(requirements: Iterable[str]) -> set[str]:
    """The names of all distributions that requirements need here, directly or not."""
    todo = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in importlib.metadata.requires(name) or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    return {name for name, _ in seen}


# --- the dependencies that we name --------------------------------------------------------------


def test_every_direct_dependency_is_used(direct: list[str], tracked: list[str]) -> None:
    named = {canonicalize_name(Requirement(text).name) for text in direct}
    assert named - imported_distributions(tracked) == set(NEVER_IMPORTED)


def test_every_import_is_of_a_direct_dependency(
    project: dict[str, Any], direct: list[str], tracked: list[str]
) -> None:
    measured_against = project["project"]["optional-dependencies"]["benchmarks"]
    named = {canonicalize_name(Requirement(text).name) for text in [*direct, *measured_against]}
    assert imported_distributions(tracked) - named == set()


def imported_distributions(files: Iterable[str]) -> set[str]:
    """The distributions whose modules the project imports anywhere."""
    distributions = {**MEASURED_AGAINST, **importlib.metadata.packages_distributions()}
    # A benchmark finds its neighbours beside it: it is run as a program.
    ours = {path.name for path in ROOT.iterdir()}
    ours |= {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    modules = {module.partition(".")[0] for path in files for module in imports(ROOT / path)}
    found = set()
    for module in modules - set(sys.stdlib_module_names) - ours:
        assert module in distributions, f"{module} is imported, and nothing installed has it"
        found.update(canonicalize_name(name) for name in distributions[module])
    return found


def imports(path: Path) -> Iterator[str]:
    """The modules that a Python file or a notebook imports."""
    for source in sources(path):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module


def sources(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                # Magics and shell lines are not Python.
                yield "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


# --- what is shipped ----------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_its_data(tracked: list[str], tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {name for name in tracked if name.startswith("llama_viz/")}
    wanted |= {f"llama_viz/{name}" for name in tracked if name.startswith("data/")}
    assert shipped == wanted


def test_conda_gets_the_same_lock() -> None:
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = [line.strip() for line in lines if line.strip().startswith("- ")]
    pip_part = ["- -r requirements.lock", "- -e ."]
    assert listed == ["- conda-forge", "- python=3.11", "- pip", "- pip:", *pip_part]


# --- what is told -------------------------------------------------------------------------------


def test_the_top_level_is_as_designed(tracked: list[str]) -> None:
    assert {name.partition("/")[0] for name in tracked} <= TOP_LEVEL
    missing = {name for name in TOP_LEVEL - {"benchmarks"} if not (ROOT / name).exists()}
    assert not missing


def test_the_tree_in_the_readme_is_the_tree(tracked: list[str]) -> None:
    files, folders = readme_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    folders_of_tracked = {
        f"{parent.as_posix()}/" for name in tracked for parent in Path(name).parents
    }
    assert files <= set(tracked), "the README names files that are not there"
    assert folders <= folders_of_tracked, "the README names folders that are not there"

    # A folder is told either as a whole, or file by file.
    told_apart = {f"{Path(entry).parent.as_posix()}/" for entry in files | folders}
    whole = folders - told_apart
    forgotten = {
        name
        for name in set(tracked) - files
        if name.startswith(("llama_viz/", "notebooks/", "tests/", "benchmarks/"))
        and not any(name.startswith(folder) for folder in whole)
    }
    assert not forgotten, "files that the README's tree does not name"


def readme_tree(text: str) -> tuple[set[str], set[str]]:
    """The files and the folders (with a final /) of the README's tree.

    The tree is the first fenced block with a line that begins with "llama_viz/". One entry a line:
    a name, then spaces and a description; two spaces deeper for each folder. A line that stands
    deeper than an entry could goes on with the description above it.
    """
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    trees = [block for block in blocks if re.search(r"^llama_viz/", block, flags=re.MULTILINE)]
    assert trees, "the README has no block with the tree of the project"
    files: set[str] = set()
    folders: set[str] = set()
    inside: list[str] = []
    for line in filter(str.strip, trees[0].splitlines()):
        depth, remainder = divmod(len(line) - len(line.lstrip(" ")), 2)
        if remainder or depth > len(inside):
            continue
        del inside[depth:]
        name = line.split()[0]
        path = "".join(inside) + name
        if name.endswith("/"):
            inside.append(name)
            folders.add(path)
        else:
            files.add(path)
    return files, folders


def test_a_tree_is_read_as_it_is_meant() -> None:
    tree = """\
```sh
make lab
```
```text
Makefile         every command
llama_viz/       the package
  model.py       parts before
                 wholes
  checkpoints/   one module per format
tests/           as a whole
```
"""
    files, folders = readme_tree(tree)
    assert files == {"Makefile", "llama_viz/model.py"}
    assert folders == {"llama_viz/", "llama_viz/checkpoints/", "tests/"}
