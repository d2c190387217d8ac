"""Stored runs read to be compared, pooled models scored, time and memory measured."""

import csv

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz import analysis, cost, figures
from llama_viz.training import results, uptraining
from llama_viz.training.evaluation import HeldOut
from llama_viz.training.recipes import RECIPES
from llama_viz.training.variants import pool_heads
from tests.reference import random_model

LOSSES = {"mha": [0.60, 0.62, 0.61], "gqa": [0.58, 0.61, 0.60], "mqa": [0.61, 0.60, 0.63]}


def line(name, group, seed, loss):
    row = {
        "name": name, "group": group, "seed": seed, "parameters": 1000, "held_out_loss": loss,
        "kv_cache_bytes_per_position": 64, "floor": 0.5,
    }  # fmt: skip
    for number, kind in enumerate(("place", "colour", "owner", "food")):
        row |= {f"asked_{kind}": 10 * (number + 1), f"right_{kind}": 9 - seed}
    return row


@pytest.fixture
def data(tmp_path):
    """A data folder with three seeds of the embedded models and one run of uptraining."""
    folder = tmp_path / "training"
    (folder / "losses").mkdir(parents=True)
    lines = [
        line(name, "attention", seed, loss)
        for name, losses in LOSSES.items()
        for seed, loss in enumerate(losses)
    ]
    lines.append(line("gqa-mean", "uptraining", 0, 0.9))
    write(folder / "results.csv", lines)
    write(folder / "recall.csv", [
        {"run": f"{name}-seed{seed}", "name": name, "seed": seed, "by": by, "value": value,
         "kind": kind, "asked": 10, "right": value + seed}
        for name in ("gqa", "mha") for seed in (0, 1) for by in ("facts", "distance")
        for value in (1, 2) for kind in ("place", "colour")
    ])  # fmt: skip
    write(folder / "losses" / "gqa-mean-seed0.csv", [
        {"step": 0, "held_out_loss": 5.0}, {"step": 10, "held_out_loss": ""},
        {"step": 200, "held_out_loss": 0.9},
    ])  # fmt: skip
    return tmp_path


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_results_of_a_group_stand_by_recipe(data):
    runs = results.results("attention", data)
    assert list(runs) == ["mha", "gqa", "mqa"]
    assert results.losses(runs) == LOSSES
    assert results.above_floor(runs)["gqa"] == pytest.approx([0.08, 0.11, 0.10])
    assert results.results("matched", data) == {}
    with pytest.raises(ValueError, match="group 'atention'.*attention, matched"):
        results.results("atention", data)


def test_recall_is_over_all_questions_together(data):
    runs = results.results("attention", data)
    assert results.recall(runs)["mha"] == pytest.approx([27 / 60, 24 / 60, 21 / 60])
    assert results.recall(runs, ["place"])["mha"] == pytest.approx([0.9, 0.8, 0.7])


def test_recall_curves_hold_every_seed(data):
    curves = results.recall_over("facts", "place", ["mha", "mqa"], data)
    assert curves == {"mha": {1: [0.1, 0.2], 2: [0.2, 0.3]}, "mqa": {}}
    with pytest.raises(ValueError, match="by 'fact'.*facts, distance"):
        results.recall_over("fact", "place", ["mha"], data)


def test_courses_hold_the_steps_at_which_the_loss_was_measured(data):
    assert results.courses("uptraining", data) == {"gqa-mean": {0: 5.0, 200: 0.9}}
    assert results.courses("matched", data) == {}
    assert results.courses_by_seed("uptraining", data) == {
        "0": {"gqa-mean": {0: 5.0, 200: 0.9}}
    }  # fmt: skip
    assert results.courses_by_seed("matched", data) == {}


