"""What follows from a trace: derived arrays, each computed from the recording alone.

Every function takes a trace and returns a labelled xarray.DataArray. No weights are needed, so a
trace that was saved to a file can be analysed anywhere.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from llama_viz.config import ModelConfig
from llama_viz.errors import unknown_name
from llama_viz.trace import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

# Bytes of one number of the types that a model can be loaded in.
ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

# The residual stream in the order of the data, and the ways to normalize it.
RESIDUALS = ("residual_in", "residual_middle", "residual_out")
NORMALIZATIONS = ("rms", "layer")

# A pair of features shorter than this has lost the precision that a direction takes.
SHORTEST_PAIR = {"float16": 1e-4}
SHORTEST_PAIR_ELSEWHERE = 1e-30


def require(trace: xr.Dataset, *names: str) -> None:
    """Raise ValueError, with the way to record it, where the trace lacks one of these variables."""
    if not isinstance(trace, xr.Dataset):
        raise TypeError(f"expected a trace (xarray.Dataset), got {type(trace).__name__}")
    if "prompt" in trace.dims:
        raise ValueError("the trace holds several prompts; choose one: lv.select_prompt(trace, 0)")
    missing = [name for name in names if name not in trace]
    if not missing:
        return
    for name in missing:
        if name not in VARIABLES and name not in ("token", "step_of_position"):
            raise unknown_name("variable", name, VARIABLES)
    listed = " and ".join(missing)
    if all(name.startswith("sampled_") for name in missing):
        how = "it is written by lv.record(lm, prompt), not by lv.record_forward"
    else:
        taps = ", ".join(f'"{name}"' for name in missing)
        how = f"record it with lv.record(lm, prompt, taps=[{taps}, ...]), or with taps=None for all"
    raise ValueError(f"the trace has no {listed}; {how}")


def pick(trace: xr.Dataset, dim: str, value: Any) -> int:
    """The number along a dimension as a plain int.

    Raises ValueError, with the choices, where the trace does not have it.
    """
    choices = [int(choice) for choice in trace[dim].values]
    if not _is_whole(value) or value not in choices:
        raise unknown_name(dim, value, choices)
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def config_of(trace: xr.Dataset) -> ModelConfig:
    """The sizes of the model that was recorded; raises ValueError where the trace says none."""
    if "config" not in trace.attrs:
        raise ValueError(
            "this dataset does not say the sizes of a model (attrs['config']): use a trace that "
            "lv.record made; where it was computed from one, give it that one's attrs"
        )
    return ModelConfig(**trace.attrs["config"])


def wrapped(angle: Any) -> Any:
    """The same direction as an angle in (-pi, pi], in radians; arrays keep kind and labels."""
    angle = np.pi - np.mod(np.pi - angle, 2 * np.pi)
    return angle + 2 * np.pi * (angle <= -np.pi)  # where the remainder was rounded up to a turn


def rotation_frequency(trace: xr.Dataset) -> xr.DataArray:
    """How far each pair turns from one position to the next: theta^(-2i / head_dim).

    Computed from the configuration (Su et al. 2021), its rope scaling included: all positions have
    the same row, unless scaling is dynamic. Returns (position, pair), radians per position.
    """
    require(trace)
    config = config_of(trace)
    pair = np.arange(config.n_pairs)
    step = trace["step_of_position"].values
    seen = np.searchsorted(step, step, side="right")  # positions there were, once the step was done
    frequency = [config.rotation_frequencies(pair, int(n_positions)) for n_positions in seen]
    return xr.DataArray(
        np.array(frequency),
        _coordinates(trace, "position") | {"pair": pair},
        ("position", "pair"),
        "rotation_frequency",
        {"long_name": "theta^(-2i / head_dim)", "units": "radian per position"},
    )


def applied_rotation_angle(trace: xr.Dataset) -> xr.DataArray:
    """The angle by which rotary positions turn each pair: position x theta^(-2i / head_dim).

    Returns (position, pair) in radians, with all whole turns; see rotation_frequency.
    """
    frequency = rotation_frequency(trace)
    angle = frequency * frequency["position"]
    notes = {"long_name": "position x theta^(-2i / head_dim)", "units": "radian"}
    return angle.rename("applied_rotation_angle").assign_attrs(notes)


def measured_rotation_angle(trace: xr.Dataset, of: str = "query") -> xr.DataArray:
    """The angle between each pair of features before and after rotation, as the run had them.

    of is "query" or "key". Returns (layer, position, head or key_value_head, pair), radians in
    (-pi, pi]: whole turns cannot be seen. A pair too short to have a direction is NaN: 0, or below
    1e-4 in float16, whose smaller numbers are coarse. Raises ValueError for another `of`.
    """
    if of not in ("query", "key"):
        raise unknown_name("vector", of, ("query", "key"))
    require(trace, of, f"{of}_rotated")
    before, after = (_pairs_as_complex(trace[name]) for name in (of, f"{of}_rotated"))
    # The turn from a to b is the direction of b times the mirror image of a.
    turn = after * before.conj()
    shortest = SHORTEST_PAIR.get(trace.attrs.get("dtype", ""), SHORTEST_PAIR_ELSEWHERE)
    angle = np.where(np.abs(before) > shortest, np.angle(turn), np.nan)
    heads = str(trace[of].dims[2])
    dims = ("layer", "position", heads, "pair")
    coordinates = _coordinates(trace, "layer", "position", heads)
    return xr.DataArray(
        wrapped(angle),
        coordinates | {"pair": np.arange(angle.shape[-1])},
        dims,
        f"measured_rotation_angle_of_{of}",
        {"long_name": f"angle between the {of} before and after rotation", "units": "radian"},
    )


def score_by_pair(trace: xr.Dataset, *, layer: int, head: int, query_position: int) -> xr.DataArray:
    """What each pair of features adds to the scores of one query with every key.

    (q[2i] k[2i] + q[2i+1] k[2i+1]) / sqrt(head_dim), from the rotated vectors of the run; the sum
    over the pairs is the attention score, also where the mask hides it: keys after the query.
    Returns (key_position, pair). Raises ValueError, with the choices, for what is not there.
    """
    require(trace, "query_rotated", "key_rotated")
    layer, head = pick(trace, "layer", layer), pick(trace, "head", head)
    query_position = pick(trace, "position", query_position)
    kv_head = int(trace["kv_head_of_head"].sel(head=head))
    query = trace["query_rotated"].sel(layer=layer, head=head, position=query_position)
    key = trace["key_rotated"].sel(layer=layer, key_value_head=kv_head)
    # The real part of one pair times the mirror image of the other is their dot product.
    product = (_pairs_as_complex(query) * _pairs_as_complex(key).conj()).real
    return xr.DataArray(
        product / np.sqrt(config_of(trace).head_dim),
        {"key_position": trace["position"].values, "pair": np.arange(product.shape[-1])},
        ("key_position", "pair"),
        "score_by_pair",
        {"long_name": "(q[2i] k[2i] + q[2i+1] k[2i+1]) / sqrt(head_dim)"},
    )


def score_by_distance(trace: xr.Dataset) -> xr.DataArray:
    """The mean score of every head between positions that lie so far apart.

    The first position is left out as a key: what is looked at there is not its distance. Distances
    go to half the length, so that each is the mean of many pairs. Returns (layer, head, distance).
    """
    require(trace, "attention_scores")
    scores = trace["attention_scores"].values[..., 1:, 1:].astype(np.float64)
    distances = np.arange(scores.shape[-1] // 2 + 1)
    means = [np.diagonal(scores, -distance, 2, 3).mean(axis=-1) for distance in distances]
    return xr.DataArray(
        np.stack(means, axis=-1),
        _coordinates(trace, "layer", "head") | {"distance": distances},
        ("layer", "head", "distance"),
        "score_by_distance",
        {"long_name": "mean attention score over the distance from query back to key"},
    )


NEAR = slice(1, 8)


def fall_with_distance(trace: xr.Dataset) -> xr.DataArray:
    """By how much each head's mean score is lower far away than near: (layer, head).

    Near are the distances 1 to 8, far those of the upper half of score_by_distance. A fall of 1
    divides the weight by e, other things equal; below 0 the score rises.
    """
    means = score_by_distance(trace)
    near = means.sel(distance=NEAR).mean("distance")
    far = means.isel(distance=slice(means.sizes["distance"] // 2, None)).mean("distance")
    fall = (near - far).rename("fall_with_distance")
    return fall.assign_attrs(long_name="mean score near less mean score far")


def masked_scores(trace: xr.Dataset) -> xr.DataArray:
    """The attention scores with -inf where a query may not look: above the diagonal.

    Returns (layer, head, query_position, key_position).
    """
    require(trace, "attention_scores")
    scores = trace["attention_scores"]
    allowed = trace["key_position"] <= trace["query_position"]
    masked = scores.where(allowed, -np.inf).transpose(*scores.dims)
    return masked.rename("masked_scores").assign_attrs(long_name="attention scores after the mask")


def norm_names(trace: xr.Dataset) -> list[str]:
    """Each norm in words: its layer and what it stands before."""
    words = {"attention": "attention", "feed_forward": "feed-forward"}
    return [
        f"layer {layer} {words[kind]}" if kind in words else "final"
        for layer, kind in zip(
            trace["norm_layer"].values, trace["norm_kind"].values.astype(str), strict=True
        )
    ]


def norm_input(trace: xr.Dataset) -> xr.DataArray:
    """The residual stream that each norm reads.

    Needs residual_in, residual_middle and residual_out, whichever the recorded norms read. Returns
    (norm, position, feature).
    """
    sources = {"attention": "residual_in", "feed_forward": "residual_middle"}
    kinds = [str(kind) for kind in trace["norm_kind"].values]
    require(trace, *dict.fromkeys(sources.get(kind, "residual_out") for kind in kinds))
    rows = [
        # The final norm reads what the last block leaves behind.
        trace[sources[kind]].sel(layer=layer).values
        if kind in sources
        else trace["residual_out"].sel(layer=layer - 1).values
        for kind, layer in zip(kinds, trace["norm_layer"].values, strict=True)
    ]
    return xr.DataArray(
        np.stack(rows),
        _coordinates(trace, "norm", "position", "feature"),
        ("norm", "position", "feature"),
        "norm_input",
        {"long_name": "residual stream that each norm reads"},
    )


def rms_of_residual(trace: xr.Dataset) -> xr.DataArray:
    """sqrt(mean(x^2) + eps) of the residual stream that each norm reads, computed anew.

    Returns (norm, position), to compare with the recorded rms; see norm_input.
    """
    stream = norm_input(trace)
    mean_square = (stream.values.astype(np.float64) ** 2).mean(axis=-1)
    return xr.DataArray(
        np.sqrt(mean_square + config_of(trace).norm_eps),
        _coordinates(trace, "norm", "position"),
        ("norm", "position"),
        "rms_of_residual",
        {"long_name": "sqrt(mean(x^2) + eps) of the recorded residual stream"},
    )


def added_size(trace: xr.Dataset) -> xr.DataArray:
    """How large what a sublayer adds is beside the residual stream that it is added to.

    The root mean square of one over that of the other, the median over the positions. Returns
    (layer, sublayer), the sublayers "attention" and "feed_forward".
    """
    sublayers = {
        "attention": ("attention_output", "residual_in"),
        "feed_forward": ("feed_forward_output", "residual_middle"),
    }
    require(trace, *(name for pair in sublayers.values() for name in pair))

    def size(name: str) -> np.ndarray:
        return np.sqrt((trace[name].values.astype(np.float64) ** 2).mean(axis=-1))

    ratios = [np.median(size(added) / size(to), axis=-1) for added, to in sublayers.values()]
    return xr.DataArray(
        np.stack(ratios, axis=-1),
        _coordinates(trace, "layer") | {"sublayer": list(sublayers)},
        ("layer", "sublayer"),
        "added_size",
        {"long_name": "RMS of what a sublayer adds / RMS of the residual stream before it"},
    )


def relative_size(trace: xr.Dataset, of: str = "residual_out") -> xr.DataArray:
    """The size of each feature of the residual stream beside the median size at its position.

    of is "residual_in", "residual_middle" or "residual_out". A feature that is many times the
    median is an outlier (Dettmers et al. 2022). Returns (layer, position, feature); NaN where the
    median is 0.
    """
    size = np.abs(_residual(trace, of))
    median = np.median(size, axis=-1, keepdims=True)
    ratio = np.divide(size, median, out=np.full_like(size, np.nan), where=median > 0)
    return _like_residual(trace, of, ratio, "relative_size", "|x| / median of |x|")


def share_of_mean_square(trace: xr.Dataset, of: str = "residual_out") -> xr.DataArray:
    """The part of each feature in the mean square that its norm divides by: x^2 / sum of x^2.

    Returns (layer, position, feature), 1 together at each position; NaN where all features are 0.
    """
    square = _residual(trace, of) ** 2
    total = square.sum(axis=-1, keepdims=True)
    share = np.divide(square, total, out=np.full_like(square, np.nan), where=total > 0)
    return _like_residual(trace, of, share, "share_of_mean_square", "x^2 / sum of x^2")


def normalized(trace: xr.Dataset, of: str = "residual_out", *, kind: str = "rms") -> xr.DataArray:
    """The residual stream normalized, before any gain; computed from the recording.

    kind "rms" is x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019), "layer" is LayerNorm without
    parameters: (x - mean) / sqrt(variance + eps) (Ba et al. 2016), eps that of the model. Returns
    (layer, position, feature). Raises ValueError for another kind.
    """
    if kind not in NORMALIZATIONS:
        raise unknown_name("kind", kind, NORMALIZATIONS)
    x = _residual(trace, of)
    if kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((x**2).mean(axis=-1, keepdims=True) + config_of(trace).norm_eps)
    return _like_residual(trace, of, x / deviation, "normalized", f"{kind} norm without a gain")


def cache_bytes(trace: xr.Dataset) -> xr.DataArray:
    """The bytes that the KV cache must hold after each step, by the formula.

    2 x kv_heads x head_dim x positions x bytes per number in each layer. Returns (step, layer).
    """
    require(trace, "step_of_position")
    config = config_of(trace)
    dtype = trace.attrs["dtype"]
    if dtype not in ITEMSIZE:
        raise unknown_name("dtype", dtype, ITEMSIZE)
    # Counted from the positions, not read from the cache: this is what the cache is checked with.
    positions = np.array([
        int((trace["step_of_position"] <= step).sum()) for step in trace["step"].values
    ])  # fmt: skip
    per_position = 2 * config.n_kv_heads * config.head_dim * ITEMSIZE[dtype]
    per_step = np.repeat(positions[:, None] * per_position, trace.sizes["layer"], axis=1)
    return xr.DataArray(
        per_step.astype(np.int64),
        _coordinates(trace, "step", "layer"),
        ("step", "layer"),
        "cache_bytes",
        {"long_name": "2 x kv_heads x head_dim x positions x itemsize", "units": "byte"},
    )


def difference_by_layer(
    trace: xr.Dataset, reference: xr.Dataset, of: str = "residual_out"
) -> xr.DataArray:
    """How far a variable of one run is from that of another, as a share of the other's largest.

    The largest difference of a layer, divided by its largest value in the reference, or by 1 where
    that is smaller. Returns (layer). Raises ValueError where the two are not of the same shape and
    layers.
    """
    require(trace, of)
    require(reference, of)
    here, there = trace[of], reference[of]
    if here.sizes != there.sizes:
        raise ValueError(f"{of} has sizes {dict(here.sizes)} and {dict(there.sizes)}: no match")
    layers, others = here["layer"].values.tolist(), there["layer"].values.tolist()
    if layers != others:
        raise ValueError(f"{of} was recorded in the layers {layers} and {others}: no match")
    axes = tuple(axis for axis, dim in enumerate(here.dims) if dim != "layer")
    largest = np.maximum(np.abs(there.values).max(axis=axes), 1.0)
    difference = np.abs(here.values - there.values).max(axis=axes)
    return xr.DataArray(
        difference / largest,
        _coordinates(trace, "layer"),
        ("layer",),
        "difference_by_layer",
        {"long_name": f"largest difference of {of} / its largest value"},
    )


def token_probability(trace: xr.Dataset) -> xr.DataArray:
    """The probability that the model gave each token of the run, given the tokens before it.

    Prompt tokens are read from logits (NaN where logits were not recorded, and for the first token,
    which nothing came before); new tokens from sampled_probability, else from logits. Returns
    (position), with the token that was written last at one position more than passed through the
    model; coordinates token and is_prompt.
    """
    require(trace, "token")
    if "logits" not in trace and "sampled_probability" not in trace:
        require(trace, "logits" if "sampled_token" not in trace.coords else "sampled_probability")
    n_prompt = len(trace.attrs["prompt_ids"])
    ids = trace["token_id"].values
    tokens = [str(token) for token in trace["token"].values]
    # Step s writes the token at position n_prompt + s; the last one has not passed through.
    written = trace["step"].values + n_prompt
    if "sampled_token" in trace.coords and len(tokens) in written:
        tokens.append(str(trace["sampled_token"].values[written == len(tokens)][0]))

    probability = np.full(len(tokens), np.nan)
    if "logits" in trace and len(ids) > 1:
        logits = trace["logits"].values[: len(ids) - 1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, ids[1:, None], axis=-1)[:, 0]
        probability[1 : len(ids)] = np.exp(chosen) / np.exp(logits).sum(axis=-1)
    if "sampled_probability" in trace:
        known = written < len(tokens)
        probability[written[known]] = trace["sampled_probability"].values[known]
    return xr.DataArray(
        probability,
        {
            "position": np.arange(len(tokens)),
            "token": ("position", np.array(tokens, dtype=object)),
            "is_prompt": ("position", np.arange(len(tokens)) < n_prompt),
        },
        ("position",),
        "token_probability",
        {"long_name": "probability of each token given those before it"},
    )


def next_token_entropy(trace: xr.Dataset) -> xr.DataArray:
    """The entropy of the next token's distribution at every position, in nats.

    -sum of p ln p over the vocabulary (Shannon 1948), from the recorded logits; the recorded
    entropy has it for the last position of each step. Returns (position).
    """
    probability = ranked_probabilities(trace).values
    # What was rounded to 0 adds nothing: p ln p goes to 0 with p.
    logarithm = np.log(probability, out=np.zeros_like(probability), where=probability > 0)
    return xr.DataArray(
        -(probability * logarithm).sum(axis=-1) + 0.0,
        _coordinates(trace, "position"),
        ("position",),
        "next_token_entropy",
        {"long_name": "entropy of the next token", "units": "nat"},
    )


def ranked_probabilities(trace: xr.Dataset) -> xr.DataArray:
    """The probabilities of the next token at every position, the likeliest first.

    The softmax of the recorded logits. Returns (position, rank); every row adds up to one.
    """
    require(trace, "logits")
    logits = trace["logits"].values.astype(np.float64)
    probability = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probability /= probability.sum(axis=-1, keepdims=True)
    return xr.DataArray(
        -np.sort(-probability, axis=-1),
        _coordinates(trace, "position") | {"rank": np.arange(logits.shape[-1])},
        ("position", "rank"),
        "ranked_probabilities",
        {"long_name": "probability of the next token, by rank"},
    )


def rank_in_lens(trace: xr.Dataset) -> xr.DataArray:
    """The rank that the logit lens gives to the token that came next, after every layer.

    0 is the likeliest; NaN where it is not among the ranks that were kept (record with
    n_candidates as large as the vocabulary to have them all), and where no token came next.
    Returns (layer, position).
    """
    require(trace, "lens_id", "token")
    came = np.full(trace.sizes["position"], -1)
    ids = written_ids(trace)[1:]
    came[: len(ids)] = ids
    found = trace["lens_id"].values == came[:, None]
    rank = np.where(found.any(axis=-1), found.argmax(axis=-1), np.nan)
    return xr.DataArray(
        rank,
        _coordinates(trace, "layer", "position"),
        ("layer", "position"),
        "rank_in_lens",
        {"long_name": "rank of the token that came next, read after each layer"},
    )


def written_ids(trace: xr.Dataset) -> np.ndarray:
    """The ids of the whole text: those that passed through the model, and the one written last."""
    require(trace, "token")
    ids = trace["token_id"].values
    n_prompt = len(trace.attrs["prompt_ids"])
    if "sampled_id" in trace and trace.sizes["step"] == len(ids) - n_prompt + 1:
        ids = np.append(ids, trace["sampled_id"].values[-1])
    return ids


def repeated_share(trace: xr.Dataset, *, length: int = 4) -> float:
    """How much of a text was there before: the share of its runs of `length` tokens, from 0 to 1.

    Raises ValueError for a text that is shorter than that.
    """
    ids = written_ids(trace)
    if not 1 <= length <= len(ids):
        raise ValueError(f"length must be from 1 to the text's {len(ids)} tokens, got {length}")
    runs = [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]
    return 1 - len(set(runs)) / len(runs)


class Repeat(NamedTuple):
    """A run of `length` tokens that a text says twice: where it begins both times."""

    first: int
    again: int
    length: int


def longest_repeat(trace: xr.Dataset) -> Repeat:
    """The longest run of tokens that comes again in a text, without overlapping itself.

    Of equals, one whose first time ends earliest; its length is 0 where no token comes twice.
    """
    ids = written_ids(trace)
    best = Repeat(0, 0, 0)
    # lengths[j] is how long the runs that end before i and before j are alike.
    lengths = np.zeros(len(ids) + 1, dtype=np.int64)
    for i in range(1, len(ids) + 1):
        for j in range(len(ids), i, -1):
            is_same = ids[i - 1] == ids[j - 1]
            lengths[j] = min(lengths[j - 1] + 1, j - i) if is_same else 0
            if lengths[j] > best.length:
                length = int(lengths[j])
                best = Repeat(i - length, j - length, length)
    return best


class LookBack(NamedTuple):
    """A head that looks at an earlier token, and that token is written next."""

    layer: int
    head: int
    query_position: int
    key_position: int
    weight: float
    token: str

    def __repr__(self) -> str:
        back = self.query_position - self.key_position
        return (
            f"layer {self.layer}, head {self.head}: at position {self.query_position} it gives "
            f"{self.weight:.2f} to position {self.key_position}, {back} back, where "
            f"{self.token!r} stands; the next token is {self.token!r} again"
        )


def look_backs(trace: xr.Dataset, *, count: int = 1, at_least: int = 12) -> list[LookBack]:
    """The strongest looks back at what is written next, one for each query position.

    A head at a position looks at an earlier place, at least so many positions back, and the token
    that stood there comes next again: that is how a name or a place is said a second time. The
    strongest first. Raises ValueError where the run has fewer than `count`.
    """
    require(trace, "attention_weights", "token")
    weights = trace["attention_weights"].values
    ids = trace["token_id"].values
    found = []
    for query in range(at_least, len(ids) - 1):
        keys = np.flatnonzero(ids[: query - at_least + 1] == ids[query + 1])
        here = weights[:, :, query, keys]
        if np.isnan(here).all():  # it did not stand there, or was dropped in every layer
            continue
        layer, head, key = np.unravel_index(int(np.nanargmax(here)), here.shape)
        found.append(
            LookBack(
                int(trace["layer"].values[layer]),
                int(trace["head"].values[head]),
                query,
                int(keys[key]),
                float(here[layer, head, key]),
                str(trace["token"].values[query + 1]),
            )
        )
    if len(found) < count:
        raise ValueError(
            f"the run says {len(found)} tokens again that stood at least {at_least} positions "
            f"back, asked for {count}; record a longer run"
        )
    return sorted(found, key=lambda look: -look.weight)[:count]


HEAD_KINDS = ("previous", "first", "induction")


def head_kinds(trace: xr.Dataset) -> xr.DataArray:
    """How much of its attention each head gives to three places, averaged over the positions.

    "previous" is the position before, "first" the first one, and "induction" the one after the last
    earlier occurrence of the same token, over the positions whose token occurred before (Olsson et
    al. 2022; NaN where none did). Positions 0 and 1 have too little to choose from and are left
    out. Returns (kind, layer, head), from 0 to 1.
    """
    require(trace, "attention_weights", "token")
    weights = trace["attention_weights"].values.astype(np.float64)
    nothing = np.full(weights.shape[:2], np.nan)
    means = [
        weights[:, :, queries, keys].mean(axis=-1) if len(queries) else nothing
        for queries, keys in _asked_places(trace)
    ]
    return xr.DataArray(
        np.stack(means),
        _coordinates(trace, "layer", "head") | {"kind": list(HEAD_KINDS)},
        ("kind", "layer", "head"),
        "head_kinds",
        {"long_name": "mean attention given to the previous, the first, the repeated position"},
    )


def even_spread(trace: xr.Dataset) -> xr.DataArray:
    """What head_kinds would measure of a head that spreads its attention evenly.

    At position p that is 1 / (p + 1), averaged over the positions of each kind; NaN where there are
    none. Returns (kind).
    """
    require(trace, "token")
    means = [
        (1 / (queries + 1)).mean() if len(queries) else np.nan
        for queries, _ in _asked_places(trace)
    ]
    return xr.DataArray(means, {"kind": list(HEAD_KINDS)}, ("kind",), "even_spread")


def _asked_places(trace: xr.Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of HEAD_KINDS the query positions that it is measured at, and the key of each."""
    ids = trace["token_id"].values.tolist()
    last_seen: dict[int, int] = {}
    pairs = []  # position, and what followed its token the last time
    for position, token_id in enumerate(ids):
        if token_id in last_seen and position >= 2:
            pairs.append((position, last_seen[token_id] + 1))
        last_seen[token_id] = position
    here = np.arange(2, len(ids))
    queries, keys = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return [(here, here - 1), (here, np.zeros_like(here)), (queries, keys)]


