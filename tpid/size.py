"""Sizes as people write and read them: decimal, as disks are sold; `GiB` where somebody means it."""

import re

_SCALES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_UNITS = ("kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([KMGT])(i?)B?|B?)\s*", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """ "2G", "2 GB", "512 MiB" or "1000000" -> bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size such as 2G or 512M")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _SCALES[(unit or "").upper()])


def shown_size(size_bytes: float) -> str:
    """17 bytes, 4.53 MB, 45.3 MB, 128 GB: three digits of it."""
    if size_bytes < 999.5:
        return "1 byte" if round(size_bytes) == 1 else f"{size_bytes:.0f} bytes"
    value = size_bytes / 1000
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} {_UNITS[-1]}"


def _digits(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
