"""Hosts have what the file gives them: addresses, subnets, a disk, limits, a clock."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homelab.home import Home
from homelab.host import Host
from homelab.layout import parse_layout
from homelab.limits import CGROUPS
from homelab.programs import LabError

PORT = 7000
SOON_S = 10.0
SILENCE_S = 0.4

pytestmark = pytest.mark.usefixtures("permitted")


def reaches(source: Host, address: str, server: socket.socket, within_s: float = SOON_S) -> bool:
    try:
        source.inside(lambda: socket.create_connection((address, server.getsockname()[1]), within_s)).close()
    except OSError:
        return False
    server.accept()[0].close()
    return True


def serve(host: Host) -> socket.socket:
    """On all addresses, of either kind."""
    return host.inside(
        lambda: (
            socket.create_server(("", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
            if host.layout.ipv6
            else socket.create_server(("", PORT))
        )
    )


def test_a_host_on_two_subnets_reaches_both_and_joins_them_not() -> None:
    layout = """
        hosts = [
            { name = "both", links = [{ subnet = 0 }, { subnet = 1 }] },
            { name = "first", links = [{ subnet = 0 }] },
            { name = "second", links = [{ subnet = 1 }] },
        ]
    """
    with Home(parse_layout(layout)) as home:
        both, first, second = home.hosts
        assert both.addresses == ["10.77.0.1", "10.77.1.1"]
        with serve(first) as one, serve(second) as two:
            assert reaches(both, first.addresses[0], one)
            assert reaches(both, second.addresses[0], two)
            assert not reaches(first, second.addresses[0], two, SILENCE_S)
            both.links[1].cut()
            assert not reaches(both, second.addresses[0], two, SILENCE_S)
            assert reaches(both, first.addresses[0], one)


def test_a_changed_address_is_the_only_one(wired: Home) -> None:
    user, helper, _ = wired.hosts
    (old,) = helper.addresses
    with serve(helper) as server:
        assert reaches(user, old, server)
        (new,) = helper.change_addresses()
        assert new != old
        assert helper.addresses == [new]
        assert reaches(user, new, server)
        assert not reaches(user, old, server, SILENCE_S)


def test_a_home_without_ipv4() -> None:
    with Home(parse_layout("hosts = [{ count = 2, ipv4 = false, ipv6 = true }]")) as home:
        one, two = home.hosts
        assert two.addresses == ["fd77:0::2"]
        assert "inet " not in two.run("ip", "addr", "show", "dev", "eth0")
        with serve(two) as server:
            assert reaches(one, two.addresses[0], server)


def test_a_full_disk_takes_nothing_until_it_is_freed(wired: Home) -> None:
    (user, other, _) = wired.hosts
    user.fill_disk()
    with pytest.raises(OSError, match="No space left"):
        (user.disk / "more").write_bytes(bytes(4096))
    (other.disk / "more").write_bytes(bytes(4096))
    user.free_disk()
    (user.disk / "more").write_bytes(bytes(4096))


def test_a_host_has_the_cores_and_the_memory_that_it_was_given() -> None:
    if not all((CGROUPS / controller / "cgroup.procs").exists() for controller in ("cpu", "memory")):
        pytest.skip("limits need cgroups of version 1, for cpu and memory")
    with Home(parse_layout('hosts = [{ cores = 0.25, memory = "64M" }]')) as home:
        (host,) = home.hosts
        burn = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
        assert float(host.run(sys.executable, "-c", burn)) < 0.5
        with host.popen(sys.executable, "-c", "bytearray(200 << 20)", stderr=subprocess.DEVNULL) as process:
            assert process.wait(SOON_S) == -signal.SIGKILL


def test_a_disk_that_is_slow(tmp_path: Path) -> None:
    """Read past the page cache, as tpid does."""
    if not (CGROUPS / "blkio" / "cgroup.procs").exists():
        pytest.skip("a slow disk needs the blkio cgroup of version 1")
    path = tmp_path / "file"
    path.write_bytes(bytes(4 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    try:
        home = Home(parse_layout("hosts = [{ read_mb_s = 4 }]")).__enter__()
    except LabError as error:
        pytest.skip(f"the disk here is none that can be slowed: {error}")
    try:
        began_s = time.monotonic()
        home.hosts[0].run("dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct")
        assert time.monotonic() - began_s > 0.5
    finally:
        home.down()


def test_a_clock_that_is_wrong_goes_on_at_the_right_pace() -> None:
    with Home(parse_layout("hosts = [{ clock_offset_s = -86400 }]")) as home:
        (host,) = home.hosts
        show = "import time, datetime; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"
        with host.popen(
            sys.executable, "-c", show, stdout=subprocess.PIPE, text=True, env=host.environment()
        ) as process:
            of_time, of_day, monotonic = map(float, process.communicate()[0].split())
    assert of_time == pytest.approx(time.time() - 86400, abs=60)
    assert of_day == pytest.approx(of_time, abs=60)
    assert monotonic == pytest.approx(time.monotonic(), abs=60)
