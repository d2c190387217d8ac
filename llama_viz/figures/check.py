"""Figures tested as data: what a figure draws is read back and compared with a stored reference.

Pictures differ in a few bytes from machine to machine; the data behind them agrees to a millionth.
So the data is compared with a tolerance, and what is printed holds no measured number.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from llama_viz.files import data_folder, written_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.artist import Artist

WRITE = "LLAMA_VIZ_WRITE_FIGURES"
TOLERANCE = 1e-3  # of the largest value of the array
LONGEST_LINE = 200
FRAME = (Axes, Axis, Spine)  # read as the panel, not as something in it
MEASURED = "(measured)"  # a text whose name ends so holds numbers that may differ in the last digit
MAIN_ARRAYS = ("values", "y", "corners")  # whose shape says how much an artist draws
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")


class FigureMismatch(AssertionError):  # noqa: N818 - says what happened, as a test would
    """A figure does not draw what its reference holds; names the artist and by how much."""


@dataclass
class Contents:
    """What a figure draws: artists, each in words, and the numbers behind them."""

    artists: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, artist: str, words: str, **arrays: Any) -> None:
        """Take in one artist; a second one of the same name gets a number."""
        number = 2
        name = artist
        while name in self.artists:
            name, number = f"{artist} {number}", number + 1
        shapes = []
        for kind, values in arrays.items():
            array = _as_numbers(values)
            self.arrays[f"{kind} of {name}"] = array
            shapes.append(f"{kind} {' x '.join(map(str, array.shape)) or 'one number'}")
        self.artists[name] = ", ".join(part for part in (words, *shapes) if part)

    def structure(self) -> list[str]:
        """A line for each panel: the artists in it with their shapes, then its title and axes."""
        lines: list[tuple[str, list[str]]] = []
        for artist, words in self.artists.items():
            where = lines[-1][0].partition(":")[0] if lines else ""
            if not artist.endswith(f" in {where}"):
                lines.append((f"{artist}: {words}", []))
                continue
            short = artist.removesuffix(f" in {where}")
            if short.startswith("text "):
                lines[-1][1].append(f"{short} {words.partition(', places ')[0]}")
                continue
            shapes = [self.arrays.get(f"{kind} of {artist}") for kind in MAIN_ARRAYS]
            shape = next((array.shape for array in shapes if array is not None), ())
            lines[-1][1].append(" ".join([short, " x ".join(map(str, shape))]).strip())
        return [
            line.replace(":", f": {'; '.join(artists)};", 1) if artists else line
            for line, artists in lines
        ]

    @property
    def digest(self) -> str:
        """A short name for exactly these contents."""
        digest = hashlib.sha256(json.dumps(self.artists).encode())
        for name, array in self.arrays.items():
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()[:12]


def check(figure: Any, name: str, *, folder: str | Path | None = None) -> None:
    """Compare what a figure draws with the reference of this name, and print its structure.

    Works for matplotlib and Plotly figures. References lie in data/figures (or folder); `make
    figures` writes those that are missing or no longer hold. What is printed is the same on every
    machine.

    Raises FigureMismatch where an artist is missing, extra, named otherwise, or has a number off by
    more than a thousandth of the largest beside it; FileNotFoundError where there is no reference.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError(f"a figure's name is letters, digits and _ . -, got {name!r}")
    path = Path(folder or data_folder() / "figures") / f"{name}.npz"
    drawn = read(figure)
    if os.environ.get(WRITE) == "1":
        _write_unless_it_holds(path, drawn)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no reference for this figure; look at the figure, then write it "
            "with: make figures"
        )
    reference = load(path)
    compare(drawn, reference, name)
    print(f"{name}: draws its reference {reference.digest}")
    for line in reference.structure():
        print(f"  {line}" if len(line) <= LONGEST_LINE else f"  {line[: LONGEST_LINE - 1]}…")


def read(figure: Any) -> Contents:
    """What a matplotlib or Plotly figure draws. Raises TypeError for anything else."""
    if isinstance(figure, Figure):
        return _read_matplotlib(figure)
    if hasattr(figure, "to_plotly_json"):
        return _read_plotly(figure.to_plotly_json())
    raise TypeError(f"expected a matplotlib or Plotly figure, got {type(figure).__name__}")


