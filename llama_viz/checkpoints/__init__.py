"""Models on disk: load() and save_checkpoint(), with one module per format.

A format's module offers two functions:

- `recognizes(path) -> bool` says by content, reading no more than a header, whether a file or a
  folder is of this format; it never raises.
- `load(path, *, device, dtype, share) -> LoadedCheckpoint` reads it, or raises CheckpointError in
  one line with the file's name. It translates names, turns queries and keys into interleaved pairs
  with rope_layout.py, and has build_model() of loaded.py fill the model weight by weight.

A tokenizer inside the checkpoint comes back with it; load() looks for one beside the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llama_viz import fetching
from llama_viz.checkpoints.loaded import LoadedCheckpoint, one_line
from llama_viz.errors import CheckpointError, unknown_name
from llama_viz.files import data_folder, written_whole
from llama_viz.language_model import LanguageModel, check_weights
from llama_viz.model import check_weight_type
from llama_viz.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_viz.shares import Share

EMBEDDED = ("mha", "gqa", "mqa", "gqa-mean")  # the last is MHA with its heads pooled, trained on
TOKENIZER_NAME = "tokenizer.model"
TOKENIZER_NAMES = (TOKENIZER_NAME, "tokenizer.json", "tokenizer.bin")


@dataclass(frozen=True)
class Format:
    """A format: its name for people, its module, and the ends of its files' names.

    Where no format recognizes a file, the one whose ending it has says what is wrong with it.
    suffixes () is a format of folders.
    """

    name: str
    module: str
    suffixes: tuple[str, ...] = ()

    def recognizes(self, path: Path) -> bool:
        """Whether the file or folder is of this format, by its content."""
        return self._module.recognizes(path)

    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None, share: Share | None
    ) -> LoadedCheckpoint:
        """Read it; raises CheckpointError where it cannot be loaded."""
        return self._module.load(path, device=device, dtype=dtype, share=share)

    @property
    def _module(self) -> Any:
        return import_module(f"llama_viz.checkpoints.{self.module}")


FORMATS = (
    Format("llama_viz", "native", (".safetensors",)),
    Format("Hugging Face", "huggingface"),
    Format("Meta", "meta"),
    Format("llama2.c", "llama2c", (".bin", ".pt", ".pth")),
    Format("GGUF", "gguf", (".gguf",)),
)


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    share: Share | None = None,
) -> LanguageModel:
    """Load an embedded model ("mha", "gqa", "mqa"), a fetched one, or a checkpoint from a path.

    A checkpoint is a file (llama_viz, llama2.c, GGUF) or a folder (Hugging Face, Meta, or one with
    such a file in it); its content says which. Features of queries and keys are put into
    interleaved pairs; notes["rope_layout"] says how they are stored.

    device None is CUDA, then MPS, then the CPU, whichever is there first; "meta" opens a model by
    its shapes alone and reads no weights. dtype None is float32 on a CPU and for the embedded
    models, so that their figures agree everywhere, else the stored type. tokenizer is a path or a
    Tokenizer; None takes the one inside the checkpoint, or else the one that lies beside it. share
    reads the heads and neurons of one process alone: such a model is one among several that add up
    what they compute (llama_viz.parallel).

    Raises CheckpointError for files that cannot be loaded, ValueError for unknown names or devices
    and for a dtype that weights cannot have.
    """
    check_weight_type(dtype)
    if str(source) == "":  # it would be the folder that one happens to be in
        raise ValueError("the model's name is empty; give a name or a path to a checkpoint")
    embedded = str(source) in EMBEDDED
    fetched = fetching.cached(str(source))
    path = data_folder() / f"{source}.safetensors" if embedded else Path(source).expanduser()
    path = fetched or path
    place = pick_device(device)
    if not _is_there(path):
        if embedded or _looks_like_a_path(source):
            raise CheckpointError(f"{path}: there is no such file")
        raise unknown_name(
            "model", str(source), [*EMBEDDED, *fetching.PACKAGES, "a path to a checkpoint"]
        )
    found, path = detect(path)
    if dtype is None and (embedded or place.type == "cpu"):
        dtype = torch.float32
    loaded = found.load(path, device=place, dtype=dtype, share=share)
    words = _tokenizer(tokenizer, loaded, path)
    if words is not None and words.vocab_size != loaded.model.config.vocab_size:
        raise CheckpointError(
            f"{path}: its vocabulary has {loaded.model.config.vocab_size} tokens, "
            f"but the tokenizer has {words.vocab_size}; give the tokenizer it was trained with"
        )
    name = path.name if path.is_dir() else path.stem
    return LanguageModel(loaded.model, words, name, path, loaded.metadata)


def detect(path: Path) -> tuple[Format, Path]:
    """The format of a checkpoint, by its content, and the file or folder that holds it.

    Raises CheckpointError for an unknown format, and for a folder with two checkpoints.
    """
    if not path.is_dir():
        _check_ordinary(path)
        for known in FORMATS:
            if known.recognizes(path):
                return known, path
        for known in FORMATS:
            if path.suffix in known.suffixes:
                return known, path
        raise CheckpointError(
            f"{path}: is not a checkpoint of a known format "
            f"({', '.join(known.name for known in FORMATS)})"
        )
    try:
        inside = sorted(path.iterdir())
        files = [file for file in inside if file.is_file()]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    for file in inside:
        if file.suffix in (".json", *(suffix for known in FORMATS for suffix in known.suffixes)):
            _check_ordinary(file)
    places = [path, *(file for file in files if file.name not in TOKENIZER_NAMES)]
    found = [(known, place) for known in FORMATS for place in places if known.recognizes(place)]
    names = list(dict.fromkeys(known.name for known, _ in found))
    if len(names) > 1:
        raise CheckpointError(
            f"{path}: holds checkpoints of two formats, {' and '.join(names)}; "
            "name the file itself or move one of them away"
        )
    if len(found) == 1:
        return found[0]
    # Damaged, perhaps: then the only file of a known kind says what is wrong with it.
    suffixes = [suffix for known in FORMATS for suffix in known.suffixes]
    likely = [place for _, place in found] or [p for p in places[1:] if p.suffix in suffixes]
    if len(likely) == 1:
        return detect(likely[0])
    what = f"{len(likely)} {likely[0].suffix} files, expected one" if likely else (
        "no .safetensors file and no other checkpoint"
    )  # fmt: skip
    raise CheckpointError(f"{path}: holds {what}; name the file itself")


def save_checkpoint(
    lm: LanguageModel, path: str | Path, format: str = "llama_viz", dtype: torch.dtype | None = None
) -> None:
    """Write a model, and its tokenizer beside it, so that load(path) opens it again.

    format "llama_viz" is one safetensors file; "huggingface" is a folder that
    transformers.AutoModelForCausalLM opens; "meta" is a folder as in Meta's release; "llama2c" is a
    .bin that llama2.c runs; "gguf" is a file that llama.cpp runs. dtype None keeps the type of the
    weights. What is written is whole or not there.

    Raises ValueError for an unknown format, a dtype that weights cannot have, and where the format
    cannot say what the model does.
    """
    check_weight_type(dtype)
    writers: dict[str, Callable[..., None]] = {
        "llama_viz": _save_native,
        "huggingface": _save_huggingface,
        "meta": _save_meta,
        "llama2c": _save_llama2c,
        "gguf": _save_gguf,
    }
    if format not in writers:
        raise unknown_name("format", format, writers)
    check_weights(lm)
    writers[format](lm, Path(path).expanduser(), dtype)


def _check_ordinary(path: Path) -> None:
    """A pipe or a device is not read: that could wait for ever, or never come to an end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CheckpointError(f"{path}: is not an ordinary file")


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, else CUDA, MPS or the CPU, whichever is there first.

    Raises ValueError where the one asked for is not on this machine.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device is None:
        return torch.device(next(name for name, is_there in there.items() if is_there))
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise unknown_name("device", device, there) from error
    number = asked.index or 0
    count = torch.cuda.device_count() if asked.type == "cuda" else 1
    if not there.get(asked.type, asked.type == "meta") or number >= count:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise ValueError(f"there is no device {str(asked)!r} on this machine; it has: {usable}")
    return asked