def test_courses_are_drawn_seed_by_seed():
    courses = {"0": {"relu": {0: 7.0, 50: 2.0, 100: 1.0}, "glu": {0: 7.1, 50: 2.1, 100: 0.9}},
               "1": {"relu": {0: 7.2, 50: 2.2, 100: 1.1}}}  # fmt: skip
    figure = figures.loss_courses(courses, first_step=50)
    for panel, (seed, found) in zip(figure.axes, courses.items(), strict=True):
        assert panel.get_title(loc="left") == f"seed {seed}"
        drawn = {
            line.get_gid(): dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
            for line in panel.lines
        }
        assert drawn == {
            name: {step: loss for step, loss in course.items() if step >= 50}
            for name, course in found.items()
        }
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    with pytest.raises(ValueError, match="no courses"):
        figures.loss_courses({})


def test_a_summary_has_means_ranges_and_numbers_of_seeds(data):
    table = results.summary(results.results("attention", data)).splitlines()
    assert table[0].split() == ["seeds", "parameters", "cache", "bytes/position", "held-out",
                                "loss", "recall"]  # fmt: skip
    assert "0.6100 (0.6000 to 0.6200)" in table[1]
    assert "40.0% (35.0% to 45.0%)" in table[1]
    assert table[1].split()[:4] == ["mha", "3", "1,000", "64"]
    single = results.summary({"mha": results.results("attention", data)["mha"][:1]})
    assert single.split()[-2:] == ["0.6000", "45.0%"]


def test_seeds_are_compared_one_by_one(data):
    runs = results.results("attention", data)
    agreed = results.told_apart(runs["mha"], runs["gqa"])
    assert agreed == (
        "gqa has 0.0133 nats less loss than mha, in all 3 seeds (by chance alone in 1 of 4)"
    )
    # The ranges of mha and gqa overlap, and yet the seeds agree: a seed has stories of its own.
    mixed = results.told_apart(runs["mha"], runs["mqa"])
    assert mixed == (
        "mqa has 0.0033 nats more loss than mha on average, but not in every seed: not told apart"
    )
    one = results.told_apart(runs["mha"], runs["gqa"][:1])
    assert one == "gqa has 0.0200 nats less loss than mha; one seed: this may be chance"
    with pytest.raises(ValueError, match="no seed was trained with both"):
        results.told_apart(runs["mha"][:1], runs["gqa"][1:])


# Many recipes against chance

FOUR = {"relu": [0.70, 0.73], "gelu": [0.71, 0.71], "glu": [0.66, 0.68], "swiglu": [0.60, 0.64]}


def runs_of(losses):
    return {
        name: [line(name, "feed-forward", seed, loss) for seed, loss in enumerate(found)]
        for name, found in losses.items()
    }


def as_read(runs):
    """As from a file: all values are text."""
    return {
        name: [{key: str(value) for key, value in row.items()} for row in rows]
        for name, rows in runs.items()
    }


def test_each_seed_has_its_own_order():
    orders = results.by_seed(as_read(runs_of(FOUR)))
    assert {seed: list(found) for seed, found in orders.items()} == {
        "0": ["swiglu", "glu", "relu", "gelu"],
        "1": ["swiglu", "glu", "gelu", "relu"],
    }
    assert orders["1"]["glu"] == 0.68


def test_chance_is_what_is_left_of_a_table_of_recipes_and_seeds():
    found = results.spread(as_read(runs_of(FOUR)))
    assert found.seeds == ["0", "1"]
    assert list(found.means) == ["swiglu", "glu", "gelu", "relu"]
    assert found.means["relu"] == pytest.approx(0.715)
    assert found.range == pytest.approx(0.095)
    # With two seeds: the deviation of the differences between the seeds, over the root of two.
    steps = np.array([late - early for early, late in FOUR.values()])
    assert found.chance == pytest.approx(steps.std(ddof=1) / np.sqrt(2), rel=1e-12)
    assert found.chance == pytest.approx(0.0120761, rel=1e-5)
    assert found.apart() == [("swiglu", "glu"), ("swiglu", "gelu"), ("swiglu", "relu"),
                             ("glu", "gelu"), ("glu", "relu")]  # fmt: skip
    assert len(found.apart(times=4)) == 3


