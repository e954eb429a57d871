from collections.abc import Iterator

import pytest

from tests.unit.download.hub import FakeHub
from tpid.download import faults, partial


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Pauses between tries are short, and files of a few kilobytes have several segments."""
    monkeypatch.setattr(faults, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(partial, "SEGMENT_BYTES", 1000)
    hub = FakeHub()
    hub.start()
    yield hub
    hub.stop()
