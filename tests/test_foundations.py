"""The foundations against PyTorch's own modules, closed formulas and sums done by hand.

Tolerances: 1e-6 for single formulas, 1e-5 for whole layers in float32; worked examples to the
digits that are printed.
"""

import inspect
import itertools
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import llama_viz as lv
from llama_viz import foundations as f
from llama_viz.model import FeedForward, RMSNorm, RotaryEmbedding, causal_mask
from tests.reference import random_model

FORMULA = {"rtol": 0, "atol": 1e-6}
LAYER = {"rtol": 0, "atol": 1e-5}

# The rows of the worked examples: .1 .2 .3 .4, then .5 ... to 1.6.
ROWS = torch.arange(1, 17).reshape(4, 4) / 10


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomize(module: nn.Module) -> nn.Module:
    """Every parameter away from where it starts: a gain of 1 would hide that it is forgotten."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.requires_grad_(False)


def copy(theirs: nn.Module, ours: nn.Module, names: dict[str, str]) -> nn.Module:
    """Load ours with the parameters of theirs: our name for each of their names."""
    state = theirs.state_dict()
    ours.load_state_dict({our: state[their] for our, their in names.items()})
    return ours.requires_grad_(False)


def test_every_name_is_there_and_documented():
    assert lv.foundations is f
    public = {
        name for name, value in vars(f).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }  # fmt: skip
    assert public == set(f.__all__)
    for name in f.__all__:
        value = getattr(f, name)
        assert isinstance(value, dict) or value.__doc__


# --- normalization ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eps", "digits"), [(0.0, "-1.3416 -0.4472 0.4472 1.3416"), (1e-5, "-1.3411 -0.4470")]
)
def test_layer_norm_of_the_rows_by_hand(eps, digits):
    assert_close(ROWS[0].mean(), torch.tensor(0.25))
    assert_close(ROWS[0].var(correction=0), torch.tensor(0.0125))
    for row in f.layer_norm(ROWS, eps):
        assert printed(row).startswith(digits)


def test_batch_norm_of_the_first_column_by_hand():
    assert_close(ROWS[:, 0].mean(), torch.tensor(0.7))
    assert_close(ROWS[:, 0].var(correction=0), torch.tensor(0.2))
    assert printed(f.batch_norm(ROWS, 0.0)[:, 0]) == "-1.3416 -0.4472 0.4472 1.3416"


def test_rms_norm_of_the_rows_differs_from_row_to_row():
    rows = RMSNorm(4, 0.0).requires_grad_(False)(ROWS)
    assert printed(rows[0]) == "0.3651 0.7303 1.0954 1.4606"
    assert printed(rows[3]) == "0.8939 0.9627 1.0314 1.1002"


def printed(row: torch.Tensor) -> str:
    return " ".join(f"{number:.4f}" for number in row.tolist())


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (8,)])
def test_layer_norm_is_that_of_torch(shape):
    theirs = randomize(nn.LayerNorm(8, eps=1e-3))
    ours = copy(theirs, f.LayerNorm(8, eps=1e-3), {"gain": "weight", "shift": "bias"})
    x = 3 + 2 * torch.randn(shape)
    assert_close(ours(x), theirs(x), **FORMULA)


def test_batch_norm_is_that_of_torch_in_training_and_after():
    theirs = randomize(nn.BatchNorm1d(8, eps=1e-3))
    names = {
        "gain": "weight", "shift": "bias",
        "running_mean": "running_mean", "running_variance": "running_var",
    }  # fmt: skip
    ours = copy(theirs, f.BatchNorm(8, eps=1e-3), names)
    for step in range(3):
        x = step + 2 * torch.randn(4, 6, 8)  # (batch, position, feature); torch: feature second
        assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2), **FORMULA)
        flat = x.flatten(0, 1)
        assert_close(ours(flat), theirs(flat), **FORMULA)
    assert_close(ours.running_mean, theirs.running_mean, **FORMULA)
    assert_close(ours.running_variance, theirs.running_var, **FORMULA)
    one = torch.randn(1, 8)
    assert_close(ours.eval()(one), theirs.eval()(one), **FORMULA)


def test_what_each_norm_does_not_notice():
    x, weight = torch.randn(16, 8).double(), torch.randn(8, 8).double()

    def unmoved(norm, **amounts):
        changes = f.invariances(norm, x, weight, **amounts)
        return [name for name, change in changes.items() if change < 1e-9]

    for scale in (0.1, 5.0):
        amounts = {"shift": 3.0, "scale": scale}
        scaled = ["input x scale", "weights before the norm x scale"]
        constant, by_feature = "input + one constant", "input + a shift for each feature"
        found = {
            "rms": unmoved(lambda x: F.rms_norm(x, (8,), eps=0.0), **amounts),
            "layer": unmoved(lambda x: f.layer_norm(x, 0.0), **amounts),
            "batch": unmoved(lambda x: f.batch_norm(x, 0.0), **amounts),
        }
        assert found == {
            "rms": scaled,
            "layer": [scaled[0], constant, scaled[1]],
            "batch": [scaled[0], constant, by_feature, scaled[1]],
        }
    # Near 0 epsilon counts, and the scale is noticed after all.
    near = f.invariances(f.layer_norm, x * 1e-3, weight, scale=0.1)
    assert near["input x scale"] > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.layer_norm(ROWS, -1.0), "eps must be at least 0, got -1.0"),
        (lambda: f.batch_norm(ROWS[:1]), "at least two items .* got shape .1, 4."),
        (lambda: f.BatchNorm(4)(ROWS[0]), "call eval.. to use the running statistics"),
    ],
)
def test_norms_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- attention ----------------------------------------------------------------------------------


def test_the_causal_softmax_by_hand():
    scores = torch.tensor([
        [0.9, 0.0, 0.0, 0.0], [0.3, 0.9, 0.0, 0.0], [0.1, 2.3, 0.9, 0.0], [2.0, -1.5, 0.2, 0.9]
    ])  # fmt: skip
    steps = f.weigh(scores, torch.eye(4), causal_mask(4, 4))
    assert [printed(row) for row in steps.weights] == [
        "1.0000 0.0000 0.0000 0.0000",
        "0.3543 0.6457 0.0000 0.0000",
        "0.0816 0.7367 0.1817 0.0000",
        "0.6543 0.0198 0.1082 0.2178",
    ]
    assert torch.equal(steps.masked_scores.isinf(), ~causal_mask(4, 4))
    assert torch.equal(steps.masked_scores.tril(), scores)
    assert torch.equal(steps.output, steps.weights)  # the values are the unit vectors


@pytest.mark.parametrize("mask", [None, causal_mask(5, 7), torch.rand(5, 7) < 0.9])
def test_attention_is_that_of_torch(mask):
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 6)
    if mask is not None:
        mask[:, 0] = True
    steps = f.attend(query, key, value, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert_close(steps.output, expected, **FORMULA)
    by_hand = (query[1, 2, 3] * key[1, 2, 4]).sum() / math.sqrt(8)
    assert_close(steps.scores[1, 2, 3, 4], by_hand, **FORMULA)
    assert_close(steps.weights.sum(-1), torch.ones(2, 3, 5), **FORMULA)


def joined_in_torch(bias: bool) -> tuple[nn.MultiheadAttention, f.MultiHeadAttention]:
    """The multi-head attention of torch and ours with its weights."""
    theirs = randomize(nn.MultiheadAttention(16, 4, bias=bias, batch_first=True))
    ours = f.MultiHeadAttention(16, 4, bias=bias).requires_grad_(False)
    copy_attention(theirs.state_dict(), ours)
    return theirs, ours


def copy_attention(state: dict[str, torch.Tensor], ours: f.MultiHeadAttention, at: str = ""):
    for kind in ("weight", "bias"):
        if getattr(ours.query, kind) is not None:
            parts = state[f"{at}in_proj_{kind}"].chunk(3)
            for linear, part in zip((ours.query, ours.key, ours.value), parts, strict=True):
                getattr(linear, kind).data.copy_(part)
            getattr(ours.output, kind).data.copy_(state[f"{at}out_proj.{kind}"])


@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention_is_that_of_torch(bias):
    theirs, ours = joined_in_torch(bias)
    swedish, english = torch.randn(2, 3, 16), torch.randn(2, 4, 16)
    others = torch.randn(2, 4, 16)
    crossed, weights = theirs(swedish, english, others, average_attn_weights=False)
    assert_close(ours(swedish, english, others), crossed, **LAYER)
    assert_close(ours.heads(swedish, english, others).weights, weights, **LAYER)
    mask = causal_mask(4, 4)
    alone = theirs(english, english, english, attn_mask=~mask)[0]
    assert_close(ours(english, english, english, mask), alone, **LAYER)


def test_shapes_of_cross_attention_with_values_of_another_width():
    attention = f.MultiHeadAttention(16, 4, value_head_dim=5)
    swedish, english = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    steps = attention.heads(swedish, english, english)
    assert steps.weights.shape == (1, 4, 3, 4)
    assert steps.output.shape == (1, 4, 3, 5)
    assert attention(swedish, english, english).shape == (1, 3, 16)


def test_heads_are_slices_of_the_features():
    x = torch.arange(12).reshape(2, 6)
    assert f.split_heads(x, 3)[1].tolist() == [[2, 3], [8, 9]]
    assert torch.equal(f.join_heads(f.split_heads(x, 3)), x)


def test_order_is_unseen_without_positions_and_leaks_through_the_mask():
    x = torch.randn(6, 8)
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    plain, permuted = f.attend(x, x, x).output, f.attend(*[x[order]] * 3).output
    assert_close(permuted, plain[order], **FORMULA)
    mask = causal_mask(6, 6)
    plain, permuted = f.attend(x, x, x, mask).output, f.attend(*[x[order]] * 3, mask).output
    assert (permuted - plain[order]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: f.attend(x, x[:, :2], x), "queries have 4 features and keys 2"),
        (lambda x: f.attend(x, x, x[:2]), "there are 4 keys and 2 values"),
        (lambda x: f.attend(x, x, x, causal_mask(4, 4) & False), "look at no key"),
        (lambda x: f.split_heads(x, 3), "4 features cannot be shared out evenly among 3 heads"),
        (lambda x: f.split_heads(x, 0), "4 features cannot be shared out evenly among 0 heads"),
        (lambda x: f.MultiHeadAttention(8, 0), "must be a multiple of n_heads .0."),
        (lambda x: f.MultiHeadAttention(6, 4), "dim .6. must be a multiple of n_heads .4."),
        (lambda x: f.MultiHeadAttention(8, 2)(x, x, x), "inputs need 8 features, got .* .4, 4."),
    ],
)
def test_attention_that_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(ROWS)


# --- positions ----------------------------------------------------------------------------------


def test_the_sinusoidal_table_by_its_formula():
    table = f.sinusoidal_positions(50)
    assert table.shape == (50, 512)
    for position, pair in [(0, 0), (1, 0), (7, 3), (49, 255)]:
        angle = position / 10000 ** (2 * pair / 512)
        assert_close(table[position, 2 * pair].item(), math.sin(angle), rtol=0, atol=1e-5)
        assert_close(table[position, 2 * pair + 1].item(), math.cos(angle), rtol=0, atol=1e-5)


def test_learned_positions_are_added_and_end_somewhere():
    learned, x = f.LearnedPositions(10, 4), torch.randn(2, 3, 4)
    assert torch.equal(learned(x), x + learned.table(torch.arange(3)))
    with pytest.raises(ValueError, match="11 positions, but only 10 have a learned vector"):
        learned(torch.zeros(1, 11, 4))


def test_relative_distances_are_signed_and_cut_off():
    assert f.relative_distances(4, 4, 2).tolist() == [
        [0, 1, 2, 2], [-1, 0, 1, 2], [-2, -1, 0, 1], [-2, -2, -1, 0]
    ]  # fmt: skip
    assert f.relative_distances(1, 4, 9).tolist() == [[-3, -2, -1, 0]]  # the newest of four


@pytest.mark.parametrize("n_queries", [6, 2])
def test_in_relative_attention_query_key_and_distance_meet(n_queries):
    relative = randomize(f.RelativeAttention(8, 2)).double()
    query = torch.randn(2, n_queries, 8).double()
    key, value = torch.randn(2, 2, 6, 8).double()
    mask = causal_mask(n_queries, 6)
    steps = relative(query, key, value, mask)
    for head, row in [(0, 0), (1, n_queries - 1)]:
        position = 6 - n_queries + row
        scores, values = [], []
        for column in range(position + 1):
            number = max(-2, min(2, column - position)) + 2
            meets = key[head, column] + relative.key_vectors.weight[number]
            scores.append(query[head, row] @ meets / math.sqrt(8))
            values.append(value[head, column] + relative.value_vectors.weight[number])
        weights = torch.stack(scores).softmax(0)
        assert_close(steps.scores[head, row, : position + 1], torch.stack(scores))
        assert_close(steps.weights[head, row, : position + 1], weights)
        assert_close(steps.output[head, row], weights @ torch.stack(values))


FORMS = [f.rotate_complex, f.rotate_pairs, f.rotate_matrix, f.rotate_elementwise]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rotation_is_one_rotation(form):
    angle = f.rotation_angles(40, 16)
    x = torch.rand(2, 3, 40, 16) * 2 - 1
    turned = form(x, angle)
    assert_close(turned, f.rotate_complex(x, angle), **FORMULA)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1), **FORMULA)
    # By hand: (1, 0) turned by a sixth of a turn, then by a quarter.
    two = form(torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[math.pi / 3], [math.pi / 2]]))
    assert_close(two, torch.tensor([[0.5, math.sqrt(3) / 2], [0.0, 1.0]]), **FORMULA)


@pytest.mark.parametrize("form", FORMS)
def test_the_product_of_rotated_vectors_knows_only_the_signed_offset(form):
    angle = f.rotation_angles(40, 8)
    query, key = torch.randn(2, 1, 8)
    queries, keys = form(query.expand(40, 8), angle), form(key.expand(40, 8), angle)
    scores = queries @ keys.T
    for offset in (-3, -1, 0, 1, 3):
        along = scores.diagonal(offset)
        assert_close(along, along[:1].expand_as(along), **LAYER)
    assert abs(scores[5, 6] - scores[6, 5]) > 1e-3


def test_the_rotation_matrix_is_orthogonal_and_mostly_zero():
    matrix = f.rotation_matrix(f.rotation_angles(5, 8))
    assert matrix.shape == (5, 8, 8)
    assert_close(matrix @ matrix.mT, torch.eye(8).expand(5, 8, 8), **FORMULA)
    assert (matrix[3] != 0).sum() == 2 * 8


def test_angles_are_those_of_the_model():
    scalings = [
        None,
        lv.RopeScaling("linear", factor=4.0),
        lv.RopeScaling("llama3", factor=8.0, original_max_seq_len=32),
        lv.RopeScaling("dynamic", factor=2.0, original_max_seq_len=32),
    ]
    for scaling in scalings:
        rotary = RotaryEmbedding(16, 500000.0, scaling)
        seen = []
        rotary.angle.register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(output)
        )
        rotary(0, 50, torch.device("cpu"))
        ours = f.rotation_angles(50, 16, theta=500000.0, scaling=scaling)
        assert torch.equal(ours, seen[0][0])
    slower = f.rotation_angles(50, 16, scaling=scalings[1])
    assert_close(slower, f.rotation_angles(50, 16) / 4, **FORMULA)


def test_wavelengths_of_llama_2():
    waves = f.wavelengths(128)
    assert waves.shape == (64,)
    assert_close(waves[0].item(), 2 * math.pi, rtol=1e-6, atol=0)
    assert_close(waves[-1].item(), 2 * math.pi * 10000 ** (126 / 128), rtol=1e-6, atol=0)
    longer = f.wavelengths(128, scaling=lv.RopeScaling("linear", factor=2.0))
    assert_close(longer, 2 * waves)


def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest_by_the_factor():
    plain, ntk = f.wavelengths(64), f.wavelengths(64, theta=f.ntk_theta(64, 4.0))
    assert_close(ntk[0], plain[0])
    assert_close(ntk[-1], 4 * plain[-1], rtol=1e-5, atol=0)
    # Dynamic scaling arrives at the same theta when there are four times as many positions.
    dynamic = lv.RopeScaling("dynamic", factor=1.0, original_max_seq_len=25)
    assert_close(
        f.rotation_angles(100, 64, theta=f.ntk_theta(64, 4.0)),
        f.rotation_angles(100, 64, scaling=dynamic),
        rtol=1e-5,
        atol=0,
    )


def test_the_bound_of_long_term_decay():
    bound = f.long_term_decay(torch.tensor([0, 100, 1000, 4000]))
    assert [f"{value:.1f}" for value in bound.tolist()] == ["32.5", "10.2", "4.5", "5.0"]
    by_hand = [abs(1), abs(1 + math.e**0), abs(1 + 1 + 1)]  # distance 0: S_j = j
    assert_close(f.long_term_decay(torch.tensor(0), 6).item(), sum(by_hand) / 3)
    # Two pairs at distance 3 and theta 100: 1/2 (|e^3i| + |e^3i + e^0.3i|).
    expected = (1 + math.hypot(math.cos(3) + math.cos(0.3), math.sin(3) + math.sin(0.3))) / 2
    assert_close(f.long_term_decay(torch.tensor(3), 4, theta=100.0).item(), expected)


def test_the_two_layouts_are_permutations_of_each_other():
    assert f.half_split_order(8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    x, angle = torch.randn(2, 3, 10, 8), f.rotation_angles(10, 8)
    assert torch.equal(f.interleaved(f.half_split(x)), x)
    turned = f.rotate_half_split(f.half_split(x), angle)
    assert_close(f.interleaved(turned), f.rotate_complex(x, angle), **FORMULA)
    cos, sin = (torch.cat([part] * 2, -1)[None] for part in (angle.cos(), angle.sin()))
    theirs, _ = apply_rotary_pos_emb(f.half_split(x), f.half_split(x), cos, sin)
    assert_close(turned, theirs, **FORMULA)
    assert (f.rotate_half_split(x, angle) - f.rotate_complex(x, angle)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.rotation_angles(4, 7), "7 features do not form pairs"),
        (lambda: f.sinusoidal_positions(4, 7), "7 features do not form pairs"),
        (lambda: f.wavelengths(7), "7 features do not form pairs"),
        (lambda: f.rotate_elementwise(torch.ones(2, 3), torch.ones(2, 1)), "3 features do not"),
        (lambda: f.rotate_complex(ROWS, torch.ones(4, 3)), "3 angles for 4 features"),
        (lambda: f.ntk_theta(2, 4.0), "head_dim must be at least 4"),
    ],
)
def test_positions_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- feed-forward -------------------------------------------------------------------------------


def test_activations_are_those_of_torch():
    x = torch.linspace(-6, 6, 1001)
    assert_close(f.relu(x), x.clamp(min=0), **FORMULA)
    assert_close(f.gelu(x), F.gelu(x), **FORMULA)
    assert_close(f.silu(x), F.silu(x), **FORMULA)
    assert_close(f.swish(x, 0.0), x / 2, **FORMULA)
    assert_close(f.swish(x, 2.5), x / (1 + (-2.5 * x).exp()), **FORMULA)
    assert_close(f.swish(x, 1e6), F.relu(x), **FORMULA)


def test_slopes_are_those_of_the_formulas():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    open_by = torch.sigmoid(x)
    assert_close(f.slope(f.silu, x), open_by + x * open_by * (1 - open_by), **FORMULA)
    density = (-(x**2) / 2).exp() / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert_close(f.slope(f.gelu, x), below + x * density, **FORMULA)
    assert not x.requires_grad
    with torch.no_grad():
        assert_close(f.slope(f.relu, x[x != 0]), (x[x != 0] > 0).double(), **FORMULA)


def test_the_published_comparison_has_every_kind():
    """What the paper says of its own table: GEGLU lowest, every gated kind below the others."""
    assert list(f.SHAZEER_2020) == [*f.ACTIVATIONS, *f.GATES]
    late = {kind: row.late for kind, row in f.SHAZEER_2020.items()}
    assert min(late, key=late.get) == "geglu"
    assert max(late[kind] for kind in f.GATES) < min(late[kind] for kind in f.ACTIVATIONS)
    assert all(row.late < row.early for row in f.SHAZEER_2020.values())


@pytest.mark.parametrize(("activation", "of_torch"), [("relu", F.relu), ("gelu", F.gelu)])
def test_two_matrices_by_their_formula(activation, of_torch):
    layer = randomize(f.TwoMatrixFeedForward(8, 20, activation))
    x = torch.randn(2, 5, 8)
    up, down = layer.up, layer.down
    expected = of_torch(x @ up.weight.T + up.bias) @ down.weight.T + down.bias
    assert_close(layer(x), expected, **LAYER)
    assert_close(layer(x[:, 2]), layer(x)[:, 2], **LAYER)  # position by position
    assert f.n_parameters(f.TwoMatrixFeedForward(8, 20, bias=False)) == 2 * 8 * 20


@pytest.mark.parametrize(
    ("kind", "of_torch"),
    [
        ("glu", torch.sigmoid),
        ("bilinear", lambda x: x),
        ("reglu", F.relu),
        ("geglu", F.gelu),
        ("swiglu", F.silu),
    ],
)
def test_gates_by_their_formula(kind, of_torch):
    layer = randomize(f.GatedFeedForward(8, 20, kind))
    x = torch.randn(2, 5, 8)
    gate, up, down = (part.weight.T for part in (layer.gate, layer.up, layer.down))
    assert_close(layer(x), (of_torch(x @ gate) * (x @ up)) @ down, **LAYER)


def test_swiglu_is_the_feed_forward_of_the_model():
    config = random_model().config
    theirs = randomize(FeedForward(config))
    ours = f.GatedFeedForward(config.dim, config.hidden_dim)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, config.dim)
    assert_close(ours(x), theirs(x), **LAYER)


def test_unknown_activations_and_gates_list_the_choices():
    with pytest.raises(ValueError, match="unknown activation 'rellu'. Did you mean 'relu'"):
        f.TwoMatrixFeedForward(4, 8, "rellu")
    with pytest.raises(ValueError, match="Choose from: glu, bilinear, reglu, geglu, swiglu"):
        f.GatedFeedForward(4, 8, "relu")


# --- the Transformer of 2017 --------------------------------------------------------------------

SIZES = {"dim": 16, "n_heads": 4, "hidden_dim": 24}
NORMS = {"attention_norm": "norm1", "feed_forward_norm": "norm2"}


def copy_layer(theirs: nn.Module, ours: nn.Module) -> None:
    """Our encoder or decoder layer with the weights of torch's."""
    state = theirs.state_dict()
    copy_attention(state, ours.attention, "self_attn.")
    norms = dict(NORMS)
    if isinstance(ours, f.DecoderLayer):
        copy_attention(state, ours.cross_attention, "multihead_attn.")
        norms |= {"cross_attention_norm": "norm2", "feed_forward_norm": "norm3"}
    for ours_name, theirs_name in norms.items():
        copy(
            getattr(theirs, theirs_name), getattr(ours, ours_name),
            {"gain": "weight", "shift": "bias"},
        )  # fmt: skip
    ours.feed_forward.up.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down.load_state_dict(theirs.linear2.state_dict())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_is_that_of_torch(activation):
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.0, activation, batch_first=True)
    ours = f.EncoderLayer(**SIZES, activation=activation, attention_bias=True)
    randomize(theirs)
    copy_layer(theirs, ours)
    x = torch.randn(2, 5, 16)
    assert_close(ours(x), theirs(x), **LAYER)
    assert f.n_parameters(ours) == f.n_parameters(theirs)


