"""The encoder-decoder of 2017 (Vaswani et al.), whose decoder half became LLaMA; BERT's sizes.

Its residual stream is normed after each addition (post-norm). Dropout, which matters in training
alone, is left away, and so is padding: the sentences of a batch have one length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_viz.errors import unknown_name
from llama_viz.foundations.attention import MultiHeadAttention
from llama_viz.foundations.feed_forward import TwoMatrixFeedForward
from llama_viz.foundations.normalization import LayerNorm
from llama_viz.foundations.positions import sinusoidal_positions
from llama_viz.model import causal_mask


class EncoderLayer(nn.Module):
    """Self-attention without a mask, then the feed-forward; Add & Norm after each.

    x is (batch, position, feature). activation="gelu" and attention_bias=True make it BERT's.
    """

    def __init__(
        self,
        dim: int = 512,
        n_heads: int = 8,
        hidden_dim: int = 2048,
        *,
        activation: str = "relu",
        attention_bias: bool = False,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, n_heads, bias=attention_bias)
        self.attention_norm = LayerNorm(dim)
        self.feed_forward = TwoMatrixFeedForward(dim, hidden_dim, activation)
        self.feed_forward_norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention(x, x, x))
        return self.feed_forward_norm(x + self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to what the encoder read, then the feed-forward.

    x is (batch, target_position, feature), encoded is (batch, source_position, feature).
    """

    def __init__(
        self,
        dim: int = 512,
        n_heads: int = 8,
        hidden_dim: int = 2048,
        *,
        attention_bias: bool = False,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, n_heads, bias=attention_bias)
        self.attention_norm = LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, n_heads, bias=attention_bias)
        self.cross_attention_norm = LayerNorm(dim)
        self.feed_forward = TwoMatrixFeedForward(dim, hidden_dim)
        self.feed_forward_norm = LayerNorm(dim)

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        mask = causal_mask(x.shape[-2], x.shape[-2], x.device)
        x = self.attention_norm(x + self.attention(x, x, x, mask))
        # Queries from the decoder, keys and values from the encoder.
        x = self.cross_attention_norm(x + self.cross_attention(x, encoded, encoded))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """A stack of encoder layers: (batch, position, feature) to the same shape."""

    def __init__(
        self, dim: int = 512, n_heads: int = 8, n_layers: int = 6, hidden_dim: int = 2048
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, n_heads, hidden_dim) for _ in range(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """A stack of decoder layers, each of which looks at all that the encoder gave out."""

    def __init__(
        self, dim: int = 512, n_heads: int = 8, n_layers: int = 6, hidden_dim: int = 2048
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, n_heads, hidden_dim) for _ in range(n_layers))

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, encoded)
        return x


class Transformer(nn.Module):
    """Source and target ids, (batch, position), to logits (batch, target_position, vocabulary).

    The defaults are the base model of 2017. Both languages share one vocabulary, and one matrix is
    the embedding of both and the output head. Logits at position t are for target t + 1.

    The base model can be counted without its memory: `with torch.device("meta"): Transformer()`.
    """

    def __init__(
        self,
        vocab_size: int = 37000,
        dim: int = 512,
        n_heads: int = 8,
        n_layers: int = 6,
        hidden_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        # With the factor in embed() each feature starts about as large as a sine.
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.encoder = Encoder(dim, n_heads, n_layers, hidden_dim)
        self.decoder = Decoder(dim, n_heads, n_layers, hidden_dim)

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings x sqrt(dim), with the sinusoidal positions added."""
        if ids.dim() != 2 or ids.is_floating_point() or 0 in ids.shape:
            raise ValueError(
                "ids must be a LongTensor of shape (batch, position) with at least one id, "
                f"got {ids.dtype} of shape {tuple(ids.shape)}"
            )
        dim = self.embedding.embedding_dim
        positions = sinusoidal_positions(ids.shape[1], dim).to(ids.device)
        return self.embedding(ids) * dim**0.5 + positions

    def encode(self, source_ids: Tensor) -> Tensor:
        """What the encoder makes of the source, once for a whole translation."""
        return self.encoder(self.embed(source_ids))

    def decode(self, target_ids: Tensor, encoded: Tensor) -> Tensor:
        """Logits for the token after each target id."""
        return F.linear(self.decoder(self.embed(target_ids), encoded), self.embedding.weight)

    def forward(self, source_ids: Tensor, target_ids: Tensor) -> Tensor:
        return self.decode(target_ids, self.encode(source_ids))


def n_parameters(module: nn.Module) -> int:
    """How many learned numbers a module has; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


# The encoder-only relative (Devlin et al. 2019): its sizes, and the parameters as published.
BERT_SIZES = {
    "base": {"n_layers": 12, "n_heads": 12, "dim": 768},
    "large": {"n_layers": 24, "n_heads": 16, "dim": 1024},
}
BERT_PUBLISHED = {"base": 110_000_000, "large": 340_000_000}


def bert_parameters(size: str) -> dict[str, int]:
    """The parameters of BERT's "base" or "large", counted from its shapes, part by part.

    Counted are the token (30,522), position (512) and segment (2) embeddings with their norm, the
    layers, and the pooler over the CLS token; not the heads that only pre-training uses. Raises
    ValueError for another size.
    """
    if size not in BERT_SIZES:
        raise unknown_name("size of BERT", size, BERT_SIZES)
    n_layers, n_heads, dim = (BERT_SIZES[size][name] for name in ("n_layers", "n_heads", "dim"))
    with torch.device("meta"):  # shapes without memory
        layer = EncoderLayer(dim, n_heads, 4 * dim, activation="gelu", attention_bias=True)
    return {
        "token embedding": 30_522 * dim,
        "position embedding": 512 * dim,
        "segment embedding": 2 * dim,
        "embedding norm": 2 * dim,
        "layers": n_layers * n_parameters(layer),
        "pooler": dim * dim + dim,
    }
