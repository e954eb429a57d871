"""What is said of a device that cannot be reached has no numbers of the system, and says what to do next."""

import errno
import os
import socket
import ssl

import pytest

from tpid.comm.unreachable import late, unreachable, words_of


@pytest.mark.parametrize(
    ("error", "why", "do"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.2', 7474)"), "nothing listens there", "Start tpid"),
        (OSError(errno.EHOSTUNREACH, "x"), "no way leads there", "same network"),
        (OSError(errno.ENETUNREACH, "x"), "no way leads there", "same network"),
        (OSError(errno.ETIMEDOUT, "x"), "it does not answer", "switched on"),
        (OSError(errno.EPERM, "x"), "this machine's own firewall forbids it", "Let it through"),
        (OSError("Multiple exceptions: [Errno 111] x, [Errno 113] y"), "none of its addresses answers", "is on"),
        (OSError(errno.EINVAL, "x"), os.strerror(errno.EINVAL).lower(), "tpictl doctor"),
        (socket.gaierror(-2, "Name or service not known"), "no device of that name", "in numbers"),
        (UnicodeError("label too long"), "no device of that name", "in numbers"),
        (OverflowError("getsockaddrarg: port must be 0-65535."), "that is no port", "7474"),
    ],
)
def test_each_way_to_fail_has_its_words_and_a_next_step(error: Exception, why: str, do: str) -> None:
    told = unreachable("10.0.0.2:7474", error)
    assert told.message.startswith(f"The device at 10.0.0.2:7474 cannot be reached: {why}")
    assert told.hint is not None
    assert do in told.hint
    assert "Errno" not in str(told)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
        (OSError("no such thing."), "no such thing"),
        (RuntimeError(), "RuntimeError"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "tls failed"),
    ],
)
def test_what_has_failed_is_said_in_words(error: Exception, words: str) -> None:
    assert words_of(error).lower() == words.lower()


def test_silence_names_the_port_that_a_firewall_must_let_through() -> None:
    told = late("10.0.0.2:7474 or 10.1.0.2:7474", [("10.0.0.2", 7474), ("10.1.0.2", 7474)], 3.0)
    assert told.message == "The device at 10.0.0.2:7474 or 10.1.0.2:7474 did not answer within 3 s."
    assert told.hint is not None
    assert "TCP port 7474" in told.hint
