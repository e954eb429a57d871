import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.address import Address, parse_address
from tpid.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7313", "127.0.0.1", 7313),
        (" desktop.local:1 ", "desktop.local", 1),
        ("LocalHost:65535", "127.0.0.1", 65535),
        ("[::1]:80", "::1", 80),
    ],
)
def test_addresses_as_people_write_them(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:8 0", "::1:80", "a b:80", "u@h:80", "h:٣"]
)
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a device"):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_gives_an_address_that_reads_back_or_one_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert parse_address(str(address)) == address
