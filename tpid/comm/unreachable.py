"""What a person is told where the network fails: why, without the numbers of the system, and what to do next."""

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Final, TypeAlias

from tpid.errors import DeviceLostError

Endpoint: TypeAlias = tuple[str, int]  # host, which may be a name, and port

_DOCTOR: Final = "`tpictl doctor` tells what is in the way."
_NO_WAY: Final = "no way leads there", f"Look whether both devices are on and in the same network. {_DOCTOR}"
_FORBIDDEN: Final = "this machine's own firewall forbids it", f"Let it through there. {_DOCTOR}"
_BY_NUMBER: Final = {
    errno.ECONNREFUSED: (
        "nothing listens there",
        "Start tpid there. A device that belongs to no home listens only while it invites: `tpictl invite`.",
    ),
    errno.ENETUNREACH: _NO_WAY,
    errno.EHOSTUNREACH: _NO_WAY,
    errno.ENETDOWN: _NO_WAY,
    errno.EHOSTDOWN: _NO_WAY,
    errno.ETIMEDOUT: ("it does not answer", f"Look whether it is switched on and in this network. {_DOCTOR}"),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
}


def unreachable(names: str, error: Exception) -> DeviceLostError:
    """`names` are the addresses that were tried; `error` is what the system, or its resolver, said."""
    why, hint = _why(error)
    return DeviceLostError(f"The device at {names} cannot be reached: {why}.", hint=hint)


def unreachable_why(error: Exception) -> str:
    """The reason alone, to be put into a sentence."""
    return _why(error)[0]


def words_of(error: Exception) -> str:
    """What has failed, as part of a sentence."""
    if isinstance(error, ssl.SSLError):
        return (getattr(error, "reason", None) or "TLS failed").replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error).rstrip(".") or type(error).__name__


def late(names: str, endpoints: Sequence[Endpoint], timeout_s: float) -> DeviceLostError:
    """Nothing came back within `timeout_s`, not even a refusal."""
    ports = " or ".join(str(port) for port in sorted({port for _, port in endpoints}))
    return DeviceLostError(
        f"The device at {names} did not answer within {timeout_s:g} s.",
        hint=f"Look whether it is switched on and in this network; its firewall must let TCP port {ports} through.",
    )


def _why(error: Exception) -> tuple[str, str]:
    """The reason, as part of a sentence, and the next step."""
    if isinstance(error, socket.gaierror | UnicodeError):
        hint = "Give its address in numbers: `tpictl invite` shows it."
        return "no device of that name is known in this network", hint
    if isinstance(error, OverflowError):
        return "that is no port", "A port is a number of 1 to 65535; tpid's own is 7474."
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # each address has failed in another way
        return "none of its addresses answers", f"Look whether it is on and in this network. {_DOCTOR}"
    return _BY_NUMBER.get(number, (words_of(error), _DOCTOR))
