"""Where the model can be listened to: taps, and the table that says what passes through them.

A value that some module already returns is listened to there. Every other value worth seeing passes
through a `Tap`, a module that returns its input, at the place where it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from llama_viz.errors import unknown_name


class Tap(nn.Module):
    """Return the input unchanged, so that a forward hook can see it or replace it.

    The arguments name the axes of the value after the batch axis.
    """

    def __init__(self, *axes: str) -> None:
        super().__init__()
        self.axes = axes

    @property
    def observed(self) -> bool:
        """Whether anybody listens."""
        return bool(self._forward_hooks)

    def forward(self, value: Tensor) -> Tensor:
        return value

    def extra_repr(self) -> str:
        return ", ".join(self.axes)


@dataclass(frozen=True)
class TapPoint:
    """One place to listen: the module to hook and the axes of its value after the batch axis.

    path is relative to the model, or to one block where per_layer is true. before listens to the
    module's input instead of its output. Axes written as "head*head_feature" leave the module
    joined into one.
    """

    variable: str
    path: str
    axes: tuple[str, ...]
    per_layer: bool = True
    before: bool = False


_HEADS = ("position", "head*head_feature")
_KV_HEADS = ("position", "key_value_head*head_feature")
_ROTATED = ("position", "head", "head_feature")
_KV_ROTATED = ("position", "key_value_head", "head_feature")
_MAP = ("head", "query_position", "key_position")
_FEATURES = ("position", "feature")
_NEURONS = ("position", "neuron")

# Trace variable -> where it passes. RMS statistics stand apart: every norm has one (see NORMS).
TAP_POINTS: dict[str, TapPoint] = {
    point.variable: point
    for point in (
        TapPoint("embedding", "embedding", _FEATURES, per_layer=False),
        TapPoint("rotation_angle", "rotary.angle", ("position", "pair"), per_layer=False),
        TapPoint("residual_in", "", _FEATURES, before=True),
        TapPoint("query", "attention.query", _HEADS),
        TapPoint("key", "attention.key", _KV_HEADS),
        TapPoint("value", "attention.value", _KV_HEADS),
        TapPoint("query_rotated", "attention.query_rotated", _ROTATED),
        TapPoint("key_rotated", "attention.key_rotated", _KV_ROTATED),
        TapPoint("attention_scores", "attention.scores", _MAP),
        TapPoint("attention_weights", "attention.weights", _MAP),
        TapPoint("head_output", "attention.head_output", _ROTATED),
        TapPoint("attention_output", "attention.output", _FEATURES),
        TapPoint("residual_middle", "residual_middle", _FEATURES),
        TapPoint("gate", "feed_forward.gate", _NEURONS),
        TapPoint("up", "feed_forward.up", _NEURONS),
        TapPoint("neuron_activation", "feed_forward.neuron_activation", _NEURONS),
        TapPoint("feed_forward_output", "feed_forward.down", _FEATURES),
        TapPoint("residual_out", "", _FEATURES),
        TapPoint("logits", "output", ("position", "vocabulary"), per_layer=False),
    )
}

# The norms of one block in the order of the data, then the final one: (kind, path).
BLOCK_NORMS = (("attention", "attention_norm"), ("feed_forward", "feed_forward_norm"))
FINAL_NORM = ("final", "norm")


@dataclass(frozen=True)
class Norm:
    """One RMSNorm of the model: its number, its layer, its kind and the path of the module."""

    index: int
    layer: int
    kind: str
    path: str


def norms(n_layers: int) -> list[Norm]:
    """Every RMSNorm in the order of the data: 2l before attention, 2l + 1 before the feed-forward.

    The final norm is last; its layer is n_layers, one past the last block.
    """
    places = [
        (layer, kind, f"blocks.{layer}.{name}")
        for layer in range(n_layers)
        for kind, name in BLOCK_NORMS
    ]
    places.append((n_layers, *FINAL_NORM))
    return [Norm(index, *place) for index, place in enumerate(places)]


@dataclass(frozen=True)
class Place:
    """One concrete place in one model: what a hook hangs on.

    name is unique; row is the layer, the norm's number, or None where the model has one such place.
    """

    variable: str
    name: str
    path: str
    axes: tuple[str, ...]
    row: int | None
    before: bool = False

    @property
    def dims(self) -> tuple[str, ...]:
        """The axes with joined ones taken apart: ("position", "head", "head_feature")."""
        return tuple(dim for axis in self.axes for dim in axis.split("*"))


def places(n_layers: int) -> list[Place]:
    """Every place to listen to in a model of n_layers, RMS statistics included."""
    found = []
    for point in TAP_POINTS.values():
        for layer in range(n_layers) if point.per_layer else (None,):
            block = [] if layer is None else [f"blocks.{layer}"]
            path = ".".join([*block, point.path] if point.path else block)
            name = path if point.path else f"{path}.{point.variable}"
            found.append(Place(point.variable, name, path, point.axes, layer, point.before))
    for norm in norms(n_layers):
        path = f"{norm.path}.rms"
        found.append(Place("rms", path, path, ("position",), norm.index))
    return found


def find_places(name: str, n_layers: int) -> list[Place]:
    """The places of a tap's name, or those of a variable in all layers.

    Raises ValueError, with the choices, where there is none.
    """
    everywhere = places(n_layers)
    found = [place for place in everywhere if name in (place.name, place.variable)]
    if not found:
        # Every name of the first block stands for those of all blocks.
        choices = [place.name for place in everywhere if not place.name.startswith("blocks.")]
        choices += [place.name for place in everywhere if place.name.startswith("blocks.0.")]
        last = n_layers - 1
        raise unknown_name("tap", name, choices, note=f" (blocks.0 stands for 0 to {last})")
    return found
