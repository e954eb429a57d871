"""Who may send what and when: the table in the code is the one in the protocol's document."""

import re
from pathlib import Path

import pytest

from tpid.comm.messages import Kind
from tpid.engine.authority import COORDINATOR_KINDS, WORKER_KINDS, Phase, Standing, permits

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"
MARKED = re.compile(r"^\| (?P<kind>[A-Z_]+) \| (?P<standing>[a-z ]+) \| (?P<phases>[a-z, ]+) \|$", re.MULTILINE)


def documented() -> set[tuple[Kind, Standing, Phase]]:
    section = DOCUMENT.read_text().split("## Who may send what")[1].split("\n## ")[0]
    return {
        (Kind[row["kind"]], Standing(row["standing"]), Phase(phase))
        for row in MARKED.finditer(section)
        for phase in row["phases"].split(", ")
    }


def test_the_document_and_the_code_have_the_same_table() -> None:
    coded = {(k, s, p) for k in WORKER_KINDS | COORDINATOR_KINDS for s in Standing for p in Phase if permits(k, s, p)}
    assert documented() == coded


@pytest.mark.parametrize("standing", [Standing.MEMBER, Standing.FORMER_HOLDER])
def test_who_is_no_rank_and_no_holder_changes_nothing(standing: Standing) -> None:
    assert not any(permits(kind, standing, phase) for kind in Kind for phase in Phase)


def test_every_kind_of_the_engine_is_in_one_table() -> None:
    assert not WORKER_KINDS & COORDINATOR_KINDS
    assert {kind for kind in Kind if kind >= Kind.LOAD} == WORKER_KINDS | COORDINATOR_KINDS
