"""What a network does, seen by a process of a host: round trips and the rate of one stream.

python probe.py echo ADDRESS                answers datagrams and swallows streams, until it is ended
python probe.py trips ADDRESS N EVERY_S     N datagrams, one at a time or one EVERY_S: JSON, ms each, null where lost
python probe.py rate ADDRESS SECONDS        one TCP stream: Mbit/s of what came through
"""

import json
import select
import socket
import struct
import sys
import threading
import time

PORT = 5001
LOST_AFTER_S = 0.5
_PIECE_BYTES = 1 << 16
_WARM_S = 0.3  # of a stream that are not counted: TCP has not found the rate yet


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(address: str) -> None:
    datagrams = socket.socket(_family(address), socket.SOCK_DGRAM)
    datagrams.bind((address, PORT))
    streams = socket.create_server((address, PORT), family=_family(address))
    threading.Thread(target=_take_streams, args=(streams,), daemon=True).start()
    print("ready", flush=True)
    while True:
        data, sender = datagrams.recvfrom(2048)
        datagrams.sendto(data, sender)


def _take_streams(listener: socket.socket) -> None:
    """Each answers with the bytes and the seconds of what came after it was warm."""
    while True:
        stream, _ = listener.accept()
        n_bytes, began_s, warm_s = 0, time.monotonic(), 0.0
        while data := stream.recv(_PIECE_BYTES):
            if time.monotonic() - began_s < _WARM_S:
                warm_s = time.monotonic()
            else:
                n_bytes += len(data)
                last_s = time.monotonic()
        stream.sendall(json.dumps([n_bytes, last_s - (warm_s or began_s) if n_bytes else 0]).encode())
        stream.close()


def trips(address: str, n: int, every_s: float) -> list[float | None]:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as channel:
        channel.connect((address, PORT))
        return [_trip(channel, number, every_s) for number in range(n)]


def _trip(channel: socket.socket, number: int, every_s: float) -> float | None:
    began_s = time.perf_counter()
    channel.send(struct.pack(">I60x", number))
    trip_ms = None
    while trip_ms is None:
        left_s = began_s + LOST_AFTER_S - time.perf_counter()
        if left_s <= 0 or not select.select([channel], [], [], left_s)[0]:
            return None
        if struct.unpack(">I60x", channel.recv(2048))[0] == number:  # not one that was given up
            trip_ms = (time.perf_counter() - began_s) * 1000
    time.sleep(max(began_s + every_s - time.perf_counter(), 0))
    return trip_ms


def rate(address: str, seconds: float) -> float:
    with socket.create_connection((address, PORT)) as stream:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            stream.sendall(bytes(_PIECE_BYTES))
        stream.shutdown(socket.SHUT_WR)
        n_bytes, took_s = json.loads(stream.recv(2048))
    return n_bytes * 8e-6 / took_s if took_s else 0.0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["echo", address]:
            echo(address)
        case ["trips", address, n, every_s]:
            print(json.dumps(trips(address, int(n), float(every_s))))
        case ["rate", address, seconds]:
            print(rate(address, float(seconds)))
        case _:
            sys.exit(__doc__)
