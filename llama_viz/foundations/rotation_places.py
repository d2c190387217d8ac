"""What if LLaMA rotated somewhere else? The same weights, run with rotations in other places."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llama_viz.errors import unknown_name
from llama_viz.model import rotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama_viz.language_model import LanguageModel

# Place -> what is rotated there: which ends of which projections. An input is rotated in slices of
# a head's size, so that its angles are those of the head.
ROTATION_PLACES: dict[str, tuple[str, ...]] = {
    "as built": ("query output", "key output"),
    "nowhere": (),
    "values, too": ("query output", "key output", "value output"),
    "before the projections": ("query input", "key input"),
    "in the first layer alone": ("query output", "key output"),
    "on the first key/value head alone": ("query output", "key output"),
}


@contextmanager
def rotating(lm: LanguageModel, place: str) -> Iterator[LanguageModel]:
    """Rotate in another place than the model does, in every pass inside the block.

    place is one of ROTATION_PLACES; "as built" changes nothing. The weights stay as they were
    trained, so a loss says what these weights need, not what others could learn. Recordings of such
    runs hold unrotated vectors as query_rotated and key_rotated. With MQA the first key/value head
    is the only one.

    Raises ValueError for an unknown place, and for "before the projections" where dim is not a
    multiple of head_dim.
    """
    if place not in ROTATION_PLACES:
        raise unknown_name("place", place, ROTATION_PLACES)
    config = lm.config
    if place == "before the projections" and config.dim % config.head_dim:
        raise ValueError(f"dim {config.dim} does not divide into slices of {config.head_dim}")
    handles = []
    name = f"rotated {place}"
    try:
        if place != "as built":
            lm.model.interventions.append(name)
            for number, block in enumerate(lm.model.blocks):
                turns = ROTATION_PLACES[place]
                if place == "in the first layer alone" and number:
                    turns = ()
                only_first = place == "on the first key/value head alone"
                handles += _Elsewhere(block.attention, turns, only_first).hooks()
        yield lm
    finally:
        for handle in handles:
            handle.remove()
        if name in lm.model.interventions:
            lm.model.interventions.remove(name)


class _Elsewhere:
    """The hooks that take rotation out of one attention and put it in elsewhere."""

    def __init__(self, attention: Any, turns: tuple[str, ...], only_first: bool) -> None:
        self.attention, self.turns, self.only_first = attention, turns, only_first
        self.rotation: Tensor | None = None

    def hooks(self) -> list[Any]:
        made = [self.attention.register_forward_pre_hook(self._take_out)]
        for turn in self.turns:
            name, end = turn.split()
            projection = getattr(self.attention, name)
            if end == "input":
                made.append(projection.register_forward_pre_hook(self._turn_input))
            else:
                made.append(projection.register_forward_hook(self._turn_output))
        return made

    def _take_out(self, module: Any, args: tuple) -> tuple:
        """Keep the rotation of this pass, and give the attention one by no angle."""
        x, self.rotation, *rest = args
        return (x, torch.ones_like(self.rotation), *rest)

    def _turn_input(self, module: Any, args: tuple) -> tuple:
        return (self._turned(args[0]),)

    def _turn_output(self, module: Any, args: tuple, output: Tensor) -> Tensor:
        if not self.only_first:
            return self._turned(output)
        # One key/value head, and of the query heads those that read it.
        width = output.shape[-1] // self.attention.n_kv_heads
        return torch.cat([self._turned(output[..., :width]), output[..., width:]], dim=-1)

    def _turned(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, self.attention.head_dim))
        assert self.rotation is not None
        return rotate(heads, self.rotation).flatten(-2)