def compare(drawn: Contents, reference: Contents, name: str) -> None:
    """Raise FigureMismatch, naming the artist, unless a figure draws what the reference holds."""
    for what, extra, than in (
        ("draws no", reference, drawn),
        ("draws, but its reference has no,", drawn, reference),
    ):
        for artist in extra.artists:
            if artist not in than.artists:
                raise FigureMismatch(f"figure {name!r} {what} {artist}")
    if list(drawn.artists) != list(reference.artists):
        raise FigureMismatch(f"figure {name!r} draws its artists in another order")
    for artist, words in drawn.artists.items():
        if words != reference.artists[artist]:
            raise FigureMismatch(
                f"figure {name!r}, {artist}: draws {_difference(words, reference.artists[artist])}"
            )
    for what, values in drawn.arrays.items():
        _compare_numbers(values, reference.arrays[what], f"figure {name!r}, {what}")


def _compare_numbers(drawn: np.ndarray, reference: np.ndarray, where: str) -> None:
    if drawn.shape != reference.shape:
        raise FigureMismatch(f"{where}: shape {drawn.shape}, reference {reference.shape}")
    size = np.where(np.isfinite(reference), np.abs(reference), 0.0)
    # Numbers in a text have few digits: the last one may differ by one.
    allowed = 0.1 * size if where.endswith(MEASURED) else TOLERANCE * size.max(initial=0.0)
    with np.errstate(invalid="ignore"):
        difference = np.abs(drawn - reference)
    same = (drawn == reference) | (np.isnan(drawn) & np.isnan(reference))
    excess = np.where(same, 0.0, np.nan_to_num(difference, nan=np.inf) - allowed)
    if not (excess > 0).any():
        return
    place = np.unravel_index(excess.argmax(), excess.shape)
    raise FigureMismatch(
        f"{where}: {int((excess > 0).sum())} of {drawn.size} numbers are off, farthest at "
        f"[{', '.join(map(str, place))}]: draws {drawn[place]:.6g}, reference "
        f"{reference[place]:.6g} (allowed: {np.broadcast_to(allowed, size.shape)[place]:.2g})"
    )


def _difference(drawn: str, reference: str) -> str:
    """The two texts from a little before where they part."""
    pairs = enumerate(zip(drawn, reference, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(drawn), len(reference)))
    start = max(0, first - 20)
    parts = [text[start : first + 40] for text in (drawn, reference)]
    return f"{parts[0]!r}, reference {parts[1]!r}"


# References in files


def save(contents: Contents, path: Path) -> None:
    """Write contents to a file; the same contents give the same bytes."""
    index = {"artists": contents.artists, "arrays": list(contents.arrays)}
    members = {"index.json": json.dumps(index, ensure_ascii=False, indent=0).encode()}
    for number, array in enumerate(contents.arrays.values()):
        buffer = io.BytesIO()
        np.save(buffer, array.astype("<f4"))
        members[f"{number}.npy"] = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished, zipfile.ZipFile(unfinished, "w") as file:
        for member, data in members.items():
            # Without the time of day, and with the same rights whatever machine writes.
            entry = zipfile.ZipInfo(member)
            entry.external_attr, entry.create_system = 0o644 << 16, 3
            file.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)


