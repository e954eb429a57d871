"""SPAKE2 as docs/protocol.md has it, written a second time in the plainest way: both must agree."""

import hashlib
import random

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.unit.cluster.roster.people import person
from tpid.cluster.pairing.code import Code
from tpid.cluster.pairing.pake import begin, finish
from tpid.errors import RemoteProtocolError

CODE = Code("walnut-canyon-48213")
Q = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, Q) % Q
M = bytes.fromhex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312")
N = bytes.fromhex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3")

Point = tuple[int, int]


def add(first: Point, second: Point) -> Point:
    (x1, y1), (x2, y2) = first, second
    product = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, Q) % Q,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, Q) % Q,
    )


def times(number: int, point: Point) -> Point:
    total = (0, 1)
    for bit in bin(number)[2:]:
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def decode(data: bytes) -> Point:
    """RFC 8032, 5.1.3."""
    number = int.from_bytes(data, "little")
    y = number % 2**255
    square = (y * y - 1) * pow(D * y * y + 1, -1, Q) % Q
    x = pow(square, (Q + 3) // 8, Q)
    if x * x % Q != square:
        x = x * pow(2, (Q - 1) // 4, Q) % Q
    assert x * x % Q == square
    return (Q - x if x % 2 != number >> 255 else x), y


def encode(point: Point) -> bytes:
    x, y = point
    return (y | (x % 2) << 255).to_bytes(32, "little")


BASE = decode(bytes([0x58] + [0x66] * 31))


def password() -> int:
    derived = HKDF(hashes.SHA256(), 48, b"", b"SPAKE2 pw").derive(CODE.encode())
    return int.from_bytes(derived, "big") % L


def secret(seed: int) -> int:
    return int.from_bytes(random.Random(seed).randbytes(64), "big") % L


@pytest.mark.parametrize("invites", [True, False])
def test_a_second_implementation_gets_the_same(invites: bool) -> None:
    inviter, joiner = person(0).id, person(1).id
    ours = begin(CODE, inviter=inviter, joiner=joiner, invites=invites, entropy=random.Random(1).randbytes)
    own, peer = (decode(M), decode(N)) if invites else (decode(N), decode(M))
    pw = password()
    assert ours.element == encode(add(times(secret(1), BASE), times(pw, own)))
    theirs = encode(add(times(secret(2), BASE), times(pw, peer)))
    shared = times(secret(2), add(decode(ours.element), times(L - pw, own)))
    inviters, joiners = (ours.element, theirs) if invites else (theirs, ours.element)
    parts = [hashlib.sha256(part).digest() for part in (CODE.encode(), bytes.fromhex(inviter), bytes.fromhex(joiner))]
    expected = hashlib.sha256(b"".join(parts) + inviters + joiners + encode(shared)).digest()
    assert finish(ours, theirs) == expected


@pytest.mark.parametrize(
    "element",
    [
        b"",
        bytes(31),
        bytes(33),
        (1).to_bytes(32, "little"),  # the neutral element
        (Q + 1).to_bytes(32, "little"),  # the same, written in another way
        (Q - 1).to_bytes(32, "little"),  # of order 2
        (2).to_bytes(32, "little"),  # not on the curve
        b"\xff" * 32,
    ],
)
def test_what_is_no_element_is_refused(element: bytes) -> None:
    exchange = begin(CODE, inviter=person(0).id, joiner=person(1).id, invites=True, entropy=random.Random(1).randbytes)
    with pytest.raises(RemoteProtocolError):
        finish(exchange, element)


def test_an_element_that_is_sent_back_is_refused() -> None:
    exchange = begin(CODE, inviter=person(0).id, joiner=person(1).id, invites=True, entropy=random.Random(1).randbytes)
    with pytest.raises(RemoteProtocolError):
        finish(exchange, exchange.element)


@pytest.mark.parametrize(
    ("code", "inviter", "equal"), [(CODE, 0, True), (Code("walnut-canyon-48214"), 0, False), (CODE, 2, False)]
)
def test_keys_are_equal_for_the_same_code_and_devices_alone(code: Code, inviter: int, equal: bool) -> None:
    ours = begin(CODE, inviter=person(0).id, joiner=person(1).id, invites=True, entropy=random.Random(1).randbytes)
    theirs = begin(
        code, inviter=person(inviter).id, joiner=person(1).id, invites=False, entropy=random.Random(2).randbytes
    )
    assert (finish(ours, theirs.element) == finish(theirs, ours.element)) == equal
