import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.advert import Advert, decode_advert, encode_advert
from tpid.comm.messages import PROTOCOL_VERSION
from tpid.device import DeviceId, DeviceProfile, Role, device_name
from tpid.errors import RemoteProtocolError

GOOD = {
    b"id": b"0123456789abcdef0123456789abcdef",
    b"name": "Käthes Laptop".encode(),
    b"cluster": b"home",
    b"role": b"helper",
    b"v": b"1",
    b"ver": b"0.1.0",
    b"ram": b"8589934592",
    b"disk": b"0",
    b"threads": b"4",
    b"read": b"1500000000",
}


def profile(name: str, ram_bytes: int = 1) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId("a" * 32),
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
        id=DeviceId("a" * 32),
        name="laptop",
        cluster="home",
        role=Role.USER,
        protocol_version=PROTOCOL_VERSION,
        version="0.1.0",
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


@pytest.mark.parametrize("key", sorted(GOOD))
@pytest.mark.parametrize("value", [None, b"", b"\xff", b"x" * 64, b"\x1b[31m", b"-1", b"1e9", b"9" * 19, "٣".encode()])
def test_a_bad_value_is_refused(key: bytes, value: bytes | None) -> None:
    free_text = key in (b"name", b"cluster", b"ver") and value in (b"-1", b"1e9", b"9" * 19, "٣".encode())
    if free_text:
        assert decode_advert(GOOD | {key: value})
    else:
        with pytest.raises(RemoteProtocolError):
            decode_advert(GOOD | {key: value})


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
        assert advert.cluster.isprintable()
        assert 0 <= advert.ram_bytes < 2**63
