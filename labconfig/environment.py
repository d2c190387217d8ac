"""Make the environment that everything here runs in, and the lock that says what is in it.

    python labconfig/environment.py           make .venv as requirements.lock says
    python labconfig/environment.py --lock    write requirements.lock anew from pyproject.toml

Needs only Python: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = ENVIRONMENT / "made.json"

# Chosen by hand, since it decides about gigabytes: every other version is the newest that fits.
CHOSEN = ["torch==2.13.0"]

# What PyTorch's CUDA build brings along, in the versions that it was built with. Left out of the
# lock, so that one lock serves the CPU build and the CUDA build.
BROUGHT_BY_TORCH = ("cuda-", "nvidia-", "triton")

HEADER = """\
# Every package of the environment, exactly. Written by `make lock`, never by hand: a fresh virtual
# environment, the newest versions that pyproject.toml admits (build, run and test), torch as
# chosen in labconfig/environment.py, and then what was installed.
#
# Made with CPython 3.11 on Linux x86-64. On another Python or platform pip adds what only that one
# needs (the nvidia-* packages of PyTorch's CUDA build, appnope on macOS, colorama and pywinpty on
# Windows) on top of these.
"""


def main() -> None:
    """Make the environment, or the lock."""
    parser = argparse.ArgumentParser(description="Make .venv, or with --lock its lock file.")
    parser.add_argument("--lock", action="store_true", help="write requirements.lock anew")
    if parser.parse_args().lock:
        write_lock()
    else:
        make_environment()


def make_environment() -> None:
    """Make .venv hold what the lock says; does nothing where that is so already.

    An environment that was finished once is brought up to date in place. One that was not, or
    that was made by another Python or in another folder, is made anew: what an interrupted
    installation left behind cannot be trusted.
    """
    with one_at_a_time():
        wanted = {"place": place(), "content": content()}
        made = read_stamp()
        if made == wanted:
            return
        finished = made.get("place") == wanted["place"]
        STAMP.unlink(missing_ok=True)
        if not finished:
            print(f"Making {ENVIRONMENT.name} (a few minutes the first time) ...", flush=True)
            venv.create(ENVIRONMENT, clear=True, with_pip=True)
        python = ENVIRONMENT / "bin" / "python"
        pip_install(python, "--requirement", LOCK)
        # hatchling, which builds the package, is pinned in the lock like everything else.
        pip_install(python, "--no-deps", "--no-build-isolation", "--editable", ROOT)
        STAMP.write_text(json.dumps(wanted))


def write_lock() -> None:
    """Resolve pyproject.toml in a fresh environment and write down what came out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["test"],
    ]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip_install(python, *requirements, *CHOSEN)
        listing = subprocess.run(
            [python, "-m", "pip", "list", "--format=json", "--exclude=pip"],
            check=True,
            capture_output=True,
        )
    pins = {
        # A local version (2.13.0+cpu) names a build, which is the reader's to choose.
        package["name"].lower().replace("_", "-"): package["version"].partition("+")[0]
        for package in json.loads(listing.stdout)
    }
    lines = [
        f"{name}=={version}\n"
        for name, version in sorted(pins.items())
        if not name.startswith(BROUGHT_BY_TORCH)
    ]
    LOCK.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{LOCK.name}: {len(lines)} packages")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other make is at work on the environment."""
    with LOCK.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def place() -> str:
    """The Python and the folder: an environment works in one folder, with one Python."""
    return f"{ENVIRONMENT} {sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def content() -> str:
    """A digest of the files that say what is installed."""
    digest = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict[str, str]:
    """What the last finished installation wrote, or nothing."""
    with contextlib.suppress(OSError, ValueError):
        # A Python that was removed from the machine leaves a broken link behind.
        if (ENVIRONMENT / "bin" / "python").exists():
            return dict(json.loads(STAMP.read_text()))
    return {}


def pip_install(python: Path, *arguments: str | Path) -> None:
    """Run pip; its progress is shown to a person and not to a log."""
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
    ]
    if not sys.stdout.isatty():
        command.append("--quiet")
    # Other folders' packages must not pass for installed ones.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # An index that is just being updated can deny a version that it has: two more tries.
    for pause in (5, 30, None):
        done = subprocess.run([*command, *arguments], check=pause is None, env=clean)
        if done.returncode == 0 or pause is None:
            return
        print(f"pip failed; trying again in {pause} seconds", file=sys.stderr, flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip failed (see above); the next make starts again: exit {error.returncode}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the next make starts again")
