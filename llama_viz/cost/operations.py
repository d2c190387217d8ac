"""Every operation of one pass: multiply-adds and bytes as formulas of the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from llama_viz.analysis import ITEMSIZE
from llama_viz.errors import unknown_name

if TYPE_CHECKING:
    from llama_viz.config import ModelConfig

# Operation -> the part of the model that it belongs to, in the order of a pass.
PARTS = {
    "embedding": "embedding",
    "attention_norm": "attention",
    "query": "attention",
    "key": "attention",
    "value": "attention",
    "rotation": "attention",
    "cache_append": "attention",
    "scores": "attention",
    "softmax": "attention",
    "weighted_values": "attention",
    "attention_output": "attention",
    "attention_residual": "attention",
    "feed_forward_norm": "feed_forward",
    "gate": "feed_forward",
    "up": "feed_forward",
    "neuron_activation": "feed_forward",
    "down": "feed_forward",
    "feed_forward_residual": "feed_forward",
    "final_norm": "output",
    "output_head": "output",
}
PER_LAYER = ("attention", "feed_forward")

# Operations of each number that comes out, where no matrix is multiplied.
NORM = 4  # square, add to the sum, divide by the root mean square, times the gain
ROTATION = 3  # half of a complex product: 4 multiplications and 2 additions for two features
SOFTMAX = 6  # scale, compare with the largest, subtract, exponential, add to the sum, divide
GATED = 5  # negate, exponential, add 1, divide, times up: silu(gate) x up

ID_BYTES = 8  # a token id is an int64


@dataclass(frozen=True)
class Cost:
    """What one operation takes: arithmetic, and the bytes that pass between memory and processor.

    multiply_adds are those of matrix products. operations count 2 for each of them, and what norms,
    rotation, softmax, the activation and the residual sums do number by number. Every tensor is
    read or written once by each operation that uses it.
    """

    operation: str
    part: str
    multiply_adds: int = 0
    operations: int = 0
    weights_read: int = 0
    activations_read: int = 0
    activations_written: int = 0
    cache_read: int = 0
    cache_written: int = 0

    @property
    def bytes(self) -> int:
        """All bytes read and written."""
        return sum(getattr(self, name) for name in BYTES)

    @property
    def arithmetic_intensity(self) -> float:
        """Operations per byte (Williams, Waterman and Patterson 2009).

        Infinite for arithmetic that moves no byte, as softmax in a fused kernel.
        """
        if not self.bytes:
            return math.inf if self.operations else 0.0
        return self.operations / self.bytes

    def times(self, factor: int) -> Cost:
        """The same operation `factor` times."""
        numbers = {name: factor * getattr(self, name) for name in NUMBERS}
        return Cost(self.operation, self.part, **numbers)


NUMBERS = tuple(field.name for field in fields(Cost))[2:]
BYTES = NUMBERS[2:]


@dataclass(frozen=True, repr=False)
class Costs:
    """The operations of a pass, each summed over all layers: iterate, or name one: costs["query"].

    Printed, it is a table.
    """

    rows: tuple[Cost, ...]
    n_layers: int

    def __iter__(self) -> Iterator[Cost]:
        return iter(self.rows)

    def __getitem__(self, operation: str) -> Cost:
        for row in self.rows:
            if row.operation == operation:
                return row
        raise unknown_name("operation", operation, [row.operation for row in self.rows])

    @property
    def total(self) -> Cost:
        """All operations together."""
        return total(self.rows)

    def sum(self, *operations: str) -> Cost:
        """Several operations as one: a fused attention is scores, softmax and weighted_values."""
        return total([self[operation] for operation in operations], " + ".join(operations))

    @property
    def layer(self) -> Costs:
        """The operations of one layer."""
        rows = [row for row in self.rows if row.part in PER_LAYER]
        shares = [{name: getattr(row, name) // self.n_layers for name in NUMBERS} for row in rows]
        return Costs(
            tuple(
                Cost(row.operation, row.part, **share)
                for row, share in zip(rows, shares, strict=True)
            ),
            1,
        )

    def part(self, name: str) -> Cost:
        """All operations of one part: embedding, attention, feed_forward or output.

        Raises ValueError for another name.
        """
        if name not in PARTS.values():
            raise unknown_name("part", name, dict.fromkeys(PARTS.values()))
        return total((row for row in self.rows if row.part == name), name)

    def __repr__(self) -> str:
        header = (
            "operation",
            "multiply-adds",
            "weights",
            "activations",
            "cache",
            "operations/byte",
        )
        lines = [header] + [
            (
                row.operation,
                _short(row.multiply_adds),
                _short(row.weights_read),
                _short(row.activations_read + row.activations_written),
                _short(row.cache_read + row.cache_written),
                f"{row.arithmetic_intensity:.3g}",
            )
            for row in (*self.rows, self.total)
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )


def total(rows: Iterable[Cost], name: str = "total") -> Cost:
    """Several costs as one."""
    rows = list(rows)
    return Cost(name, name, **{key: sum(getattr(row, key) for row in rows) for key in NUMBERS})


def forward(
    config: ModelConfig,
    n_new: int,
    n_held: int = 0,
    *,
    batch_size: int = 1,
    dtype: str = "float32",
    use_cache: bool = True,
    fused: bool = True,
    skip_masked: bool = False,
) -> Costs:
    """The cost of one pass over n_new positions after n_held that are in the cache.

    Prefill is (n, 0), decoding one token (1, n), a step without cache (n, 0, use_cache=False).
    fused: attention in one kernel, whose scores and weights never reach memory; otherwise written
    out. skip_masked leaves out the scores above the diagonal, the least a causal model needs; by
    default all n_new x (n_held + n_new) count, as the written-out form computes them (kernels are
    free to skip some). Logits are computed at all n_new positions, as our model does. The angles
    of rotary positions and the mask, small beside the rest, are not counted.

    Raises ValueError for numbers that cannot be, and for n_held without a cache.
    """
    check_counts(n_new=n_new, batch_size=batch_size)
    check_counts(0, n_held=n_held)
    if n_held and not use_cache:
        raise ValueError(f"without a cache nothing can be held, got n_held={n_held}")
    item = itemsize(dtype)
    dim, hidden_dim, n_layers = config.dim, config.hidden_dim, config.n_layers
    query_width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    rows = batch_size * n_new
    pairs_of_a_head = n_new * (n_held + n_new)
    if skip_masked:
        pairs_of_a_head -= n_new * (n_new - 1) // 2
    pairs = batch_size * config.n_heads * pairs_of_a_head
    product = pairs * config.head_dim
    map_bytes = 0 if fused else pairs * item
    # All keys of one layer, or all its values: from the cache where there is one.
    held = config.kv_cache_bytes(n_held + n_new, batch_size=batch_size, itemsize=item)
    held //= 2 * n_layers
    from_cache, computed = (held, 0) if use_cache else (0, held)
    costs: list[Cost] = []

    def add(operation: str, **numbers: int) -> None:
        part = PARTS[operation]
        cost = Cost(operation, part, **numbers)
        costs.append(cost.times(n_layers if part in PER_LAYER else 1))

    def linear(operation: str, n_in: int, n_out: int) -> None:
        add(
            operation,
            multiply_adds=rows * n_in * n_out,
            operations=2 * rows * n_in * n_out,
            weights_read=n_in * n_out * item,
            activations_read=rows * n_in * item,
            activations_written=rows * n_out * item,
        )

    def elementwise(operation: str, width: int, each: int, inputs: int = 1, gains: int = 0) -> None:
        add(
            operation,
            operations=each * rows * width,
            weights_read=gains * item,
            activations_read=inputs * rows * width * item,
            activations_written=rows * width * item,
        )

    # Of the embedding only the rows that are looked up are read.
    looked_up = rows * dim * item
    add(
        "embedding",
        weights_read=looked_up,
        activations_read=rows * ID_BYTES,
        activations_written=looked_up,
    )

    elementwise("attention_norm", dim, NORM, gains=dim)
    linear("query", dim, query_width)
    linear("key", dim, kv_width)
    linear("value", dim, kv_width)
    elementwise("rotation", query_width + kv_width, ROTATION)
    if use_cache:
        new = 2 * rows * kv_width * item
        add("cache_append", activations_read=new, cache_written=new)
    add(
        "scores",
        multiply_adds=product,
        operations=2 * product,
        activations_read=rows * query_width * item + computed,
        cache_read=from_cache,
        activations_written=map_bytes,
    )
    add(
        "softmax",
        operations=SOFTMAX * pairs,
        activations_read=map_bytes,
        activations_written=map_bytes,
    )
    add(
        "weighted_values",
        multiply_adds=product,
        operations=2 * product,
        activations_read=map_bytes + computed,
        cache_read=from_cache,
        activations_written=rows * query_width * item,
    )
    linear("attention_output", query_width, dim)
    elementwise("attention_residual", dim, 1, inputs=2)

    elementwise("feed_forward_norm", dim, NORM, gains=dim)
    linear("gate", dim, hidden_dim)
    linear("up", dim, hidden_dim)
    elementwise("neuron_activation", hidden_dim, GATED, inputs=2)
    linear("down", hidden_dim, dim)
    elementwise("feed_forward_residual", dim, 1, inputs=2)

    elementwise("final_norm", dim, NORM, gains=dim)
    linear("output_head", dim, config.vocab_size)
    return Costs(tuple(costs), n_layers)


def generation(
    config: ModelConfig,
    n_prompt: int,
    max_new_tokens: int,
    *,
    batch_size: int = 1,
    dtype: str = "float32",
    use_cache: bool = True,
    fused: bool = True,
    skip_masked: bool = False,
) -> list[Cost]:
    """The cost of each step of a generation, all operations together.

    Step 0 is the prefill; the last new token is never fed back. With a cache each later step passes
    one position, without one all of them. Sum a field over the steps for the whole generation.

    Raises ValueError as forward() does.
    """
    check_counts(n_prompt=n_prompt, max_new_tokens=max_new_tokens)
    sizes = [(n_prompt, 0)]
    for length in range(n_prompt + 1, n_prompt + max_new_tokens):
        sizes.append((1, length - 1) if use_cache else (length, 0))
    return [
        forward(
            config, n_new, n_held, batch_size=batch_size, dtype=dtype, use_cache=use_cache,
            fused=fused, skip_masked=skip_masked,
        ).total
        for n_new, n_held in sizes
    ]  # fmt: skip


def step_coefficients(config: ModelConfig, *, batch_size: int = 1) -> tuple[int, int]:
    """(a, b): a step that ends at n positions takes a n + b n^2 multiply-adds without a cache.

    With one it takes a + b n: the same two numbers, once per new position and not per position.
    a is each matrix of the model once; b the two products of every query head with one key and one
    value in every layer.
    """
    check_counts(batch_size=batch_size)
    in_blocks = sum(
        count
        for name, count in parameters(config).items()
        if PARTS[name] in PER_LAYER and not name.endswith("norm")
    )
    weights = in_blocks + config.vocab_size * config.dim  # the output head, tied or not
    pair = 2 * config.n_layers * config.n_heads * config.head_dim
    return batch_size * weights, batch_size * pair


def parameters(config: ModelConfig) -> dict[str, int]:
    """The parameters of every operation that has some, over all layers; PARTS says where it stands.

    Together they are config.n_parameters: a tied output head has none of its own.
    """
    dim, layers = config.dim, config.n_layers
    query_width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    embedding = config.vocab_size * dim
    return {
        "embedding": embedding,
        "attention_norm": layers * dim,
        "query": layers * dim * query_width,
        "key": layers * dim * kv_width,
        "value": layers * dim * kv_width,
        "attention_output": layers * query_width * dim,
        "feed_forward_norm": layers * dim,
        "gate": layers * dim * config.hidden_dim,
        "up": layers * dim * config.hidden_dim,
        "down": layers * config.hidden_dim * dim,
        "final_norm": dim,
        "output_head": 0 if config.tied_embeddings else embedding,
    }


def itemsize(dtype: str) -> int:
    """Bytes of one number of a type. Raises ValueError, with the choices, for an unknown one."""
    if dtype not in ITEMSIZE:
        raise unknown_name("dtype", dtype, ITEMSIZE)
    return ITEMSIZE[dtype]


def check_counts(at_least: int = 1, **numbers: object) -> None:
    """Raise ValueError unless every number is a whole one of at least at_least."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise ValueError(f"{name} must be a whole number of at least {at_least}, got {value!r}")


def _short(value: float) -> str:
    """12,345 as it is; larger numbers with three digits and k, M, G, T, P."""
    if value < 100_000:
        return f"{value:,}"
    for letter in "kMGT":
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {letter}"
    return f"{value / 1000:.3g} P"
