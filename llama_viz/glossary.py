"""Every term of the notebooks in one place: what it means, and who named it.

A notebook shows the terms that it needs with `glossary.define("query", "key", "value")`.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_viz.errors import unknown_name


@dataclass(frozen=True)
class Term:
    """A term, its meaning in one or two sentences, and its source (paper and year)."""

    name: str
    meaning: str
    source: str = ""


class Definitions(tuple[Term, ...]):
    """Some terms, shown as a table in a notebook and as lines elsewhere."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(
            f"{term.name}: {term.meaning}" + (f" ({term.source})" if term.source else "")
            for term in self
        )

    def _repr_markdown_(self) -> str:
        rows = [f"| **{term.name}** | {term.meaning} | {term.source} |" for term in self]
        return "\n".join(["| term | meaning | source |", "| --- | --- | --- |", *rows])


_TRANSFORMER = "Vaswani et al. 2017"

TERMS: dict[str, Term] = {
    term.name: term
    for term in (
        # What the model reads and writes
        Term("token", "A word or a piece of one, the smallest thing that the model reads."),
        Term("vocabulary", "All tokens that a model knows; each has a number, its id."),
        Term("tokenizer", "Cuts a text into tokens, and joins tokens to a text again."),
        Term("BPE", "Byte-pair encoding: begin with letters, and join the most frequent pair of "
             "neighbours again and again.", "Sennrich et al. 2016"),
        Term("SentencePiece", "A tokenizer that treats the space as a letter, written ▁, so that a "
             "text can be put together again (exactly, where nothing is normalized before, as in "
             "LLaMA).", "Kudo and Richardson 2018"),
        Term("byte fallback", "What no piece covers is spelled in its bytes, so that no text is "
             "unknown.", "Wang et al. 2019"),
        Term("WordPiece", "The tokenizer of BERT; pieces inside a word begin with ##.",
             "Schuster and Nakajima 2012"),
        Term("BOS", "The token that begins every text: `<s>` in LLaMA."),
        Term("EOS", "The token that ends a text: `</s>` in LLaMA."),
        Term("embedding", "The row of a matrix that stands for a token: its numbers on the way "
             "into the model.", "Bengio et al. 2003"),
        Term("logit", "The score of a possible next token, before the softmax."),
        Term("softmax", "Turns scores into probabilities: e to each score, divided by their sum.",
             "Bridle 1990"),
        Term("prompt", "The text that the model is given to continue."),
        # The model as a whole
        Term("Transformer", "A network of attention and feed-forward layers; the first one had an "
             "encoder and a decoder.", _TRANSFORMER),
        Term("LLaMA", "A Transformer's decoder without cross-attention, with RMSNorm, rotary "
             "positions and SwiGLU.", "Touvron et al. 2023"),
        Term("encoder", "The half that reads a whole text; every position sees all others.",
             _TRANSFORMER),
        Term("decoder", "The half that writes; a position sees itself and those before it.",
             _TRANSFORMER),
        Term("cross-attention", "Attention whose queries come from the decoder, keys and values "
             "from the encoder.", _TRANSFORMER),
        Term("block", "One layer: attention, then the feed-forward, each with its norm and its "
             "residual connection."),
        Term("residual connection", "A sublayer's input is added to its output.",
             "He et al. 2015"),
        Term("residual stream", "The row of numbers of one position that runs through all layers; "
             "every sublayer reads it and adds to it.", "Elhage et al. 2021"),
        Term("pre-norm", "The norm stands before the sublayer, and the sum of the residual "
             "connection is not normed.", "Xiong et al. 2020"),
        Term("post-norm", "The norm stands after the sum of the residual connection.",
             _TRANSFORMER),
        Term("teacher forcing", "In training every position is given the true tokens before it, "
             "whatever the model would have written.", "Williams and Zipser 1989"),
        Term("loss", "Minus the logarithm of the probability that the next token was given, in "
             "nats; its mean is also called cross-entropy.", "Good 1952"),
        Term("gradient", "For each weight, how much the loss grows when the weight grows a little.",
             "Rumelhart et al. 1986"),
        Term("learning rate", "How far a step of training goes against the gradient.",
             "Robbins and Monro 1951"),
        Term("held out", "Kept away from training, to see what was learned and not only "
             "remembered.", "Stone 1974"),
        Term("overfitting", "The loss on the training text falls on, that on the held-out text "
             "rises."),
        Term("AdamW", "Steps that are scaled for each weight by the recent size of its gradient.",
             "Loshchilov and Hutter 2019"),
        Term("Muon", "Steps for matrices, made to change all directions about equally much.",
             "Jordan et al. 2024"),
        Term("hook", "A function that PyTorch calls with what a module takes in and gives out."),
        Term("tap", "A module that returns what it is given: a named place to hang a hook on."),
        Term("trace", "Everything that was recorded of one run, as one data set with named "
             "dimensions."),
        # Models on disk
        Term("checkpoint", "A model on disk: its sizes, its weights and its tokenizer."),
        Term("safetensors", "A file of weights: a header in plain text that says where each lies, "
             "and the numbers. It holds no code."),
        Term("GGUF", "The file of llama.cpp: sizes, tokenizer and weights in one, often "
             "quantized."),
        Term("pickle", "Python's way to store objects: a list of steps that can call any function "
             "when it is read."),
        Term("interleaved", "Rotary pairs of neighbours: features 2i and 2i + 1.",
             "Su et al. 2021"),
        Term("half-split", "Rotary pairs of features i and i + d/2, as Hugging Face's files have "
             "them."),
        Term("quantization", "Weights as small whole numbers, with a scale that a block of them "
             "shares."),
        Term("chat template", "How a checkpoint writes messages out as one text, with its marks "
             "around them."),
        # Norms
        Term("LayerNorm", "Subtract the mean over the features, divide by the standard deviation, "
             "then gain and shift.", "Ba et al. 2016"),
        Term("BatchNorm", "The same over the items of a batch, for each feature.",
             "Ioffe and Szegedy 2015"),
        Term("RMSNorm", "Divide by the root mean square over the features, then gain; nothing is "
             "subtracted.", "Zhang and Sennrich 2019"),
        Term("gain", "A learned number for each feature by which a norm multiplies."),
        Term("shift", "A learned number for each feature that a norm adds; RMSNorm has none."),
        Term("epsilon", "A small number under a norm's root, so that nothing is divided by 0."),
        Term("internal covariate shift", "The inputs of a layer change their distribution while "
             "the layers before it learn; whether norms work because they stop it is contested.",
             "Ioffe and Szegedy 2015; Santurkar et al. 2018"),
        # Positions
        Term("sinusoidal positions", "Sines and cosines of many wavelengths that are added to the "
             "embeddings.", _TRANSFORMER),
        Term("learned positions", "One trained row for each position, added to the embeddings.",
             "Gehring et al. 2017"),
        Term("relative positions", "A trained vector for each distance meets query and key.",
             "Shaw et al. 2018"),
        Term("rotary positions", "Each pair of features of a query or key is turned by an angle "
             "that grows with its position, so that positions enter a score only through their "
             "signed offset.", "Su et al. 2021"),
        Term("wavelength", "After so many positions a pair of features has turned once."),
        Term("position interpolation", "Positions are shrunk, so that a longer text stays within "
             "the angles of training.", "Chen et al. 2023"),
        Term("NTK-aware scaling", "A larger theta stretches slow pairs and hardly touches fast "
             "ones.", "bloc97 2023"),
        # Attention
        Term("attention", "Each position mixes the values of others, weighted by how well its "
             "query fits their keys.", "Bahdanau et al. 2014; " + _TRANSFORMER),
        Term("query", "What a position asks for: its normed stream times a learned matrix.",
             _TRANSFORMER),
        Term("key", "What a position offers to be found by.", _TRANSFORMER),
        Term("value", "What a position hands over to those who look at it.", _TRANSFORMER),
        Term("score", "The dot product of a query and a key, divided by the root of the head's "
             "size.", _TRANSFORMER),
        Term("attention weights", "The softmax of the scores of one query: they add up to one.",
             _TRANSFORMER),
        Term("head", "One of several attentions side by side, each on features of its own.",
             _TRANSFORMER),
        Term("causal mask", "Minus infinity for every key after the query, so that its weight is "
             "0.", _TRANSFORMER),
        Term("induction head", "A head that finds the last time that the present token was there, "
             "and looks at what followed.", "Olsson et al. 2022"),
        Term("online softmax", "The softmax of a row that is read bit by bit, with a running "
             "maximum and a running sum.", "Milakov and Gimelshein 2018"),
        Term("AFT", "Attention without dot products: values are averaged with weights for each "
             "feature.", "Zhai et al. 2021"),
        # The cache and grouped heads
        Term("prefill", "The first pass: all tokens of the prompt at once."),
        Term("decode", "The later passes: one new token each."),
        Term("attention sink", "A position, often the first, on which heads rest that have nothing "
             "to look for.", "Xiao et al. 2023"),
        Term("KV cache", "The keys and values of all earlier positions, kept so that they are not "
             "computed again."),
        Term("MHA", "Multi-head attention: each query head has a key/value head of its own.",
             _TRANSFORMER),
        Term("MQA", "Multi-query attention: all query heads share one key/value head.",
             "Shazeer 2019"),
        Term("GQA", "Grouped-query attention: groups of query heads share a key/value head.",
             "Ainslie et al. 2023"),
        Term("uptraining", "A trained MHA model gets fewer key/value heads by pooling, and is "
             "trained a little further.", "Ainslie et al. 2023"),
        Term("arithmetic intensity", "Operations for each byte that is moved; below the ridge "
             "point of a device, moving takes longer than computing.", "Williams et al. 2009"),
        Term("ridge point", "The arithmetic intensity at which a device takes as long to compute "
             "as to move.", "Williams et al. 2009"),
        Term("memory wall", "Processors became faster than the memory that feeds them: moving "
             "numbers takes longer than computing with them.", "Wulf and McKee 1995"),
        Term("roofline", "The speed that a device can reach, drawn over arithmetic intensity.",
             "Williams et al. 2009"),
        Term("BLEU", "How many short runs of words a translation shares with those of people, from "
             "0 to 100.", "Papineni et al. 2002"),
        # The feed-forward
        Term("feed-forward", "Two or three matrices with an activation between them, for each "
             "position by itself.", _TRANSFORMER),
        Term("neuron", "One of the numbers in the middle of a feed-forward."),
        Term("ReLU", "max(0, x).", "Nair and Hinton 2010"),
        Term("GELU", "x times the normal distribution function of x.",
             "Hendrycks and Gimpel 2016"),
        Term("Swish", "x times the sigmoid of beta x; SiLU is Swish with beta 1.",
             "Ramachandran et al. 2017"),
        Term("SiLU", "x times its own sigmoid, x / (1 + e^-x).", "Hendrycks and Gimpel 2016"),
        Term("GLU", "sigmoid(gate(x)) * up(x): two products of one input, multiplied number by "
             "number.", "Dauphin et al. 2017"),
        Term("SwiGLU", "down(silu(gate(x)) * up(x)): one product opens and closes the other.",
             "Shazeer 2020"),
        Term("gate", "The matrix of SwiGLU whose product goes through SiLU."),
        Term("up", "The matrix of SwiGLU whose product the gate lets through, or holds back."),
        Term("down", "The matrix that brings the neurons back to the width of the stream."),
        Term("log-perplexity", "The mean surprise of the right tokens, in nats: the loss, by "
             "another name."),
        # The next token
        Term("greedy", "Always take the likeliest token."),
        Term("temperature", "Scores are divided by it before the softmax: below 1 makes the likely "
             "likelier, above 1 evens them out."),
        Term("top-k", "Draw from the k likeliest tokens only.", "Fan et al. 2018"),
        Term("top-p", "Draw from the likeliest tokens that together reach probability p.",
             "Holtzman et al. 2020"),
        Term("surprise", "Minus the logarithm of a token's probability: in nats with the natural "
             "logarithm, in bits with that to base 2.", "Shannon 1948"),
        Term("entropy", "The mean surprise of a distribution, in nats: 0 is certain.",
             "Shannon 1948"),
        Term("perplexity", "e to the mean surprise: among so many equally likely tokens the model "
             "chooses, as it were.", "Jelinek et al. 1977"),
        Term("logit lens", "The final norm and the output head applied to the stream after an "
             "earlier layer.", "nostalgebraist 2020"),
    )
}  # fmt: skip


def define(*names: str) -> Definitions:
    """The terms of these names, in this order; without names, all of them.

    Raises ValueError for a term that is not in the glossary.
    """
    for name in names:
        if name not in TERMS:
            raise unknown_name("term", name, TERMS)
    return Definitions(TERMS[name] for name in names or TERMS)
