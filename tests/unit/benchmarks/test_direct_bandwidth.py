"""The reference of streaming: direct reads of files of any size."""

from pathlib import Path

from benchmarks.direct_bandwidth import DirectReader, whole
from tpid.pack.geometry import ALIGN_BYTES


def test_files_that_do_not_end_on_a_page_are_read_without_their_tails(tmp_path: Path) -> None:
    odd, small = tmp_path / "odd", tmp_path / "small"
    odd.write_bytes(bytes(3 * ALIGN_BYTES + 5))
    small.write_bytes(bytes(5))
    ranges = whole([odd, small])
    reader = DirectReader(ranges)
    assert ranges == [(str(odd), 0, 3 * ALIGN_BYTES)]
    assert reader.bytes_s() > 0
    reader.close()
