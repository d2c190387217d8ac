"""Browse the choices of a figure: a control for each, and the picture that belongs to them."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import ipywidgets

from llama_viz.widgets.bundle import picture_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure


class FigureBrowser(ipywidgets.VBox):
    """Draw a figure of a trace, and draw it again whenever a control is moved.

    draw is one of llama_viz.figures and trace what it takes first, which for a worked example may
    be plain numbers. choices name its arguments and the values that each can take, first the one to
    begin with: FigureBrowser(figures.attention_map, trace, layer=range(4), head=range(8)). Numbers
    get a slider in rising order, one text a box to type another one in, anything else a menu.
    `figure` is in view, `png` is its picture.

    Raises ValueError where an argument has no values to choose from.
    """

    def __init__(self, draw: Callable[..., Figure], trace: Any, **choices: Sequence[Any]) -> None:
        self._draw = draw
        self._trace = trace
        self._controls = {name: _control(name, values) for name, values in choices.items()}
        self._image = ipywidgets.Image(format="png")
        self._redraw()
        for control in self._controls.values():
            control.observe(self._redraw, names="value")
        super().__init__([ipywidgets.HBox(list(self._controls.values())), self._image])

    @property
    def chosen(self) -> dict[str, Any]:
        """The value of each control."""
        return {name: control.value for name, control in self._controls.items()}

    def _redraw(self, _change: object = None) -> None:
        self.figure = self._draw(self._trace, **self.chosen)
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png")
        self.png = self._image.value = buffer.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget, and for a page without a kernel the picture in view."""
        settings = ", ".join(f"{name} {value}" for name, value in self.chosen.items())
        text = f"Figure browser: {self._draw.__name__} at {settings}."
        return picture_bundle(self.model_id, text, self.png), {}


def _control(name: str, values: Sequence[Any]) -> ipywidgets.DOMWidget:
    if isinstance(values, str):
        return ipywidgets.Text(value=values, description=name, continuous_update=True)
    values = list(values)
    if not values:
        raise ValueError(f"{name} has no values to choose from")
    settings = {"value": values[0], "description": name}
    if all(isinstance(value, (int, float)) for value in values):
        return ipywidgets.SelectionSlider(options=sorted(values), **settings)
    return ipywidgets.Dropdown(options=values, **settings)
