"""`host:port`, as people write it and as it keys the devices that are dialled."""

from dataclasses import dataclass

from tpid.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`127.0.0.1:7313`, `[::1]:7313`, `name:7313`. Raises ConfigError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # IPv6 without brackets: where the port begins is a guess
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535
    if not (colon and host and is_port) or any(c.isspace() or c in "[]/@" for c in host):
        raise ConfigError(
            f"{text!r} is not the address of a device.", hint="Write host:port, for example 127.0.0.1:7313."
        )
    return Address("127.0.0.1" if host.lower() == "localhost" else host, int(port))
