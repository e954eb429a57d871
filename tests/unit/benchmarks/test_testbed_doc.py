"""docs/testbed.md names every field of a home's file and every fault."""

from pathlib import Path

import pytest

from homelab.faults import Faults
from homelab.layout import HostLayout, LinkLayout

TEXT = (Path(__file__).parents[3] / "docs" / "testbed.md").read_text()


@pytest.mark.parametrize("word", [*HostLayout.model_fields, *LinkLayout.model_fields, *Faults.names()])
def test_it_is_in_the_document(word: str) -> None:
    assert f"`{word}`" in TEXT
