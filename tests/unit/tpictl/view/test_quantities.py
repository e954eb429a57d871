import pytest

from tpictl.view.quantities import format_duration, format_rate


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
