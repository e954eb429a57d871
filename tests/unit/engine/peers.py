"""Peers that remember what they were told."""

from dataclasses import dataclass, field
from types import SimpleNamespace

from tpid.comm.messages import Message


@dataclass(eq=False)
class FakeConnection:
    """As much of a connection as the engine's machines see."""

    id: str
    closed: bool = False
    told: list[Message] = field(default_factory=list)

    @property
    def peer(self) -> SimpleNamespace:
        return SimpleNamespace(id=self.id, name=self.id)

    def send(self, message: Message) -> None:
        self.told.append(message)
