"""Somebody in between two devices: what each says is carried to the other, and kept."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from tpid.cluster.identity.contexts import pairing_client, pairing_server
from tpid.cluster.identity.identity import Identity
from tpid.comm.opening import OPENING_BYTES

End: TypeAlias = socket.socket | ssl.SSLSocket
SOON_S = 30.0


@dataclass
class Conversation:
    """What the dialler and the listener have said, as the one in between has read it."""

    dialler: bytearray = field(default_factory=bytearray)
    listener: bytearray = field(default_factory=bytearray)

    @property
    def all(self) -> bytes:
        return bytes(self.dialler + self.listener)


class Middle:
    """Listens on loopback for those who look for `port`. With an `identity`, TLS ends here on both sides, and what is
    kept is in clear; without, bytes are carried as they are."""

    def __init__(self, port: int, identity: Identity | None = None) -> None:
        self.conversations: list[Conversation] = []
        self._port = port
        self._identity = identity
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[End] = []
        self._threads = [threading.Thread(target=self._accept, name="middle", daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(SOON_S)

    def _accept(self) -> None:
        while True:
            try:
                dialler, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(dialler,), name="middle-conversation", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, dialler: End) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), SOON_S) as plain:
            listener: End = plain
            self._ends += [dialler, listener]
            if self._identity is not None:
                listener.sendall(dialler.recv(OPENING_BYTES, socket.MSG_WAITALL))
                listener = pairing_client().wrap_socket(plain)
                dialler = pairing_server(self._identity).wrap_socket(dialler, server_side=True)
                self._ends += [dialler, listener]
            conversation = Conversation()
            self.conversations.append(conversation)
            back = threading.Thread(target=_carry, args=(listener, dialler, conversation.listener), daemon=True)
            back.start()
            _carry(dialler, listener, conversation.dialler)
            back.join(SOON_S)


def _carry(source: End, target: End, said: bytearray) -> None:
    """Until the source ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            said += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def in_the_middle(port: int, identity: Identity | None = None) -> Iterator[Middle]:
    middle = Middle(port, identity)
    try:
        yield middle
    finally:
        middle.close()
