"""The torch backend against transformers: every architecture, world size and way to feed tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import even_shares, torch_ranks, uneven_shares
from tests.unit.compute.architectures import ARCHITECTURES, WAYS, judge, relative_error
from tpid.pack.reader import Pack

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def judged(request: pytest.FixtureRequest, random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Any:
    """(pack, token ids, transformers' logits in fp32)"""
    directory, ids, logits = judge(request.param, random_model)
    return pack_of(directory), ids, logits


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_logits_equal_transformers(judged: Any, world_size: int) -> None:
    pack, ids, expected = judged
    ranks = torch_ranks(pack, even_shares(pack, world_size))
    for way, chunks in WAYS.items():
        assert relative_error(ranks.logits(ids, chunks), expected) <= TOLERANCE, way


def test_shares_may_be_uneven_or_empty(judged: Any) -> None:
    pack, ids, expected = judged
    logits = torch_ranks(pack, uneven_shares(pack)).logits(ids, [9, 15])
    assert relative_error(logits, expected) <= TOLERANCE


def test_sequences_in_one_pass_do_not_see_each_other(judged: Any) -> None:
    pack, ids, expected = judged
    ranks = torch_ranks(pack, even_shares(pack, 2), n_slots=2)
    other = ids[::-1]
    ranks.step([(0, 0, ids[:10]), (1, 0, other[:5])])
    hidden = ranks.step([(1, 5, other[5:9]), (0, 10, ids[10:])])
    assert relative_error(ranks.head_logits(hidden[4:]), expected[10:]) <= TOLERANCE


def test_a_position_that_is_written_again_forgets_what_was_there(judged: Any) -> None:
    pack, ids, expected = judged
    ranks = torch_ranks(pack, even_shares(pack, 2))
    ranks.step([(0, 0, [*ids[:12], *([1] * 8)])])
    hidden = ranks.step([(0, 12, ids[12:])])
    assert relative_error(ranks.head_logits(hidden), expected[12:]) <= TOLERANCE
