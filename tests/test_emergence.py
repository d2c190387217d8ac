"""What is measured of snapshots, on models that are known and by formulas written out again."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.analysis import HEAD_KINDS, head_kinds
from llama_viz.training import emergence
from llama_viz.training.emergence import N_REPEATED, TEXTS
from llama_viz.training.evaluation import DISTANCE_KINDS, FACT_KINDS, HeldOut


@pytest.fixture(scope="module")
def lm():
    return lv.load("gqa")


@pytest.fixture(scope="module")
def held_out(lm):
    return HeldOut(lm.tokenizer, 4)


def test_random_tokens_come_twice(lm):
    ids = emergence.repeated_ids(lm, count=30, seed=3)
    assert ids[0] == lm.tokenizer.bos_id
    assert ids[1:31] == ids[31:]
    assert len(set(ids[1:31])) == 30
    assert not any(lm.label(token).startswith("<") for token in ids[1:])
    assert ids != emergence.repeated_ids(lm, count=30, seed=4)
    with pytest.raises(ValueError, match="count must be at most"):
        emergence.repeated_ids(lm, count=5000)


class Copier(torch.nn.Module):
    """Says, with certainty, what followed the last time; all tokens alike where none did."""

    def forward(self, ids):
        logits = torch.zeros(*ids.shape, 1408)
        for position in range(ids.shape[1]):
            earlier = (ids[0, :position] == ids[0, position]).nonzero()
            if len(earlier):
                logits[0, position, ids[0, int(earlier[-1]) + 1]] = 50.0
        return logits


def test_who_copies_is_surprised_once(lm, monkeypatch):
    monkeypatch.setattr(lm, "model", Copier())
    monkeypatch.setattr(emergence, "intervene", lambda lm, changes: nullcontext())
    first, second = emergence.copy_losses(lm)
    assert first == pytest.approx(np.log(1408), rel=1e-6)
    assert second == pytest.approx(0, abs=1e-6)


def test_the_two_copies_are_those_positions(lm):
    ids = emergence.repeated_ids(lm, seed=0)
    with torch.no_grad():
        log_probabilities = lm.model(torch.tensor([ids]))[0].double().log_softmax(-1)
    losses = [-float(log_probabilities[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    first, second = emergence.copy_losses(lm, seeds=[0])
    assert first == pytest.approx(np.mean(losses[:N_REPEATED]), rel=1e-5)
    assert second == pytest.approx(np.mean(losses[N_REPEATED + 1 :]), rel=1e-5)
    assert len(losses[N_REPEATED + 1 :]) == N_REPEATED - 1


def questions(held_out, kinds):
    return [
        (ids, asked)
        for ids, several in zip(held_out.ids, held_out.questions, strict=True)
        for asked in several
        if asked.kind in kinds
    ]


def test_the_answer_is_looked_at_where_it_was_told(lm, held_out):
    found = []
    for ids, asked in questions(held_out, DISTANCE_KINDS):
        if asked.distance is None:
            continue
        told = ids[asked.first - asked.distance]
        if told != ids[asked.first]:  # "On the tractor" answers to "on the tractor"
            assert lm.label(told).strip("▁").lower() != lm.label(ids[asked.first])
            continue
        weights = lv.record_forward(lm, ids, ["attention_weights"]).attention_weights
        here = {"query_position": asked.first - 1, "key_position": asked.first - asked.distance}
        found.append(weights.sel(here).values)
    looks = emergence.answer_attention(lm, held_out)
    np.testing.assert_allclose(looks, np.mean(found, axis=0), rtol=1e-5)
    assert looks.shape == (lm.config.n_layers, lm.config.n_heads)


def test_the_loss_of_an_answer_is_that_of_all_its_tokens(lm, held_out):
    losses = []
    for ids, asked in questions(held_out, FACT_KINDS):
        with torch.no_grad():
            log_probabilities = lm.model(torch.tensor([ids]))[0].log_softmax(-1)
        losses.append(
            -sum(float(log_probabilities[i - 1, ids[i]]) for i in range(asked.first, asked.end))
        )
    assert emergence.answer_loss(lm, held_out) == pytest.approx(np.mean(losses), rel=1e-4)


def test_recall_is_over_all_questions_together(lm, held_out):
    score = held_out.score(lm.model)
    right = sum(score.right.get(kind, 0) for kind in FACT_KINDS)
    assert emergence.recall(score) == pytest.approx(
        right / sum(score.asked.get(kind, 0) for kind in FACT_KINDS)
    )


def test_a_model_is_found_as_its_parts_say(lm, held_out):
    found = emergence.find(lm, held_out)
    assert found.loss == held_out.score(lm.model).loss
    several = [
        head_kinds(
            lv.record_forward(lm, emergence.repeated_ids(lm, seed=seed), ["attention_weights"])
        ).sel(kind="induction")
        for seed in emergence.SEEDS
    ]
    best = np.mean([one.values for one in several], axis=0).max()
    assert found.best("random tokens", "induction") == pytest.approx(best, rel=1e-6)
    assert found.heads.shape[:2] == (len(TEXTS), len(HEAD_KINDS))
    assert (found.first, found.second) == emergence.copy_losses(lm)


def test_every_snapshot_is_found():
    snapshots = lv.widgets.training_snapshots()
    chosen = [snapshots[0], snapshots[-1]]
    found = emergence.along(chosen, lv.load("gqa").tokenizer, n_held_out=4)
    assert list(found) == [step for step, _ in chosen]
    first, last = found.values()
    assert first.loss == pytest.approx(np.log(1408), abs=0.3)
    assert last.loss < 1
    assert last.recall > first.recall
    assert last.answer_loss < first.answer_loss
    assert last.answers.max() > 3 * first.answers.max()


def test_silenced_heads_hand_on_nothing_and_others_all(lm):
    ids = emergence.repeated_ids(lm)
    heads = [(1, 0), (1, 3), (2, 5)]
    before = lv.record_forward(lm, ids, ["head_output"]).head_output
    with lv.intervene(lm, emergence.without_heads(heads)):
        after = lv.record_forward(lm, ids, ["head_output"]).head_output
    silent = (after == 0).all(dim=("position", "head_feature"))
    assert sorted(zip(*(np.nonzero(silent.values)), strict=True)) == sorted(heads)
    others = [head for head in range(8) if head not in (0, 3)]
    np.testing.assert_array_equal(after.values[1][:, others], before.values[1][:, others])
    assert emergence.without_heads([]) == {}


def test_the_strongest_come_first():
    scores = np.array([[0.1, 0.9, 0.3], [0.2, 0.8, 0.3]])
    assert emergence.strongest(scores, 4) == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert len(emergence.strongest(scores, 9)) == 6


def test_the_first_step_above_a_level():
    curve = {400: 0.6, 0: 0.0, 100: 0.2, 200: 0.5}
    assert emergence.first_above(curve, 0.1) == 100
    assert emergence.first_above(curve, 0.5) == 400
    assert emergence.first_above(curve, 0.6) is None


def test_the_largest_move_is_found_with_its_share():
    curve = {200: 5.0, 0: 7.0, 100: 6.5, 300: 4.0, 400: 2.0}
    assert emergence.largest_move(curve) == (0.4, 300, 400)
    assert emergence.largest_move({0: 9.0, 50: 3.0} | curve, since=100) == (2 / 4.5, 300, 400)
    assert emergence.largest_move({0: 1.0, 1: 4.0, 2: 2.0}) == (3.0, 0, 1)  # there and back
    for nowhere in ({0: 1.0}, {}, {0: 1.0, 5: 1.0}):
        with pytest.raises(ValueError, match="no way to go from step 0"):
            emergence.largest_move(nowhere)
