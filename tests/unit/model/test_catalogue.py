import re

import pytest

from tpid.download.reference import HubModel, parse_reference
from tpid.model.catalogue import CATALOGUE, Package, default_model

GB = 10**9


def test_every_entry_can_be_pulled_under_its_name() -> None:
    for name, entry in CATALOGUE.items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name)
        if not isinstance(entry.source, Package):
            reference = parse_reference(entry.source)
            assert isinstance(reference, HubModel)
            assert reference.quant == entry.quantization


def test_they_are_listed_by_size() -> None:
    sizes = [entry.size_bytes for entry in CATALOGUE.values()]
    assert sizes == sorted(sizes)


def test_what_is_reckoned_is_near_what_is_known() -> None:
    """Of SmolLM2 135M the file is known, and so is what a daemon takes with it and a context of 4096."""
    entry = CATALOGUE["smollm2-135m"]
    assert 0.8 < entry.memory_bytes / 476e6 < 1.2


@pytest.mark.parametrize(
    ("home_bytes", "name"),
    [
        (16 * GB, "llama-3.2-3b"),
        (2 * GB, "qwen2.5-1.5b"),
        (1.2 * GB, "llama-3.2-1b"),
        (0.9 * GB, "qwen2.5-0.5b"),
        (0.3 * GB, "smollm2-135m"),
        (0, "smollm2-135m"),
    ],
)
def test_a_home_begins_with_what_fits_it(home_bytes: float, name: str) -> None:
    assert default_model(int(home_bytes)) == name
