"""The bytes held at once, beside sums that can be done by hand."""

import pytest
import torch

from llama_viz import cost
from llama_viz.foundations import attend, attention_by_blocks, attention_by_rows

GIVEN = torch.zeros(10, 10)  # 400 bytes


@pytest.mark.parametrize(
    ("run", "held"),
    [
        (lambda: GIVEN + 1, 400),
        (lambda: (GIVEN + 1) + 1, 800),
        (lambda: ((GIVEN + 1) + 1) + 1, 800),  # the first is gone when the third is made
        (lambda: torch.cat([GIVEN + 1, GIVEN + 1]), 1600),
        (lambda: GIVEN.T, 0),  # a view of what was there
        (lambda: (GIVEN + 1).T.unsqueeze(0) + 1, 800),  # views keep their memory alive
        (lambda: GIVEN.clone().add_(1), 400),
        (lambda: None, 0),
    ],
)
def test_the_most_that_is_held_at_one_moment(run, held):
    assert cost.most_held(run) == held


@pytest.mark.parametrize("length", [64, 256, 512])
def test_attention_written_out_holds_scores_and_weights(length):
    query, key, value = torch.randn(3, length, 16)
    output = length * 16 * 4
    written_out = cost.most_held(lambda: attend(query, key, value))
    assert written_out == 2 * length**2 * 4 + output
    assert cost.most_held(lambda: attention_by_rows(query, key, value)) == 2 * output


def test_by_blocks_memory_is_linear():
    held = {}
    for length in (1024, 2048):
        inputs = torch.randn(3, length, 16)
        held[length] = cost.most_held(lambda inputs=inputs: attention_by_blocks(*inputs))
    assert held[2048] <= 2 * held[1024]


def test_an_error_passes_through_and_counting_ends():
    with pytest.raises(ZeroDivisionError):
        cost.most_held(lambda: 1 / 0)
    assert cost.most_held(lambda: GIVEN + 1) == 400
