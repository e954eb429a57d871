from pathlib import Path

import pytest

from tpictl import paths
from tpictl.paths import history_path, socket_path, state_dir


@pytest.fixture(autouse=True)
def _no_system_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", tmp_path / "run" / "tpid.sock")


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_option_is_taken_as_it_is() -> None:
    assert socket_path(Path("x.sock"), {"TPID_SOCKET": "/y.sock"}) == Path("x.sock")


def test_environment_is_next() -> None:
    assert socket_path(None, {"TPID_SOCKET": "/y.sock", "XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/y.sock")


def test_first_socket_that_exists_wins(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path / "runtime"), "XDG_STATE_HOME": str(tmp_path / "state")}
    in_state = _touch(tmp_path / "state" / "tpid" / "tpid.sock")
    assert socket_path(None, environment) == in_state
    of_system = _touch(tmp_path / "run" / "tpid.sock")
    assert socket_path(None, environment) == of_system
    in_runtime = _touch(tmp_path / "runtime" / "tpid" / "tpid.sock")
    assert socket_path(None, environment) == in_runtime


def test_without_any_the_daemons_own_default_is_named(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    assert socket_path(None, state) == tmp_path / "tpid" / "tpid.sock"
    assert socket_path(None, state | {"XDG_RUNTIME_DIR": "/none"}) == Path("/none/tpid/tpid.sock")


def test_state_directory_without_environment_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert state_dir({}) == Path("/home/somebody/.local/state/tpid")
    assert history_path({}) == Path("/home/somebody/.local/state/tpid/chat_history")