def test_a_decoder_layer_is_that_of_torch():
    theirs = randomize(nn.TransformerDecoderLayer(16, 4, 24, 0.0, batch_first=True))
    ours = f.DecoderLayer(**SIZES, attention_bias=True)
    copy_layer(theirs, ours)
    x, encoded = torch.randn(2, 3, 16), torch.randn(2, 4, 16)
    assert_close(ours(x, encoded), theirs(x, encoded, tgt_mask=~causal_mask(3, 3)), **LAYER)
    assert f.n_parameters(ours) == f.n_parameters(theirs)


def test_the_transformer_is_that_of_torch():
    theirs = nn.Transformer(16, 4, 2, 2, 24, 0.0, batch_first=True)
    theirs.encoder.norm = theirs.decoder.norm = None  # 2017 has no norm at the end
    randomize(theirs)
    ours = f.Transformer(30, n_layers=2, **SIZES).requires_grad_(False)
    for part in ("encoder", "decoder"):
        stacks = getattr(theirs, part).layers, getattr(ours, part).layers
        for their_layer, our_layer in zip(*stacks, strict=True):
            their_layer.self_attn.in_proj_bias.zero_()
            their_layer.self_attn.out_proj.bias.zero_()
            if part == "decoder":
                their_layer.multihead_attn.in_proj_bias.zero_()
                their_layer.multihead_attn.out_proj.bias.zero_()
            copy_layer(their_layer, our_layer)
    source, target = torch.randint(30, (2, 7)), torch.randint(30, (2, 5))

    def embedded(ids):
        angle = torch.arange(ids.shape[1])[:, None] * 10000 ** (-torch.arange(0, 16, 2) / 16)
        table = torch.zeros(ids.shape[1], 16)
        table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
        return ours.embedding.weight[ids] * 4 + table

    hidden = theirs(embedded(source), embedded(target), tgt_mask=~causal_mask(5, 5))
    assert_close(ours(source, target), hidden @ ours.embedding.weight.T, **LAYER)
    # Token by token with the source read once: the same.
    encoded = ours.encode(source)
    last = [ours.decode(target[:, : n + 1], encoded)[:, -1] for n in range(5)]
    assert_close(torch.stack(last, 1), ours(source, target), **LAYER)


