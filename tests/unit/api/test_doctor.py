"""GET /tpid/doctor: what is found of the machine itself, beside what stands between it and its home."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.cluster.test_doctor import ME, SOUND
from tpid.api import doctor
from tpid.api.doctor import DoctorEndpoint
from tpid.cluster.doctor import Facts
from tpid.cluster.firewall.look import Firewall
from tpid.cluster.firewall.walk import Passes
from tpid.device import DeviceProfile, Role


def findings(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    settings = {"threads": 4, "budget_bytes": 1 << 30, "disk_bytes_s": 1e9, "backend": "native"} | changes
    machine = {name: settings.pop(name) for name in ("kernels", "allowed_cores", "firewall") if name in settings}
    profile = DeviceProfile(
        ME, "desk", Role.USER, "0.1.0", 8 << 30, settings.pop("budget_bytes"), 100 << 30, read_bytes_s=1e9, **settings
    )

    async def facts(_: object) -> Facts:
        return SOUND

    async def firewalls(*_: object) -> tuple[Firewall, ...]:
        return machine.get("firewall", ())

    monkeypatch.setattr(doctor, "look_at_firewalls", firewalls)
    cluster: Any = SimpleNamespace(me=profile, peers={}, facts=facts)
    engine: Any = SimpleNamespace(network=None)
    kernels, cores = machine.get("kernels", "avx2"), machine.get("allowed_cores", 4.0)
    endpoint = DoctorEndpoint(engine, cluster, kernels, allowed_bytes=2 << 30, allowed_cores=cores)
    request: Any = None
    answer = asyncio.run(endpoint.get(request))
    assert isinstance(answer.body, bytes)
    told: dict[str, Any] = json.loads(answer.body)
    return told


def test_a_sound_machine_has_nothing_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    told = findings(monkeypatch)
    assert (told["device"], told["worst"]) == ("desk", "note")
    assert not [finding for finding in told["findings"] if finding["do"]]


@pytest.mark.parametrize(
    ("changes", "level", "what", "do"),
    [
        ({"kernels": "portable"}, "warning", "kernels portable", "C compiler"),
        ({"budget_bytes": 4 << 30}, "warning", "allowed by its cgroup", "memory_budget"),
        ({"allowed_cores": 1.5}, "warning", "its cgroup allows 1.5 cores", "threads = 1 in tpid.toml"),
        ({"disk_bytes_s": 0.0}, "note", "no direct reads", "models_dir"),
        (
            {"firewall": (Firewall("ufw", Passes.YES, Passes.NO),)},
            "fault",
            "ufw keeps UDP port 5353 (mDNS) closed",
            "ufw allow 5353/udp",
        ),
    ],
)
def test_each_fault_of_the_machine_is_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], level: str, what: str, do: str
) -> None:
    told = findings(monkeypatch, **changes)
    (finding,) = [finding for finding in told["findings"] if what in finding["what"]]
    assert finding["level"] == level
    assert do in finding["do"]
