"""A device that was paired and then plays by rules of its own, against real daemons that answer: it is told of in their
logs, and nothing else comes of it."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tpid.cluster.home import Home as State
from tpid.cluster.roster.gossip import encode_statements
from tpid.comm.connection import Connection
from tpid.comm.dialling import dial
from tpid.comm.messages import (
    Abort,
    Campaign,
    Failed,
    Grant,
    Hello,
    Kind,
    Load,
    Loaded,
    Message,
    Progress,
    Renew,
    RosterNews,
    Unload,
)
from tpid.comm.settings import CommSettings
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.device import DeviceProfile, Role
from tpid.errors import DeviceLostError, TpidError
from tpid.model.batch import Segment

Home = Any  # of conftest.py
Daemon = Any

HIDDEN = 576  # of SmolLM2 135M
PROMPT = "Tell me a story of a lighthouse."
N_TOKENS = 24


class Member:
    """It grants its lease, so that it learns the term of the plan that it has no part in."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.term = 0  # the last that it was asked for
        self.ended = asyncio.Event()
        self.connection: Connection

    async def meet(self, daemon: Daemon) -> None:
        device = daemon.status()["cluster"]["devices"][0]
        me = self.state.me
        assert me is not None
        profile = DeviceProfile(self.state.id, me.name, me.role, "0.1.0", 8 << 30, 4 << 30, 9 << 30, 1, 5e9, "native")
        host, _, port = device["address"].rpartition(":")
        hello = Hello(cluster=self.state.fingerprint, profile=profile)
        self.connection = await dial([(host, int(port))], lambda: hello, CommSettings(), trust=self.state)
        self.connection.set_receiver(self)

    def payload_buffer(self, *_: object) -> memoryview | None:
        return None

    def received(self, connection: Connection, kind: Kind, message: object, payload: object) -> None:
        if isinstance(message, Campaign | Renew):
            connection.send(Grant(term=message.term, ttl_s=4.5))
            self.term = message.term

    def lost(self, connection: Connection, error: TpidError) -> None:
        self.ended.set()


def lies(term: int) -> list[Message]:
    """Of a plan that it is no part of."""
    return [
        Failed(term=term, code="load", reason="I say so"),
        Loaded(term=term, held_bytes=1),
        Progress(term=term, pass_id=1, done=1, total=2),
        Unload(term=term),
        Abort(term=term, pass_id=2**62),
    ]


def lie_to(connection: Connection, term: int) -> None:
    """All that it could say in the place of another, for many passes and steps."""
    for message in lies(term):
        connection.send(message)
    row = bytes(4 * HIDDEN)
    for pass_id in range(1, 40):
        connection.send_tensor(Kind.START, StartHeader(term, pass_id, (Segment(0, 0, 1),), WireDtype.FP32), row)
        for kind in (Kind.PARTIAL, Kind.SUM, Kind.PEER_PARTIAL):
            for step in (0, 1):
                connection.send_tensor(kind, TensorHeader(term, pass_id, step, 1, WireDtype.FP32), row)


async def wait_in_log(daemon: Daemon, words: str) -> None:
    for _ in range(200):
        if words in daemon.log:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{words!r} is not in the log of {daemon.name}:\n{daemon.log}")


def test_a_member_that_breaks_the_rules_is_told_of_and_the_home_goes_on_answering(model_home: Home) -> None:
    model_home.pair(user="user", helper="helper", evil="helper")
    state_dir = model_home.directory / "evil"
    model_home.paired["evil"].furnish("evil", state_dir)
    user, helper = model_home.start("user", "helper")
    before = "".join(user.stream(PROMPT, max_tokens=N_TOKENS).texts())
    assert len(user.status()["plan"]["ranks"]) == 2

    async def answered(meanwhile: Callable[[], object] = lambda: None) -> str:
        """`meanwhile` is called once a plan computes it."""
        loop, texts = asyncio.get_running_loop(), list[str]()

        def ask() -> None:
            for text in user.stream(PROMPT, max_tokens=N_TOKENS).texts():
                if not texts:
                    loop.call_soon_threadsafe(meanwhile)
                texts.append(text)

        await asyncio.to_thread(ask)
        return "".join(texts)

    async def test() -> None:
        state = State.load(state_dir, "evil")
        to_user, to_helper = Member(state), Member(state)
        await to_user.meet(user)
        await to_helper.meet(helper)
        assert await answered() == before  # by a new plan, which leaves it out

        def lie() -> None:
            for member in (to_user, to_helper):
                lie_to(member.connection, to_user.term)

        assert await answered(lie) == before
        assert user.status()["plan"]["term"] == to_user.term  # still the same one
        assert len(user.status()["plan"]["ranks"]) == 2
        for kind in (Kind.FAILED, Kind.LOADED, Kind.PARTIAL):
            await wait_in_log(user, f"ignored kind={kind.name} peer=evil standing=member")
        for kind in (Kind.UNLOAD, Kind.ABORT, Kind.START, Kind.SUM, Kind.PEER_PARTIAL):
            await wait_in_log(helper, f"ignored kind={kind.name} peer=evil standing=member")

        # A helper that asks for the lease, and one that lets others in.
        to_user.connection.send(Campaign(term=10**6, reason="prompt"))
        await to_user.ended.wait()
        await wait_in_log(user, "asks for the lease, which helpers never may")
        (statement,) = State.load(model_home.directory / "forged", "forged").roster.statements
        (news,) = encode_statements(state.roster.home, [replace(statement, home=state.roster.home)])
        with contextlib.suppress(DeviceLostError):
            for _ in range(10):
                to_helper.connection.send(RosterNews(statements=news))
        await to_helper.ended.wait()
        await wait_in_log(helper, "statements that no device of this home has signed")
        await to_user.meet(user)
        to_user.connection.send(Load(term=to_user.term, plan={}))
        await wait_in_log(user, "sent a plan that is not sound")
        assert await answered() == before

    asyncio.run(test())
    names = {device["name"] for device in user.request("/tpid/devices")[1]["devices"]}
    assert names == {"user", "helper", "evil"}
    assert {device["role"] for device in helper.request("/tpid/devices")[1]["devices"]} == {Role.USER, Role.HELPER}