def test_the_published_sizes_of_2017():
    with torch.device("meta"):
        model = f.Transformer()
    attention = 4 * 512 * 512
    feed_forward = 2 * 512 * 2048 + 2048 + 512
    norm = 2 * 512
    assert {name: f.n_parameters(part) for name, part in model.named_children()} == {
        "embedding": 37000 * 512,
        "encoder": 6 * (attention + feed_forward + 2 * norm),
        "decoder": 6 * (2 * attention + feed_forward + 3 * norm),
    }
    assert f.n_parameters(model) == 63_045_632


def test_the_transformer_trains():
    model = f.Transformer(20, n_layers=1, **SIZES)
    ids = torch.arange(1, 7)[None]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        logits = model(ids, ids[:, :-1])  # teacher forcing: the target shifted by one
        loss = F.cross_entropy(logits[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("ids", [torch.zeros(3), torch.zeros(1, 0, dtype=torch.long)])
def test_ids_that_cannot_be_translated_are_refused(ids):
    with pytest.raises(ValueError, match="LongTensor of shape .batch, position."):
        f.Transformer(20, n_layers=1, **SIZES).encode(ids)


@pytest.mark.parametrize(("size", "millions"), [("base", "109.5"), ("large", "335.1")])
def test_the_parameters_of_bert_are_those_of_transformers(size, millions):
    counted = f.bert_parameters(size)
    assert f"{sum(counted.values()) / 1e6:.1f}" == millions
    sizes = f.BERT_SIZES[size]
    config = BertConfig(
        hidden_size=sizes["dim"], num_hidden_layers=sizes["n_layers"],
        num_attention_heads=sizes["n_heads"], intermediate_size=4 * sizes["dim"],
    )  # fmt: skip
    with torch.device("meta"):
        theirs = BertModel(config)
    assert sum(counted.values()) == f.n_parameters(theirs)
    assert counted["layers"] == f.n_parameters(theirs.encoder)
    assert counted["pooler"] == f.n_parameters(theirs.pooler)
    assert abs(sum(counted.values()) / f.BERT_PUBLISHED[size] - 1) < 0.015


def test_an_unknown_size_of_bert_lists_the_choices():
    with pytest.raises(ValueError, match="unknown size of BERT 'huge'. Choose from: base, large"):
        f.bert_parameters("huge")


# --- softmax in one pass ------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1000.0, -1000.0])
def test_online_softmax_is_softmax(offset):
    scores = torch.randn(3, 4, 20, dtype=torch.float64) * 5 + offset
    scores[1, :, :3] = scores[2, :, -3:] = float("-inf")  # masked at the start, and at the end
    online = f.online_softmax(scores)
    assert_close(online.weights, scores.softmax(-1), **FORMULA)
    assert_close(online.running_maximum[0], scores[0].cummax(-1).values)
    for n in (1, 7, 20):
        total = (scores[0, :, :n] - scores[0, :, :n].amax(-1, keepdim=True)).exp().sum(-1)
        assert_close(online.running_sum[0, :, n - 1], total)
    narrow = scores.float()
    assert_close(f.online_softmax(narrow).weights, narrow.softmax(-1), **FORMULA)


PIECEWISE = {
    "rows": f.attention_by_rows,
    "blocks": lambda *parts, **options: f.attention_by_blocks(*parts, block_size=16, **options),
}


@pytest.mark.parametrize("by", PIECEWISE)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(50, 50), (5, 37), (1, 16), (40, 16)])
def test_attention_piece_by_piece_is_attention(by, causal, n_queries, n_keys):
    query = torch.randn(2, 3, n_queries, 8)
    key, value = torch.randn(2, 3, n_keys, 8), torch.randn(2, 3, n_keys, 6)
    if causal and n_queries > n_keys:
        with pytest.raises(ValueError, match="40 causal queries for 16 keys"):
            PIECEWISE[by](query, key, value, causal=True)
        return
    mask = causal_mask(n_queries, n_keys) if causal else None
    for parts, tolerance in [
        ((query, key, value), FORMULA),
        ((100 * query.double(), key.double(), value.double()), {}),  # scores in the hundreds
    ]:
        expected = f.attend(*parts, mask).output
        assert_close(PIECEWISE[by](*parts, causal=causal), expected, **tolerance)


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_the_size_of_the_blocks_does_not_matter(block_size):
    query, key, value = torch.randn(3, 30, 8)
    whole = f.attend(query, key, value, causal_mask(30, 30)).output
    pieces = f.attention_by_blocks(query, key, value, block_size=block_size, causal=True)
    assert_close(pieces, whole, **FORMULA)


