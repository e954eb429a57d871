"""`tpictl service` against commands that only write down what they were asked: no systemd runs in tests."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tpictl.commands import service
from tpictl.commands.units import CONFIG_STATUS, system_unit, user_unit
from tpictl.main import app
from tpid.daemon.main import EXIT_CONFIG

REPOSITORY = Path(__file__).parents[4]
SHOWN = "ActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=7\nStatusText=alone; idle, 0 waiting\n"

_FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
case "$(basename "$0") $*" in
  "systemctl {fails}"*|"systemctl --user {fails}"*) echo "Failed to do it: no bus" >&2; exit 1;;
  "systemctl show"*|"systemctl --user show"*) printf '{shown}';;
  "id "*) echo "{groups}";;
esac
"""


class Machine:
    """Its commands, what they were called with, and where the service's files come."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "calls"
        self.environment = {
            "PATH": str(directory / "bin") + ":/usr/bin:/bin",
            "XDG_CONFIG_HOME": str(directory / "config"),
        }
        self.has()

    def has(self, *, fails: str = "nothing", shown: str = SHOWN, groups: str = "ann users") -> None:
        (self.directory / "bin").mkdir(exist_ok=True)
        for name in ("systemctl", "useradd", "usermod", "gpasswd", "id"):
            path = self.directory / "bin" / name
            text = shown.replace("\n", "\\n")
            path.write_text(_FAKE.format(log=self.log, fails=fails, shown=text, groups=groups))
            path.chmod(0o755)

    def tpictl(self, *arguments: str) -> Any:
        self.log.write_text("")
        return CliRunner().invoke(app, ["service", *arguments], env=self.environment)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(service, "SYSTEM_UNITS", tmp_path / "units")
    monkeypatch.setattr(service, "SYSTEM_CONFIG", tmp_path / "etc" / "tpid.toml")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("SUDO_USER", raising=False)
    return Machine(tmp_path)


@pytest.fixture
def as_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.setattr(service, "_check_reachable", lambda program: None)
    machine.environment["SUDO_USER"] = "ann"
    return machine


def test_a_service_of_a_session_from_install_to_uninstall(machine: Machine) -> None:
    unit = machine.directory / "config" / "systemd" / "user" / "tpid.service"
    installed = machine.tpictl("install")
    assert (installed.exit_code, installed.stderr) == (0, "")
    assert installed.stdout.splitlines() == [
        f"{unit} is written.",
        "It runs, as a service of your session, and starts again with your session.",
        "It ends when you log out, unless: loginctl enable-linger.",
    ]
    assert machine.calls == [
        "systemctl --user daemon-reload",
        "systemctl --user enable tpid.service",
        "systemctl --user restart tpid.service",
    ]
    assert unit.read_text() == user_unit([str(Path(sys.executable).with_name("tpid"))])

    assert json.loads(machine.tpictl("install", "--json").stdout)["steps"] == [installed.stdout.splitlines()[1]]
    assert machine.calls[-1] == "systemctl --user start tpid.service"  # nothing is new: what runs goes on

    status = machine.tpictl("status")
    assert status.exit_code == 0
    assert status.stdout == (
        f"tpid is active (running) as a service of your session, enabled: {unit}\nalone; idle, 0 waiting\n"
    )

    removed = machine.tpictl("uninstall")
    assert removed.exit_code == 0
    assert removed.stdout.startswith("It is stopped, and does not start again by itself.\n")
    assert machine.calls == ["systemctl --user disable --now tpid.service", "systemctl --user daemon-reload"]
    assert not unit.exists()
    assert machine.tpictl("status").exit_code == 3
    again = machine.tpictl("uninstall")
    assert (again.exit_code, again.stderr) == (
        1,
        "tpictl: There is no service of your session. What there is: tpictl service status.\n",
    )


def test_a_service_of_the_machine(as_root: Machine) -> None:
    installed = as_root.tpictl("install")
    assert installed.exit_code == 0, installed.stderr
    assert as_root.calls == [
        "useradd --system --user-group --home-dir /var/lib/tpid --no-create-home --shell /usr/sbin/nologin tpid",
        "id --name --groups ann",
        "usermod --append --groups tpid ann",
        "systemctl daemon-reload",
        "systemctl enable tpid.service",
        "systemctl restart tpid.service",
    ]
    assert "ann is in the group tpid, which may speak to the daemon: log in again." in installed.stdout
    assert (as_root.directory / "etc" / "tpid.toml").read_text() == ""
    (as_root.directory / "etc" / "tpid.toml").write_text('name = "attic"\n')
    as_root.has(groups="ann tpid")
    assert as_root.tpictl("install").exit_code == 0
    assert (as_root.directory / "etc" / "tpid.toml").read_text() == 'name = "attic"\n'
    assert not [call for call in as_root.calls if call.startswith("usermod")]

    removed = as_root.tpictl("uninstall")
    assert as_root.calls[-1] == "gpasswd --delete ann tpid"
    assert "ann is in the group tpid no more." in removed.stdout
    assert "What stays: /var/lib/tpid (models, this device's identity)" in removed.stdout
    assert not (as_root.directory / "units" / "tpid.service").exists()


def test_the_machines_service_needs_root(machine: Machine) -> None:
    for command in ("install", "uninstall"):
        result = machine.tpictl(command, "--system")
        assert (result.exit_code, machine.calls) == (1, [])
        assert f"sudo tpictl service {command}" in result.stderr


def test_an_installation_that_others_cannot_read_is_told(as_root: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    closed = as_root.directory / "home"
    (closed / "bin").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(service.ServiceError, match="is closed to other users") as caught:
        service._check_reachable(closed / "bin" / "tpid")
    assert "/opt/tpid" in str(caught.value.hint)


@pytest.mark.parametrize("fails", ["daemon-reload", "enable", "restart"])
def test_what_systemd_refuses_is_one_sentence(machine: Machine, fails: str) -> None:
    machine.has(fails=fails)
    result = machine.tpictl("install", "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (1, "service")
    assert error["message"].startswith(f"systemctl --user {fails}")
    assert error["message"].endswith("failed: Failed to do it: no bus.")


def test_without_systemd_it_says_so(machine: Machine) -> None:
    machine.environment["PATH"] = str(machine.directory / "none")
    result = machine.tpictl("install")
    assert "This system has no systemctl: services are systemd's. Start the daemon yourself: tpid &" in result.stderr


def test_one_that_failed_says_where_to_look(machine: Machine) -> None:
    machine.tpictl("install")
    machine.has(shown="ActiveState=failed\nSubState=failed\nUnitFileState=enabled\nExecMainStatus=78\n")
    result = machine.tpictl("status")
    assert result.exit_code == 3
    assert result.stdout.endswith("It ended with status 78: journalctl --user -u tpid -e\n")
    machine.has(fails="show")
    assert machine.tpictl("status").exit_code == 1


def test_the_unit_in_the_repository_is_the_one_that_is_installed() -> None:
    assert (REPOSITORY / "systemd" / "tpid.service").read_text() == system_unit(["/opt/tpid/bin/tpid"])
    assert CONFIG_STATUS == EXIT_CONFIG


def test_paths_with_odd_characters_are_one_word() -> None:
    assert 'ExecStart="/home/a b/100%%/$$x/tpid"\n' in user_unit(["/home/a b/100%/$x/tpid"])
    assert "ExecStart=/usr/bin/python3 -m tpid.daemon.main\n" in user_unit(
        ["/usr/bin/python3", "-m", "tpid.daemon.main"]
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", [system_unit, user_unit])
def test_systemd_reads_the_units_and_finds_little_exposed(tmp_path: Path, unit: Callable[[list[str]], str]) -> None:
    path = tmp_path / "tpid.service"
    path.write_text(unit(["/usr/bin/true"]))
    analyze = ["systemd-analyze", "--no-pager", *(["--user"] if unit is user_unit else [])]
    verified = subprocess.run([*analyze, "verify", str(path)], capture_output=True, text=True, check=False)
    assert "tpid.service" not in verified.stderr, verified.stderr
    if unit is system_unit:
        command = ["systemd-analyze", "--no-pager", "security", "--offline=true", "--threshold=15", str(path)]
        exposed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert exposed.returncode == 0, exposed.stdout