def _looks_like_a_path(source: str | Path) -> bool:
    text = str(source)
    return isinstance(source, Path) or "/" in text or "\\" in text or Path(text).suffix != ""


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, a folder nobody may enter
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error


def _tokenizer(
    given: str | Path | Tokenizer | None, loaded: LoadedCheckpoint, path: Path
) -> Tokenizer | None:
    """The tokenizer that was given, or that is inside the checkpoint, or beside it."""
    if isinstance(given, (str, Path)):
        return Tokenizer.from_file(Path(given).expanduser())
    if given is not None or loaded.tokenizer is not None:
        return given or loaded.tokenizer
    folder = path if path.is_dir() else path.parent
    for name in TOKENIZER_NAMES:
        if (folder / name).is_file():
            return Tokenizer.from_file(folder / name)
    return None


def _save_native(lm: LanguageModel, path: Path, dtype: torch.dtype | None) -> None:
    from llama_viz.checkpoints.native import save_native

    files = {} if lm.tokenizer is None else lm.tokenizer.files()
    for name in dict.fromkeys([*TOKENIZER_NAMES, *files] if files else []):
        beside = path.parent / name
        if beside.is_file() and beside.read_bytes() != files.get(name):
            raise ValueError(f"{beside} is another model's tokenizer; save to a folder of its own")
    save_native(lm.model, path, dtype=dtype, metadata=lm.notes)
    for name, content in files.items():
        if not (path.parent / name).is_file():
            with written_whole(path.parent / name) as unfinished:
                unfinished.write_bytes(content)


def _save_huggingface(lm: LanguageModel, path: Path, dtype: torch.dtype | None) -> None:
    from llama_viz.checkpoints.huggingface import save_huggingface

    save_huggingface(lm, path, dtype=dtype)


def _save_meta(lm: LanguageModel, path: Path, dtype: torch.dtype | None) -> None:
    from llama_viz.checkpoints.meta import save_meta

    save_meta(lm, path, dtype=dtype)


def _save_gguf(lm: LanguageModel, path: Path, dtype: torch.dtype | None) -> None:
    from llama_viz.checkpoints.gguf_writing import KIND_OF_DTYPE, save_gguf

    stored = dtype or lm.dtype
    if stored not in KIND_OF_DTYPE:
        raise ValueError(
            f"a GGUF file holds float32, float16 or bfloat16 weights, not {stored}; choose one of "
            "them with dtype="
        )
    save_gguf(lm, path, kind=KIND_OF_DTYPE[stored])


def _save_llama2c(lm: LanguageModel, path: Path, dtype: torch.dtype | None) -> None:
    from llama_viz.checkpoints.llama2c import save

    save(lm, path, dtype)