class Memory(TorchDispatchMode):
    """Counts the bytes that the tensors made inside hold together, views once, and the peak."""

    def __init__(self):
        super().__init__()
        self.held = self.peak = 0
        self.views: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
                self.held += 0 if self.views.get(address) else size
                self.views[address] = self.views.get(address, 0) + 1
                weakref.finalize(x, self.release, address, size)
        self.peak = max(self.peak, self.held)
        return made

    def release(self, address: int, size: int) -> None:
        self.views[address] -= 1
        self.held -= 0 if self.views[address] else size


def peak_bytes(attention, n: int, causal: bool) -> int:
    query, key, value = torch.randn(3, n, 2)
    with Memory() as memory:
        attention(query, key, value, causal=causal)
    return memory.peak


def whole_attention(query, key, value, *, causal):
    mask = causal_mask(len(query), len(key)) if causal else None
    return f.attend(query, key, value, mask).output


@pytest.mark.parametrize("causal", [False, True])
def test_memory_of_attention_grows_with_the_square_of_the_length(causal):
    peaks = [peak_bytes(whole_attention, n, causal) for n in (256, 512, 1024)]
    assert peaks[0] >= 2 * 4 * 256**2  # scores and weights, of four bytes
    assert all(3.8 < later / earlier < 4.2 for earlier, later in itertools.pairwise(peaks))


