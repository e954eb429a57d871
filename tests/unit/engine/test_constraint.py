import asyncio

import numpy as np
import pytest

from tpid.engine.constraint import Constraint, Grammar, Mask, mask_of
from tpid.engine.text_messages import LENGTH, pack, pack_mask
from tpid.errors import RequestError, TokenizerError


def mask(*ids: int, n: int = 8) -> Mask:
    values = np.zeros(n, np.bool_)
    values[list(ids)] = True
    return values


def test_a_mask_follows_each_token() -> None:
    async def follow(id: int) -> Mask:
        await asyncio.sleep(0)
        return mask(id + 1)

    async def run() -> None:
        constraint = Constraint(mask(1), follow)
        assert np.flatnonzero(await constraint.allowed(8)).tolist() == [1]
        assert np.flatnonzero(await constraint.allowed(8)).tolist() == [1]
        await constraint.accept(1)
        assert np.flatnonzero(await constraint.allowed(8)).tolist() == [2]
        await constraint.close()

    asyncio.run(run())


@pytest.mark.parametrize("vocab_size", [4, 8, 12])
def test_it_has_the_vocabularys_length(vocab_size: int) -> None:
    async def run() -> Mask:
        return await Constraint(mask(1, 7), lambda id: asyncio.sleep(0, mask())).allowed(vocab_size)

    allowed = asyncio.run(run())
    assert len(allowed) == vocab_size
    assert np.flatnonzero(allowed).tolist() == [id for id in (1, 7) if id < vocab_size]


def test_the_mask_is_asked_for_before_a_step_that_keeps_the_loop() -> None:
    asked: list[int] = []

    async def follow(id: int) -> Mask:
        asked.append(id)
        return mask(id)

    async def run() -> None:
        constraint = Constraint(mask(1), follow)
        await constraint.accept(1)
        assert asked == [1]
        await constraint.close()

    asyncio.run(run())


def test_what_goes_wrong_is_raised_where_the_mask_is_wanted() -> None:
    async def follow(id: int) -> Mask:
        raise RequestError("No.")

    async def run() -> None:
        constraint = Constraint(mask(1), follow)
        await constraint.accept(1)
        with pytest.raises(RequestError):
            await constraint.allowed(8)
        await constraint.close()

    asyncio.run(run())


def test_who_is_cancelled_does_not_cancel_the_work() -> None:
    ended = asyncio.Event()

    async def follow(id: int) -> Mask:
        await asyncio.sleep(0.01)
        ended.set()
        return mask()

    async def run() -> None:
        constraint = Constraint(mask(1), follow)
        await constraint.accept(1)
        waiting = asyncio.create_task(constraint.allowed(8))
        await asyncio.sleep(0)
        waiting.cancel()
        await constraint.close()
        assert ended.is_set()

    asyncio.run(run())


def test_masks_come_as_bits_with_the_lowest_first() -> None:
    assert np.flatnonzero(mask_of(pack_mask(b"\x05\x80")[LENGTH.size :])).tolist() == [0, 2, 15]
    with pytest.raises(RequestError, match="No"):
        mask_of(pack({"error": {"code": "request", "message": "No.", "hint": None}})[LENGTH.size :])
    for reply in (b"", b"{}", b"x", pack({"ids": [1]})[LENGTH.size :]):
        with pytest.raises(TokenizerError):
            mask_of(reply)


def test_a_grammar_goes_as_a_message() -> None:
    assert Grammar(lark="start: x").as_message() == {"lark": "start: x"}
    assert Grammar(json_schema='{"type": "null"}').as_message() == {"json_schema": '{"type": "null"}'}
