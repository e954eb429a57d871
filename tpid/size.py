"""Sizes as people write them."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(value: object) -> object:
    """ "2G", "512 MiB" or a number of bytes -> bytes; anything else as it is, for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]?)(?:i?B)?\s*", value, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(f"{value[:40]!r} is not a size such as 2G or 512M")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def shown_size(size_bytes: int) -> str:
    """Of a file, as disks and downloads count: 17 bytes, 4.2 kB, 98.3 MB, 1.24 GB."""
    if size_bytes < 1000:
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    kilobytes = size_bytes / 1e3
    if kilobytes < 999.95:
        return f"{kilobytes:.1f} kB"
    return f"{kilobytes / 1e3:.1f} MB" if kilobytes < 999_950 else f"{kilobytes / 1e6:.2f} GB"


# At most 1 PiB: it must fit 64 bits when the other devices are told.
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=1 << 50)]
