"""What our own model really does, counted while it runs: every tensor operation of one pass.

PyTorch's FlopCounterMode counts products too, but on a CPU it passes over fused attention; and it
counts no bytes. Here every operation that PyTorch dispatches is seen, fused attention as its two
products.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama_viz.cost.operations import PARTS, Cost, Costs, check_counts, total
from llama_viz.cost.ratios import ATTENTION
from llama_viz.kv_cache import KVCache
from llama_viz.optimization import apart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_viz.language_model import LanguageModel
    from llama_viz.model import Llama

aten = torch.ops.aten

# The module whose turn it is -> the operation. Attention, Block and FeedForward do some work
# between their parts; _operation says which.
OPERATION_OF = {
    "embedding": "embedding",
    "attention_norm": "attention_norm",
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.output": "attention_output",
    "feed_forward_norm": "feed_forward_norm",
    "feed_forward.gate": "gate",
    "feed_forward.up": "up",
    "feed_forward.down": "down",
    "feed_forward": "neuron_activation",
    "norm": "final_norm",
    "output": "output_head",
}

# Attention written out lays its heads side by side in memory, which no formula asks for.
COPIES = "copies"


def count(
    lm: LanguageModel | Llama,
    ids: Tensor | Sequence[int],
    cache: KVCache | None = None,
    *,
    fused: bool = True,
) -> Costs:
    """Run one pass and count it: multiply-adds and bytes of every operation, to lay beside forward.

    ids are (batch, position), or a list of one text; with a cache the new positions, which are
    appended. fused=False listens to the attention weights, so that attention is written out.

    Products, lookup and cache are those of the formulas exactly (tested on CPUs). Norms, rotation,
    softmax and activation move more than the formulas say: each step of theirs (square, mean, ...)
    that is a kernel of its own reads and writes memory again; copies that only change the order in
    memory have a row of their own, "copies". Bytes are told apart by whose memory they are: a
    weight's, the cache's, an activation's. Counted are shapes: a fused kernel may skip blocks above
    the diagonal, and keeps one number per query for training that nobody reads here. Only products
    count as arithmetic. Making the rotation's angles and the mask is left out.

    Raises ValueError as the model does.
    """
    model: Any = getattr(lm, "model", lm)
    if not isinstance(ids, Tensor):
        ids = torch.tensor([list(ids)], device=model.embedding.weight.device)
    with torch.no_grad(), ExitStack() as stack:
        if not fused:
            for block in model.blocks:
                handle = block.attention.weights.register_forward_hook(lambda *_: None)
                stack.callback(handle.remove)
        stack.enter_context(apart(model))
        counter = _Counter(model, cache)
        stack.enter_context(counter.following())
        stack.enter_context(counter)
        model(ids, cache=cache)
    return counter.costs()


def counted_ratio(lm: LanguageModel | Llama, n: int, *, batch_size: int = 1) -> float:
    """Numbers moved per multiply-add of a model's attention over n decode steps, counted.

    Attention written out, as in counted_memory_per_arithmetic, which is the same by formula: here
    softmax, scaling and mask are kernels of their own, each of which reads and writes again.
    """
    check_counts(n=n, batch_size=batch_size)
    model: Any = getattr(lm, "model", lm)
    device = model.embedding.weight.device
    ids = torch.zeros(batch_size, n, dtype=torch.long, device=device)
    cache = KVCache(model.config, batch_size, n)
    # A step's cost is a straight line over what is held: first and last step stand for all.
    costs = [count(model, ids[:, :1], cache, fused=False)]
    if n > 2:
        with torch.no_grad():
            model(ids[:, 1:-1], cache=cache)
    if n > 1:
        costs.append(count(model, ids[:, -1:], cache, fused=False))
    steps = [total(row for row in cost if row.operation in (*ATTENTION, COPIES)) for cost in costs]
    numbers = sum(step.bytes for step in steps) / model.embedding.weight.element_size()
    return numbers / sum(step.multiply_adds for step in steps)


class _Counter(TorchDispatchMode):
    """Sees every dispatched operation and books it on the operation of the model at work."""

    def __init__(self, model: Llama, cache: KVCache | None) -> None:
        super().__init__()
        self.model, self.cache = model, cache
        self.weights = {_memory(parameter) for parameter in model.parameters()}
        self.modules: list[str] = []  # the path of the module at work, and of those around it
        self.n_products = 0  # of the attention at work
        self.is_half = False  # whether the block at work has added attention's output
        self.thread = threading.get_ident()  # others may run the model at the same time
        self.booked: dict[str, dict[str, int]] = {}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know which module is at work. Taps are left alone: a tap with a hook is observed."""
        handles = []
        for name, module in self.model.named_modules():
            path = ".".join(name.split(".")[2:]) if name.startswith("blocks.") else name
            is_block = name.startswith("blocks.") and not path
            if path in OPERATION_OF or path in ("attention", "rotary") or is_block:
                path = "block" if is_block else path
                handles.append(module.register_forward_pre_hook(partial(self._enter, path)))
                handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str, module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        self.modules.append(path)
        if path == "attention":
            self.n_products = 0
        if path == "block":
            self.is_half = False

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if threading.get_ident() == self.thread:
            self.modules.pop()

    def _operation(self, wrote_cache: bool) -> str | None:
        """The operation of the model that is at work; None for what is no part of the formulas."""
        path = self.modules[-1] if self.modules else ""
        if path == "block":
            return "feed_forward_residual" if self.is_half else "attention_residual"
        if path == "attention":
            if wrote_cache:
                return "cache_append"
            return ("rotation", "softmax", "weighted_values")[self.n_products]
        return OPERATION_OF.get(path)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        with self:  # in inference mode some operations arrive before they are taken apart
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if packet.__name__.startswith("_scaled_dot_product"):
            self._book_attention(args[0], args[1], args[2], result)
        elif packet is aten.embedding:
            self._book("embedding", reads=[args[1]], writes=[result])
            self._add("embedding", weights_read=result.nbytes)  # the rows looked up, not the table
        elif not _is_view(func, args, result):
            self._book_kernel(func, args, kwargs, result)
        return result

    def _book_kernel(self, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        """One kernel: reads its tensors, writes its result; products also multiply and add."""
        packet = func.overloadpacket
        writes = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        reads = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if packet is aten.copy_:
            reads = reads[1:]  # the target is overwritten unread
        if not reads:
            return  # made from nothing: the cache's first room, positions, a mask
        wrote_cache = any(_memory(tensor) in self._cache_memory() for tensor in writes)
        operation = COPIES if packet is aten.clone else self._operation(wrote_cache)
        if packet in _PRODUCTS:
            if operation in ("rotation", "softmax"):  # attention written out
                operation = ("scores", "weighted_values")[self.n_products]
                self.n_products += 1
            factors = [tensor for tensor in reads if tensor.dim() >= 2][-2:]
            self._add(operation, multiply_adds=writes[0].numel() * factors[0].shape[-1])
        self._book(operation, reads, writes)
        if self.modules and self.modules[-1] == "block":
            self.is_half = True

    def _book_attention(self, query: Tensor, key: Tensor, value: Tensor, result: Any) -> None:
        """One fused kernel: two products, whose scores and weights never reach memory."""
        output = result[0] if isinstance(result, tuple) else result
        pairs = math.prod(query.shape[:-1]) * key.shape[-2]
        self._add("scores", multiply_adds=pairs * query.shape[-1])
        self._add("weighted_values", multiply_adds=pairs * value.shape[-1])
        self._book("scores", reads=[query, key])
        self._book("weighted_values", reads=[value], writes=[output])
        self.n_products = 2

    def _book(
        self, operation: str | None, reads: Iterable[Tensor] = (), writes: Iterable[Tensor] = ()
    ) -> None:
        for tensor in reads:
            self._add(operation, **{f"{self._kind(tensor)}_read": tensor.nbytes})
        for tensor in writes:
            kind = "cache" if self._kind(tensor) == "cache" else "activations"
            self._add(operation, **{f"{kind}_written": tensor.nbytes})

    def _add(self, operation: str | None, **numbers: int) -> None:
        if operation is None:
            return
        booked = self.booked.setdefault(operation, {})
        for name, number in numbers.items():
            booked[name] = booked.get(name, 0) + number

    def _kind(self, tensor: Tensor) -> str:
        """Whose memory it is: weights, cache or activations."""
        if _memory(tensor) in self.weights:
            return "weights"
        return "cache" if _memory(tensor) in self._cache_memory() else "activations"

    def _cache_memory(self) -> set[int]:
        """Asked anew each time: a new cache gets its room during the first pass."""
        if self.cache is None:
            return set()
        held = [tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values)]
        return {_memory(tensor) for tensor in held if tensor is not None}

    def costs(self) -> Costs:
        """What was booked, in the order of a pass."""
        rows = []
        for operation, part in {**PARTS, COPIES: "attention"}.items():
            if operation not in self.booked and operation in ("cache_append", COPIES):
                continue
            numbers = self.booked.get(operation, {})
            arithmetic = 2 * numbers.get("multiply_adds", 0)
            rows.append(Cost(operation, part, operations=arithmetic, **numbers))
        return Costs(tuple(rows), self.model.config.n_layers)


_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}


def _memory(tensor: Tensor) -> int:
    """Where the tensor's storage begins: views of one memory share it."""
    return tensor.untyped_storage().data_ptr()


def _is_view(func: Any, args: tuple, result: Any) -> bool:
    """Whether the result is memory of an argument that was not written to: nothing moved."""
    if not isinstance(result, Tensor) or func._schema.is_mutable:
        return False
    return any(_memory(arg) == _memory(result) for arg in args if isinstance(arg, Tensor))
