"""JSON of unknown origin: bounded, without duplicate keys or numbers that JSON does not have.

Python takes up to 300 bytes for a value that stands in three, so values are counted before they are read. What a text
takes in memory is then at most 9 times its size (a character of it may take four bytes, as text and again in a string)
and 300 bytes a value.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tpid.errors import ModelFileError
from tpid.model.weightfile import WeightFile

MAX_VALUES = 1 << 18  # settings with 30 000 added tokens have as many: 80 MB
MAX_KEYS = 1 << 18  # of one object


def read_json_object(path: Path, max_bytes: int, max_values: int = MAX_VALUES) -> Mapping[str, object]:
    """Raises ModelFileError."""
    with WeightFile(path) as file:
        return parse_json_object(file.read_all(max_bytes), str(path), max_values)


def parse_json_object(
    data: bytes, where: str, max_values: int = MAX_VALUES, max_keys: int = MAX_KEYS
) -> dict[str, object]:
    """`max_keys` is of any one object in it. Raises ModelFileError naming `where`."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(pairs) > max_keys:
            raise ValueError(f"an object has {len(pairs)} keys, more than {max_keys}")
        return _unique(pairs)

    if (n_values := count_values(data)) > max_values:
        raise ModelFileError(
            f"{where} holds some {n_values} values, more than {max_values}.",
            hint="Check where it comes from: no published model has one like it.",
        )
    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ModelFileError(f"{where} is nested too deeply to be sound JSON.") from error
    except ValueError as error:  # bad UTF-8, bad JSON, integers of thousands of digits
        raise ModelFileError(f"{where} is not sound JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{where} is JSON but not an object.")
    return value


def count_values(data: bytes) -> int:
    """At least as many values as the JSON text has; commas and brackets in strings count too."""
    return 1 + data.count(b",") + data.count(b"[") + data.count(b"{")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:60]!r} appears twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
