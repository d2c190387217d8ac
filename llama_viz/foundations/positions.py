"""How attention is told the order: positions added, distances as vectors, and rotations."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor, nn

from llama_viz.checkpoints.rope_layout import half_split_from_interleaved
from llama_viz.config import RopeScaling, rotation_frequencies
from llama_viz.foundations.attention import AttentionSteps, check_shapes, weigh
from llama_viz.model import rotate

# --- absolute: a vector for each position, added to the embeddings ------------------------------


def sinusoidal_positions(n_positions: int, dim: int = 512, theta: float = 10000.0) -> Tensor:
    """The table of 2017: sin(p theta^(-2i / dim)) at feature 2i, cos of the same at 2i + 1.

    Returns (position, feature), to be added to embeddings (Vaswani et al. 2017). Raises ValueError
    where dim is odd.
    """
    angle = rotation_angles(n_positions, dim, theta=theta)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class LearnedPositions(nn.Module):
    """Add a learned vector for each position (Gehring et al. 2017; BERT, GPT-2).

    x is (batch, position, feature). Raises ValueError beyond max_seq_len: no vector was learned.
    """

    def __init__(self, max_seq_len: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_seq_len, dim)

    def forward(self, x: Tensor) -> Tensor:
        n_positions, learned = x.shape[-2], self.table.num_embeddings
        if n_positions > learned:
            raise ValueError(f"{n_positions} positions, but only {learned} have a learned vector")
        return x + self.table.weight[:n_positions]


# --- relative: a vector for each distance, met by query and key ---------------------------------


def relative_distances(n_queries: int, n_keys: int, max_distance: int) -> Tensor:
    """Key position - query position, cut off at max_distance on both sides.

    Behind the query is negative, ahead positive. The queries are the last of the n_keys positions.
    Returns (query_position, key_position) of whole numbers.
    """
    query_position = torch.arange(n_keys - n_queries, n_keys)
    distance = torch.arange(n_keys) - query_position[:, None]
    return distance.clamp(-max_distance, max_distance)


class RelativeAttention(nn.Module):
    """Attention in which three vectors meet: query, key, and one for their distance (Shaw 2018).

    score = query (key + key_vector[distance])^T / sqrt(head_dim), and the output mixes
    value + value_vector[distance]. All heads share the vectors of the 2 x max_distance + 1
    distances. forward() takes and returns what attend() does.
    """

    def __init__(self, head_dim: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.key_vectors = nn.Embedding(2 * max_distance + 1, head_dim)
        self.value_vectors = nn.Embedding(2 * max_distance + 1, head_dim)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> AttentionSteps:
        check_shapes(query, key, value)
        distance = relative_distances(query.shape[-2], key.shape[-2], self.max_distance)
        row = (distance + self.max_distance).to(query.device)  # of the tables, from 0
        content = query @ key.transpose(-2, -1)
        position = torch.einsum("...qf,qkf->...qk", query, self.key_vectors(row))
        steps = weigh((content + position) * query.shape[-1] ** -0.5, value, mask)
        of_distances = torch.einsum("...qk,qkf->...qf", steps.weights, self.value_vectors(row))
        return steps._replace(output=steps.output + of_distances)


# --- rotary: the angle of each pair, then four ways to turn by it -------------------------------


def rotation_angles(
    n_positions: int,
    head_dim: int,
    *,
    theta: float = 10000.0,
    scaling: RopeScaling | None = None,
) -> Tensor:
    """position x theta^(-2i / head_dim) for pair i: (position, pair) in radians (Su et al. 2021).

    Beyond the trained length: RopeScaling("linear", factor) is position interpolation (Chen et al.
    2023), theta=ntk_theta(...) keeps fast pairs and slows slow ones, theta=500000 is Llama 3's.
    Raises ValueError where head_dim is odd.
    """
    frequencies = _frequencies(head_dim, theta, scaling, n_positions)
    return torch.arange(n_positions)[:, None] * frequencies


def ntk_theta(head_dim: int, factor: float, theta: float = 10000.0) -> float:
    """The theta at which the slowest pair turns factor times more slowly (bloc97 2023, NTK-aware).

    The fastest pair keeps its frequency of 1. RopeScaling("dynamic") computes it for each length.
    """
    if head_dim < 4:
        raise ValueError(f"head_dim must be at least 4, got {head_dim}: one pair is fast and slow")
    return theta * factor ** (head_dim / (head_dim - 2))


def wavelengths(
    head_dim: int, *, theta: float = 10000.0, scaling: RopeScaling | None = None
) -> Tensor:
    """How many positions each pair takes for one whole turn: (pair,), growing."""
    return 2 * math.pi / _frequencies(head_dim, theta, scaling)


def rotate_complex(x: Tensor, angle: Tensor) -> Tensor:
    """Each pair is a complex number, multiplied by e^(i angle): what the model does.

    Like the three forms below it turns features 2i and 2i + 1 of x, (..., position, head_feature),
    by angle, (position, pair), and raises ValueError where they do not fit.
    """
    _check_pairs(x, angle)
    return rotate(x, torch.polar(torch.ones_like(angle), angle))


def rotate_pairs(x: Tensor, angle: Tensor) -> Tensor:
    """Each pair is a vector in the plane, multiplied by a 2 x 2 rotation matrix."""
    _check_pairs(x, angle)
    pairs = x.unflatten(-1, (-1, 2))[..., None]  # columns
    return (_rotations(angle) @ pairs).squeeze(-1).flatten(-2)


def rotate_matrix(x: Tensor, angle: Tensor) -> Tensor:
    """The whole vector times one sparse matrix."""
    _check_pairs(x, angle)
    return (rotation_matrix(angle) @ x[..., None]).squeeze(-1)


def rotation_matrix(angle: Tensor) -> Tensor:
    """The 2 x 2 rotations of all pairs along the diagonal, zeros elsewhere.

    angle is (..., pair); returns (..., head_feature, head_feature). Of its head_dim^2 numbers
    2 x head_dim can be other than 0.
    """
    n_pairs = angle.shape[-1]
    matrix = angle.new_zeros(*angle.shape[:-1], n_pairs, 2, n_pairs, 2)
    pair = torch.arange(n_pairs)
    matrix[..., pair, :, pair, :] = _rotations(angle).movedim(-3, 0)
    return matrix.flatten(-2).flatten(-3, -2)


def rotate_elementwise(x: Tensor, angle: Tensor) -> Tensor:
    """x * cos + (x with each pair (a, b) as (-b, a)) * sin: two products, no matrix."""
    _check_pairs(x, angle)
    cos, sin = (part.repeat_interleave(2, dim=-1) for part in (angle.cos(), angle.sin()))
    quarter_turn = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cos + quarter_turn * sin


def long_term_decay(distance: Tensor, head_dim: int = 128, *, theta: float = 10000.0) -> Tensor:
    """The part of the paper's upper bound on a score that depends on the distance.

    S_j = sum over i < j of e^(i distance theta_i); the mean of |S_j| over j = 1 to head_dim / 2
    (Su et al. 2021, section 3.4.3). Returns float64 of distance's shape.
    """
    frequencies = _frequencies(head_dim, theta, None, dtype=torch.float64)
    angle = distance.double()[..., None] * frequencies
    return torch.polar(torch.ones_like(angle), angle).cumsum(dim=-1).abs().mean(dim=-1)


# --- the two layouts of pairs -------------------------------------------------------------------


def half_split_order(head_dim: int) -> Tensor:
    """Which interleaved feature stands at each place of the half-split layout: evens, then odds."""
    return half_split_from_interleaved(torch.arange(head_dim), head_dim)


def half_split(x: Tensor) -> Tensor:
    """Features from interleaved pairs, 2i with 2i + 1, to split halves, i with i + head_dim / 2."""
    return x[..., half_split_order(x.shape[-1])]


def interleaved(x: Tensor) -> Tensor:
    """Features from split halves back to interleaved pairs."""
    return x[..., half_split_order(x.shape[-1]).argsort()]


def rotate_half_split(x: Tensor, angle: Tensor) -> Tensor:
    """The element-wise form for split halves, as Hugging Face's models have it."""
    _check_pairs(x, angle)
    cos, sin = (torch.cat([part, part], dim=-1) for part in (angle.cos(), angle.sin()))
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


# --- what they share ----------------------------------------------------------------------------


def _rotations(angle: Tensor) -> Tensor:
    """[[cos, -sin], [sin, cos]] of each angle: (..., 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def _frequencies(
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None,
    n_positions: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Radians per position for each pair, by the formula that the model uses."""
    if head_dim % 2:
        _refuse_odd(head_dim)
    pair = torch.arange(head_dim // 2, dtype=dtype)
    return rotation_frequencies(pair, head_dim, theta, scaling, n_positions)


def _check_pairs(x: Tensor, angle: Tensor) -> None:
    if x.shape[-1] % 2:
        _refuse_odd(x.shape[-1])
    if angle.shape[-1] * 2 != x.shape[-1]:
        raise ValueError(
            f"{angle.shape[-1]} angles for {x.shape[-1]} features: each pair needs one angle"
        )


def _refuse_odd(n_features: int) -> NoReturn:
    raise ValueError(f"{n_features} features do not form pairs: give an even number")
