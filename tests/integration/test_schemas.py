"""Answers of a real model, by schemas of many forms: each is JSON, and obeys; jsonschema is the judge.

`TPID_SCHEMAS=500` asks for as many; the result of the last such run is in docs/benchmarks.md.
"""

import os
from itertools import islice
from typing import Any

import pytest

from tests.schemas import Schemas, check

N_SCHEMAS = int(os.environ.get("TPID_SCHEMAS", "4"))
MAX_TOKENS = 200
LEAST_ENDED = 0.5  # of the answers, so that something is judged: a number ends when its model has had enough of it


@pytest.mark.timeout(30 + 60 * N_SCHEMAS)
def test_every_answer_obeys_its_schema(tcp_daemon: Any) -> None:
    n_ended = 0
    for seed, schema in enumerate(islice(Schemas(1), N_SCHEMAS)):
        format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = tcp_daemon.chat(
            "Write some JSON.", response_format=format, temperature=1, seed=seed, max_tokens=MAX_TOKENS
        )
        (choice,) = answer["choices"]
        if choice["finish_reason"] == "stop":
            check(choice["message"]["content"], schema)
            n_ended += 1
    print(f"{n_ended} of {N_SCHEMAS} answers ended by themselves, and obeyed")
    assert n_ended >= LEAST_ENDED * N_SCHEMAS
