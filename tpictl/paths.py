"""Where the daemon's socket is, and where tpictl keeps its own files."""

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_SOCKET = Path("/run/tpid/tpid.sock")  # of a daemon that runs as a system service


def state_dir(environment: Mapping[str, str]) -> Path:
    """The daemon's own default, too."""
    home = environment.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "tpid"


def socket_path(option: Path | None, environment: Mapping[str, str]) -> Path:
    """The socket to speak to; it need not exist.

    The option and $TPID_SOCKET are taken as they are. Else the first that exists of: the owner's
    runtime directory, the system service's, the state directory; and the first of them if none does.
    """
    if option is not None:
        return option
    if "TPID_SOCKET" in environment:
        return Path(environment["TPID_SOCKET"])
    runtime = environment.get("XDG_RUNTIME_DIR")
    candidates = [Path(runtime) / "tpid" / "tpid.sock"] if runtime else []
    candidates += [SYSTEM_SOCKET, state_dir(environment) / "tpid.sock"]
    # os.path.exists, unlike Path.exists, takes a directory that may not be entered for an absent one.
    return next((path for path in candidates if os.path.exists(path)), candidates[0] if runtime else candidates[-1])


def history_path(environment: Mapping[str, str]) -> Path:
    """What was typed in chats."""
    return state_dir(environment) / "chat_history"


def chats_path(environment: Mapping[str, str]) -> Path:
    """The directory of the chats that are kept."""
    return state_dir(environment) / "chats"


def log_path(environment: Mapping[str, str]) -> Path:
    """Of a daemon that tpictl has started itself."""
    return state_dir(environment) / "tpid.log"
