import pytest

from tpictl.view.gauges import bar, sparkline


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "░░░░"), (0.01, "█░░░"), (0.5, "██░░"), (1, "████"), (7, "████"), (-1, "░░░░")],
)
def test_bars(fraction: float, text: str) -> None:
    assert bar(fraction, 4) == text


def test_histories() -> None:
    assert sparkline([0, 1, 4, 8]) == "▁▂▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
