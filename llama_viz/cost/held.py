"""How many bytes a computation holds at once, counted tensor by tensor while it runs."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable


def most_held(run: Callable[[], Any]) -> int:
    """The most bytes that tensors made by run() held at one moment, its result included.

    Tensors that were there before are not counted, nor what a fused kernel keeps to itself; views
    share the memory of what they are a view of. Shapes decide alone: each machine counts the same.
    """
    counter = _Held()
    with torch.no_grad(), counter:
        result = run()
    del result
    return counter.most


class _Held(TorchDispatchMode):
    """Sees every tensor that is made, and when it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.tensors: Counter[int] = Counter()  # memory -> tensors that live in it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._take(leaf, given)
        return result

    def _take(self, tensor: Tensor, given: set[int]) -> None:
        memory, n_bytes = _memory(tensor), tensor.untyped_storage().nbytes()
        if memory not in self.tensors:
            if memory in given:
                return  # a view of what was there before
            self.now += n_bytes
            self.most = max(self.most, self.now)
        self.tensors[memory] += 1
        weakref.finalize(tensor, self._drop, memory, n_bytes)

    def _drop(self, memory: int, n_bytes: int) -> None:
        self.tensors[memory] -= 1
        if not self.tensors[memory]:
            del self.tensors[memory]
            self.now -= n_bytes


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
