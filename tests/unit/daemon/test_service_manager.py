import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tpid.daemon.service_manager import keep_told, notify, notify_reloading, watchdog_interval_s


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name, raising=False)
        yield manager


def test_what_is_told(heard: socket.socket) -> None:
    notify("READY=1")
    notify_reloading()
    assert heard.recv(100) == b"READY=1"
    first, second = heard.recv(100).split(b"\n")
    assert first == b"RELOADING=1"
    assert int(second.removeprefix(b"MONOTONIC_USEC=")) > 0


def test_the_watchdog_hears_that_the_loop_runs(heard: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async def main() -> None:
        told = asyncio.create_task(keep_told(lambda: "idle\nX=1"))
        for _ in range(3):
            assert await asyncio.to_thread(heard.recv, 100) == b"STATUS=idle X=1\nWATCHDOG=1"
        told.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await told

    asyncio.run(main())


def test_without_a_watchdog_the_status_is_told_alone(heard: socket.socket) -> None:
    async def main() -> None:
        told = asyncio.create_task(keep_told(lambda: "idle", interval_s=0.001))
        assert await asyncio.to_thread(heard.recv, 100) == b"STATUS=idle"
        told.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("", "", None), ("0", "", None), ("x", "", None), ("2000000", "", 2.0), ("2000000", "1", None)],
)
def test_the_watchdogs_interval(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, expected: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_interval_s() == expected


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    asyncio.run(keep_told(lambda: "idle"))
