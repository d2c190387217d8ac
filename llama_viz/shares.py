"""What each of several processes holds of one model: some of its heads, some of its neurons.

The split of Shoeybi et al. 2019 (Megatron-LM): a head and a neuron lie on one process whole, so
that attention and the feed-forward each need one sum over the processes, at their end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from llama_viz.config import ModelConfig

# How a weight, out of (in) x in (out) features, is cut: by what of its rows, or of its columns.
ROWS_OF = {
    "attention.query": "head",
    "attention.key": "key_value_head",
    "attention.value": "key_value_head",
    "feed_forward.gate": "neuron",
    "feed_forward.up": "neuron",
}
COLUMNS_OF = {"attention.output": "head", "feed_forward.down": "neuron"}


@dataclass(frozen=True)
class Share:
    """The part of a model that process `rank` of `n_ranks` holds.

    Query heads and neurons are dealt out evenly, in order. With them go the key/value heads that
    these query heads read: where there are fewer of them than processes, several processes hold the
    same one. Norms, the embedding and the output head are held by all.

    Raises ValueError where the rank is not one of n_ranks.
    """

    rank: int
    n_ranks: int

    def __post_init__(self) -> None:
        if isinstance(self.n_ranks, bool) or not isinstance(self.n_ranks, int) or self.n_ranks < 1:
            raise ValueError(f"at least 1 process is needed, got {self.n_ranks!r}")
        if not 0 <= self.rank < self.n_ranks:
            raise ValueError(f"rank {self.rank} is not one of {self.n_ranks} processes")

    def check(self, whole: ModelConfig) -> None:
        """Raise ValueError, with the numbers that work, where heads or neurons do not divide."""
        shared = gcd(whole.n_heads, whole.hidden_dim)
        if shared % self.n_ranks:
            choices = [str(n) for n in range(1, shared + 1) if shared % n == 0]
            raise ValueError(
                f"{self.n_ranks} processes cannot divide {whole.n_heads} query heads and "
                f"{whole.hidden_dim} neurons evenly; choose from {', '.join(choices)}"
            )

    def config(self, whole: ModelConfig) -> ModelConfig:
        """The sizes of a model that has this share alone."""
        self.check(whole)
        return replace(
            whole,
            n_heads=len(self.heads(whole)),
            n_kv_heads=len(self.key_value_heads(whole)),
            hidden_dim=len(self.neurons(whole)),
        )

    def heads(self, whole: ModelConfig) -> range:
        """The query heads that this process holds."""
        return self._dealt(whole.n_heads)

    def key_value_heads(self, whole: ModelConfig) -> list[int]:
        """The key/value heads that they read, as they stand in this process's keys.

        Attention wants each to serve the same number of neighbouring query heads. Where the deal
        cuts through those neighbours at different places, one is held more than once.
        """
        heads = self.heads(whole)
        serves = gcd(len(heads), whole.heads_per_kv_head)
        return whole.kv_head_of_head[heads.start : heads.stop : serves]

    def neurons(self, whole: ModelConfig) -> range:
        """The neurons of every feed-forward that this process holds."""
        return self._dealt(whole.hidden_dim)

    def part(self, name: str, weight: Tensor, whole: ModelConfig) -> Tensor:
        """What this process holds of a whole weight; a view where that is one piece of it."""
        place = name.removesuffix(".weight").split(".", 2)[-1]  # what follows "blocks.3."
        if place in COLUMNS_OF:
            return self._held(COLUMNS_OF[place], weight, whole, axis=1)
        return self._held(ROWS_OF[place], weight, whole, axis=0) if place in ROWS_OF else weight

    def _held(self, dim: str, weight: Tensor, whole: ModelConfig, axis: int) -> Tensor:
        width = 1 if dim == "neuron" else whole.head_dim
        held = self.held(dim, whole)
        pieces = weight.unflatten(axis, (-1, width))
        if held == list(range(held[0], held[0] + len(held))):
            return pieces.narrow(axis, held[0], len(held)).flatten(axis, axis + 1)
        return pieces.index_select(axis, pieces.new_tensor(held).long()).flatten(axis, axis + 1)

    def held(self, dim: str, whole: ModelConfig) -> list[int]:
        """The indices along a trace's dimension ("head", ...) that this process holds."""
        return {
            "head": lambda: list(self.heads(whole)),
            "key_value_head": lambda: self.key_value_heads(whole),
            "neuron": lambda: list(self.neurons(whole)),
        }[dim]()

    def _dealt(self, count: int) -> range:
        each = count // self.n_ranks
        return range(self.rank * each, (self.rank + 1) * each)
