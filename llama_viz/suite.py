"""The notebooks of the suite: their questions, what they show, and where they stand in LLaMA."""

from __future__ import annotations

from typing import NamedTuple


class Lesson(NamedTuple):
    """One notebook.

    opens is the box of the architecture that it opens: "" where it is about the whole. shows is
    what its reader sees, explorer the class in llama_viz.widgets to go on with ("" for none).
    """

    number: str
    file: str
    question: str
    opens: str
    shows: str
    explorer: str


LESSONS = (
    Lesson(
        "00", "00_start_here", "What happens inside LLaMA while it writes?", "",
        "a story, token by token, with everything inside it", "GenerationExplorer",
    ),
    Lesson(
        "01", "01_from_transformer_to_llama",
        "From the Transformer to LLaMA: what changed, and what stayed?", "",
        "both architectures, box by box; where the parameters sit", "ArchitectureMap",
    ),
    Lesson(
        "02", "02_tokens_and_embeddings", "Tokens and embeddings: what does the model read?",
        "embedding", "pieces joined merge by merge; a map of the words", "",
    ),
    Lesson(
        "03", "03_normalization", "Normalization: why divide by the root mean square?",
        "norm", "norms by hand, in training, and in a run", "NormsExplorer",
    ),
    Lesson(
        "04", "04_positions", "Positions: how does attention know the order?",
        "rotary positions", "hands that turn; a score, pair by pair", "RotaryExplorer",
    ),
    Lesson(
        "05", "05_attention", "Attention: who looks at whom?",
        "attention", "maps of all heads, down to one product", "AttentionExplorer",
    ),
    Lesson(
        "06", "06_kv_cache", "The KV cache: what need not be computed twice?",
        "KV cache", "with and without it; surgery on what is remembered", "CacheExplorer",
    ),
    Lesson(
        "07", "07_grouped_queries", "MHA, MQA, GQA: how many keys does a model need?",
        "grouped heads", "three trained models side by side; the memory wall", "CompareExplorer",
    ),
    Lesson(
        "08", "08_feed_forward", "Feed-forward: why three matrices?",
        "feed-forward", "gates that open and close, neuron by neuron", "FeedForwardExplorer",
    ),
    Lesson(
        "09", "09_next_token", "The next token: how do logits become text?",
        "output head", "the logit lens, temperature, forks in the story", "GenerationExplorer",
    ),
    Lesson(
        "10", "10_real_models", "Real models: does it hold for weights nobody here trained?", "",
        "other people's files, loaded with proof", "AttentionExplorer",
    ),
    Lesson(
        "11", "11_training", "Train your own: where do these heads come from?", "",
        "a model that learns while you watch", "TrainingExplorer",
    ),
)  # fmt: skip
