"""Each target over its corpus, and some seconds beyond; `make fuzz` runs longer."""

import os
from pathlib import Path

import pytest

from tests.fuzz.run import run_target, target_names

SECONDS = float(os.environ.get("TPID_FUZZ_SECONDS", "2"))


@pytest.mark.parametrize("name", target_names())
def test_any_input_gives_a_result_or_a_declared_error_within_the_limits(name: str, tmp_path: Path) -> None:
    outcome = run_target(name, SECONDS, tmp_path)
    assert outcome.failure is None, f"{outcome.input}:\n{outcome.failure[-4000:]}"
    assert outcome.executions > 0
