"""Links do what they are told: delay, rate, loss, and faults, seen by sockets of the hosts."""

import contextlib
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homelab.calibration import echoing, round_trips_ms, stream_mbit
from homelab.home import Home
from homelab.host import Host

PORT = 7000
GROUP = "224.0.0.251"  # of mDNS
MDNS_PORT = 5353
SOON_S = 10.0  # what must come: far more than it takes
SILENCE_S = 0.4  # what must not come: a hundred times what it takes
SO_RCVBUFFORCE = 33  # of Linux; root may have more than the system's most
BUSY_MS = 2.0  # what a median may be late where other processes have the cores


@contextlib.contextmanager
def tcp_pair(source: Host, target: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    address = (target.addresses[0], PORT)
    with (
        target.inside(lambda: socket.create_server(address)) as server,
        source.inside(lambda: socket.create_connection(address, SOON_S)) as near,
        server.accept()[0] as far,
    ):
        far.settimeout(SOON_S)
        yield near, far


def crosses(near: socket.socket, far: socket.socket, data: bytes, within_s: float = SOON_S) -> bool:
    near.sendall(data)
    far.settimeout(within_s)
    try:
        return far.recv(len(data)) == data
    except TimeoutError:
        return False


def udp(host: Host, address: str, port: int) -> socket.socket:
    def bound() -> socket.socket:
        channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        channel.bind((address, port))
        channel.settimeout(SOON_S)
        return channel

    return host.inside(bound)


def arrives(sender: socket.socket, receiver: socket.socket, to: tuple[str, int], within_s: float = SOON_S) -> bool:
    sender.sendto(b"are you there?", to)
    receiver.settimeout(within_s)
    try:
        return receiver.recv(100) == b"are you there?"
    except TimeoutError:
        return False


@pytest.mark.parametrize("delay_ms", [0, 1, 5])
def test_a_round_trip_takes_four_delays(wired: Home, delay_ms: float) -> None:
    user, helper, _ = wired.hosts
    for host in (user, helper):
        host.link.change(delay_ms=delay_ms)
    with echoing(helper) as address:
        trips = [trip for trip in round_trips_ms(user, address, 60) if trip is not None]
    assert len(trips) == 60
    assert min(trips) >= 4 * delay_ms
    assert statistics.median(trips) <= 4 * delay_ms + BUSY_MS


def test_jitter_is_added_and_keeps_the_order(wired: Home) -> None:
    user, helper, _ = wired.hosts
    user.link.change(jitter_ms=4)
    receiver = udp(helper, helper.addresses[0], PORT)
    with receiver, udp(user, "0.0.0.0", 0) as sender:
        for number in range(50):
            sender.sendto(struct.pack(">I", number), receiver.getsockname())
        assert [struct.unpack(">I", receiver.recv(100))[0] for _ in range(50)] == list(range(50))
    with echoing(helper) as address:
        trips = [trip for trip in round_trips_ms(user, address, 60) if trip is not None]
    assert max(trips) - min(trips) > 1
    assert statistics.median(trips) <= 8 + BUSY_MS


def test_a_stream_gets_the_rate_of_the_slower_link_and_no_more(wired: Home) -> None:
    user, helper, _ = wired.hosts
    user.link.change(rate_mbit=80)
    helper.link.change(rate_mbit=20)
    with echoing(helper) as address:
        assert 10 < stream_mbit(user, address, 1.5) <= 20


def test_links_that_share_the_air_share_its_rate(wired: Home) -> None:
    """Each frame crosses the same air twice, to the access point and from it."""
    user, helper, _ = wired.hosts
    for host in (user, helper):
        host.link.change(rate_mbit=20, air=1)
    with echoing(helper) as address:
        assert 4 < stream_mbit(user, address, 1.5) <= 10


def test_frames_are_lost_as_often_as_it_is_said(wired: Home) -> None:
    user, helper, _ = wired.hosts
    with udp(helper, helper.addresses[0], PORT) as receiver, udp(user, "0.0.0.0", 0) as sender:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)  # room for all: only the link may lose any
        assert arrives(sender, receiver, receiver.getsockname())
        user.link.change(loss_percent=30)
        for _ in range(500):
            sender.sendto(b"one of many", receiver.getsockname())
        user.link.heal()
        sender.sendto(b"last", receiver.getsockname())
        n_arrived = 0
        while receiver.recv(100) != b"last":
            n_arrived += 1
    assert 300 < n_arrived < 400


