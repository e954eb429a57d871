"""Engines under faults: the answer is the undisturbed one, the culprit is found, and nothing is left behind."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.engine.home import Device, Home, near_links
from tpid.comm.messages import Abort, Failed, Kind, Loaded, Progress, Unload
from tpid.comm.messages import Device as DeviceMessage
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import TensorHeader
from tpid.device import DeviceProfile
from tpid.engine import rank_watch
from tpid.engine.authority import Phase
from tpid.engine.engine import no_progress
from tpid.engine.executor import Executor
from tpid.engine.journal import EventKind
from tpid.engine.loaded import LoadedShare
from tpid.engine.work import Loading, Queued, Stage, Work
from tpid.errors import DeviceLostError, MemoryPlanError, NumericError, RankFailedError, RemoteProtocolError
from tpid.memory.weights import Weights
from tpid.pack.reader import Pack
from tpid.plan.partition import PlanRequest, make_plan
from tpid.plan.plan import Plan

PROMPT = [5, 17, 301, 44, 9, 270, 3, 81, 12, 500, 77, 31, 8, 2, 599, 41, 6, 7]  # more than a pass
N_TOKENS = 24


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama"))


@pytest.fixture(scope="module")
def undisturbed(pack: Pack) -> list[int]:
    async def alone() -> list[int]:
        async with Home(pack, 1) as home:
            return await home.answer(PROMPT, N_TOKENS)

    return asyncio.run(alone())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank is given up after a fifth of a second."""
    for module in ("rank_watch", "executor", "coordinator"):
        monkeypatch.setattr(f"tpid.engine.{module}.LOOK_S", 0.05, raising=module == "rank_watch")
    monkeypatch.setattr(rank_watch, "SILENT_S", 0.2)


