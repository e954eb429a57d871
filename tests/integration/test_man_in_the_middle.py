"""A proxy between two real daemons that pair: whatever it does with what they say, it gets neither in nor the code."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.middle import Conversation, in_the_middle
from tpid.cluster.identity.contexts import pairing_client
from tpid.cluster.identity.identity import load_or_create_identity
from tpid.cluster.pairing.code import parse_code
from tpid.cluster.pairing.messages import Refuse, Why, encode_pairing
from tpid.comm.opening import Purpose, encode_opening

Home = Any  # of conftest.py
Daemon = Any


@contextlib.contextmanager
def invitation(daemon: Daemon) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Its code, and the process whose screen shows it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tpictl.main", "invite"],
        env=os.environ | {"TPID_SOCKET": str(daemon.socket_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "\n"
            yield parse_code(process.stdout.readline()), process
        finally:
            process.terminate()


def port_of(daemon: Daemon) -> int:
    return int(daemon.status()["cluster"]["devices"][0]["address"].rpartition(":")[2])


def members(daemon: Daemon) -> set[str]:
    return {device["name"] for device in daemon.request("/tpid/devices")[1]["devices"]}


def replay(port: int, conversation: Conversation, *, inside_tls: bool) -> bytes:
    """The dialler's words, said once more; what comes back."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        said = bytes(conversation.dialler)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            end: socket.socket = plain
            if inside_tls:
                plain.sendall(encode_opening(Purpose.PAIRING))
                end = pairing_client().wrap_socket(plain)
            end.sendall(said)
            answer = b""
            while more := end.recv(65536):
                answer += more
            return answer
    return b""


def test_whoever_sits_between_two_devices_gets_neither_in_nor_the_code(home: Home, tmp_path: Path) -> None:
    desk, pi = (home.launch(name, role="user") for name in ("deskhome", "gardenpi"))
    for daemon in (desk, pi):
        daemon.wait("its API", lambda _: True)
    port, proxy = port_of(desk), load_or_create_identity(tmp_path / "proxy")

    with invitation(desk) as (code, screen):
        # With TLS of its own on both sides it reads what they say, and passes all of it on.
        with in_the_middle(port, proxy) as middle:
            joined = home.tpictl(pi, "join", code, "--address", middle.address)
            (read,) = middle.conversations
        assert joined.returncode == 1
        assert "The code is not the one on the other device's screen. Tries left: 2." in joined.stderr
        assert b"gardenpi" in read.dialler  # it has read who joins
        assert b"deskhome" in read.listener
        assert all(word.encode() not in read.all for word in (code, *code.split("-")))
        assert (members(desk), members(pi)) == ({"deskhome"}, {"gardenpi"})
        # What it has read is no good a second time, though the invitation is the same: the answer is a new one.
        busy = encode_pairing(Refuse(Why.BUSY))
        while (answer := replay(port, read, inside_tls=True)).endswith(busy):  # it serves one caller in 0.2 s
            pass
        assert b"deskhome" in answer
        assert answer != read.listener
        assert (members(desk), members(pi)) == ({"deskhome"}, {"gardenpi"})

        # Carried as they are, the bytes pair the two, and tell nothing.
        with in_the_middle(port) as middle:
            joined = home.tpictl(pi, "join", code, "--address", middle.address)
            assert joined.returncode == 0, joined.stderr + pi.log
            assert "Connected with deskhome." in joined.stdout
            assert screen.wait(20) == 0
            carried = list(middle.conversations)
        assert screen.stdout is not None
        told = screen.stdout.read()
        assert "A wrong code came from 127.0.0.1" in told
        assert "tries left: 2" in told
        assert "tries left: 1" in told  # that of the replay
        assert "gardenpi is in this home" in told
        assert (members(desk), members(pi)) == ({"deskhome", "gardenpi"}, {"deskhome", "gardenpi"})
        names = (b"deskhome", b"gardenpi", *(word.encode() for word in code.split("-")))
        assert all(name not in conversation.all for conversation in carried for name in names)

    # The same bytes once more, of the pairing and of a member: to the next invitation, and to none.
    with invitation(desk) as (_, screen):
        for conversation in carried:
            answer = replay(port, conversation, inside_tls=False)
            assert b"deskhome" not in answer
        assert len(desk.status()["cluster"]["devices"]) <= 2
    assert members(desk) == {"deskhome", "gardenpi"}
    assert json.loads(home.tpictl(desk, "devices", "--json").stdout)["devices"][0]["is_me"]
    assert proxy.id not in json.dumps(desk.request("/tpid/devices")[1])
