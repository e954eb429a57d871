"""A home of real engines in one process: frames are real bytes, the network and the lease are made up.

The election is left out: the first device holds the lease of all that are connected and do not sit out. What a test
does to a device, it does through the methods of `Home`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from types import TracebackType
from typing import Any

from tpid.cluster.lease import Lease
from tpid.comm.frames import ExpectedFrame, FrameReader, Header, encode_message, encode_tensor_head
from tpid.comm.link_meter import LinkMeter
from tpid.comm.messages import Kind, Message, Pong, Probe
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.compute.select import choose_compute
from tpid.device import DeviceId, DeviceProfile, LinkCost, Role
from tpid.engine.engine import Engine
from tpid.engine.link_book import LinkBook
from tpid.engine.runner import Runner
from tpid.engine.sequence import TokenSequence
from tpid.engine.settings import EngineSettings
from tpid.errors import DeviceLostError, TpidError
from tpid.model.sampling import Sampler, SamplingParams
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.plan.network import NO_NETWORK, Network, pair_of

SETTINGS = EngineSettings(
    context_tokens=128,
    max_pass_tokens=16,
    max_waiting_requests=8,
    wire_dtype="fp32",
    use_all_devices=False,
    cluster_wait_s=5.0,
)


class End:
    """One side of a connection, as the engine of that side sees it."""

    def __init__(self, near: "Device", far: "Device") -> None:
        self.peer = far.profile
        self.closed = False
        self.rtt_s: float | None = None
        self.meter = LinkMeter(time.monotonic)
        self.other: End
        self.drops: Callable[[Header | None], bool] = lambda header: False  # frames that never arrive there
        self._near = near
        self._reader = FrameReader(self, peer_address=far.profile.name, max_payload_bytes=1 << 24)
        self._reader.opening = False
        self._arriving: deque[bytes] = deque()

    # --- what the engine uses

    def send(self, message: Message) -> None:
        self._send(encode_message(message), message)

    def send_tensor(self, kind: Kind, header: StartHeader | TensorHeader, payload: Any) -> None:
        n_bytes = 0 if payload is None else len(payload)
        self._send(encode_tensor_head(kind, header, n_bytes) + bytes(payload or b""), header)

    def send_frame(self, head: bytes, payload: Any) -> None:
        self._send(head + bytes(payload or b""), None)

    def probe(self) -> None:
        for probe in self.meter.begin():
            self.send(probe)

    def expect(self, frame: ExpectedFrame | None) -> None:
        self._reader.expected = frame

    def receive(self, deadline_s: float) -> bool:
        return False

    def flush(self, most_s: float) -> None:
        return None

    # --- what the reader calls

    def payload_buffer(self, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int) -> memoryview | None:
        return self._near.engine.payload_buffer(self, kind, header, size_bytes)  # type: ignore[arg-type]

    def frame_received(self, kind: Kind, header: Header, payload: memoryview | None) -> None:
        if isinstance(header, Probe):
            self.send(Pong(sent_s=header.sent_s))
        elif isinstance(header, Pong):
            for probe in self.meter.answered(header.sent_s):
                self.send(probe)
        else:
            self._near.engine.received(self, kind, header, payload)  # type: ignore[arg-type]

    # --- the network

    def _send(self, data: bytes, header: Header | None) -> None:
        if self.closed:
            raise DeviceLostError(f"The connection to device {self.peer.name} is closed.")
        if not self.drops(header):
            self.other._arriving.append(data)
            asyncio.get_running_loop().call_soon(self.other._arrive)

    def _arrive(self) -> None:
        if self.closed or not self._arriving:
            return
        data = memoryview(self._arriving.popleft())
        try:
            while data:
                room = self._reader.get_buffer()
                here = min(len(room), len(data))
                room[:here] = data[:here]
                data = data[here:]
                self._reader.buffer_updated(here)
        except TpidError as error:
            self.lose(error)

    def lose(self, error: TpidError) -> None:
        for end in (self, self.other):
            if not end.closed:
                end.closed = True
                end._near.cluster.lost(end, error)


@dataclass(eq=False)
class FakeCluster:
    """As much of `tpid.cluster.cluster.Cluster` as an engine uses."""

    me: DeviceProfile
    engine: Engine | None = None
    ends: dict[DeviceId, End] = field(default_factory=dict)
    coordinator: DeviceId | None = None
    given_back: set[DeviceId] = field(default_factory=set)  # devices whose lease has ended
    blamed: dict[DeviceId, str] = field(default_factory=dict)
    term: int = 0

    @property
    def peers(self) -> Any:
        return self.ends

    @property
    def lease(self) -> Lease | None:
        if self.coordinator != self.me.id:
            return None
        return Lease(self.term, frozenset({self.me.id, *self.ends}) - self.given_back - self.blamed.keys())

    async def acquire(self, reason: str, wait_s: float) -> Lease:
        assert self.lease is not None
        return self.lease

    def bump_term(self) -> int:
        self.term += 1
        return self.term

    def set_busy(self, busy: bool) -> None:
        return None

    def blame(self, device: DeviceId, reason: str) -> None:
        self.blamed[device] = reason

    def update_profile(self, profile: DeviceProfile) -> None:
        self.me = profile

    def lost(self, end: End, error: TpidError) -> None:
        if self.ends.get(end.peer.id) is end:
            del self.ends[end.peer.id]
            if self.coordinator == end.peer.id:
                self.coordinator = None
            assert self.engine is not None
            self.engine.peer_lost(end, error)  # type: ignore[arg-type]
            self.engine.lease_changed()


@dataclass(eq=False)
class Device:
    profile: DeviceProfile
    cluster: FakeCluster
    engine: Engine


class KnownLinks(LinkBook):
    """Nothing is measured, because what is planned by it would be another thing each time."""

    def __init__(self, me: DeviceId, network: Network) -> None:
        super().__init__(me, dict, lambda: False)
        self._network = network

    @property
    def network(self) -> Network:
        return self._network


class Home:
    """`async with Home(pack, n)`: n devices, the first is the coordinator of all."""

    def __init__(
        self, pack: Pack, n_devices: int, *, backend: str = "native", network: Network = NO_NETWORK, **profile: Any
    ) -> None:
        """The links cost what `network` says; where it has all of them, the workers are connected to each other."""
        self.pack = pack
        self.network = network
        self.devices: list[Device] = []
        store = PackStore(pack.directory.parent)
        for number in range(n_devices):
            compute = choose_compute(backend, 1, 16, "f16")
            role = Role.HELPER if number else Role.USER
            of_device = _profile(number, role, compute.name, pack) | profile
            cluster = FakeCluster(DeviceProfile(**of_device))
            links = KnownLinks(cluster.me.id, network)
            engine = Engine(cluster, store, compute, SETTINGS, link_book=links)  # type: ignore[arg-type]
            cluster.engine = engine
            self.devices.append(Device(cluster.me, cluster, engine))
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Home":
        user = self.devices[0]
        user.cluster.coordinator = user.profile.id
        for device in self.devices:
            self._tasks.append(asyncio.create_task(device.engine.run()))
        await asyncio.sleep(0)
        for helper in self.devices[1:]:
            self.join(helper)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def user(self) -> Device:
        return self.devices[0]

    def end_at(self, device: Device) -> End:
        """That end of the connection to the coordinator which the device holds."""
        return device.cluster.ends[self.user.profile.id]

    def join(self, helper: Device) -> None:
        _connect(self.user, helper)
        for other in self.devices[1:] if self.network.links else ():
            if other is not helper and other.profile.id not in helper.cluster.ends:
                _connect(other, helper)
        helper.cluster.coordinator = self.user.profile.id
        helper.engine.lease_changed()
        self.user.engine.lease_changed()

    def lose(self, helper: Device) -> None:
        self.end_at(helper).lose(DeviceLostError(f"Device {helper.profile.name} is gone."))

    def end_lease(self, helper: Device) -> None:
        """As where it has run out at the helper, and the coordinator has not noticed."""
        helper.cluster.coordinator = None
        helper.engine.lease_changed()

    async def answer(
        self, prompt: list[int], n_tokens: int, after_token: Callable[[int], None] = lambda n: None
    ) -> list[int]:
        """Greedy; `after_token` is called with the number of tokens so far."""
        coordinator = self.user.engine._coordinator
        runner = Runner(coordinator, self.pack, lambda done, total: None, self.user.engine.journal)
        sampler, sequence = Sampler(SamplingParams(temperature=0.0)), TokenSequence(prompt)
        await runner.attach(sequence)
        while sequence.n_answer < n_tokens:
            sequence.append(sampler.sample(await runner.advance(sequence), sequence.ids))
            after_token(sequence.n_answer)
        return sequence.ids[sequence.n_prompt :]


def _connect(one: Device, other: Device) -> None:
    near, far = End(one, other), End(other, one)
    near.other, far.other = far, near
    one.cluster.ends[other.profile.id] = near
    other.cluster.ends[one.profile.id] = far


def near_links(n_devices: int) -> Network:
    """Of devices that are so near that all take part, and exchange directly."""
    ids = [DeviceId(f"{number:064x}") for number in range(n_devices)]
    return Network({pair_of(*pair): LinkCost(rtt_s=1e-12) for pair in combinations(ids, 2)})


def _profile(number: int, role: Role, backend: str, pack: Pack) -> dict[str, Any]:
    return {
        "id": DeviceId(f"{number:064x}"),
        "name": f"device-{number}",
        "role": role,
        "version": "0.1",
        "ram_bytes": 1 << 33,
        "budget_bytes": 1 << 30,
        "disk_free_bytes": 1 << 40,
        "threads": 1,
        "read_bytes_s": 1e9,
        "backend": backend,
        "packs": (pack.id,),
    }
