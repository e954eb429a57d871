import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpictl.quantities import format_bytes, format_duration, format_rate


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (45_300_000, "43.2 MiB"),
        (300 << 20, "300 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (16 << 30, "16.0 GiB"),
        (128 << 30, "128 GiB"),
        (3 << 60, "3072 PiB"),
    ],
)
def test_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@given(st.integers(0, 1 << 60))
def test_bytes_say_what_they_are_within_the_rounding(size_bytes: int) -> None:
    number, unit = format_bytes(size_bytes).split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert float(number) * scale == pytest.approx(size_bytes, rel=0.06)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0, "0.00 ms"),
        (0.000_18, "0.18 ms"),
        (0.0024, "2.4 ms"),
        (0.0421, "42 ms"),
        (0.9996, "1.00 s"),
        (1.254, "1.25 s"),
        (9.996, "10 s"),
        (95.2, "95 s"),
        (720, "12 min"),
    ],
)
def test_duration(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


@pytest.mark.parametrize(("rate", "text"), [(23.81, "23.8 tok/s"), (0.5, "0.5 tok/s"), (1234.5, "1234 tok/s")])
def test_rate(rate: float, text: str) -> None:
    assert format_rate(rate) == text
