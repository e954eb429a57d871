"""All packets of a host while a home is answering: what somebody who records them can read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homelab.home import Home
from homelab.host import Host

ALL_PROTOCOLS = 0x0003
PROMPT = "Name the secret ingredient of grandmother's cinnamon waffles."
SMALL = {"memory_budget": "176M", "context_tokens": 512}  # too little for the model on one device


@contextmanager
def recording(host: Host) -> Iterator[list[bytes]]:
    """Of its first interface, both ways."""
    packets: list[bytes] = []
    done = threading.Event()

    def bound() -> socket.socket:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        sniffer.bind(("eth0", 0))
        sniffer.settimeout(0.1)
        return sniffer

    def read(sniffer: socket.socket) -> None:
        while not done.is_set():
            try:
                packets.append(sniffer.recv(65536))
            except TimeoutError:
                continue

    with host.inside(bound) as sniffer:
        thread = threading.Thread(target=read, args=(sniffer,), name="recording")
        thread.start()
        try:
            yield packets
        finally:
            done.set()
            thread.join()


def test_nothing_that_is_said_crosses_the_network_in_clear(wired: Home, models: Path) -> None:
    user, *_ = wired.hosts
    with recording(user) as packets:
        wired.start_daemons(models, **SMALL)
        answer = user.daemon.ask("smollm2-135m", PROMPT, 16)
    assert len(user.daemon.status()["plan"]["ranks"]) > 1
    heard = b"".join(packets)
    assert len(heard) > 1_000_000  # the activations of this conversation, and more
    assert b"_tpid" in heard  # mDNS is in clear: so the recording works
    said = [word for word in (PROMPT + " " + answer.text).split() if len(word) > 6]  # shorter ones come by chance
    assert [word for word in said if word.encode() in heard] == []
    # Frames in clear: of messages, the names of their fields; of activations, the head of a SUM or PARTIAL.
    for field in (b"matmul_flops_s", b"budget_bytes", b"sent_s", b"highest_term", b"smollm2-135m"):
        assert field not in heard
    for kind in (48, 49, 50):
        assert b"TP\x02" + bytes([kind]) + b"\0\0\0" not in heard
