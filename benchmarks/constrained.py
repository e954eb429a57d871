"""Decode of answers by JSON schema beside decode of free ones: milliseconds a token, the same daemon, in turns.

    python benchmarks/constrained.py [--shape tinyllama-1.1b] [--cores 0,1] [--quick] [--json]

Random weights in the shape of a published model, w4, one thread; masks are found in a process of their own while a
token is computed, so `--cores` gives the daemon one more than its thread has. Each schema asks for more than is
generated, so that nothing ends an answer but its length. Exit code 1 where a schema's tokens take more than 1.1 times
as long as free ones.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from make_model import DEFAULT_DIRECTORY, make_model
from shapes import SHAPES
from tpid.model.weights import Format
from two_daemons import Cluster, cluster

MAX_RATIO = 1.1
FREE = "free"
_MANY = 1000
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["user", "helper", "guest"]},
        "mail": {"type": "string", "pattern": "^[a-z]{2,8}@[a-z]{2,8}[.](org|net)$"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
    },
    "required": ["name", "age", "role", "mail", "tags"],
    "additionalProperties": False,
}
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "records": {"type": "array", "items": _PERSON, "minItems": _MANY},
    "long text": {"type": "object", "properties": {"text": {"type": "string", "minLength": 10 * _MANY}}}
    | {"required": ["text"], "additionalProperties": False},
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": _MANY},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--models", type=Path, default=DEFAULT_DIRECTORY, help="where the model is made, or is already")
    parser.add_argument("--cores", default="0,1", help="of the daemon and of its text process")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    name = f"{arguments.shape}-w4"
    if not (arguments.models / name).is_dir():
        make_model(arguments.shape, Format.W4, arguments.models / name)
    n_rounds, n_tokens = (2, 24) if arguments.quick else (7, 64)
    with (
        tempfile.TemporaryDirectory(prefix="tpid-") as directory,
        cluster("one", [arguments.cores], arguments.models, Path(directory)) as one,
    ):
        tpot_ms = measure(one, name, n_rounds, n_tokens)
    ratios = {kind: _ratio(tpot_ms[kind], tpot_ms[FREE]) for kind in SCHEMAS}
    medians_ms = {kind: statistics.median(values) for kind, values in tpot_ms.items()}
    if arguments.json:
        print(json.dumps({"model": name, "cores": arguments.cores, "tpot_ms": medians_ms, "ratio": ratios}))
    else:
        print(f"{name} on cores {arguments.cores}: free {medians_ms[FREE]:.1f} ms a token")
        for kind, ratio in ratios.items():
            print(f"  {kind:10} {medians_ms[kind]:6.1f} ms, {ratio:.3f} of it")
    return int(max(ratios.values()) > MAX_RATIO)


def measure(one: Cluster, model: str, n_rounds: int, n_tokens: int) -> dict[str, list[float]]:
    """Milliseconds a token of each answer, by what it was held to."""
    formats: dict[str, dict[str, Any]] = {FREE: {}}
    for kind, schema in SCHEMAS.items():
        format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        formats[kind] = {"response_format": format}
    for fields in formats.values():  # loads the model, and makes what a grammar knows of its tokens
        one.ask(model, "Hello", 4, **fields)
    tpot_ms: dict[str, list[float]] = {kind: [] for kind in formats}
    for _ in range(n_rounds):
        for kind, fields in formats.items():
            answer = one.ask(model, "Hello", n_tokens, **fields)
            if answer.completion_tokens != n_tokens:
                raise RuntimeError(f"the answer of {kind} has {answer.completion_tokens} tokens, not {n_tokens}")
            tpot_ms[kind].append(1e3 / answer.tokens_s)
    return tpot_ms


def _ratio(constrained_ms: list[float], free_ms: list[float]) -> float:
    """Of the pairs that were measured next to each other: what else a machine does comes and goes."""
    return statistics.median(a / b for a, b in zip(constrained_ms, free_ms, strict=True))


if __name__ == "__main__":
    sys.exit(main())
