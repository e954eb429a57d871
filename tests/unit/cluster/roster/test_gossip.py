from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cluster.roster.people import line, person
from tpid.cluster.roster.gossip import (
    MAX_MESSAGE_BYTES,
    chain_to,
    decode_keys,
    decode_statements,
    encode_keys,
    encode_statements,
    missing,
)
from tpid.cluster.roster.roster import Roster, received
from tpid.cluster.roster.statement import (
    MAX_KEPT,
    Key,
    home_of,
    sign_revocation,
)
from tpid.device import Role
from tpid.errors import RemoteProtocolError


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