def load(path: Path) -> Contents:
    """Read contents written by save. Raises ValueError where the file is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            index = json.loads(file["index.json"])
            arrays = [file[f"{number}.npy"] for number in range(len(index["arrays"]))]
    except Exception as error:  # a damaged file raises whatever its damage leads to
        raise ValueError(
            f"{path}: cannot be read as the reference of a figure; remove it and run: make figures"
        ) from error
    return Contents(index["artists"], dict(zip(index["arrays"], arrays, strict=True)))


def _write_unless_it_holds(path: Path, drawn: Contents) -> None:
    """Write a reference; one that the figure still draws stays as it is, to the last bit."""
    if path.is_file():
        try:
            compare(drawn, load(path), path.stem)
        except (ValueError, FigureMismatch):
            pass
        else:
            return
    save(drawn, path)


def _as_numbers(values: Any) -> np.ndarray:
    """Numbers as float32, rounded far below the tolerance so that files stay small.

    Masked numbers are NaN.
    """
    array = np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)
    finite = np.abs(array[np.isfinite(array)])
    largest = float(finite.max(initial=0.0))
    if largest == 0.0:
        return array.astype(np.float32)
    # A power of two, so that the rounded numbers end in zeros, which compress well.
    step = 2.0 ** (np.floor(np.log2(largest)) - 16)
    return (np.round(array / step) * step).astype(np.float32) + np.float32(0)  # no -0


# Matplotlib


def _read_matplotlib(figure: Figure) -> Contents:
    contents = Contents()
    width, height = figure.get_size_inches() * figure.dpi
    contents.add("figure", f"{round(width)} x {round(height)} pixels")
    _read_artists(contents, "figure", figure.get_children(), background=figure.patch)
    for axes in figure.axes:
        _read_panel(contents, axes)
    return contents


def _read_panel(contents: Contents, axes: Axes) -> None:
    panel = f"panel {_name(axes)!r}"
    titles = [axes.get_title(loc=place) for place in ("left", "center", "right")]
    words = [f"title {title!r}" for title in titles if title]
    limits = [axes.get_xlim(), axes.get_ylim()]
    if axes.axison:
        words += [_axis_in_words("x", axes.xaxis), _axis_in_words("y", axes.yaxis)]
        background = f"{_hex(axes.get_facecolor())} {axes.patch.get_hatch() or ''}".strip()
        words.append(f"background {background}" if background != "#ffffffff" else "")
    contents.add(panel, ", ".join(filter(None, words)), limits=limits)
    children = [child for child in axes.get_children() if child not in _titles(axes)]
    _read_artists(contents, panel, children, background=axes.patch)


def _titles(axes: Axes) -> list[Artist]:
    return [axes.title, axes._left_title, axes._right_title]  # type: ignore[attr-defined]


def _axis_in_words(name: str, axis: Axis) -> str:
    """An axis: its label, its scale, and its ticks where a figure placed them itself."""
    words = []
    if axis.get_label_text():
        words.append(repr(axis.get_label_text()))
    if axis.get_scale() != "linear":
        words.append(axis.get_scale())
    locator = axis.get_major_locator()
    # Ticks that matplotlib places follow from the limits, which are compared as numbers.
    if isinstance(locator, FixedLocator) and _labelled(axis):
        words += [repr(label.get_text()) for label in axis.get_majorticklabels()]
    return " ".join([f"{name} axis", *words]) if words else ""


def _labelled(axis: Axis) -> bool:
    """Whether labels stand at the ticks of an axis."""
    shown = axis.get_tick_params()
    return bool(shown.get("labelleft", True) and shown.get("labelbottom", True))


def _read_artists(
    contents: Contents, where: str, artists: list[Artist], *, background: Artist
) -> None:
    texts: dict[str, list[Text]] = {}
    for artist in artists:
        if artist is background or not artist.get_visible():
            continue
        if isinstance(artist, Text):
            if artist.get_text():
                texts.setdefault(_name(artist), []).append(artist)
        elif isinstance(artist, Legend):
            words = " ".join(repr(text.get_text()) for text in artist.get_texts())
            contents.add(f"legend in {where}", words)
        elif not isinstance(artist, FRAME):
            kind, words, arrays = _read_artist(artist)
            contents.add(f"{kind} {_name(artist)!r} in {where}", words, **arrays)
    for name, group in texts.items():
        _read_texts(contents, f"text {name!r} in {where}", name, group)


def _read_texts(contents: Contents, artist: str, name: str, group: list[Text]) -> None:
    """All texts of one name together: what they say and where they begin."""
    said = [text.get_text() for text in group]
    arrays: dict[str, Any] = {"places": [text.get_position() for text in group]}
    if name.endswith(MEASURED):
        arrays["numbers"] = [float(number) for text in said for number in NUMBER.findall(text)]
        said = [NUMBER.sub("#", text) for text in said]
    contents.add(artist, " ".join(map(repr, said)), **arrays)


def _read_artist(artist: Artist) -> tuple[str, str, dict[str, Any]]:
    """The kind of one drawn thing, its look in words, and its numbers."""
    if isinstance(artist, Line2D):
        look = f"{_hex(artist.get_color())} {artist.get_linestyle()!r} {artist.get_marker()!r}"
        x, y = artist.get_xdata(orig=False), artist.get_ydata(orig=False)
        return "line", look, {"x": x, "y": y}
    if isinstance(artist, AxesImage):
        words, arrays = _colours_of(artist)
        arrays |= {"values": artist.get_array(), "extent": artist.get_extent()}
        return "image", words, arrays
    if isinstance(artist, Collection):
        return "collection", *_read_collection(artist)
    if isinstance(artist, Patch):
        corners = artist.get_path().transformed(artist.get_patch_transform()).vertices
        look = f"fill {_hex(artist.get_facecolor())}" if artist.get_fill() else "no fill"
        look += f", edge {_hex(artist.get_edgecolor())}{artist.get_hatch() or ''}"
        return "patch", look, {"corners": corners}
    raise TypeError(
        f"figures.check cannot read a {type(artist).__name__} yet: draw with lines, images, "
        "collections, patches and texts, or add it to llama_viz/figures/check.py"
    )


def _read_collection(artist: Collection) -> tuple[str, dict[str, Any]]:
    if artist.get_array() is not None:
        words, arrays = _colours_of(artist)
        arrays["values"] = artist.get_array()
    else:
        words = f"fill {_hexes(artist.get_facecolor())}, edge {_hexes(artist.get_edgecolor())}"
        arrays = {}
    offsets: Any = np.ma.asarray(artist.get_offsets())
    if offsets.size and (len(offsets) > 1 or offsets.any()):
        arrays["offsets"] = offsets
    corners = [path.vertices for path in artist.get_paths()]
    if corners:
        arrays["corners"] = np.concatenate(corners)
    return words, arrays


def _colours_of(artist: Any) -> tuple[str, dict[str, Any]]:
    """How values become colours: the map's name, the kind of scale, and its ends."""
    scale = type(artist.norm).__name__
    return f"colours {artist.get_cmap().name} by {scale}", {"colour range": artist.get_clim()}


