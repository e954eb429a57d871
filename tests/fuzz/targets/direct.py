"""A rank of the direct exchange whose peers send any tensor frames, in any order, between the steps of a pass."""

from tests.fuzz.targets.star import TERM, FakeLink, drive
from tpid.comm.direct import DirectRank


def fuzz(data: bytes) -> None:
    """First byte: which rank, and its wire dtype; then five bytes an event."""
    if not data:
        return
    rank = data[0] % 3
    links = [FakeLink(), FakeLink()]
    others = dict(zip([number for number in range(3) if number != rank], links, strict=True))
    drive(lambda sizes: DirectRank(TERM, rank, others, **sizes), links, data[0] // 3, data[1:])
