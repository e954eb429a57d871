import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.size import parse_size, shown_size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (45_300_000, "45.3 MB"),
        (300_000_000, "300 MB"),
        (999_700, "1.00 MB"),
        (16_000_000_000, "16.0 GB"),
        (1.5e9, "1.50 GB"),
        (128 * 10**9, "128 GB"),
        (3072 * 10**15, "3072 PB"),
    ],
)
def test_sizes_as_people_read_them(size_bytes: float, text: str) -> None:
    assert shown_size(size_bytes) == text


@given(st.integers(1000, 1 << 49))
def test_what_is_told_is_understood_within_its_rounding(size_bytes: int) -> None:
    assert parse_size(shown_size(size_bytes)) == pytest.approx(size_bytes, rel=0.006)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("2G", 2 * 10**9),
        ("2 GB", 2 * 10**9),
        ("2GiB", 2 << 30),
        ("2 gi", 2 << 30),
        ("7", 7),
        ("7 B", 7),
        ("1.5k", 1500),
    ],
)
def test_sizes_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "i", "2i", "2iB", "2 G B", "-2G", "1e3", "2GG", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as 2G or 512M"):
        parse_size(text)