def _hexes(colours: Any) -> str:
    return " ".join(dict.fromkeys(_hex(colour) for colour in np.atleast_2d(colours))) or "none"


def _hex(colour: Any) -> str:
    return to_hex(colour, keep_alpha=True)


def _name(artist: Any) -> str:
    """What an artist says that it is."""
    return str(artist.get_gid() or artist.get_label() or "without a name")


# Plotly


def _read_plotly(figure: dict[str, Any]) -> Contents:
    contents = Contents()
    for trace in figure.get("data", []):
        _read_branch(contents, f"{trace.get('type')} {trace.get('name')!r}", trace)
    layout = {key: value for key, value in figure.get("layout", {}).items() if key != "template"}
    for key in sorted(layout):
        _read_branch(contents, f"layout {key}", layout[key])
    return contents


def _read_branch(contents: Contents, name: str, branch: Any) -> None:
    """One part of a Plotly figure: all texts below it as words, all numbers as arrays."""
    words, arrays = [], {}
    for path, leaf in _leaves(branch):
        array = _numbers_in(leaf)
        if array is None:
            words.append(f"{path} {leaf!r}".strip())
        else:
            arrays[path or "value"] = array
    contents.add(name, ", ".join(words), **arrays)


def _leaves(branch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything below a branch that is not a branch itself, with the way to it."""
    if isinstance(branch, dict) and {"bdata", "dtype"} <= set(branch):
        yield path, _unpacked(branch)
    elif isinstance(branch, dict):
        for key in sorted(branch):
            yield from _leaves(branch[key], f"{path}.{key}".strip("."))
    elif isinstance(branch, (list, tuple)) and any(isinstance(part, dict) for part in branch):
        for number, part in enumerate(branch):
            yield from _leaves(part, f"{path}[{number}]")
    elif isinstance(branch, (list, tuple, np.ndarray)) and _numbers_in(branch) is None:
        yield path, np.asarray(branch, dtype=object).tolist()
    else:
        yield path, branch


def _unpacked(packed: dict[str, Any]) -> np.ndarray:
    """An array as Plotly packs it: bytes in base64, a type, and a shape such as "10, 40"."""
    array = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
    shape = packed.get("shape")
    return array if shape is None else array.reshape([int(n) for n in str(shape).split(",")])


def _numbers_in(leaf: Any) -> np.ndarray | None:
    """A leaf as an array of numbers; None where it is not numbers alone."""
    if isinstance(leaf, (bool, str)) or leaf is None:
        return None
    try:
        array = np.asarray(leaf)
    except ValueError:  # rows of different lengths
        return None
    return array if array.dtype.kind in "iuf" else None