def test_a_seed_that_is_harder_for_all_is_no_chance():
    moved = {name: [early, late + 0.5] for name, (early, late) in FOUR.items()}
    runs = as_read(runs_of(FOUR))
    assert results.spread(as_read(runs_of(moved))).chance == pytest.approx(
        results.spread(runs).chance
    )


def test_only_seeds_that_all_have_are_compared():
    runs = as_read(runs_of(FOUR | {"geglu": [0.61]}))
    found = results.spread(runs)
    assert found.seeds == ["0"]
    assert found.means["relu"] == 0.70
    assert np.isnan(found.chance)
    assert found.apart() == []
    assert results.verdict(runs).splitlines() == [
        "5 recipes over 1 shared seed",
        "lowest swiglu 0.6000, highest gelu 0.7100: 0.1100 nats apart",
        "one seed: how much of that is chance is not known",
    ]


def test_the_verdict_has_the_range_beside_chance():
    assert results.verdict(as_read(runs_of(FOUR))).splitlines() == [
        "4 recipes over 2 shared seeds",
        "lowest swiglu 0.6200, highest relu 0.7150: 0.0950 nats apart",
        "chance moves two means apart by about 0.0121 nats; the range is 7.9 times that",
        "further apart than twice that: 5 of 6 pairs",
    ]


@pytest.mark.parametrize("kept", [{}, {"relu": [0.7, 0.72]}])
def test_too_few_runs_are_said_to_be_too_few(kept):
    runs = as_read(runs_of(kept))
    assert "nothing can be compared" in results.verdict(runs)
    assert np.isnan(results.spread(runs).chance)


def test_runs_without_a_common_seed_are_not_compared():
    runs = as_read(runs_of(FOUR))
    apart = {"relu": runs["relu"][:1], "glu": runs["glu"][1:]}
    assert results.spread(apart).means == {}
    assert "nothing can be compared" in results.verdict(apart)


def test_the_standard_error_of_a_share():
    assert results.standard_error(0.5, 100) == pytest.approx(0.05)


def test_the_real_tables_can_be_read():
    runs = results.results("attention")
    assert list(runs) == ["mha", "gqa", "mqa"]
    for name, lines in runs.items():
        assert int(lines[0]["parameters"]) == RECIPES[name].config.n_parameters
        assert results.course(name)[0] > results.losses(runs)[name][0]
    assert set(results.recall_over("facts", "place", runs)["mha"]) == set(range(1, 9))


# Uptraining


@pytest.fixture(scope="module")
def mha():
    return lv.load("mha")


def test_losses_after_pooling_are_those_of_the_pooled_models(mha):
    found = uptraining.losses_after_pooling(mha, (2,), n_held_out=4)
    held_out = HeldOut(mha.tokenizer, 4)
    assert list(found) == ["2 heads, mean", "2 heads, first", "2 heads, random"]
    first = held_out.score(pool_heads(mha.model, 2, "first")).loss
    assert found["2 heads, first"] == pytest.approx(first)
    assert uptraining.held_out_loss(mha, n_held_out=4) == pytest.approx(
        held_out.score(mha.model).loss
    )
    assert min(found.values()) > held_out.score(mha.model).loss


def test_uptraining_goes_in_turns_and_lowers_the_loss(mha):
    weights = {name: weight.clone() for name, weight in mha.model.state_dict().items()}
    seen = []
    for courses in uptraining.uptrain(mha, 1, ("mean", "random"), steps=5, rows=2, row_length=64,
                                      evaluate_every=4, n_held_out=3):  # fmt: skip
        seen.append([list(course) for course in courses.values()])
    assert seen == [
        [[0], [0]], [[0, 4], [0]], [[0, 4], [0, 4]], [[0, 4, 5], [0, 4]], [[0, 4, 5], [0, 4, 5]],
    ]  # fmt: skip
    assert list(courses) == ["1 head, mean", "1 head, random"]
    for course in courses.values():
        assert course[5] < course[0]
    for name, weight in mha.model.state_dict().items():
        assert torch.equal(weight, weights[name])  # the model itself is not trained


def test_uptraining_needs_a_tokenizer():
    with pytest.raises(ValueError, match="need a tokenizer"):
        uptraining.held_out_loss(random_model("mha"))


