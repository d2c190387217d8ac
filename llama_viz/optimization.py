"""Faster decoding: the same model, laid out for passes over one new position.

Such a pass multiplies one row by every weight. Two things take its time: the weights must be read
from memory, all of them, and a hundred small operations must be started. So products are shared out
over the threads, projections that read the same row are joined into one product, and a part of a
block in which nobody listens starts as few operations as can be. Where somebody listens, that part
runs step by step, on the same joined weights.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all

from llama_viz.model import (
    Attention,
    Block,
    FeedForward,
    Llama,
    RMSNorm,
    check_weight_type,
    rotate,
)
from llama_viz.taps import BLOCK_NORMS, TAP_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llama_viz.kv_cache import LayerCache
    from llama_viz.taps import Tap


def optimize(model: Llama, dtype: torch.dtype | None = None, *, packed: bool = False) -> None:
    """Lay a model out for decoding, in place; dtype (None: as it is) is that of the weights.

    Its weights are views of joined buffers afterwards: change them in place (copy_), or call this
    again after replacing them. A copy of the model (copy.deepcopy, pickle, torch.save) is laid out
    like it, on buffers of its own.

    float16 and bfloat16 both halve the bytes that a token reads. On a CPU PyTorch multiplies a row
    of float16 with a kernel of its own, about as fast as memory can be read, and one of bfloat16 at
    half that pace. packed keeps a second copy of bfloat16 weights, in the order that oneDNN's
    kernel reads at full pace: together they take as much memory as float32. A weight that is
    changed in place is no longer read packed; a change that PyTorch does not count, through .data,
    is overlooked.

    Raises ValueError, before anything is changed, for a type without a point, and where weights
    cannot be packed.
    """
    check_weight_type(dtype)
    weight = model.output.weight
    if packed and (reason := _why_not_packed(dtype or weight.dtype, weight.device)):
        raise ValueError(reason)
    if dtype is not None:
        model.to(dtype)
    for module in list(model.modules()):
        if isinstance(module, RMSNorm):
            _become(OptimizedNorm, module)
        elif isinstance(module, Attention):
            _lay_out(OptimizedAttention, module, ("query", "key", "value"), "output", packed)
        elif isinstance(module, FeedForward):
            _lay_out(OptimizedFeedForward, module, ("gate", "up"), "down", packed)
    JoinedWeights([model.output], packed)
    for block in model.blocks:
        _become(OptimizedBlock, block, one_row=OneRowBlock(cast("Block", block)))


@contextmanager
def apart(model: Llama) -> Iterator[None]:
    """Let each projection multiply for itself inside the block, so that it can be counted."""
    joined = {module.joined for module in model.modules() if isinstance(module, OneRowLinear)}
    for weights in joined:
        weights.n_apart += 1
    try:
        yield
    finally:
        for weights in joined:
            weights.n_apart -= 1


Gain = dict[str, torch.Tensor]
Parameters = dict[str, Any]  # those of one module, by name


def _become(kind: type[nn.Module], module: nn.Module, **needed: Any) -> None:
    """Make a module one of a subclass of its class; its weights, hooks and taps stay.

    First it gets what the subclass needs: another thread may be in the midst of a pass.
    """
    vars(module).update(needed)
    module.__class__ = kind


def _lay_out(
    kind: type[nn.Module], module: nn.Module, joined: Sequence[str], last: str, packed: bool
) -> None:
    """Join projections of a module, and store the last one's weight so that it can be shared."""
    parts = dict(module.named_children())
    linears = [cast("nn.Linear", parts[name]) for name in joined]
    weights = JoinedWeights(linears, packed)
    JoinedWeights([cast("nn.Linear", parts.pop(last))], packed)
    _become(kind, module, joined=weights, inside=parts)


