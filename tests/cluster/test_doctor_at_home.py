"""A home in which much is wrong at once: the doctor names each fault, and the command that mends it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homelab.home import Home
from homelab.host import Host

PATIENCE_S = 40.0
SICK = """
[[hosts]]
name = "desk"
role = "user"

[[hosts]]
name = "pi"  # its link is slow and its clock wrong
clock_offset_s = 7200
[[hosts.links]]
delay_ms = 15  # each way of its link: some 30 ms there and back

[[hosts]]
name = "attic"  # its firewall lets neither its port nor mDNS through

[[hosts]]
name = "cellar"  # nobody has upgraded it
protocol = 1

[[hosts]]
name = "guest"  # of another home
"""


def wait_for_findings(host: Host, *wanted: tuple[str, str, str]) -> None:
    """Until there is one for each (level, part of what, part of what to do): connections and measurements take a
    while."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        findings = host.daemon.findings()
        missing = [want for want in wanted if not any(_is(want, finding) for finding in findings)]
        if not missing:
            return
        told = "\n".join(f"{f['level']}: {f['what']}: {f['why']} -> {f['do']}" for f in findings)
        assert time.monotonic() < until_s, f"{missing} among\n{told}"


def _is(wanted: tuple[str, str, str], finding: dict[str, str]) -> bool:
    level, what, do = wanted
    return finding["level"] == level and what in finding["what"] and do in finding["do"]


def test_the_doctor_names_each_fault_of_a_home(hosts_of: Callable[[str], Home], models: Path) -> None:
    home = hosts_of(SICK)
    desk, pi, attic, cellar, guest = home.hosts
    attic.link.block_mdns()
    attic.link.block_port(7474)
    away: dict[str, Any] = {"peers": ["10.77.0.250:7474"]}  # nobody is there; a device alone would keep to itself
    home.start_daemon(desk, models)
    home.start_daemon(pi, models)
    home.start_daemon(cellar, models)
    home.start_daemon(attic, models, peers=[f"{desk.addresses[0]}:7474"])
    home.start_daemon(guest, models, paired=False, name="pi", **away)
    desk.daemon.wait("its API", lambda _: True)
    wait_for_findings(
        desk,
        ("warning", "mDNS brings nothing from attic", "5353"),
        ("warning", "mDNS brings nothing of this device to attic", "5353"),
        ("warning", f"this device does not reach attic at {attic.addresses[0]}:7474 (no answer", "ufw allow 7474/tcp"),
        ("fault", f"cellar at {cellar.addresses[0]}:7474 speaks another version of the protocol", "upgrade tpid"),
        ("warning", "the clocks of pi and this device differ by 7", "timedatectl"),
        ("warning", f"pi at {pi.addresses[0]}:", "cable"),
        ("warning", f"pi at {guest.addresses[0]}:7474 has the name of a device of this home", "tpictl invite"),
        ("ok", "pi reaches this device at", ""),
    )
    attic.daemon.wait("its home", lambda status: len(status["cluster"]["devices"]) > 1)
    wait_for_findings(
        attic, ("warning", f"desk does not reach this device at {attic.addresses[0]}:7474", "through the firewall here")
    )
    guest.daemon.stop()
    guest.wipe()
    home.start_daemon(guest, models, paired=False, name="lodger", **away)
    pi.daemon.kill()
    wait_for_findings(
        desk,
        ("note", f"lodger at {guest.addresses[0]}:7474 is not paired", "tpictl invite"),
        ("fault", "pi is announced and cannot be connected", "look whether tpid runs there"),
    )
    told = subprocess.run(
        [sys.executable, "-m", "tpictl.main", "doctor"],
        env=os.environ | {"TPID_SOCKET": str(desk.daemon.socket_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 1  # there are faults
    assert "FAULT   pi is announced and cannot be connected" in told.stdout
    assert "-> look whether tpid runs there" in told.stdout