def overlap_of_heads(trace: xr.Dataset) -> tuple[float, float]:
    """How alike two heads of a layer look: in pairs that share a key/value head, and in others.

    The overlap of two rows of weights is the sum of the smaller of each pair of weights: 1 where
    they are equal, 0 where they look at different positions. Means over all queries after the
    first, which has nothing to choose, over all pairs and layers; NaN where there is no such pair.
    """
    require(trace, "attention_weights")
    weights = trace["attention_weights"].values[:, :, 1:].astype(np.float64)
    shared = trace["kv_head_of_head"].values
    overlaps: dict[bool, list[float]] = {True: [], False: []}
    for one, other in combinations(range(len(shared)), 2):
        overlap = np.minimum(weights[:, one], weights[:, other]).sum(axis=-1).mean()
        overlaps[bool(shared[one] == shared[other])].append(float(overlap))
    inside, between = (np.mean(found) if found else np.nan for found in overlaps.values())
    return float(inside), float(between)


def _residual(trace: xr.Dataset, of: str) -> np.ndarray:
    if of not in RESIDUALS:
        raise unknown_name("residual", of, RESIDUALS)
    require(trace, of)
    return trace[of].values.astype(np.float64)


def _like_residual(
    trace: xr.Dataset, of: str, values: np.ndarray, name: str, meaning: str
) -> xr.DataArray:
    dims = ("layer", "position", "feature")
    notes = {"long_name": f"{meaning} of {of}"}
    return xr.DataArray(values, _coordinates(trace, *dims), dims, name, notes)


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + e^-x), number by number (Hendrycks and Gimpel 2016), in the type of x."""
    # Of -|x|, so that nothing overflows.
    small = np.exp(-np.abs(x))
    return x * np.where(x >= 0, 1, small) / (1 + small)


def neuron_activation(trace: xr.Dataset, layer: int) -> xr.DataArray:
    """silu(gate) x up in one layer: as recorded, else computed from a recorded gate and up.

    Returns (position, neuron).
    """
    require(trace)
    if "neuron_activation" in trace or not {"gate", "up"} <= set(trace.data_vars):
        require(trace, "neuron_activation")
        return trace["neuron_activation"].sel(layer=pick(trace, "layer", layer))
    gate, up = (trace[name].sel(layer=pick(trace, "layer", layer)) for name in ("gate", "up"))
    product = up.copy(data=silu(gate.values) * up.values).rename("neuron_activation")
    return product.assign_attrs(long_name="silu(gate) * up")


def neurons_near_zero(trace: xr.Dataset, thresholds: Sequence[float] | float) -> xr.DataArray:
    """How many neurons have |silu(gate) x up| below each threshold, as a share from 0 to 1.

    Returns (layer, position, threshold). Raises ValueError for thresholds that are not above 0.
    """
    require(trace)
    limits = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if limits.ndim != 1 or limits.size == 0 or not (limits > 0).all():
        raise ValueError(f"thresholds must be numbers above 0, got {thresholds!r}")
    layers = []
    for layer in trace["layer"].values:
        size = np.abs(neuron_activation(trace, int(layer)).values)
        layers.append(np.stack([(size < limit).mean(axis=-1) for limit in limits], axis=-1))
    return xr.DataArray(
        np.stack(layers),
        _coordinates(trace, "layer", "position") | {"threshold": limits},
        ("layer", "position", "threshold"),
        "neurons_near_zero",
        {"long_name": "share of neurons with |silu(gate) x up| below the threshold"},
    )


def favourite_positions(
    traces: xr.Dataset | Sequence[xr.Dataset], *, layer: int, neuron: int, count: int = 8
) -> xr.Dataset:
    """Where a neuron's silu(gate) x up is largest in size, over one trace or several of one model.

    Returns trace (which one, from 0), position, token_id, token and neuron_activation along rank,
    the largest first; of equals, the earlier one. Fewer than count where there are fewer positions.

    Raises ValueError for a neuron that is not there, no traces, traces of other sizes, and a count
    below 1.
    """
    several = _of_one_model(traces)
    if not _is_whole(count) or count < 1:
        raise ValueError(f"count must be a whole number of at least 1, got {count!r}")
    values, places, ids, tokens = [], [], [], []
    for trace in several:
        found = neuron_activation(trace, layer)
        _check_neuron(neuron, found.sizes["neuron"])
        values.append(found.values[:, neuron])
        places.append(trace["position"].values)
        ids.append(trace["token_id"].values)
        tokens.append(trace["token"].values)
    lengths = [len(one) for one in values]
    value = np.concatenate(values)
    # Rows that were dropped (NaN) come last, and not at all.
    order = np.argsort(-np.nan_to_num(np.abs(value), nan=-1.0), kind="stable")[:count]
    order = order[~np.isnan(value[order])]
    return xr.Dataset(
        {
            "trace": ("rank", np.repeat(np.arange(len(lengths)), lengths)[order]),
            "position": ("rank", np.concatenate(places)[order]),
            "token_id": ("rank", np.concatenate(ids)[order]),
            "token": ("rank", np.concatenate(tokens)[order]),
            "neuron_activation": ("rank", value[order]),
        },
        {"rank": np.arange(len(order))},
        {"layer": int(layer), "neuron": int(neuron)},
    )


def favourite_tokens(
    traces: xr.Dataset | Sequence[xr.Dataset], *, layer: int, neuron: int, at_least: int = 3
) -> xr.Dataset:
    """A neuron's mean silu(gate) x up at each token, over one trace or several of one model.

    Returns token_id, token, mean, lowest, highest and occurrences along rank, the largest mean in
    size first; tokens that occur less than at_least times are left out. Raises ValueError for a
    neuron that is not there, no traces, and traces of other sizes.
    """
    product, ids, tokens = _joined_neurons(traces, layer)
    _check_neuron(neuron, product.shape[1])
    found = []
    for token_id in np.unique(ids):
        values = product[ids == token_id, neuron]
        if len(values) >= at_least:
            label = tokens[int(np.argmax(ids == token_id))]
            found.append((token_id, label, values.mean(), values.min(), values.max(), len(values)))
    found.sort(key=lambda row: -abs(row[2]))
    names = ("token_id", "token", "mean", "lowest", "highest", "occurrences")
    kinds = (np.int64, object, np.float64, np.float64, np.float64, np.int64)
    return xr.Dataset(
        {
            name: ("rank", np.array([row[column] for row in found], dtype=kind))
            for column, (name, kind) in enumerate(zip(names, kinds, strict=True))
        },
        {"rank": np.arange(len(found))},
        {"layer": int(layer), "neuron": int(neuron)},
    )


def favourites_alike(
    traces: xr.Dataset | Sequence[xr.Dataset], *, layer: int, count: int = 10
) -> xr.DataArray:
    """How far each neuron's strongest positions hold one and the same token.

    Of the `count` positions with the largest |silu(gate) x up|, over one trace or several of one
    model: the share that holds the commonest token among them. Returns (neuron), from 1 / count to
    1. Raises ValueError for fewer positions than count, no traces, and traces of other sizes.
    """
    product, ids, _ = _joined_neurons(traces, layer)
    if not _is_whole(count) or not 1 <= count <= len(ids):
        raise ValueError(
            f"count must be a whole number from 1 to the {len(ids)} positions, got {count!r}"
        )
    strongest = ids[np.argsort(-np.abs(product), axis=0, kind="stable")[:count]]
    same = (strongest[:, None] == strongest[None]).sum(axis=0).max(axis=0)
    return xr.DataArray(
        same / count,
        dims=("neuron",),
        name="favourites_alike",
        attrs={"long_name": f"share of the {count} strongest positions with the same token"},
    )


def _of_one_model(traces: xr.Dataset | Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """One trace or several as a list; ValueError for none, and for models of different sizes."""
    several = [traces] if isinstance(traces, xr.Dataset) else list(traces)
    if not several:
        raise ValueError("give at least one trace")
    for trace in several:
        require(trace)
        if config_of(trace) != config_of(several[0]):
            raise ValueError("the traces are of models of different sizes; give those of one model")
    return several


def _check_neuron(neuron: Any, n_neurons: int) -> None:
    """Raise ValueError unless it is the number of one of n_neurons."""
    if not _is_whole(neuron) or not 0 <= neuron < n_neurons:
        raise ValueError(f"neuron must be a whole number from 0 to {n_neurons - 1}, got {neuron!r}")


def _joined_neurons(
    traces: xr.Dataset | Sequence[xr.Dataset], layer: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """silu(gate) x up (position, neuron) of all traces, one behind the other; token ids, labels.

    Positions that were dropped from a run (NaN) are left out.
    """
    several = _of_one_model(traces)
    product = np.concatenate([neuron_activation(trace, layer).values for trace in several])
    ids = np.concatenate([trace["token_id"].values for trace in several])
    tokens = np.concatenate([trace["token"].values for trace in several])
    there = np.isfinite(product).all(axis=1)
    return product[there].astype(np.float64), ids[there], tokens[there]


def _pairs_as_complex(vectors: xr.DataArray) -> np.ndarray:
    """Features 2i and 2i + 1 as one complex number, along the last axis."""
    return vectors.values[..., 0::2].astype(np.complex128) + 1j * vectors.values[..., 1::2]


def _coordinates(trace: xr.Dataset, *dims: str) -> dict[str, Any]:
    """The coordinates of a trace that lie along these dimensions."""
    return {
        str(name): coordinate.variable
        for name, coordinate in trace.coords.items()
        if set(coordinate.dims) <= set(dims)
    }