def _why_not_packed(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why oneDNN cannot pack weights of this type here; None where it can."""
    if dtype != torch.bfloat16 or device.type != "cpu":
        return (
            f"packed= is for bfloat16 weights on a CPU, these are {dtype} on "
            f"{device.type}: say optimize(torch.bfloat16, packed=True), or leave it out"
        )
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "here PyTorch cannot pack bfloat16 weights: leave packed= out"
    return None


class PackedWeight:
    """A bfloat16 weight in the order in which oneDNN's kernel reads it."""

    def __init__(self, weight: Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def product(self, rows: Tensor) -> Tensor:
        """rows (row, input) times the weight: (row, output)."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")


def _changes(weight: Tensor) -> int:
    """How often a weight was changed in place; PyTorch does not count for inference tensors."""
    return 0 if weight.is_inference() else weight._version


class JoinedWeights:
    """The weights of Linears that read the same row, in one buffer of which they become views.

    The Linears become OneRowLinears, which take their parts of the joined product.

    In float32 on a CPU the buffer is stored column by column, as (input, output), and cut along the
    input into one share for each thread: PyTorch would multiply a single row on one thread, but of
    a batch of products each thread takes its own. Their sum is the product. Elsewhere the buffer is
    stored row by row, as the kernels there like it.
    """

    def __init__(self, linears: Sequence[nn.Linear], packed: bool = False) -> None:
        self._join([linear._parameters for linear in linears], packed)
        for index, linear in enumerate(linears):
            _become(OneRowLinear, linear, joined=self, index=index)

    def _join(self, parameters: list[Parameters], packed: bool) -> None:
        """Join the weights of these Linears, each of which looks them up in its dictionary."""
        weights = [each["weight"] for each in parameters]
        weight = torch.cat([each.data for each in weights])
        n_outputs, n_inputs = weight.shape
        self.n_shares = 0  # not cut
        if weight.dtype == torch.float32 and weight.device.type == "cpu":
            n_threads = torch.get_num_threads()
            self.n_shares = max(n for n in range(1, n_threads + 1) if n_inputs % n == 0)
            weight = weight.t().contiguous()
            self.shares = weight.view(self.n_shares, -1, n_outputs)
            weight = weight.t()
        self.weight = weight
        self._sizes = [len(each) for each in weights]
        # A row, who asked for it last, and the products of all.
        self._held: tuple[Tensor, int, tuple[Tensor, ...]] | None = None
        self.n_apart = 0  # how many ask that nothing be joined
        parts = weight.split(self._sizes)
        # Looked up in every pass, so as directly as can be.
        self._places: list[tuple[Parameters, int | None]] = [
            (each, part.data_ptr()) for each, part in zip(parameters, parts, strict=True)
        ]
        self._packed = PackedWeight(weight) if packed else None
        for each, part in zip(weights, parts, strict=True):
            each.data = part
        self._changes = [_changes(each) for each in weights]

    # Copied or stored are the Linears' weights alone: a copy joins its own. Where they had replaced
    # the joined ones, it reads them as the first one does, without joining them.

    def __getstate__(self) -> dict[str, Any]:
        return {
            "parameters": [parameters for parameters, _ in self._places],
            "is_joined": self._are_views(),
            "packed": self._packed is not None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        parameters = state["parameters"]
        if state["is_joined"]:
            # It may have come to another machine.
            weight = parameters[0]["weight"]
            packed = state["packed"] and not _why_not_packed(weight.dtype, weight.device)
            self._join(parameters, packed)
        else:
            self._places, self.n_apart = [(each, None) for each in parameters], 0

    def _are_views(self) -> bool:
        """Whether the weights of the Linears are where they were laid out."""
        weights = ((parameters["weight"], address) for parameters, address in self._places)
        return all(each is not None and each.data_ptr() == address for each, address in weights)

    @property
    def current(self) -> bool:
        """Whether the Linears read this buffer, and not weights that replaced it or are trained."""
        if self.n_apart:
            return False
        for parameters, address in self._places:
            weight = parameters["weight"]
            if weight is None or weight.data_ptr() != address or weight.requires_grad:
                return False
        if self._packed is None:
            return True
        weights = (cast("Tensor", parameters["weight"]) for parameters, _ in self._places)
        return [_changes(weight) for weight in weights] == self._changes

    def product(self, row: Tensor) -> Tensor:
        """row (1, 1, input) times all weights: (1, 1, output)."""
        if self._packed is not None:
            return self._packed.product(row[0])[None]
        if self.n_shares < 2:
            return F.linear(row, self.weight)
        return torch.bmm(row.reshape(self.n_shares, 1, -1), self.shares).sum(0, keepdim=True)

    def flat_product(self, row: Tensor) -> Tensor:
        """The same of a row (input,): (output,)."""
        if self._packed is not None:
            return self._packed.product(row[None])[0]
        if self.n_shares > 1:
            return torch.bmm(row.view(self.n_shares, 1, -1), self.shares).sum((0, 1))
        if self.n_shares == 1:
            return torch.mv(self.weight, row)
        return F.linear(row[None], self.weight)[0]  # mv knows no kernel for bfloat16

    def added(self, stream: Tensor, row: Tensor) -> Tensor:
        """stream (output,) plus the product of a row (input,), which one kernel can do."""
        if self.n_shares == 1:
            return torch.addmv(stream, self.weight, row)
        return stream + self.flat_product(row)

    def part(self, row: Tensor, index: int) -> Tensor:
        """What one of the Linears makes of the row; the first that asks computes it for all.

        They are asked in their order. Who asks again gets a new product: weights may have changed.
        """
        held = self._held  # taken once: another thread may put its own row here
        if held is not None and held[0] is row and held[1] < index:
            parts = held[2]
        else:
            parts = self.product(row).split(self._sizes, dim=-1)
        self._held = (row, index, parts) if index + 1 < len(self._sizes) else None
        return parts[index]


class OneRowLinear(nn.Linear):
    """A Linear that takes its part of a joined product, where a single row passes."""

    joined: JoinedWeights
    index: int

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3 and x.numel() == self.in_features and self.joined.current:
            return self.joined.part(x, self.index)
        return F.linear(x, self.weight)


# Types whose numbers float32 holds exactly.
ONE_ROW_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _is_touched(parts: Mapping[str, nn.Module | None], inside: Mapping[str, nn.Module]) -> bool:
    """Whether somebody listens to one of these parts, or has put another in its place."""
    return any(
        parts[name] is not module or module._forward_hooks or module._forward_pre_hooks
        for name, module in inside.items()
    )


def _normed(row: Tensor, gain: Tensor, eps: float, tap: Tap) -> Tensor:
    """RMSNorm of a row (feature,) on a CPU; its root mean square comes from one dot product."""
    wide = row.float()
    rms = (wide.dot(wide).item() / wide.numel() + eps) ** 0.5
    if tap.observed:
        rms = tap(wide.new_full((1, 1), rms)).item()
    return (wide * gain).mul_(1 / rms).to(row.dtype)


class OptimizedNorm(RMSNorm):
    """RMSNorm that starts few operations for a single row on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        is_one_row = x.dim() == 3 and x.numel() == x.shape[-1]
        if not is_one_row or not x.is_cpu or x.dtype not in ONE_ROW_TYPES or x.requires_grad:
            return super().forward(x)
        return _normed(x.flatten(), self.weight, self.eps, self.rms).view(x.shape)


class OptimizedAttention(Attention):
    """Attention with one product for query, key and value, while nobody listens inside."""

    joined: JoinedWeights
    inside: dict[str, nn.Module]

    def forward(self, x: Tensor, rotation: Tensor, cache: LayerCache | None = None) -> Tensor:
        is_one_row = x.shape[0] * x.shape[1] == 1
        if not is_one_row or cache is None or _is_touched(self._modules, self.inside):
            return super().forward(x, rotation, cache)
        if not self.joined.current:
            return super().forward(x, rotation, cache)
        heads = self.joined.product(x).view(1, 1, -1, self.head_dim)
        turned, value = heads.tensor_split([self.n_heads + self.n_kv_heads], dim=2)
        query, key = rotate(turned, rotation).tensor_split([self.n_heads], dim=2)
        keys, values = cache.append(key.transpose(1, 2), value.transpose(1, 2))
        mixed = self._attend_fused(query.transpose(1, 2), keys, values, cache.hidden(1))
        return self.output(mixed.reshape(1, 1, -1))


class OptimizedFeedForward(FeedForward):
    """SwiGLU with one product for gate and up, while nobody listens inside."""

    joined: JoinedWeights
    inside: dict[str, nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        is_one_row = x.shape[0] * x.shape[1] == 1
        if not is_one_row or _is_touched(self._modules, self.inside) or not self.joined.current:
            return super().forward(x)
        gate, up = self.joined.product(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class OptimizedBlock(Block):
    """A block that one row passes as a whole, with its listeners at the taps' places."""

    one_row: OneRowBlock

    def forward(self, x: Tensor, rotation: Tensor, cache: LayerCache | None = None) -> Tensor:
        if cache is not None and self.one_row.holds_for(x, cache):
            return self.one_row(x, rotation, cache)
        return super().forward(x, rotation, cache)


# The places inside a block where listeners are served.
SERVED = {point.path for point in TAP_POINTS.values() if point.per_layer and point.path}
SERVED |= {f"{norm}.rms" for _, norm in BLOCK_NORMS}


def _heard(module: nn.Module, value: Tensor, read: Tensor | None = None) -> Tensor:
    """What the listeners of a module make of a value that was computed without calling it.

    read is what the module would have been given; None where that is the value itself.
    """
    for hook in tuple(module._forward_hooks.values()):
        changed = hook(module, (value if read is None else read,), value)
        value = value if changed is None else changed
    return value


class OneRowBlock:
    """The arithmetic of a block for one row on a CPU, calling no module.

    At small sizes starting an operation takes as long as what it computes, and calling a module as
    long again. So the row is a flat one, the root mean square a number, and where nobody listens
    query and key are turned where they stand, and enter the cache in one copy.
    """

    def __init__(self, block: Block) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self._block, self._attention, self._feed_forward = block, attention, feed_forward
        self._norms = (block.attention_norm, block.feed_forward_norm)
        inside = {name: module for name, module in block.named_modules() if name}
        heard = {name: module for name, module in inside.items() if name in SERVED}
        self._attention_hooks, self._feed_forward_hooks = (
            [module._forward_hooks for name, module in heard.items() if name.startswith(part)]
            for part in ("attention.", "feed_forward.")
        )
        # Hooks that need the module to be called.
        self._other_hooks: list[Mapping] = [module._forward_pre_hooks for module in inside.values()]
        for name, module in inside.items():
            if name in heard:
                self._other_hooks.append(module._forward_hooks_with_kwargs)
                self._other_hooks.append(module._forward_hooks_always_called)
            else:
                self._other_hooks.append(module._forward_hooks)
        self._places = [(module._modules, name, child) for module in block.modules()
                        for name, child in module.named_children()]  # fmt: skip
        # A module finds its parameters slowly; the dictionaries that hold them are their own.
        self._gains = tuple(cast("Gain", norm._parameters) for norm in self._norms)
        linears = (attention.query, attention.output, feed_forward.gate, feed_forward.down)
        self._joined = tuple(cast("OneRowLinear", linear).joined for linear in linears)
        weight = attention.query.weight
        self._is_possible = weight.device.type == "cpu" and weight.dtype in ONE_ROW_TYPES
        # How query, key and value lie in their joined product: (shape, stride) of their views.
        n_heads, n_kv_heads, size = attention.n_heads, attention.n_kv_heads, attention.head_dim
        self._n_queries, kv_width = n_heads * size, n_kv_heads * size
        self._widths = [self._n_queries, kv_width, kv_width]
        self._n_turned = self._n_queries + kv_width
        self._pairs = (1, 1, n_heads + n_kv_heads, size // 2)
        self._query = (1, n_kv_heads, n_heads // n_kv_heads, size)
        self._key_value = (2, 1, n_kv_heads, 1, size), (kv_width, kv_width, size, size, 1)

    def holds_for(self, x: Tensor, cache: LayerCache) -> bool:
        """Whether one row passes that may see every key, and all is as it was laid out."""
        if not self._is_possible or x.numel() != x.shape[-1] or x.requires_grad:
            return False
        if any(self._other_hooks) or cache.hidden(1) is not None:
            return False
        if hooks_of_all._global_forward_hooks or hooks_of_all._global_forward_pre_hooks:
            return False
        for modules, name, module in self._places:
            if modules[name] is not module:
                return False
        for gain in self._gains:
            weight = gain["weight"]
            if weight is None or weight.dtype != x.dtype or weight.requires_grad:
                return False
        return all(joined.current for joined in self._joined)

    def __call__(self, x: Tensor, rotation: Tensor, cache: LayerCache) -> Tensor:
        """x (1, 1, feature) to the same, as Block has it."""
        query_key_value, output, gate_up, down = self._joined
        row = x.view(-1)
        normed = self._norm(row, 0)
        if any(self._attention_hooks):
            row = row + self._attend_heard(normed, rotation, cache)
        else:
            heads = self._attend(query_key_value.flat_product(normed), rotation, cache)
            row = output.added(row, heads)
        if self._block.residual_middle._forward_hooks:
            row = _heard(self._block.residual_middle, row.view(x.shape)).view(-1)
        normed = self._norm(row, 1)
        if any(self._feed_forward_hooks):
            return (row + self._feed_heard(normed)).view(x.shape)
        gate, up = gate_up.flat_product(normed).chunk(2)
        return down.added(row, F.silu(gate, inplace=True).mul_(up)).view(x.shape)

    def _norm(self, row: Tensor, number: int) -> Tensor:
        """What the first or the second norm of the block makes of the row."""
        norm = self._norms[number]
        return _normed(row, self._gains[number]["weight"], norm.eps, norm.rms)

    def _attend(self, joined: Tensor, rotation: Tensor, cache: LayerCache) -> Tensor:
        """What the heads make of query, key and value, side by side in one row: (head_feature,)."""
        before = joined[: self._n_turned]
        turned = before.float()  # itself where it is float32
        turned.view(torch.complex64).view(self._pairs).mul_(rotation)
        if turned is not before:
            before.copy_(turned)
        query = joined[: self._n_queries].view(self._query)
        keys, values = cache.append_both(joined.as_strided(*self._key_value, self._n_queries))
        return F.scaled_dot_product_attention(query, keys, values).reshape(-1)

    def _attend_heard(self, row: Tensor, rotation: Tensor, cache: LayerCache) -> Tensor:
        """Attention of a normed row, step by step, with all its listeners: (feature,)."""
        attention, x = self._attention, row.view(1, 1, -1)
        size, n_kv_heads = attention.head_dim, attention.n_kv_heads
        linears = (attention.query, attention.key, attention.value)
        products = self._joined[0].flat_product(row).view(1, 1, -1).split_with_sizes(
            self._widths, dim=-1
        )  # fmt: skip
        query, key, value = (
            _heard(linear, product, x).view(1, 1, -1, size)
            for linear, product in zip(linears, products, strict=True)
        )
        query = _heard(attention.query_rotated, _rotated(query, rotation))
        key = _heard(attention.key_rotated, _rotated(key, rotation))
        keys, values = cache.append(key.transpose(1, 2), value.transpose(1, 2))
        # Without the batch axis: a product of three axes is started sooner than one of four.
        scores = torch.bmm(query.view(n_kv_heads, -1, size), keys[0].transpose(1, 2))
        scores = _heard(attention.scores, scores.mul_(size**-0.5).view(1, -1, 1, cache.length))
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        weights = _heard(attention.weights, weights)
        mixed = torch.bmm(weights.view(n_kv_heads, -1, cache.length), values[0])
        heads = _heard(attention.head_output, mixed.view(1, 1, -1, size)).view(1, 1, -1)
        product = self._joined[1].flat_product(heads.view(-1)).view(x.shape)
        return _heard(attention.output, product, heads).view(-1)

    def _feed_heard(self, row: Tensor) -> Tensor:
        """The feed-forward of a normed row, step by step, with all its listeners: (feature,)."""
        feed_forward, x = self._feed_forward, row.view(1, 1, -1)
        gate, up = self._joined[2].flat_product(row).view(1, 1, -1).chunk(2, dim=-1)
        gate, up = _heard(feed_forward.gate, gate, x), _heard(feed_forward.up, up, x)
        active = _heard(feed_forward.neuron_activation, F.silu(gate) * up)
        product = self._joined[3].flat_product(active.view(-1)).view(x.shape)
        return _heard(feed_forward.down, product, active).view(-1)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """rotate() of a row in fewer operations."""
    pairs = x.float().view(torch.complex64)
    return (pairs * rotation).view(torch.float32).to(x.dtype)