def test_a_cut_is_silent_and_what_was_sent_arrives_after_it(wired: Home) -> None:
    user, helper, _ = wired.hosts
    with tcp_pair(user, helper) as (near, far):
        assert crosses(near, far, b"before")
        helper.link.cut()
        assert not crosses(near, far, b"meanwhile", SILENCE_S)
        assert has_carrier(helper)
        helper.link.heal()
        far.settimeout(SOON_S)
        assert far.recv(100) == b"meanwhile"


def test_an_unplugged_host_sees_it(wired: Home) -> None:
    user, other, _ = wired.hosts
    user.link.unplug()
    wait_until(lambda: not has_carrier(user))
    assert has_carrier(other)
    user.link.heal()
    wait_until(lambda: has_carrier(user))


def has_carrier(host: Host) -> bool:
    return "NO-CARRIER" not in host.run("ip", "link", "show", "dev", "eth0")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_the_sides_of_a_partition_reach_themselves_only(wired: Home) -> None:
    user, helper, other = wired.hosts
    with tcp_pair(user, helper) as within, tcp_pair(helper, other) as between:
        wired.partition([user, helper], [other])
        assert crosses(*within, b"within")
        assert not crosses(*between, b"between", SILENCE_S)
        wired.heal()
        between[1].settimeout(SOON_S)
        assert between[1].recv(100) == b"between"


def test_blocked_mdns_does_not_cross_and_the_rest_does(wired: Home) -> None:
    user, helper, other = wired.hosts
    with listener(helper) as hears, udp(user, user.addresses[0], MDNS_PORT) as speaks, listener(other) as hears_too:
        assert arrives(speaks, hears, (GROUP, MDNS_PORT))
        assert hears_too.recv(100)
        helper.link.block_mdns()
        assert not arrives(speaks, hears, (GROUP, MDNS_PORT), SILENCE_S)
        assert hears_too.recv(100)  # to the others it still goes
        with udp(helper, helper.addresses[0], MDNS_PORT + 1) as receiver:
            assert arrives(speaks, receiver, receiver.getsockname())
        helper.link.heal()
        assert arrives(speaks, hears, (GROUP, MDNS_PORT))


def listener(host: Host) -> socket.socket:
    """A socket that hears mDNS on the host."""

    def bound() -> socket.socket:
        channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.bind((GROUP, MDNS_PORT))
        membership = socket.inet_aton(GROUP) + socket.inet_aton(host.addresses[0])
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        channel.settimeout(SOON_S)
        return channel

    return host.inside(bound)


def test_a_blocked_port_is_closed_from_outside_and_not_from_inside(wired: Home) -> None:
    user, helper, _ = wired.hosts
    helper.link.block_port(PORT)
    with pytest.raises(TimeoutError), helper.inside(lambda: socket.create_server((helper.addresses[0], PORT))):
        user.inside(lambda: socket.create_connection((helper.addresses[0], PORT), SILENCE_S))
    with tcp_pair(helper, user) as pair:  # out to the same port of another
        assert crosses(*pair, b"out")


def test_a_capture_has_what_was_sent(wired: Home, tmp_path: Path) -> None:
    user, helper, _ = wired.hosts
    path = tmp_path / "frames.pcap"
    with udp(helper, helper.addresses[0], PORT) as receiver, udp(user, "0.0.0.0", 0) as sender:
        with wired.switch.capture(path):
            assert arrives(sender, receiver, receiver.getsockname())
        assert arrives(sender, receiver, receiver.getsockname())
    data = path.read_bytes()
    assert data.count(b"are you there?") == 1
    assert data[:4] == struct.pack("=I", 0xA1B23C4D)
    (length,) = struct.unpack_from("=I", data, 24 + 8)  # of the first frame
    assert 24 + 16 + length <= len(data)
