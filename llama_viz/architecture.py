"""What LLaMA is made of, box by box, beside the Transformer of 2017 (Vaswani et al.).

Each box knows its shape, its parameters, what it does, and where it stands in a drawing; so every
drawing of a model, on paper or on a page, is the same one. Only a configuration is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from llama_viz.config import ModelConfig
from llama_viz.cost import parameters

# What a box is, which gives it its colour.
KINDS = ("embedding", "norm", "attention", "feed_forward", "step", "add")

# What a LLaMA has once; everything else is in its blocks.
OUTSIDE = ("embedding", "final_norm", "output_head")

Place = tuple[float, float, float, float]  # left, top, width, height
Line = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """The sizes of the Transformer of 2017; the defaults are its base model's.

    The vocabulary of about 37,000 is shared by both languages and the output (section 5.1), and so
    is its matrix (section 3.4). The feed-forward has biases (equation 2), attention has none.
    """

    n_layers: int = 6
    n_heads: int = 8
    dim: int = 512
    hidden_dim: int = 2048
    vocab_size: int = 37000


@dataclass(frozen=True)
class Box:
    """One part of a model: its place in the drawing, what it holds and what it does.

    n_parameters are those of one copy, and there are n_copies: one for each layer in a block.
    numbers_per_position are kept for each position, in the KV cache alone.
    """

    name: str
    title: str
    kind: str
    place: Place
    shape: str = ""
    n_parameters: int = 0
    n_copies: int = 1
    numbers_per_position: int = 0

    @property
    def total(self) -> int:
        """Parameters of all copies."""
        return self.n_parameters * self.n_copies

    @property
    def words(self) -> str:
        """What it does, in two sentences."""
        return WORDS[self.name]


@dataclass(frozen=True)
class Drawing:
    """Boxes and what joins them; lengths are pixels from the upper left corner.

    The last point of an arrow is its tip. frames are (place, words): what is repeated. labels are
    (x, y, words, alignment).
    """

    name: str
    title: str
    width: float
    height: float
    boxes: Sequence[Box]
    arrows: Sequence[Line] = field(default_factory=list)
    lines: Sequence[Line] = field(default_factory=list)
    frames: Sequence[tuple[Place, str]] = field(default_factory=list)
    labels: Sequence[tuple[float, float, str, str]] = field(default_factory=list)

    @property
    def n_parameters(self) -> int:
        """Parameters of all boxes together."""
        return sum(box.total for box in self.boxes)


@dataclass(frozen=True)
class Difference:
    """One thing that changed between 2017 and LLaMA, and the boxes of both where it shows."""

    title: str
    before: str
    after: str
    boxes_before: tuple[str, ...]
    boxes_after: tuple[str, ...]
    notebook: str


def llama(config: ModelConfig) -> Drawing:
    """The drawing of a LLaMA: the residual stream on the left, and what reads and writes it."""
    sizes = parameters(config)
    dim, hidden, head_dim = config.dim, config.hidden_dim, config.head_dim
    n_heads, n_kv, layers = config.n_heads, config.n_kv_heads, config.n_layers
    head = f"{dim} → {config.vocab_size}"
    if config.tied_embeddings:
        head = "the embedding once more (tied)"
    # From the output down to the input: names of a row, its height, and the room above it.
    rows = (
        (("output_head",), 46, 26),
        (("final_norm",), 42, 12),
        (("down",), 44, 24),
        (("neuron_activation",), 32, 12),
        (("gate", "up"), 44, 12),
        (("feed_forward_norm",), 42, 12),
        (("attention_output",), 44, 16),
        (("attention",), 32, 12),
        (("kv_cache",), 44, 12),
        (("rotation",), 32, 12),
        (("query", "key", "value"), 44, 12),
        (("attention_norm",), 42, 12),
        (("embedding",), 46, 40),
    )
    texts = {
        "output_head": ("output head", "embedding", head),
        "final_norm": ("final RMSNorm", "norm", f"{dim} gains"),
        "down": ("down", "feed_forward", f"{hidden} → {dim}"),
        "neuron_activation": ("SiLU(gate) × up", "step", ""),
        "gate": ("gate", "feed_forward", f"{dim} → {hidden}"),
        "up": ("up", "feed_forward", f"{dim} → {hidden}"),
        "feed_forward_norm": ("RMSNorm", "norm", f"{dim} gains"),
        "attention_output": ("attention output", "attention", f"{n_heads} × {head_dim} → {dim}"),
        "attention": (f"attention: {plural(n_heads, 'head')}, causal mask", "step", ""),
        "kv_cache": ("KV cache", "step", f"keys, values: {n_kv} × {head_dim} each"),
        "rotation": ("rotary positions", "step", ""),
        "query": ("query", "attention", f"{dim} → {n_heads} × {head_dim}"),
        "key": ("key", "attention", f"{dim} → {n_kv} × {head_dim}"),
        "value": ("value", "attention", f"{dim} → {n_kv} × {head_dim}"),
        "attention_norm": ("RMSNorm", "norm", f"{dim} gains"),
        "embedding": ("embedding", "embedding", f"{config.vocab_size} × {dim}"),
    }  # fmt: skip
    whole, stream, left, right, gap = (10.0, 364.0), 24.0, 56.0, 374.0, 8.0
    third = (right - left - 2 * gap) / 3
    spans = {
        **dict.fromkeys(OUTSIDE, whole),
        **{name: (left + (third + gap) * column, third)
           for column, name in enumerate(("query", "key", "value"))},
        "rotation": (left, 2 * third + gap),
        "kv_cache": (left + third + gap, 2 * third + gap),
        "gate": (left, (right - left - gap) / 2),
        "up": ((left + right + gap) / 2, (right - left - gap) / 2),
    }  # fmt: skip

    boxes: list[Box] = []
    y = 0.0
    for names, tall, above in rows:
        y += above
        for name in names:
            title, kind, shape = texts[name]
            x, width = spans.get(name, (left, right - left))
            in_block = name not in OUTSIDE
            copies = layers if in_block else 1
            boxes.append(Box(
                name, title, kind, (x, y, width, tall), shape,
                sizes.get(name, 0) // copies, copies,
                2 * n_kv * head_dim if name == "kv_cache" else 0,
            ))  # fmt: skip
        y += tall
    at = {box.name: box.place for box in boxes}
    for name, writer in (("attention_residual", "attention_output"),
                         ("feed_forward_residual", "down")):  # fmt: skip
        place = (stream - 10, _middle(at[writer])[1] - 10, 20.0, 20.0)
        boxes.append(Box(name, "+", "add", place, n_copies=layers))
    at |= {box.name: box.place for box in boxes}

    lines = [((stream, at["embedding"][1]), (stream, _bottom(at["final_norm"])))]
    arrows = [
        ((stream, _middle(at[norm])[1]), (left, _middle(at[norm])[1]))
        for norm in ("attention_norm", "feed_forward_norm")
    ]
    for add, writer in (("attention_residual", "attention_output"),
                        ("feed_forward_residual", "down")):  # fmt: skip
        y_writer = _middle(at[writer])[1]
        arrows.append(((left, y_writer), (at[add][0] + 20, y_writer)))
    for lower, upper, x in (
        *((("attention_norm", name, _middle(at[name])[0])) for name in ("query", "key", "value")),
        ("query", "rotation", _middle(at["query"])[0]),
        ("key", "rotation", _middle(at["key"])[0]),
        ("value", "kv_cache", _middle(at["value"])[0]),
        ("rotation", "attention", _middle(at["query"])[0]),
        ("rotation", "kv_cache", _middle(at["key"])[0]),
        ("kv_cache", "attention", _middle(at["key"])[0]),
        ("kv_cache", "attention", _middle(at["value"])[0]),
        ("attention", "attention_output", (left + right) / 2),
        *(("feed_forward_norm", name, _middle(at[name])[0]) for name in ("gate", "up")),
        *((name, "neuron_activation", _middle(at[name])[0]) for name in ("gate", "up")),
        ("neuron_activation", "down", (left + right) / 2),
        ("final_norm", "output_head", _middle(at["final_norm"])[0]),
    ):
        arrows.append(((x, at[lower][1]), (x, _bottom(at[upper]))))
    arrows.append((
        (stream, at["feed_forward_residual"][1]), (stream, _bottom(at["final_norm"])),
    ))  # fmt: skip

    per_layer = sum(sizes[name] for name in sizes if name not in OUTSIDE) // layers
    top = at["down"][1] - 12
    frame = (4.0, top, 376.0, _bottom(at["attention_norm"]) + 24 - top)
    height = y + 34.0
    centre = _middle(at["embedding"])[0]
    arrows += [
        ((centre, y + 16), (centre, y)),
        ((centre, at["output_head"][1]), (centre, 16)),
    ]
    return Drawing(
        "llama", "LLaMA", 384, height, boxes, arrows, lines,
        [(frame, f"block: 1 of {layers}, {per_layer:,} parameters each")],
        [(centre, 12, f"logits: {config.vocab_size} for each position", "middle"),
         (centre, y + 28, "token ids: one for each position", "middle")],
    )  # fmt: skip


def encoder_decoder(config: EncoderDecoderConfig, height: float) -> Drawing:
    """The drawing of the Transformer of 2017, stretched to a height: encoder left, decoder right.

    Every sublayer is followed by Add & Norm, on the stream itself (post-norm).
    """
    dim, hidden, layers = config.dim, config.hidden_dim, config.n_layers
    attention = (
        f"{config.n_heads} heads, 4 × ({dim} × {dim})", "attention", 4 * dim * dim,
    )  # fmt: skip
    norm = (f"{dim} gains, {dim} biases", "norm", 2 * dim)
    expand = (f"{dim} → {hidden}, biases", "feed_forward", dim * hidden + hidden)
    contract = (f"{hidden} → {dim}, biases", "feed_forward", hidden * dim + dim)
    embedding = config.vocab_size * dim
    # From the output down: the decoder's rows, and those of the encoder that stand beside them.
    decoder = (
        ("decoder_output", "linear", (f"{dim} → {config.vocab_size}, tied",
                                      "embedding", 0)),
        ("decoder_feed_forward_norm", "Add & Norm", norm),
        ("decoder_contract", "linear", contract),
        ("decoder_relu", "ReLU", ("", "step", 0)),
        ("decoder_expand", "linear", expand),
        ("cross_attention_norm", "Add & Norm", norm),
        ("cross_attention", "cross-attention", attention),
        ("decoder_attention_norm", "Add & Norm", norm),
        ("decoder_attention", "masked self-attention", attention),
        ("decoder_positions", "+ sinusoidal positions", (f"added, {dim} numbers", "step", 0)),
        ("decoder_embedding", "embedding", ("the same matrix again", "embedding", 0)),
    )  # fmt: skip
    encoder = (
        ("encoder_feed_forward_norm", "Add & Norm", norm),
        ("encoder_contract", "linear", contract),
        ("encoder_relu", "ReLU", ("", "step", 0)),
        ("encoder_expand", "linear", expand),
        ("encoder_attention_norm", "Add & Norm", norm),
        ("encoder_attention", "self-attention", attention),
        ("encoder_positions", "+ sinusoidal positions", (f"added, {dim} numbers", "step", 0)),
        ("encoder_embedding", "embedding",
         (f"{config.vocab_size} × {dim}, shared", "embedding", embedding)),
    )  # fmt: skip
    tall = {"step": 40.0, "norm": 44.0, "attention": 46.0, "feed_forward": 44.0, "embedding": 46.0}

    def high(name: str, kind: str) -> float:
        return 28.0 if name.endswith("relu") else tall[kind]

    n = len(decoder)
    used = sum(high(name, kind) for name, _, (_, kind, _) in decoder)
    room = (height - used - 2 * 24 - 24 - 40) / (n - 1)  # labels, and room for the frame's words
    boxes: list[Box] = []
    for rows, left, width in ((decoder, 206.0, 150.0), (encoder, 26.0, 150.0)):
        bottom = height - 34.0
        for name, title, (shape, kind, count) in reversed(rows):
            tallness = high(name, kind)
            in_block = not name.endswith(("embedding", "positions", "output"))
            boxes.append(Box(
                name, title, kind, (left, bottom - tallness, width, tallness), shape, count,
                layers if in_block else 1,
            ))  # fmt: skip
            bottom -= tallness + room
            if name.endswith("positions"):  # the frame above it begins with words
                bottom -= 24
    at = {box.name: box.place for box in boxes}

    arrows: list[Line] = []
    lines: list[Line] = []
    for rows in (encoder, decoder):
        names = [name for name, *_ in reversed(rows)]
        for lower, upper in pairwise(names):
            x = _middle(at[lower])[0]
            arrows.append(((x, at[lower][1]), (x, _bottom(at[upper]))))
    # Around each sublayer the stream goes on, and is added in Add & Norm.
    for below, first, norm_box in (
        ("encoder_positions", "encoder_attention", "encoder_attention_norm"),
        ("encoder_attention_norm", "encoder_expand", "encoder_feed_forward_norm"),
        ("decoder_positions", "decoder_attention", "decoder_attention_norm"),
        ("decoder_attention_norm", "cross_attention", "cross_attention_norm"),
        ("cross_attention_norm", "decoder_expand", "decoder_feed_forward_norm"),
    ):
        x, left = _middle(at[first])[0], at[first][0]
        y = (at[below][1] + _bottom(at[first])) / 2
        if below.endswith("positions"):
            y = _bottom(at[first]) + 5
        up = _middle(at[norm_box])[1]
        arrows.append(((x, y), (left - 9, y), (left - 9, up), (left, up)))
    # The encoder's output is read by every cross-attention, as keys and values.
    x, top = _middle(at["encoder_feed_forward_norm"])[0], at["encoder_feed_forward_norm"][1]
    y = _middle(at["cross_attention"])[1]
    turn = top - 24
    gutter = 187.0
    arrows.append(((x, top), (x, turn), (gutter, turn), (gutter, y), (at["cross_attention"][0], y)))
    frames = []
    for first, last in (("encoder_attention", "encoder_feed_forward_norm"),
                        ("decoder_attention", "decoder_feed_forward_norm")):  # fmt: skip
        left, above = at[first][0] - 16, at[last][1] - 10
        frames.append((
            (left, above, 172.0, _bottom(at[first]) + 26 - above),
            f"1 of {layers}",
        ))  # fmt: skip
    labels = [
        (left + 8, top + height - 7, first.partition("_")[0], "start")
        for ((left, top, _, height), _), first in zip(
            frames, ("encoder layer", "decoder layer"), strict=True
        )
    ]
    for name, words in (("encoder_embedding", "the sentence to translate"),
                        ("decoder_embedding", "the translation so far")):  # fmt: skip
        x = _middle(at[name])[0]
        arrows.append(((x, height - 18), (x, height - 34)))
        labels.append((x, height - 6, words, "middle"))
    x = _middle(at["decoder_output"])[0]
    arrows.append(((x, at["decoder_output"][1]), (x, 16)))
    labels.append((x, 12, "logits of the next token", "middle"))
    labels.append((_middle(at["encoder_contract"])[0], turn - 8, "keys and values", "middle"))
    return Drawing(
        "transformer", "Transformer (2017)", 366, height, boxes, arrows, lines, frames, labels
    )


def differences(config: ModelConfig) -> dict[str, Difference]:
    """What changed from the Transformer of 2017 to this LLaMA, in the order of its boxes."""
    norms_before = (
        "encoder_attention_norm", "encoder_feed_forward_norm", "decoder_attention_norm",
        "cross_attention_norm", "decoder_feed_forward_norm",
    )  # fmt: skip
    norms_after = ("attention_norm", "feed_forward_norm", "final_norm")
    attentions = ("encoder_attention", "decoder_attention", "cross_attention")
    encoder = tuple(name for name in WORDS if name.startswith("encoder_"))
    return {
        "cross_attention": Difference(
            "Cross-attention is gone",
            "The decoder reads the encoder in every layer: queries from the decoder, keys and "
            "values from the encoder.",
            "There is no encoder. The prompt is the beginning of the text itself, and between the "
            "two sublayers of a block nothing else is added.",
            (*encoder, "cross_attention", "cross_attention_norm"),
            ("attention_residual",),
            "01",
        ),
        "causal_mask": Difference(
            "Every attention is causal",
            "The encoder sees the whole sentence; only the decoder's self-attention is masked.",
            "A decoder alone: each position sees itself and those before it, the prompt's too.",
            ("encoder_attention", "decoder_attention"),
            ("attention",),
            "05",
        ),
        "norm_first": Difference(
            "Norm before, not after",
            "Add & Norm stands on the stream: what was added is normed at once, in every sublayer.",
            "Each sublayer norms what it reads, the stream itself is never normed on its way, and "
            "one final norm stands before the output head.",
            norms_before,
            (*norms_after, "attention_residual", "feed_forward_residual"),
            "03",
        ),
        "rms_norm": Difference(
            "LayerNorm to RMSNorm",
            "Subtract the mean, divide by the standard deviation, then a gain and a bias for each "
            "feature.",
            "Divide by the root mean square, then a gain: one statistic and no bias.",
            norms_before,
            norms_after,
            "03",
        ),
        "rotary": Difference(
            "Positions: added to rotary",
            "Sines and cosines of the position are added to the embedding, once, at the bottom.",
            "Queries and keys are turned by an angle that grows with the position, in every layer; "
            "values and the stream are left alone.",
            ("encoder_positions", "decoder_positions"),
            ("rotation",),
            "04",
        ),
        "swiglu": Difference(
            "ReLU to SwiGLU",
            "Two matrices with biases, ReLU between them.",
            "Three matrices without biases: SiLU of the gate times up, then down.",
            tuple(f"{half}_{part}" for half in ("encoder", "decoder")
                  for part in ("expand", "relu", "contract")),
            ("gate", "up", "neuron_activation", "down"),
            "08",
        ),
        "kv_cache": Difference(
            "A KV cache",
            "The paper tells of none: written plainly, each new token computes the keys and values "
            "of all earlier ones anew.",
            "Keys and values are kept, so that a new token needs one row of queries. It belongs to "
            "generating, not to LLaMA alone: any causal decoder can have one.",
            ("decoder_attention", "cross_attention"),
            ("kv_cache",),
            "06",
        ),
        "grouped_queries": Difference(
            "Grouped queries",
            "Every query head has a key/value head of its own (multi-head attention).",
            _grouping(config),
            attentions,
            ("key", "value", "kv_cache", "attention"),
            "07",
        ),
    }  # fmt: skip


def _grouping(config: ModelConfig) -> str:
    n_heads, n_kv = config.n_heads, config.n_kv_heads
    if n_kv == n_heads:
        return (
            f"Not in this model: it has {plural(n_heads, 'query head')} and as many key/value "
            "heads (MHA). In Llama 2 70B, 64 query heads share 8."
        )
    share = "one key/value head" if n_kv == 1 else f"{n_kv} key/value heads"
    return (
        f"{n_heads} query heads share {share} ({config.attention_kind}): keys, values and cache "
        f"are {config.heads_per_kv_head} times smaller."
    )


def plural(count: int, noun: str) -> str:
    """3 heads, 1 head."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _middle(place: Place) -> tuple[float, float]:
    left, top, width, height = place
    return left + width / 2, top + height / 2


