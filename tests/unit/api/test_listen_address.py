import pytest

from tpid.api.listen_address import ListenAddress, parse_listen


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:7475", "127.0.0.1", 7475, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("localhost:80", "127.0.0.1", 80, True),
        ("[::1]:7475", "::1", 7475, True),
        ("::1:7475", "::1", 7475, True),
        ("0.0.0.0:7475", "0.0.0.0", 7475, False),
        ("[::]:7475", "::", 7475, False),
        ("192.168.1.2:65535", "192.168.1.2", 65535, False),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool) -> None:
    address = parse_listen(text)
    assert address == ListenAddress(host, port)
    assert address.is_loopback == loopback
    assert parse_listen(str(address)) == address


def test_off() -> None:
    assert parse_listen("off") is None


@pytest.mark.parametrize(
    "text", ["", "on", "7475", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "box:1"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        parse_listen(text)
