import pytest

from tests.unit.cluster.roster.people import line, person
from tpid.cluster.roster.statement import (
    Key,
    decode_statement,
    encode_statement,
    home_of,
    key_of,
    sign_revocation,
)
from tpid.errors import RemoteProtocolError


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
