"""The look of all figures: sizes, fonts and colours, and text that is drawn as it is.

Lengths are inches from the lower left corner of the figure, so that margins stay the same whatever
a figure holds.
"""

from __future__ import annotations

from functools import lru_cache, wraps
from io import BytesIO
from itertools import product
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.axis import XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from llama_viz.tokenizer import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.text import Text

WIDTH = 9.5
DPI = 100
MARGIN = 0.15
HEADING = 0.8  # room for a title and the line below it

FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine
TITLE, TEXT_SIZE, SMALL = 14, 12, 10.5

INK = "#222222"
QUIET = "#666666"
LINE = "#b5b5b5"
FAINT = "#e4e4e4"
MASKED = "#e2e2e2"

# Okabe and Ito's colours, which colour-blind readers can tell apart, less the yellow that white
# paper swallows.
QUALITATIVE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v")


def _colour_map(name: str, colours: dict[float, str]) -> Colormap:
    """Colours between these; a cell without a value lets the panel behind it show."""
    made = LinearSegmentedColormap.from_list(name, list(colours.items()))
    return made.with_extremes(bad=(0.0, 0.0, 0.0, 0.0))


# Small probabilities are the common ones: the first tenth already leaves the white of zero.
PROBABILITY = _colour_map(
    "probability",
    {0: "#ffffff", 0.1: "#d3e5f3", 0.3: "#8dbfe0", 0.6: "#3a84bf", 1: "#08306b"},
)
SIGNED = _colour_map(
    "signed", {0: "#8a3000", 0.25: "#e2823f", 0.5: "#ffffff", 0.75: "#5c9fd0", 1: "#08406f"}
)
SIZE = _colour_map("size", {0: "#fdf6e3", 0.35: "#9fd0b8", 0.7: "#2f8f86", 1: "#0b3c49"})

