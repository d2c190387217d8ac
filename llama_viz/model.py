"""LLaMA, part by part: RMSNorm, rotary positions, attention, feed-forward, block, model.

Each value worth seeing passes through a tap or leaves a module of its own (see taps.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_viz.config import ModelConfig, RopeScaling, rotation_frequencies
from llama_viz.errors import unknown_name, warn
from llama_viz.kv_cache import KVCache, LayerCache
from llama_viz.taps import Tap

# What weights can be stored and computed in.
WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class RMSNorm(nn.Module):
    """Divide by the root mean square over the features, then scale each feature by its gain.

    y = x / sqrt(mean(x^2) + eps) * gain, computed in float32 (Zhang and Sennrich 2019).
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.rms = Tap("position")

    def forward(self, x: Tensor) -> Tensor:
        if not self.rms.observed:
            return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        wide = x.float()
        rms = self.rms(torch.sqrt(wide.square().mean(dim=-1) + self.eps))
        return (wide / rms[..., None]).to(x.dtype) * self.weight


class RotaryEmbedding(nn.Module):
    """Turn pairs of features by an angle that grows with the position (Su et al. 2021).

    Pair i, the features 2i and 2i + 1 of a head, turns by position x theta^(-2i / head_dim), or
    more slowly where scaling says so. Under dynamic scaling the frequencies depend on how many
    positions there are; beyond its original length a generation warns that the keys in its cache
    keep the angles they were given, and so differ from those of one pass over the same text.
    """

    def __init__(self, head_dim: int, theta: float, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling
        # Not a buffer: model.to(bfloat16) would round the frequencies, and far positions with them.
        self.frequencies = self._frequencies()
        self.angle = Tap("position", "pair")

    def forward(
        self, start: int, end: int, device: torch.device, padding: Tensor | None = None
    ) -> Tensor:
        """Complex numbers of length 1 for positions start to end: (batch, position, 1, pair).

        padding, (batch,), says how many positions later each row begins; without it batch is 1.
        """
        frequencies = self.frequencies
        if self.scaling is not None and self.scaling.kind == "dynamic":
            frequencies = self._frequencies(end)
            original = self.scaling.original_max_seq_len or 0
            if 0 < start <= original < end:
                warn(
                    f"past {original} positions dynamic rope scaling changes the frequencies: keys "
                    "that are cached keep their old angles",
                    stacklevel=2,
                )
        positions = torch.arange(start, end, device=device, dtype=torch.float32)[None]
        if padding is not None:
            positions = (positions - padding.to(device)[:, None]).clamp(min=0)
        angle = self.angle(positions[..., None] * frequencies.to(device))
        return torch.polar(torch.ones_like(angle), angle)[:, :, None]

    def _frequencies(self, n_positions: int = 0) -> Tensor:
        pair = torch.arange(self.head_dim // 2, device="cpu", dtype=torch.float32)
        return rotation_frequencies(pair, self.head_dim, self.theta, self.scaling, n_positions)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn every pair of x, (batch, position, head, head_feature), by its rotation.

    A pair is a complex number, and turning it is a multiplication by e^(i angle).
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal attention in which n_heads query heads share n_kv_heads key/value heads.

    Query head h reads key/value head h // (n_heads / n_kv_heads). As many key/value heads as query
    heads is MHA (Vaswani et al. 2017), one is MQA (Shazeer 2019), between is GQA (Ainslie et al.
    2023).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        query_width, kv_width = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.query = nn.Linear(config.dim, query_width, bias=False)
        self.key = nn.Linear(config.dim, kv_width, bias=False)
        self.value = nn.Linear(config.dim, kv_width, bias=False)
        self.output = nn.Linear(query_width, config.dim, bias=False)
        self.query_rotated = Tap("position", "head", "head_feature")
        self.key_rotated = Tap("position", "key_value_head", "head_feature")
        self.scores = Tap("head", "query_position", "key_position")
        self.weights = Tap("head", "query_position", "key_position")
        self.head_output = Tap("position", "head", "head_feature")

    def forward(self, x: Tensor, rotation: Tensor, cache: LayerCache | None = None) -> Tensor:
        query = self.query(x).unflatten(-1, (self.n_heads, self.head_dim))
        key = self.key(x).unflatten(-1, (self.n_kv_heads, self.head_dim))
        value = self.value(x).unflatten(-1, (self.n_kv_heads, self.head_dim))

        query = self.query_rotated(rotate(query, rotation)).transpose(1, 2)
        key = self.key_rotated(rotate(key, rotation)).transpose(1, 2)
        value = value.transpose(1, 2)  # (batch, key_value_head, position, head_feature)
        hidden = None
        if cache is not None:
            key, value = cache.append(key, value)
            hidden = cache.hidden(query.shape[2])

        observed = self.scores.observed or self.weights.observed
        attend = self._attend_written_out if observed else self._attend_fused
        heads = self.head_output(attend(query, key, value, hidden).transpose(1, 2))
        return self.output(heads.flatten(-2))

    def _attend_written_out(
        self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None
    ) -> Tensor:
        """softmax(query key^T / sqrt(head_dim) + mask) value, one step a line."""
        # Query heads that share a key/value head are rows of one product: no key is copied.
        grouped = query.reshape(*key.shape[:2], -1, self.head_dim)
        scores = grouped @ key.transpose(-2, -1) * self.head_dim**-0.5
        scores = self.scores(scores.view(*query.shape[:3], -1))
        masked = scores
        if query.shape[2] > 1 or hidden is not None:  # else the newest position sees every key
            allowed = self._allowed(query.shape[2], key.shape[2], hidden, query.device)
            masked = scores.masked_fill(~allowed, float("-inf"))
        weights = self.weights(masked.softmax(dim=-1, dtype=torch.float32).to(value.dtype))
        mixed = weights.reshape(*grouped.shape[:3], -1) @ value
        return mixed.view(*query.shape)

    def _attend_fused(
        self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None
    ) -> Tensor:
        """The same in one kernel, which keeps no scores."""
        n_new, n_held = query.shape[2], key.shape[2]
        if n_new == 1 and hidden is None:  # the newest position sees every key: nothing to mask
            grouped = query.reshape(*key.shape[:2], -1, self.head_dim)
            return F.scaled_dot_product_attention(grouped, key, value).view(*query.shape)
        is_plain = n_new == n_held and hidden is None
        mask = None if is_plain else self._allowed(n_new, n_held, hidden, query.device)
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, enable_gqa=True
        )

    def _allowed(
        self, n_queries: int, n_keys: int, hidden: Tensor | None, device: torch.device
    ) -> Tensor:
        """True where a query may look: not ahead, and not at what its cache hides."""
        allowed = causal_mask(n_queries, n_keys, device)
        if hidden is None:
            return allowed
        # (batch, head, query_position, key_position)
        return allowed & ~hidden.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """True where a query, one of the last n_queries of n_keys positions, may look: not ahead."""
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_keys - n_queries)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), each position by itself (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.up = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.down = nn.Linear(config.hidden_dim, config.dim, bias=False)
        self.neuron_activation = Tap("position", "neuron")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.neuron_activation(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each reading the normed residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.residual_middle = Tap("position", "feature")
        self.feed_forward_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rotation: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = self.residual_middle(x + self.attention(self.attention_norm(x), rotation, cache))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    """Token ids (batch, position) to logits (batch, position, vocabulary).

    With a cache, ids are the new positions only: their keys and values are appended to it. A cache
    with padding takes rows of ids that begin with as many ids of no meaning: their logits mean
    nothing either, and every other row position is as if its row stood alone.

    Raises ValueError for ids out of range, more positions than the context, a full cache, or the
    cache of another model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.rotary = RotaryEmbedding(config.head_dim, config.rope_theta, config.rope_scaling)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.embedding.weight
        # What is changing its values at the moment, in the words of a recording's attrs["edited"]:
        # names of taps under intervene().
        self.interventions: list[str] = []

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        start = self._check(ids, cache)
        padding = None if cache is None else cache.padding
        rotation = self.rotary(start, start + ids.shape[1], ids.device, padding)
        x = self.embedding(ids)
        for number, block in enumerate(self.blocks):
            x = block(x, rotation, None if cache is None else cache.layers[number])
        return self.output(self.norm(x))

    def _check(self, ids: Tensor, cache: KVCache | None) -> int:
        """Refuse what cannot be computed; return the position of the first id."""
        if ids.dim() != 2 or ids.is_floating_point() or 0 in ids.shape:
            raise ValueError(
                "ids must be a LongTensor of shape (batch, position) with at least one id, "
                f"got {ids.dtype} of shape {tuple(ids.shape)}"
            )
        start = 0 if cache is None else cache.length
        if start + ids.shape[1] > self.config.max_seq_len:
            raise ValueError(
                f"{start + ids.shape[1]} positions do not fit the context of "
                f"{self.config.max_seq_len}; give fewer ids"
            )
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"token id {low if low < 0 else high} is out of range: "
                f"the vocabulary has ids 0 to {self.config.vocab_size - 1}"
            )
        if cache is not None:
            if cache.config is not self.config:
                cache.check_model(self.config)
            cache.check_room(ids.shape[0], ids.shape[1])
        return start


def check_weight_type(dtype: torch.dtype | None) -> None:
    """Raise ValueError unless weights can be of this type; None stands for the type they have.

    In another type, such as int8, they would be cut off to it.
    """
    if dtype is not None and dtype not in WEIGHT_TYPES:
        raise unknown_name("dtype", dtype, WEIGHT_TYPES)


def initialize(model: Llama, generator: torch.Generator | None = None) -> Llama:
    """Draw fresh weights: normal with deviation 0.02, writers into the residual scaled by depth.

    The scaling 1 / sqrt(2 x layers) keeps the stream's size at the start (Radford et al. 2019).
    """
    residual_writers = ("attention.output.weight", "feed_forward.down.weight")
    deep = (2 * model.config.n_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            scale = 0.02 * (deep if name.endswith(residual_writers) else 1.0)
            parameter.normal_(0.0, scale, generator=generator)
    return model