@pytest.mark.parametrize("by", PIECEWISE)
@pytest.mark.parametrize("causal", [False, True])
def test_memory_of_attention_piece_by_piece_grows_with_the_length(by, causal):
    peaks = [peak_bytes(PIECEWISE[by], n, causal) for n in (256, 512, 1024)]
    assert all(later / earlier < 2.1 for earlier, later in itertools.pairwise(peaks))
    assert peaks[-1] < peak_bytes(whole_attention, 1024, causal) / 50


def test_gradients_pass_through_the_blocks():
    query, key, value = (torch.randn(20, 4, requires_grad=True) for _ in range(3))
    whole = torch.autograd.grad(f.attend(query, key, value).output.sum(), (query, key))
    pieces = f.attention_by_blocks(query, key, value, block_size=6).sum()
    assert_close(torch.autograd.grad(pieces, (query, key)), whole, **LAYER)


def test_blocks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        f.attention_by_blocks(ROWS, ROWS, ROWS, block_size=0)
    with pytest.raises(ValueError, match="there are 4 keys and 2 values"):
        f.attention_by_rows(ROWS, ROWS, ROWS[:2])


# --- attention-free -----------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [True, False])
def test_attention_free_by_its_formula(gate):
    query, key, value = torch.randn(3, 2, 5, 4).double()
    bias = torch.randn(5, 5).double()
    output = f.attention_free(query if gate else None, key, value, bias)
    weights = f.attention_free_weights(key, bias)
    assert weights.shape == (2, 5, 5, 4)
    for t, feature in [(0, 0), (3, 1), (4, 3)]:
        exponentials = (bias[t, : t + 1] + key[1, : t + 1, feature]).exp()
        average = (exponentials * value[1, : t + 1, feature]).sum() / exponentials.sum()
        opened = torch.sigmoid(query[1, t, feature]) if gate else 1.0
        assert_close(output[1, t, feature], opened * average)
        assert_close(weights[1, t, : t + 1, feature], exponentials / exponentials.sum())
        assert not weights[1, t, t + 1 :].any()