def run(home: Home, scenario: Callable[[Home], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        async with asyncio.timeout(60), home:
            await scenario(home)

    asyncio.run(inside())


def at_token(n: int, act: Callable[[], None]) -> Callable[[int], None]:
    def after(so_far: int) -> None:
        if so_far == n:
            act()

    return after


@pytest.mark.parametrize("n_devices", [2, 3, 4])
def test_any_number_of_devices_gives_the_same_tokens(pack: Pack, undisturbed: list[int], n_devices: int) -> None:
    async def scenario(home: Home) -> None:
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        executor = home.user.engine._coordinator.executor
        assert executor is not None
        assert executor.plan.world_size == n_devices

    run(Home(pack, n_devices), scenario)


@pytest.mark.parametrize("token", [1, 7, N_TOKENS - 1])
def test_an_answer_goes_on_where_a_device_is_lost(pack: Pack, undisturbed: list[int], token: int) -> None:
    async def scenario(home: Home) -> None:
        lose = at_token(token, lambda: home.lose(home.devices[2]))
        assert await home.answer(PROMPT, N_TOKENS, lose) == undisturbed
        assert home.devices[2].engine.status().holding is None
        lost, recovered = home.user.engine.journal.events
        assert (lost.kind, lost.device, lost.in_plan) == (EventKind.LOST, "device-2", True)
        assert (recovered.kind, recovered.device) == (EventKind.RECOVERED, "device-0, device-1")

    run(Home(pack, 3), scenario)


def test_who_waits_is_told_how_many_come_first(pack: Pack) -> None:
    async def scenario(home: Home) -> None:
        engine = home.user.engine
        works = [Work(pack.name) for _ in range(4)]
        leave = [asyncio.Event() for _ in works]

        async def take_turn(number: int) -> None:
            async with engine._turn_of(works[number], no_progress):
                await leave[number].wait()

        def stages() -> list[Stage]:
            return [work.stage for work in works]

        async with asyncio.TaskGroup() as tasks:
            turns = [tasks.create_task(take_turn(number)) for number in range(4)]
            await works[3].changed.wait_for(lambda: works[3].stage == Queued(3) and works[0].stage == Loading())
            assert stages() == [Loading(), Queued(1), Queued(2), Queued(3)]
            assert (engine.status().work, engine.status().waiting_requests) == (works[0], 3)
            turns[1].cancel()  # its client is gone
            await works[3].changed.wait_for(lambda: works[3].stage == Queued(2))
            assert works[2].stage == Queued(1)
            leave[0].set()
            await works[2].changed.wait_for(lambda: works[2].stage == Loading())
            assert works[3].stage == Queued(1)
            leave[2].set()
            leave[3].set()
        assert engine.status().work is None

    run(Home(pack, 1), scenario)


def test_the_disk_is_looked_at_again_for_packs_that_are_new_elsewhere(pack: Pack) -> None:
    """Not for speeds, which change with each answer: a look reads every manifest."""

    async def scenario(home: Home) -> None:
        user, helper = home.devices[0].engine, home.devices[1]
        looks = 0

        async def look() -> None:
            nonlocal looks
            looks += 1

        user.tell_packs = look  # type: ignore[method-assign]
        connection = home.devices[0].cluster.peers[helper.profile.id]
        for speed, packs in ((1e9, ("a",)), (2e9, ("a",)), (2e9, ("a", "b")), (3e9, ("a", "b"))):
            profile = replace(helper.profile, matmul_flops_s=speed, packs=packs)
            user.received(connection, Kind.DEVICE, DeviceMessage(profile=profile), None)  # type: ignore[arg-type]
            for _ in range(3):
                await asyncio.sleep(0)
        assert looks == 2

    run(Home(pack, 2), scenario)


def test_an_answer_goes_on_over_the_loss_of_all_and_a_return(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        def act(n: int) -> None:
            if n == 3:
                home.lose(home.devices[1])
            if n == 6:
                home.lose(home.devices[2])
            if n == 9:
                home.join(home.devices[1])

        assert await home.answer(PROMPT, N_TOKENS, act) == undisturbed
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        executor = home.user.engine._coordinator.executor
        assert executor is not None
        assert executor.plan.world_size == 2

    run(Home(pack, 3), scenario)


def test_a_lease_that_ends_unnoticed_is_told_and_costs_no_blame(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        helper = home.devices[1]

        def end() -> None:
            home.end_lease(helper)
            home.user.cluster.given_back.add(helper.profile.id)

        assert await home.answer(PROMPT, N_TOKENS, at_token(5, end)) == undisturbed
        assert not home.user.cluster.blamed

    run(Home(pack, 2), scenario)


def drop_partials(device: Device, home: Home) -> None:
    home.end_at(device).drops = lambda header: not isinstance(header, Loaded | Failed)


@pytest.mark.usefixtures("impatient")
def test_a_rank_that_answers_and_does_not_work_is_given_up(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        lazy = home.devices[1]
        stop = at_token(4, lambda: drop_partials(lazy, home))
        assert await home.answer(PROMPT, N_TOKENS, stop) == undisturbed
        assert list(home.user.cluster.blamed) == [lazy.profile.id]
        assert "has not worked" in home.user.cluster.blamed[lazy.profile.id]

    run(Home(pack, 3), scenario)


@pytest.mark.usefixtures("impatient")
def test_a_rank_that_never_loads_is_given_up(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        home.end_at(home.devices[1]).drops = lambda header: True
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        assert list(home.user.cluster.blamed) == [home.devices[1].profile.id]

    run(Home(pack, 2), scenario)


@pytest.mark.usefixtures("impatient")
def test_a_slow_load_that_tells_its_progress_is_waited_for(
    pack: Pack, undisturbed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpid.engine.worker.TELL_PROGRESS_S", 0.05)

    async def scenario(home: Home) -> None:
        end = home.end_at(home.devices[1])
        held: list[Loaded] = []
        loaded = asyncio.Event()

        def hold(header: Any) -> bool:
            if isinstance(header, Loaded) and not held:
                held.append(header)
                loaded.set()
                return True
            return False

        end.drops = hold
        answer = asyncio.create_task(home.answer(PROMPT, N_TOKENS))
        await loaded.wait()
        for done in range(10):  # twice as long as silence would be borne
            await asyncio.sleep(0.04)
            end.send(Progress(term=held[0].term, done=done, total=10))
        end.send(held[0])
        assert await answer == undisturbed
        assert not home.user.cluster.blamed

    run(Home(pack, 2), scenario)


def test_partials_that_are_no_numbers_end_the_pass_before_they_are_cached(
    pack: Pack, undisturbed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(home: Home) -> None:
        liar = home.devices[1]
        reduce = StarLeaf.reduce

        async def lie(leaf: StarLeaf, step: int, partial: Any) -> Any:
            if partial is not None and leaf._hub is home.end_at(liar):
                partial = np.full_like(partial, np.nan)
            return await reduce(leaf, step, partial)

        assert await home.answer(PROMPT, 3) == undisturbed[:3]
        monkeypatch.setattr(StarLeaf, "reduce", lie)
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        assert list(home.user.cluster.blamed) == [liar.profile.id]

    run(Home(pack, 3), scenario)


def test_numbers_of_this_device_that_are_none_are_one_error_and_the_next_answer_is_right(
    pack: Pack, undisturbed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reduce = StarHub.reduce

    async def lie(hub: StarHub, step: int, partial: Any) -> Any:
        return await reduce(hub, step, None if partial is None else np.full_like(partial, np.inf))

    async def scenario(home: Home) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(StarHub, "reduce", lie)
            with pytest.raises(NumericError, match="device-0"):
                await home.answer(PROMPT, N_TOKENS)
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        assert not home.user.cluster.blamed

    run(Home(pack, 2), scenario)


@pytest.mark.parametrize("fits_alone", [True, False])
def test_where_a_device_fails_again_and_again_this_one_answers_alone_if_it_can(
    pack: Pack, undisturbed: list[int], fits_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_together(request: PlanRequest, me: DeviceProfile, others: Sequence[DeviceProfile]) -> Plan:
        if not others:
            raise MemoryPlanError("73 MB are missing on device-0.")
        return make_plan(request, me, others)

    async def scenario(home: Home) -> None:
        home.user.cluster.blame = lambda device, reason: None  # type: ignore[method-assign]

        def fail(header: Any) -> bool:
            if isinstance(header, Loaded):
                home.end_at(home.devices[1]).send(Failed(term=header.term, code="load", reason="no disk"))
                return True
            return False

        home.end_at(home.devices[1]).drops = fail
        if fits_alone:
            assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        else:
            monkeypatch.setattr("tpid.engine.coordinator.plan_in_time", only_together)
            with pytest.raises(RankFailedError, match="device-1 failed: no disk"):
                await home.answer(PROMPT, N_TOKENS)
        for _ in range(100):
            await asyncio.sleep(0)
        assert home.devices[1].engine.status().holding is None

    run(Home(pack, 2), scenario)


def test_a_cancelled_answer_frees_the_worker_for_the_next(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        for n in range(1, 12):
            answer = asyncio.create_task(home.answer(PROMPT, N_TOKENS))
            for _ in range(n * n):
                await asyncio.sleep(0)
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed

    run(Home(pack, 3), scenario)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is in a cycle stays, so that a cycle is seen."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    kinds = (Executor, LoadedShare, Weights, StarHub)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in kinds)


@pytest.mark.usefixtures("no_collector")
def test_after_each_loss_one_plan_is_alive(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        helper = home.devices[1]
        lose = at_token(5, lambda: home.lose(helper))
        for _ in range(4):
            assert await home.answer(PROMPT, N_TOKENS, lose) == undisturbed
            await asyncio.sleep(0.01)
            assert alive() == {"Executor": 1, "LoadedShare": 1, "Weights": 1}
            home.join(helper)
            assert await home.answer(PROMPT, N_TOKENS) == undisturbed
            assert alive() == {"Executor": 1, "LoadedShare": 2, "Weights": 2, "StarHub": 1}

    run(Home(pack, 2), scenario)


OUTSIDE: dict[str, Callable[[int, int], Any]] = {
    "UNLOAD": lambda term, pass_id: Unload(term=term),
    "ABORT": lambda term, pass_id: Abort(term=term, pass_id=2**63 - 1),
    "FAILED": lambda term, pass_id: Failed(term=term, code="load", reason="I say so"),
    "LOADED": lambda term, pass_id: Loaded(term=term, held_bytes=1),
    "PROGRESS": lambda term, pass_id: Progress(term=term, pass_id=pass_id, done=1, total=2),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_device_outside_of_the_plan_changes_nothing(pack: Pack, undisturbed: list[int], kind: str) -> None:
    async def scenario(home: Home) -> None:
        outsider, worker = home.devices[2], home.devices[1]
        home.user.cluster.given_back.add(outsider.profile.id)  # connected, and in no plan

        def disturb(n: int) -> None:
            executor = home.user.engine._coordinator.executor
            assert executor is not None
            message = OUTSIDE[kind](executor.plan.term, n)
            home.end_at(outsider).send(message)  # to the coordinator
            stranger = type(home.end_at(worker))(worker, outsider)  # and to the worker
            worker.engine.received(stranger, Kind[kind], message, None)  # type: ignore[arg-type]

        assert await home.answer(PROMPT, N_TOKENS, disturb) == undisturbed
        executor = home.user.engine._coordinator.executor
        assert executor is not None
        assert executor.plan.world_size == 2
        assert executor.plan.term == 1

    run(Home(pack, 3), scenario)


def test_a_breach_of_the_protocol_is_blamed(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        def breach() -> None:
            error = RemoteProtocolError("Device device-1 broke the protocol: a second partial.")
            home.end_at(home.devices[1]).lose(error)

        assert await home.answer(PROMPT, N_TOKENS, at_token(3, breach)) == undisturbed
        assert list(home.user.cluster.blamed) == [home.devices[1].profile.id]

    run(Home(pack, 2), scenario)


def test_a_plan_above_the_workers_own_budget_is_refused(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        worker = home.devices[1].engine._worker
        worker._me = replace(worker._me, budget_bytes=1000)
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        assert "budget" in home.user.cluster.blamed[home.devices[1].profile.id]
        assert worker.phase is Phase.IDLE

    run(Home(pack, 2), scenario)


def test_a_header_of_a_pass_that_is_over_is_skipped(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        end = home.end_at(home.devices[1])

        def stale() -> None:
            executor = home.user.engine._coordinator.executor
            assert executor is not None
            header = TensorHeader(executor.plan.term, 1, 0, 1, executor._wire_dtype)
            end.send_tensor(Kind.PARTIAL, header, bytes(4 * pack.spec.hidden_size))

        assert await home.answer(PROMPT, N_TOKENS, at_token(6, stale)) == undisturbed

    run(Home(pack, 2), scenario)


def test_a_device_that_has_become_slower_gets_a_smaller_share_at_the_next_request(
    pack: Pack, undisturbed: list[int]
) -> None:
    async def scenario(home: Home) -> None:
        def share() -> int:
            executor = home.user.engine._coordinator.executor
            assert executor is not None
            return len(executor.plan.ranks[1].share.ffn)

        helper = home.end_at(home.devices[1]).other  # as the user's device sees it
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        before, executor = share(), home.user.engine._coordinator.executor
        helper.peer = replace(helper.peer, read_bytes_s=0.9 * helper.peer.read_bytes_s)
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        assert home.user.engine._coordinator.executor is executor
        helper.peer = replace(helper.peer, read_bytes_s=0.3 * helper.peer.read_bytes_s)
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        assert share() < before

    run(Home(pack, 2), scenario)


def test_devices_near_each_other_exchange_directly(pack: Pack, undisturbed: list[int]) -> None:
    async def scenario(home: Home) -> None:
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        executor = home.user.engine._coordinator.executor
        assert executor is not None
        assert executor.plan.direct_tokens == 16
        home.devices[1].cluster.ends[home.devices[2].profile.id].lose(DeviceLostError("The link is cut."))
        assert await home.answer(PROMPT, N_TOKENS) == undisturbed
        again = home.user.engine._coordinator.executor
        assert again is not None
        assert again is not executor
        assert (again.plan.world_size, again.plan.direct_tokens) == (3, 0)
        assert not home.user.cluster.blamed

    run(Home(pack, 3, network=near_links(3)), scenario)