def _bottom(place: Place) -> float:
    return place[1] + place[3]


# The trace variables that are read at each box of LLaMA.
VARIABLES_OF: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding",),
    "attention_norm": ("residual_in", "rms", "norm_gain"),
    "query": ("query",),
    "key": ("key",),
    "value": ("value",),
    "rotation": ("rotation_angle", "query_rotated", "key_rotated"),
    "kv_cache": ("cache_length", "cache_bytes_used", "cache_bytes_reserved"),
    "attention": ("attention_scores", "attention_weights", "head_output"),
    "attention_output": ("attention_output", "head_contribution_norm"),
    "attention_residual": ("residual_middle",),
    "feed_forward_norm": ("rms", "norm_gain"),
    "gate": ("gate",),
    "up": ("up",),
    "neuron_activation": ("neuron_activation",),
    "down": ("feed_forward_output",),
    "feed_forward_residual": ("residual_out",),
    "final_norm": ("rms", "norm_gain"),
    "output_head": ("logits", "candidate_id", "candidate_probability"),
}

_ENCODER_NORM = (
    "What the sublayer computed is added to what it read, and the sum is normed by LayerNorm. "
    "The stream goes on normed: the norm stands on it, not beside it."
)
_EXPAND = (
    "The first of the two matrices widens each position to four times the features. It has a bias "
    "for each neuron."
)
_RELU = "Negative numbers become 0, the others stay. Here a neuron is off or on."
_CONTRACT = (
    "The second matrix brings the neurons back to the width of the stream. It has biases, too."
)
_POSITIONS = (
    "Sines and cosines of many wavelengths say where a token stands; they are added to its "
    "embedding. That happens once, below the first layer."
)

