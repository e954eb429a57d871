"""`tpictl service`: what it does for a unit of systemd, step by step, and what takes it back."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import typer

from tpictl.commands.units import system_unit, user_unit
from tpictl.outcome import print_json
from tpictl.printable import printable_line
from tpid.errors import ServiceError

ACCOUNT = "tpid"  # the user and the group of the system's service
UNIT = "tpid.service"
SYSTEM_UNITS = Path("/etc/systemd/system")
SYSTEM_CONFIG = Path("/etc/tpid/tpid.toml")
SYSTEM_STATE = Path("/var/lib/tpid")
EXIT_NOT_RUNNING = 3  # as systemctl has it
TIMEOUT_S = 120.0

_PROPERTIES = ("ActiveState", "SubState", "UnitFileState", "MainPID", "StatusText", "Result", "ExecMainStatus")


@dataclass(slots=True)
class _Service:
    """The unit of the machine, or of one person; `steps` is what was done so far."""

    is_system: bool
    say: Callable[[str], None]
    steps: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        if self.is_system:
            return SYSTEM_UNITS / UNIT
        home = os.environ.get("XDG_CONFIG_HOME")
        return (Path(home) if home else Path.home() / ".config") / "systemd" / "user" / UNIT

    @property
    def scope(self) -> str:
        return "of the system" if self.is_system else "of your session"

    def done(self, what: str) -> None:
        self.steps.append(what)
        self.say(what)

    def systemctl(self, *arguments: str) -> str:
        """What it printed. Raises ServiceError."""
        return _run("systemctl", *(() if self.is_system else ("--user",)), *arguments)


def run_install(*, system: bool | None, as_json: bool) -> None:
    """Raises ServiceError; each step may be done again."""
    service = _Service(_is_system(system), _nothing if as_json else print)
    command = _command()
    if service.is_system:
        _check_root("install")
        _check_reachable(Path(command[0]))
        _make_account(service)
        _write_if_new(service, SYSTEM_CONFIG, "")
    unit = system_unit(command) if service.is_system else user_unit(command)
    is_new = _write(service, service.path, unit)
    service.systemctl("daemon-reload")
    service.systemctl("enable", UNIT)
    service.systemctl("restart" if is_new else "start", UNIT)
    service.done(f"It runs, as a service {service.scope}, and starts again with {_with(service)}.")
    if as_json:
        print_json({"unit": str(service.path), "steps": service.steps})
    elif not service.is_system:
        print("It ends when you log out, unless: loginctl enable-linger.")


def run_uninstall(*, system: bool | None, as_json: bool) -> None:
    """Raises ServiceError."""
    service = _Service(_is_system(system), _nothing if as_json else print)
    if service.is_system:
        _check_root("uninstall")
    if not service.path.exists():
        raise ServiceError(f"There is no service {service.scope}.", hint="What there is: tpictl service status.")
    service.systemctl("disable", "--now", UNIT)
    service.done("It is stopped, and does not start again by itself.")
    service.path.unlink()
    service.done(f"{service.path} is removed.")
    service.systemctl("daemon-reload")
    person = os.environ.get("SUDO_USER")
    if service.is_system and person and _is_in_group(person):
        _run("gpasswd", "--delete", person, ACCOUNT)
        service.done(f"{printable_line(person)} is in the group {ACCOUNT} no more.")
    if as_json:
        print_json({"steps": service.steps})
    elif service.is_system:
        print(f"What stays: {SYSTEM_STATE} (models, this device's identity), {SYSTEM_CONFIG}, and the user {ACCOUNT}.")
    else:
        print("Models and this device's identity stay in tpid's state directory, ~/.local/state/tpid by default.")


def run_service_status(*, system: bool | None, as_json: bool) -> None:
    """Of what is installed; of both, the system's, unless it is said.

    Raises ServiceError, and typer.Exit where none runs.
    """
    found = [each for each in (True, False) if system in (None, each) and _Service(each, _nothing).path.exists()]
    if not found:
        if as_json:
            print_json({"installed": False})
        else:
            print("tpid is not installed as a service. To do so: tpictl service install")
        raise typer.Exit(EXIT_NOT_RUNNING)
    service = _Service(found[0], _nothing)
    shown = service.systemctl("show", UNIT, f"--property={','.join(_PROPERTIES)}")
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if as_json:
        print_json({"installed": True, "system": service.is_system, "unit": str(service.path), "properties": values})
    else:
        for line in _status_lines(service, values):
            print(printable_line(line))
    if values.get("ActiveState") not in ("active", "reloading"):
        raise typer.Exit(EXIT_NOT_RUNNING)


def _status_lines(service: _Service, values: Mapping[str, str]) -> list[str]:
    state, enabled = values.get("ActiveState", "unknown"), values.get("UnitFileState", "unknown")
    lines = [f"tpid is {state} ({values.get('SubState', '')}) as a service {service.scope}, {enabled}: {service.path}"]
    if values.get("StatusText"):
        lines.append(values["StatusText"])
    if state == "failed":
        whose = "" if service.is_system else "--user "
        lines.append(f"It ended with status {values.get('ExecMainStatus', '?')}: journalctl {whose}-u tpid -e")
    return lines


def _is_system(system: bool | None) -> bool:
    return os.geteuid() == 0 if system is None else system


def _check_root(command: str) -> None:
    if os.geteuid() != 0:
        raise ServiceError(
            "A service of the system needs root.",
            hint=f"sudo tpictl service {command}, or for you alone: tpictl service {command} --user.",
        )


def _command() -> list[str]:
    """How this very installation starts its daemon."""
    program = Path(sys.executable).with_name("tpid")
    return [str(program)] if program.exists() else [sys.executable, "-m", "tpid.daemon.main"]


def _check_reachable(program: Path) -> None:
    """Raises ServiceError where the user of the service could not start it: homes are mostly closed to others."""
    closed = next((each for each in program.parents if not each.stat().st_mode & 0o001), None)
    if closed is not None:
        raise ServiceError(
            f"tpid is installed in {program.parent}, and {closed} is closed to other users, the service's among them.",
            hint="Install it where all may read, such as /opt/tpid; or take a service of your own: --user.",
        )


def _make_account(service: _Service) -> None:
    """A user with nothing, and whoever asks for the service in its group."""
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        _run(
            *("useradd", "--system", "--user-group", "--home-dir", str(SYSTEM_STATE)),
            *("--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT),
        )
        service.done(f"The user {ACCOUNT} is made, for the service alone.")
    person = os.environ.get("SUDO_USER")
    if person and person != "root" and not _is_in_group(person):
        _run("usermod", "--append", "--groups", ACCOUNT, person)
        service.done(
            f"{printable_line(person)} is in the group {ACCOUNT}, which may speak to the daemon: log in again."
        )


def _is_in_group(person: str) -> bool:
    return ACCOUNT in _run("id", "--name", "--groups", person).split()


def _write_if_new(service: _Service, path: Path, text: str) -> None:
    if not path.exists():
        _write(service, path, text)


def _write(service: _Service, path: Path, text: str) -> bool:
    """Whether it was another text before. Raises ServiceError."""
    try:
        if path.exists() and path.read_text() == text:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error.strerror}.", hint="Check its permissions.") from error
    service.done(f"{path} is written.")
    return True


def _with(service: _Service) -> str:
    return "the machine" if service.is_system else "your session"


def _run(*command: str) -> str:
    """Its output. Raises ServiceError with what it complained about."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise ServiceError(
            f"This system has no {command[0]}: services are systemd's.", hint="Start the daemon yourself: tpid &"
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{' '.join(command)} has not ended within {TIMEOUT_S:g} s.") from None
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines()
        reason = printable_line(lines[0]) if lines else f"exit status {result.returncode}"
        hint = "Its log says why: journalctl -u tpid -e, with --user for a service of your session."
        raise ServiceError(f"{' '.join(command)} failed: {reason.removesuffix('.')}.", hint=hint)
    return result.stdout


def _nothing(text: str) -> None:
    return None
