"""What tests of several layers look at."""

import os
from typing import Any

import pytest


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each read gave."""
    read: list[int] = []
    preadv = os.preadv

    def counting(*arguments: Any) -> int:
        done = preadv(*arguments)
        read.append(done)
        return done

    monkeypatch.setattr(os, "preadv", counting)
    return read
