"""JSON of unknown origin: bounded, without duplicate keys or numbers that JSON does not have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tpid.errors import ModelFileError
from tpid.model.weightfile import WeightFile


def read_json_object(path: Path, max_bytes: int) -> Mapping[str, object]:
    """Raises ModelFileError."""
    file = WeightFile(path)
    try:
        if file.size_bytes > max_bytes:
            raise ModelFileError(f"{path} has {file.size_bytes} bytes, more than the {max_bytes} it may have.")
        return parse_json_object(file.read(0, file.size_bytes).tobytes(), str(path))
    finally:
        file.close()


def parse_json_object(data: bytes, where: str) -> Mapping[str, object]:
    """Raises ModelFileError naming `where`."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ModelFileError(f"{where} is nested too deeply to be sound JSON.") from error
    except ValueError as error:  # bad UTF-8, bad JSON, integers of thousands of digits
        raise ModelFileError(f"{where} is not sound JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{where} is JSON but not an object.")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key[:60]!r} appears twice")
        result[key] = value
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
