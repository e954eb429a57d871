"""Where the API listens on TCP: what was asked for, and what has become of it."""

import ipaddress
from dataclasses import dataclass

OFF = "off"
MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class ListenAddress:
    host: str  # an IP address
    port: int  # 0 takes any free one

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TcpState:
    """What has become of the port."""

    address: str | None = None  # host:port, where it listens
    secure: bool = False  # TLS
    failure: str | None = None  # why it does not, though it was told to


def parse_listen(text: str) -> ListenAddress | None:
    """`127.0.0.1:7475`, `[::]:7475`, `localhost:0`; None for `off`. Raises ValueError."""
    if text == OFF:
        return None
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        address = ListenAddress(str(ipaddress.ip_address(host)), int(port))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not an address such as 127.0.0.1:7475, nor off") from None
    if not (port.isascii() and port.isdigit() and address.port <= MAX_PORT):
        raise ValueError(f"{text[:60]!r} has no port from 0 to {MAX_PORT}")
    return address
