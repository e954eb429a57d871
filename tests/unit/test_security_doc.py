"""The tests that docs/security.md names are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:unit|integration|cluster)/[\w/]+\.py)(?:::(\w+))?`")
FOUND = NAMED.findall((TESTS.parent / "docs" / "security.md").read_text())


def test_many_are_named() -> None:
    assert len(FOUND) > 20


@pytest.mark.parametrize(("file", "name"), FOUND)
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    text = (TESTS / file).read_text()
    assert not name or f"def {name}(" in text