def test_attention_free_is_attention_where_every_feature_is_a_head_of_equal_queries():
    key, value = torch.randn(2, 6, 1)
    by_attention = f.attend(torch.ones(6, 1), key, value, causal_mask(6, 6)).output
    assert_close(f.attention_free(None, key, value, torch.zeros(6, 6)), by_attention, **FORMULA)


def test_attention_free_bears_large_numbers():
    key = torch.tensor([[200.0], [-500.0], [800.0]])
    value = torch.tensor([[1.0], [2.0], [3.0]])
    output = f.attention_free(None, key, value, torch.zeros(3, 3))
    assert output.flatten().tolist() == [1.0, 1.0, 3.0]


@pytest.mark.parametrize("gate", [True, False])
def test_an_attention_free_layer_is_causal_and_trains(gate):
    layer = f.AttentionFree(4, 10, gate=gate)
    nn.init.normal_(layer.position_bias)
    x = torch.randn(2, 6, 4)
    assert_close(layer(x[:, :3]), layer(x)[:, :3], **FORMULA)
    layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert (layer.query is None) is not gate


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.attention_free_weights(ROWS, ROWS[:3]), "position_bias must be .4, 4."),
        (lambda: f.attention_free(None, ROWS, ROWS[:2], ROWS), "must have one shape, got"),
        (lambda: f.AttentionFree(4, 3)(ROWS[None]), "4 positions, but only 3 have a learned bias"),
    ],
)
def test_attention_free_that_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- recurrent ----------------------------------------------------------------------------------


def test_the_recurrent_cell_and_network_are_those_of_torch():
    theirs = randomize(nn.RNN(4, 6, batch_first=True))
    ours = f.RecurrentNetwork(4, 6).requires_grad_(False)
    state = theirs.state_dict()
    ours.cell.input.weight.copy_(state["weight_ih_l0"])
    ours.cell.input.bias.copy_(state["bias_ih_l0"] + state["bias_hh_l0"])  # theirs has two
    ours.cell.recurrent.weight.copy_(state["weight_hh_l0"])
    x = torch.randn(3, 7, 4)
    assert_close(ours(x), theirs(x)[0], **FORMULA)
    cell = nn.RNNCell(4, 6)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in state.items()})
    before = torch.randn(3, 6)
    assert_close(ours.cell(x[:, 0], before), cell(x[:, 0], before), **FORMULA)


def test_a_later_state_waits_for_every_earlier_position():
    network, x = f.RecurrentNetwork(4, 6), torch.randn(1, 7, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[0, -1].sum(), x)
    assert gradient[0].abs().sum(-1).gt(0).all()
    with pytest.raises(ValueError, match="x must be .batch, position, feature."):
        network(x[0])