# Nothing of the reader's own settings gets in: matplotlib's defaults, then ours.
STYLE: Any = {
    **{
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if name.partition(".")[0] in ("axes", "figure", "font", "grid", "hatch", "image", "legend",
                                      "lines", "patch", "path", "savefig", "text", "xtick", "ytick")
    },
    "font.family": [FONT],
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.labelsize": TEXT_SIZE,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT_SIZE,
    "figure.dpi": DPI,
    "hatch.color": FAINT,
    "hatch.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}  # fmt: skip


Draw = TypeVar("Draw", bound="Callable[..., Any]")


# matplotlib's settings are those of all threads, and widgets draw in one of their own.
_SETTINGS = RLock()


def styled(draw: Draw) -> Draw:
    """Let a function that draws work with our settings, and leave the reader's as they were.

    Of two threads one draws after the other: else the first to end would take the settings away,
    and the second would leave ours behind.
    """

    @wraps(draw)
    def drawing(*arguments: Any, **keywords: Any) -> Any:
        with _SETTINGS, rc_context(STYLE):
            return draw(*arguments, **keywords)

    return cast("Draw", drawing)


class Picture(Figure):
    """A matplotlib figure that needs no pyplot and shows itself as one PNG in a notebook.

    It looks the same whatever the reader's matplotlib settings are.
    """

    def __init__(self, name: str, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(self)
        self.set_label(name)

    @styled  # ticks are made when they are drawn, with the settings of that moment
    def draw(self, renderer: Any) -> None:
        super().draw(renderer)

    @property
    def width(self) -> float:
        """Inches across."""
        return float(self.get_size_inches()[0])

    @property
    def height(self) -> float:
        """Inches from bottom to top."""
        return float(self.get_size_inches()[1])

    def panel(
        self, name: str, left: float, bottom: float, width: float, height: float, **options: Any
    ) -> Axes:
        """Axes with this name at a place in inches."""
        place = (
            left / self.width, bottom / self.height, width / self.width, height / self.height,
        )  # fmt: skip
        panel = self.add_axes(place, label=name, **options)
        panel.set_gid(name)
        return panel

    def write(self, name: str, text: str, left: float, bottom: float, **options: Any) -> Text:
        """A text at a place in inches."""
        options = {"color": QUIET, "size": SMALL, **options}
        return self.text(left / self.width, bottom / self.height, text, gid=name, **options)

    def heading(self, title: str, detail: str = "", *, gid: str = "detail") -> None:
        """A title in the upper left corner and one quiet line below it."""
        room = self.width - 2 * MARGIN
        lines = (
            ("title", title, TITLE, INK, MARGIN),
            (gid, detail, TEXT_SIZE - 0.5, QUIET, MARGIN + 0.32),
        )
        for name, text, size, colour, drop in lines:
            if text:
                size *= min(1.0, room / text_width(text, size))
                while text_width(text, size) > room:  # widths go in steps
                    size -= 0.1
                look = {"size": size, "color": colour, "va": "top"}
                self.write(name, text, MARGIN, self.height - drop, **look)

    def colour_bar(
        self, name: str, mappable: ScalarMappable, label: str,
        left: float, bottom: float, width: float, height: float,
    ) -> Axes:  # fmt: skip
        """A bar at a place in inches that says what the colours mean, level where it is wider."""
        bar = self.panel(name, left, bottom, width, height)
        orientation: Any = "horizontal" if width > height else "vertical"
        colours = self.colorbar(mappable, cax=bar, label=label, orientation=orientation)
        for part, artist in (("colours", colours.solids), ("dividers", colours.dividers)):
            if artist is not None:
                artist.set_gid(part)
        for spine in bar.spines.values():
            spine.set_visible(False)
        bar.tick_params(length=3)
        return bar

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def __repr__(self) -> str:
        width, height = round(self.width * DPI), round(self.height * DPI)
        return f"<Figure: {self.get_label()}, {width} x {height} pixels>"


@styled
def words(title: str, detail: str) -> Picture:
    """A picture of words alone, where there is nothing to draw: they say why."""
    figure = Picture(title, WIDTH, HEADING)
    figure.heading(title, detail)
    return figure


class Look(NamedTuple):
    """How one of several lines is told apart."""

    colour: str
    dashes: Any
    marker: str


def distinct(count: int) -> list[Look]:
    """Looks for `count` lines, no two alike: colours first, then dashes, then markers.

    Raises ValueError for more than there are: 140.
    """
    looks = [Look(*look) for look in _LOOKS]
    if count > len(looks):
        raise ValueError(f"at most {len(looks)} lines can be told apart, got {count}")
    return looks[:count]


_LOOKS = [(colour, dash, marker) for marker, dash, colour in product(MARKERS, DASHES, QUALITATIVE)]


def ramp(count: int, colours: Colormap = SIZE) -> list[Any]:
    """`count` colours in order, from light to dark, all dark enough for text on white paper."""
    return [colours(0.45 + 0.55 * index / max(count - 1, 1)) for index in range(count)]


def columns(panel: Axes, heights: np.ndarray, *, width: float, name: str) -> None:
    """A column for each number, from 0, in a panel `width` inches wide: one artist for all."""
    lines = panel.vlines(np.arange(len(heights)), 0, heights, color=QUALITATIVE[0],
                         linewidth=0.75 * 72 * width / (len(heights) + 0.2))  # fmt: skip
    lines.set_gid(name)


def probability_scale() -> Normalize:
    """Colours from 0 to 1, whatever the values are: figures can be compared."""
    return Normalize(0.0, 1.0)


def signed_scale(values: np.ndarray) -> Normalize:
    """Colours around 0, as far to both sides as the largest finite value goes."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return Normalize(-(largest or 1.0), largest or 1.0)


def round_values(low: float, high: float, *, most: int = 8) -> list[float]:
    """At most so many round numbers between two positive ones, for a logarithmic scale.

    1, 2 and 5 times powers of ten where there is room, 1 and 3 times them or powers of ten where
    there is less, and evenly spaced numbers between ends that lie close together.
    """
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 3:
        even = MaxNLocator(most - 1).tick_values(low, high)
        ticks = [float(tick) for tick in even if low <= tick <= high]
    return ticks[:: max(1, -(-len(ticks) // most))] or [low]


def whole_numbers(most: int = 9) -> MaxNLocator:
    """Ticks at whole numbers in steps of 1, 2, 5, 10 ...: positions and steps have no halves."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


# Text


@lru_cache(maxsize=65536)
def shown(text: str) -> str:
    """The text as it can be drawn: what is invisible or not in the font is written as <U+1F999>."""
    font = _characters()
    return "".join(
        character if ord(character) in font else f"<U+{ord(character):04X}>"
        for character in visible(text)
    )


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


def shortened(text: str, limit: int = 14) -> str:
    """The text as it can be drawn, cut at `limit` characters."""
    text = shown(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fitted(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """The text as it can be drawn, cut so that it takes at most `width` inches."""
    limit = len(shown(text))
    while limit > 1 and text_width(shortened(text, limit), size) > width:
        limit -= 1
    return shortened(text, limit)


@lru_cache(maxsize=65536)
def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """How wide a line of text is, in inches."""
    font = FontProperties(family=[FONT], size=size)
    return _ruler().get_text_width_height_descent(text, font, False)[0] / DPI


@lru_cache(maxsize=1)
def _ruler() -> Any:
    return FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()


def token_axis(
    axis: Axis,
    tokens: Sequence[str],
    length: float,
    *,
    size: float = SMALL,
    positions: Sequence[int] | None = None,
) -> None:
    """Label an axis of `length` inches with tokens; positions as in token_labels."""
    labels, ticks = token_labels(tokens, length, size=size, positions=positions)
    label_axis(axis, labels, ticks, size=size)


def label_axis(
    axis: Axis, labels: Sequence[str], ticks: Sequence[int], *, size: float = SMALL
) -> None:
    """Write labels at ticks, from bottom to top where they stand side by side."""
    axis.set_ticks(ticks, labels)
    axis.set_tick_params(length=2, labelsize=size)
    if isinstance(axis, XAxis):
        axis.set_tick_params(labelrotation=90)


def token_labels(
    tokens: Sequence[str],
    length: float,
    *,
    size: float = SMALL,
    positions: Sequence[int] | None = None,
) -> tuple[list[str], list[int]]:
    """The labels that fit along `length` inches, and the places that they stand at, from 0.

    Where there is no room for all, every second, fifth, tenth ... is labelled, with its position
    (positions None: counted from 0).
    """
    ticks = fitting_ticks(len(tokens), length, size)
    labels = [shortened(tokens[tick]) for tick in ticks]
    if len(ticks) < len(tokens):
        numbers = [tick if positions is None else positions[tick] for tick in ticks]
        labels = [f"{label} {number}" for label, number in zip(labels, numbers, strict=True)]
    return labels, ticks


def fitting_ticks(count: int, length: float, size: float = SMALL) -> list[int]:
    """Every, every second, fifth, tenth ... of `count` places, so that lines of text fit."""
    needed = 1.15 * size / 72 * count / length
    step = next(step for step in _steps() if step >= needed)
    return list(range(0, count, step))


def _steps() -> Iterator[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


def label_room(labels: Sequence[str], size: float = SMALL) -> float:
    """Inches that the widest of these tick labels takes, ticks included."""
    return max((text_width(label, size) for label in labels), default=0.0) + 0.1