# What every box does, in two sentences.
WORDS: Mapping[str, str] = {
    "embedding": "Each token id picks a row of this matrix: the token as a vector. Nothing about "
    "neighbours or position is in it yet.",
    "attention_norm": "Divides each position's vector by its root mean square and multiplies each "
    "feature by a learned gain. Only attention reads the result; the residual stream stays as it "
    "is.",
    "query": "A matrix turns each position's vector into one query for each query head. A query "
    "says what this position looks for.",
    "key": "A matrix turns each position's vector into one key for each key/value head. A key says "
    "what can be found at this position.",
    "value": "A matrix turns each position's vector into one value for each key/value head. Values "
    "are what attention mixes; they are not rotated.",
    "rotation": "Pairs of features of each query and key are turned by an angle that grows with "
    "the position. So the product of a query and a key depends on how far apart they stand.",
    "kv_cache": "Keeps the rotated keys and the values of all positions so far. A new token then "
    "passes alone, and reads the others here.",
    "attention": "Each query is multiplied with all keys up to its position, and softmax makes "
    "weights of these scores. Each head's output is its values mixed by these weights.",
    "attention_output": "The outputs of all heads stand side by side, and a matrix mixes them to "
    "the width of the stream. The result is what attention writes.",
    "attention_residual": "What attention wrote is added to the residual stream, number by number. "
    "The stream keeps what it held, so later layers can still read it.",
    "feed_forward_norm": "The same kind of norm with gains of its own: divide by the root mean "
    "square, multiply by a gain. It stands before the feed-forward.",
    "gate": "A matrix gives each neuron a number at each position. SiLU of it will say how far the "
    "neuron opens.",
    "up": "A second matrix from the same input gives each neuron the number that may pass. The "
    "gate decides how much of it does.",
    "neuron_activation": "SiLU(gate) times up, neuron by neuron: SwiGLU. No position looks at "
    "another one here.",
    "down": "A matrix brings all neurons back to the width of the stream. Each neuron has one "
    "column in it: the direction that it writes.",
    "feed_forward_residual": "What the feed-forward wrote is added to the residual stream. The sum "
    "is what the next block reads.",
    "final_norm": "One more RMSNorm after the last block. In a pre-norm model the stream was never "
    "normed on its way, so it is done here.",
    "output_head": "A matrix compares the last vector with every token of the vocabulary: the "
    "logits. Softmax of them gives the probability of each next token.",
    "encoder_embedding": "Each token of the sentence to translate picks its row, times the square "
    "root of the width. Encoder, decoder and output share one matrix.",
    "encoder_positions": _POSITIONS,
    "encoder_attention": "Each position of the sentence looks at all others, before and after it. "
    "Four matrices: query, key, value and output.",
    "encoder_attention_norm": _ENCODER_NORM,
    "encoder_expand": _EXPAND,
    "encoder_relu": _RELU,
    "encoder_contract": _CONTRACT,
    "encoder_feed_forward_norm": _ENCODER_NORM,
    "decoder_embedding": "The translation so far, shifted right by one, picks its rows. It is the "
    "same matrix as in the encoder.",
    "decoder_positions": _POSITIONS,
    "decoder_attention": "Each position of the translation looks at itself and at those before it. "
    "The mask keeps it from seeing what it is to predict.",
    "decoder_attention_norm": _ENCODER_NORM,
    "cross_attention": "Queries come from the decoder, keys and values from the encoder's output. "
    "So the translation looks at the sentence.",
    "cross_attention_norm": _ENCODER_NORM,
    "decoder_expand": _EXPAND,
    "decoder_relu": _RELU,
    "decoder_contract": _CONTRACT,
    "decoder_feed_forward_norm": _ENCODER_NORM,
    "decoder_output": "The embedding's matrix once more, turned around, gives the logits. Softmax "
    "makes probabilities of them.",
}
