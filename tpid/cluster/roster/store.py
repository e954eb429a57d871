"""The roster on disk: one file, written whole or not at all.

"TPIDHOME" | version 1 | home 32 | number 2 | each: length 2, a statement
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tpid.cluster.identity.private_file import read_private, replace_private
from tpid.cluster.octets import Octets
from tpid.cluster.roster.gossip import in_order
from tpid.cluster.roster.roster import MAX_STATEMENTS, Roster, received
from tpid.cluster.roster.statement import (
    ID_BYTES,
    MAX_STATEMENT_BYTES,
    HomeId,
    decode_statement,
    encode_statement,
)
from tpid.errors import ConfigError, RemoteProtocolError

FILE_NAME: Final = "roster"

_WHAT: Final = "the roster of this home"
_MAGIC: Final = b"TPIDHOME\x01"
_MAX_FILE_BYTES: Final = len(_MAGIC) + ID_BYTES + 2 + MAX_STATEMENTS * (2 + MAX_STATEMENT_BYTES)


def save_roster(state_dir: Path, roster: Roster) -> None:
    """Raises ConfigError where the directory cannot be used."""
    parts = [encode_statement(statement) for statement in in_order(roster)]
    content = _MAGIC + roster.home + len(parts).to_bytes(2, "big")
    content += b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    replace_private(state_dir / FILE_NAME, content, what=_WHAT)


def load_roster(state_dir: Path) -> Roster | None:
    """None where this device has no home yet. Raises ConfigError for a file that is damaged or open to others."""
    path = state_dir / FILE_NAME
    try:
        content = read_private(path, what=_WHAT, max_bytes=_MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    try:
        return _decode(content)
    except RemoteProtocolError as error:
        raise ConfigError(
            f"{path} does not hold {_WHAT}: {error.message}",
            hint="Restore it from a backup, or delete it: the device then has to be paired anew.",
        ) from error


def _decode(content: bytes) -> Roster:
    octets = Octets(content, what="The file")
    if octets.take(len(_MAGIC)) != _MAGIC:
        raise RemoteProtocolError("It begins with other bytes.")
    home = HomeId(octets.take(ID_BYTES))
    statements = [decode_statement(octets.counted(2, at_most=MAX_STATEMENT_BYTES)) for _ in range(octets.number(2))]
    octets.end()
    roster = received(Roster(home), statements)
    if len(roster.statements) != len(statements):
        raise RemoteProtocolError("Statements in it are not by devices of this home.")
    return roster
