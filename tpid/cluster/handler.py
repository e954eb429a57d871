"""What the cluster calls when something happens."""

from typing import Protocol

from tpid.comm.connection import Connection
from tpid.comm.messages import Kind, Message
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.errors import TpidError


class Handler(Protocol):
    """What the engine does with what happens. All are called on the event loop and must not block."""

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None: ...

    def received(
        self,
        connection: Connection,
        kind: Kind,
        message: Message | StartHeader | TensorHeader,
        payload: memoryview | None,
    ) -> None: ...

    def peer_joined(self, connection: Connection) -> None: ...

    def peer_lost(self, connection: Connection, error: TpidError) -> None: ...

    def lease_lost(self, reason: str) -> None: ...

    def lease_changed(self) -> None: ...
