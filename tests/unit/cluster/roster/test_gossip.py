from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cluster.roster.people import person
from tpid.cluster.roster.gossip import (
    MAX_MESSAGE_BYTES,
    chain_to,
    decode_keys,
    decode_statements,
    encode_keys,
    encode_statements,
    missing,
)
from tpid.cluster.roster.roster import Roster, admit, found, received, revoke
from tpid.cluster.roster.statement import (
    MAX_KEPT,
    Key,
    decode_statement,
    encode_statement,
    home_of,
    key_of,
    sign_revocation,
)
from tpid.cluster.roster.store import FILE_NAME, load_roster, save_roster
from tpid.device import Role
from tpid.errors import ConfigError, RemoteProtocolError


def line(n_people: int) -> Roster:
    """Each has admitted the next; the second last was revoked."""
    roster = found(person(0), "device0")
    for number in range(1, n_people):
        roster = admit(
            roster,
            person(number - 1),
            certificate=person(number).certificate,
            name=f"gerät{number}",
            role=Role.USER,
        )
    return revoke(roster, person(0), person(n_people - 2).id)


def test_two_devices_tell_each_other_what_is_missing() -> None:
    full = line(5)
    part = received(Roster(full.home), full.statements[:2])
    for _ in range(2):  # the second time there is nothing to tell
        home, keys = decode_keys(encode_keys(part))
        assert home == full.home
        for message in encode_statements(full.home, missing(full, keys)):
            home, statements = decode_statements(message)
            part = received(part, statements)
        assert part == full
        assert part.members == full.members
    assert missing(full, part.keys) == []


def test_every_beginning_of_what_is_told_makes_sense_alone() -> None:
    full = line(6)
    told = missing(full, [])
    roster = Roster(full.home)
    for statement in told:
        after = received(roster, [statement])
        assert len(after.statements) == len(roster.statements) + 1
        roster = after
    assert roster == full


def test_the_chain_to_a_member_is_enough_to_know_it() -> None:
    full = line(6)
    chain = chain_to(full, person(5).id)
    assert len(chain) == 6
    roster = received(Roster(full.home), chain)
    assert roster.members[person(5).id].role is Role.USER
    assert chain_to(full, person(9).id) == []


def test_much_is_told_in_messages_of_limited_size() -> None:
    home = home_of(person(0).id)
    kept = {Key(bytes([number]) * 32) for number in range(MAX_KEPT)}
    statements = [
        sign_revocation(home, person(0).id, person(0).sign, person(number % 20).id, kept) for number in range(20)
    ]
    messages = encode_statements(home, statements)
    assert len(messages) > 1
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES
    assert [one for message in messages for one in decode_statements(message)[1]] == statements
    assert encode_statements(home, []) == []


def test_there_is_one_way_to_write_a_statement() -> None:
    for statement in line(4).statements:
        encoded = encode_statement(statement)
        assert decode_statement(encoded) == statement
        assert key_of(decode_statement(encoded)) == key_of(statement)
        for broken in (encoded[:-1], encoded + b"\0", b"\x03" + encoded[1:], b""):
            with pytest.raises(RemoteProtocolError):
                decode_statement(broken)


def test_the_kept_stand_in_order() -> None:
    home = home_of(person(0).id)
    kept = {Key(bytes([number]) * 32) for number in range(2)}
    encoded = encode_statement(sign_revocation(home, person(0).id, person(0).sign, person(1).id, kept))
    first, second = encoded[99:131], encoded[131:163]
    for keys in (second + first, first + first):
        with pytest.raises(RemoteProtocolError, match="another order"):
            decode_statement(encoded[:99] + keys + encoded[163:])


MESSAGE = encode_statements(line(3).home, line(3).statements)[0]


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(MESSAGE) - 1), st.binary(max_size=4)))
def test_any_bytes_give_statements_or_one_error(data: bytes | tuple[int, bytes]) -> None:
    if isinstance(data, tuple):
        place, other = data
        data = MESSAGE[:place] + other + MESSAGE[place + len(other) :]
    with suppress(RemoteProtocolError):
        home, statements = decode_statements(data)
        received(Roster(home), statements)
        assert encode_statements(home, statements) in ([data], [])
    with suppress(RemoteProtocolError):
        decode_keys(data)


# On disk


def test_a_roster_is_kept(tmp_path: Path) -> None:
    assert load_roster(tmp_path) is None
    for roster in (found(person(0), "a"), line(5)):
        save_roster(tmp_path, roster)
        loaded = load_roster(tmp_path)
        assert loaded == roster
        assert loaded is not None
        assert loaded.members == roster.members
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_damaged_roster_is_told(tmp_path: Path) -> None:
    save_roster(tmp_path, line(4))
    path = tmp_path / FILE_NAME
    sound = path.read_bytes()
    for content in (b"", sound[:-1], sound + b"x", b"x" + sound, sound[:-1] + bytes([sound[-1] ^ 1])):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="Restore it from a backup"):
            load_roster(tmp_path)
    path.write_bytes(sound)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        load_roster(tmp_path)
