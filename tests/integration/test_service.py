"""The daemon as systemd runs it: what it tells, what SIGHUP does, and how it ends where a restart mends nothing."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

Home = Any  # of conftest.py

TIMEOUT_S = 60


def test_it_tells_its_state_and_reads_its_configuration_again(home: Home, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home.directory / "notify"))
        manager.settimeout(TIMEOUT_S)

        def told(start: bytes) -> bytes:
            while not (heard := manager.recv(1000)).startswith(start):
                pass
            return heard

        environment = {"NOTIFY_SOCKET": str(home.directory / "notify"), "WATCHDOG_USEC": "60000000"}
        daemon = home.launch("user", environment=environment)
        told(b"READY=1")
        assert told(b"STATUS=") == b"STATUS=alone; no model loaded; idle, 0 waiting\nWATCHDOG=1"

        path = daemon.directory / "tpid.toml"
        sound = path.read_text()
        path.write_text(sound + "context_tokens = 512\nno_such_key = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        told(b"RELOADING=1\nMONOTONIC_USEC=")
        told(b"READY=1")
        assert "reload_failed" in (daemon.directory / "log").read_text()

        path.write_text(sound.replace('name = "user"', 'name = "attic"'))
        daemon.process.send_signal(signal.SIGHUP)
        told(b"READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        told(b"STOPPING=1")
        assert daemon.process.wait(TIMEOUT_S) == 0
    log = (daemon.directory / "log").read_text()
    assert log.count(" ready socket=") == 3


def test_a_configuration_with_a_fault_has_an_exit_status_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tpid.toml").write_text("treads = 3\n")
    command = [sys.executable, "-m", "tpid.daemon.main", "--config", str(tmp_path / "tpid.toml")]
    result = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert (result.returncode, "did you mean threads?" in result.stderr) == (78, True)
