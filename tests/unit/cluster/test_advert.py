import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.advert import Advert, decode_advert, encode_advert
from tpid.comm.messages import PROTOCOL_VERSION
from tpid.device import DeviceId, DeviceProfile, Role, device_name
from tpid.errors import RemoteProtocolError

GOOD = {
    b"id": b"0123456789abcdef" * 4,
    b"name": "Käthes Laptop".encode(),
    b"home": b"HOME-HOME-HOME-HOME",
    b"v": str(PROTOCOL_VERSION).encode(),
    b"ram": b"8589934592",
    b"disk": b"0",
    b"threads": b"4",
    b"read": b"1500000000",
}


def profile(name: str, ram_bytes: int = 1) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId("a" * 64),
        name=name,
        role=Role.USER,
        version="0.1.0",
        ram_bytes=ram_bytes,
        budget_bytes=1,
        disk_free_bytes=2,
        threads=3,
        read_bytes_s=4.7,
        backend="torch",
    )


def test_the_numbers_of_a_profile_arrive() -> None:
    txt = encode_advert(profile("laptop", 10**18 - 1), "home")
    assert decode_advert({k.encode(): v.encode() for k, v in txt.items()}) == Advert(
        id=DeviceId("a" * 64),
        name="laptop",
        home="home",
        protocol_version=PROTOCOL_VERSION,
        ram_bytes=10**18 - 1,
        disk_free_bytes=2,
        threads=3,
        read_bytes_s=4,
    )


@given(st.text(max_size=300).map(device_name).filter(bool))
def test_any_name_can_be_announced_and_fits_a_txt_string(name: str) -> None:
    txt = encode_advert(profile(name), "home")
    assert all(len(f"{key}={value}".encode()) <= 255 for key, value in txt.items())
    assert decode_advert({k.encode(): v.encode() for k, v in txt.items()}).name == name


def test_a_minimal_record_keeps_the_numbers_back() -> None:
    txt = encode_advert(profile("laptop", 10**9), "home", minimal=True)
    assert txt.keys() == {"id", "name", "home", "v"}
    advert = decode_advert({k.encode(): v.encode() for k, v in txt.items()})
    assert (advert.ram_bytes, advert.disk_free_bytes, advert.threads, advert.read_bytes_s) == (0, 0, 0, 0)


@pytest.mark.parametrize("key", sorted(GOOD))
@pytest.mark.parametrize("value", [None, b"", b"\xff", b"x" * 64, b"\x1b[31m", b"-1", b"1e9", b"9" * 19, "٣".encode()])
def test_a_bad_value_is_refused(key: bytes, value: bytes | None) -> None:
    free_text = key in (b"name", b"home") and value in (b"-1", b"1e9", b"9" * 19, "٣".encode())
    not_told = key in (b"ram", b"disk", b"threads", b"read") and value in (None, b"")
    if free_text or not_told:
        assert decode_advert(GOOD | {key: value})
    else:
        with pytest.raises(RemoteProtocolError):
            decode_advert(GOOD | {key: value})


def test_of_another_version_only_the_name_and_the_version_count() -> None:
    """A device of version 1 had another id, and keys that are gone."""
    old = {b"id": b"ab" * 16, b"name": b"pi", b"cluster": b"home", b"role": b"user", b"v": b"1", b"ver": b"0.1.0"}
    advert = decode_advert(old)
    assert (advert.name, advert.protocol_version, advert.home) == ("pi", 1, "")


def test_a_member_of_another_version_is_known_by_its_id() -> None:
    advert = decode_advert(GOOD | {b"v": b"3"})
    assert advert.id == decode_advert(GOOD).id


def test_unknown_keys_are_passed_over() -> None:
    assert decode_advert(GOOD | {b"later": b"\xff"}) == decode_advert(GOOD)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)) | st.binary(max_size=8), st.none() | st.binary(max_size=255)))
def test_any_txt_record_gives_an_advert_or_one_error(txt: dict[bytes, bytes | None]) -> None:
    for properties in (txt, GOOD | txt):
        try:
            advert = decode_advert(properties)
        except RemoteProtocolError:
            continue
        assert advert.name.isprintable()
        assert advert.home.isprintable()
        assert 0 <= advert.ram_bytes < 2**63
