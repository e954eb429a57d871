"""The timeouts and limits of connections."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CommSettings:
    """Each wait of a connection, by name, and what a peer may make us hold."""

    connect_timeout_s: float = 3.0  # until TCP is up
    hello_timeout_s: float = 3.0  # from TCP to the peer's hello; bounds what a stranger can hold open
    ping_interval_s: float = 0.5  # a fifth of the silence timeout: four lost pings in a row are no accident
    silence_timeout_s: float = 2.5  # no byte for so long: the device is lost; leaves half a second of the 3 s promised
    close_timeout_s: float = 1.0  # until the goodbye is sent, then the connection is cut
    max_payload_bytes: int = 256 * 2**20  # of one tensor frame: 4096 tokens of 16384 fp32
    write_pause_bytes: int = 2**20  # more than this unsent for silence_timeout_s: the peer does not read
    write_limit_bytes: int = 512 * 2**20  # more than this unsent: cut at once; two of the largest payloads
    # Of connections without a `Trust`, which are not encrypted: for measurements in a network of one's own.
    allow_unencrypted_network: bool = False
