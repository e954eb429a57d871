import pytest

from tpid.size import shown_size


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (98_250_001, "98.3 MB"),
        (999_949_999, "999.9 MB"),
        (1_240_000_000, "1.24 GB"),
        (4_976_698_672_000, "4976.70 GB"),
    ],
)
def test_sizes_as_disks_count_them(size_bytes: int, shown: str) -> None:
    assert shown_size(size_bytes) == shown