# How alike heads look


@pytest.mark.parametrize(("kind", "shared", "apart"), [("mha", 0, 28), ("gqa", 12, 16),
                                                      ("mqa", 28, 0)])  # fmt: skip
def test_overlaps_are_means_over_pairs(kind, shared, apart):
    trace = lv.record(random_model(kind), [5, 6, 7], 5)
    inside, between = analysis.overlap_of_heads(trace)
    assert (inside == inside) == bool(shared)
    assert (between == between) == bool(apart)
    weights = trace.attention_weights.values[:, :, 1:].astype(float)
    heads = trace.kv_head_of_head.values
    sums = [
        min(weights[layer, one, query, key], weights[layer, other, query, key])
        for layer in range(weights.shape[0]) for one in range(8) for other in range(one)
        for query in range(weights.shape[2]) for key in range(weights.shape[3])
        if heads[one] == heads[other]
    ]  # fmt: skip
    if shared:
        assert len(sums) == shared * weights.shape[0] * weights.shape[2] * weights.shape[3]
        assert inside == pytest.approx(sum(sums) * weights.shape[3] / len(sums), rel=1e-6)


def test_heads_that_look_alike_overlap_wholly():
    trace = lv.record(random_model("mqa"), [5, 6, 7], 5)
    alike = trace.assign(attention_weights=trace.attention_weights.copy(
        data=trace.attention_weights.values[:, :1].repeat(8, axis=1)))  # fmt: skip
    assert analysis.overlap_of_heads(alike)[0] == pytest.approx(1, abs=1e-6)


# Measured


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_the_counted_ratio_is_that_of_all_steps(kind):
    """The embedded sizes, where first and last step stand for all; here all steps are counted."""
    lm = random_model(kind)
    n = 7
    cache = lv.KVCache(lm.config, 2, n)
    numbers = arithmetic = 0
    for _ in range(n):
        costs = cost.count(lm, torch.zeros(2, 1, dtype=torch.long), cache, fused=False)
        left_out = ("attention_norm", "rotation", "attention_residual")
        rows = [row for row in costs.rows if row.part == "attention"]
        rows = [row for row in rows if row.operation not in left_out]
        numbers += sum(row.bytes for row in rows) / 4
        arithmetic += sum(row.multiply_adds for row in rows)
    assert cost.counted_ratio(lm, n, batch_size=2) == pytest.approx(numbers / arithmetic, rel=1e-9)


def test_the_counted_ratio_is_a_little_above_its_formula():
    for name, n_kv_heads in (("mha", 8), ("gqa", 2), ("mqa", 1)):
        counted = cost.counted_ratio(lv.load(name), 128, batch_size=4)
        formula = cost.counted_memory_per_arithmetic(128, 128, 8, 4, n_kv_heads)
        assert formula < counted < 1.3 * formula


def test_the_local_rows_are_those_of_the_paper():
    many, one = cost.PUBLISHED_LOCAL
    for local, whole in zip((many, one), cost.PUBLISHED, strict=True):
        assert local.attention == f"{whole.attention}, local"
        assert local.feed_forward_width == whole.feed_forward_width
        assert local.decoder_microseconds < whole.decoder_microseconds
        assert abs(local.dev_bleu - whole.dev_bleu) <= 0.11
    assert (many.decoder_microseconds, one.decoder_microseconds) == (23.0, 3.3)


def test_times_are_measured_and_the_models_stay_as_they_were():
    sums = cost.one_or_many(4, kilobytes=64, runs=2)
    assert 0 < sums.one < 1
    assert 0 < sums.many < 1
    models = {kind: random_model(kind).model for kind in ("mha", "mqa")}
    taken = cost.decode_seconds(models, 9, batch_size=2, runs=2)
    assert list(taken) == ["mha", "mqa"]
    assert all(0 < seconds < 1 for seconds in taken.values())
    with pytest.raises(ValueError, match="n_held must be a whole number"):
        cost.decode_seconds(models, 0)
