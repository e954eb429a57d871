"""TLS as devices speak it: 1.3 alone, no resumption; the roster says whose certificates count.

Python's ssl has no say for the program in the middle of a handshake. So each context trusts exactly the certificates
of the roster's members, each one for itself, and is made anew when the roster changes: a stranger fails inside of the
handshake, before a byte of any frame. Dates are not checked; a clock that is wrong must not take a device out of its
home. The caller compares the peer's certificate with the roster once more (`is_admitted` of `tpid.comm.tls_handshake`):
a certificate of the roster that claims to be an authority must not vouch for others, and the roster may have changed.

context           asks for a certificate   trusts             for
----------------  -----------------------  -----------------  ----------------------------------------
`member_server`   yes                      the roster         frames
`member_client`   yes                      the roster         frames
`pairing_server`  no                       nobody             pairing: both sides are strangers in TLS;
`pairing_client`  takes any                nobody             the code proves who they are
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Final

from tpid.cluster.identity.identity import Identity
from tpid.errors import ConfigError

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
# A certificate is trusted because it is there. Otherwise TLS looks for its issuer by name, and would take another
# member's that bears the same one: a member could keep others out by it.
_PARTIAL_CHAIN: Final = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN


def member_server(identity: Identity, certificates: Iterable[bytes]) -> ssl.SSLContext:
    """`certificates` are those of the roster's members, in DER."""
    return _trusting(_context(ssl.PROTOCOL_TLS_SERVER, identity), certificates)


def member_client(identity: Identity, certificates: Iterable[bytes]) -> ssl.SSLContext:
    return _trusting(_context(ssl.PROTOCOL_TLS_CLIENT, identity), certificates)


def pairing_server(identity: Identity) -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.verify_mode = ssl.CERT_NONE
    return context


def pairing_client() -> ssl.SSLContext:
    """Without a certificate of its own: the joiner's goes in its first message, with a signature."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, None)
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, identity: Identity | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    # Python's default takes a stream that was cut off for one that has ended.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", ssl.Options(0))
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a session that could be resumed would outlive a revocation
    if identity is not None:
        try:
            context.load_cert_chain(identity.path)
        except OSError as error:
            raise ConfigError(f"TLS cannot use {identity.path}: {error}.") from error
    return context


def _trusting(context: ssl.SSLContext, certificates: Iterable[bytes]) -> ssl.SSLContext:
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(_NO_CHECK_TIME | _PARTIAL_CHAIN)
    if trusted := b"".join(certificates):
        context.load_verify_locations(cadata=trusted)
    return context
