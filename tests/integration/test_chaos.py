"""Real daemons under faults: each request ends in the right answer, the next one works, and nothing is left over.

`TPID_CHAOS=500` does as many faults; the seed is the number of faults, so a run can be repeated.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory_cgroup import MemoryCgroup, NoCgroupError, memory_cgroup
from tests.integration.chaos import LONG, N_TOKENS, PROMPTS, Chaos, open_files, schedule, threads

N_FAULTS = int(os.environ.get("TPID_CHAOS", "63"))
BUDGET_BYTES = 400_000_000
MORE_FILES = 8  # connections and a text process that are on their way out
MORE_THREADS = (os.cpu_count() or 1) + 4  # of the loop's own pool, which grows to its limit as it is used


@pytest.fixture
def groups() -> Iterator[dict[str, MemoryCgroup]]:
    """A memory cgroup of the budget and a tenth for each daemon; none where they cannot be made."""
    with ExitStack() as stack:
        found: dict[str, MemoryCgroup] = {}
        try:
            for name in ("user", "left", "right"):
                found[name] = stack.enter_context(memory_cgroup(BUDGET_BYTES + BUDGET_BYTES // 10))
        except NoCgroupError:
            found.clear()
        yield found


@pytest.fixture
def broken_disk(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """While the file exists, reads of packs fail in the daemons that have this environment."""
    library, switch = tmp_path / "faulty_disk.so", tmp_path / "broken"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the faulty disk")
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return switch, {"LD_PRELOAD": str(library), "FAULTY_FROM": "8192", "FAULTY_WHILE": str(switch)}


@pytest.mark.timeout(max(3600, 30 * N_FAULTS))
def test_each_request_under_a_fault_ends_right_and_the_next_one_works(
    model_home: Any, groups: dict[str, MemoryCgroup], broken_disk: tuple[Path, dict[str, str]]
) -> None:
    switch, faulty = broken_disk
    chance = random.Random(N_FAULTS)

    def launch(name: str) -> Any:
        role = "user" if name == "user" else "helper"
        environment = dict(faulty, FAULTY_PATH=str(model_home.models_dir.resolve())) if name == "left" else {}
        return model_home.launch(
            name, role=role, memory_budget=f"{BUDGET_BYTES}B", group=groups.get(name), environment=environment
        )

    model_home.pair(user="user", left="helper", right="helper")
    user, left, right = (launch(name) for name in ("user", "left", "right"))
    chaos = Chaos(user, [left, right], launch, {}, switch, chance)
    chaos.whole()
    for prompt in (*PROMPTS, LONG):
        chaos.expected[prompt] = user.chat(prompt, max_tokens=N_TOKENS)["choices"][0]["message"]["content"]
    files, running = open_files(user), threads(user)
    try:
        for fault, moment in schedule(N_FAULTS, chance):
            chaos.strike(fault, moment)
            chaos.next_answer_is_right()
    finally:
        print(chaos.table())
    chaos.whole()
    chaos.next_answer_is_right()
    assert open_files(user) <= files + MORE_FILES
    assert threads(user) <= running + MORE_THREADS
    assert not any(group.killed for group in groups.values())
    assert "Traceback" not in user.log
