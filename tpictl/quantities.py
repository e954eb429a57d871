"""Bytes, seconds and rates as people read them."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(size_bytes: int) -> str:
    """512 B, 45.3 MiB, 128 GiB: three digits at least, one after the point at most."""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < 1023.5:
            return _number(value, exact=unit == "B") + f" {unit}"
        value /= 1024
    return _number(value, exact=False) + f" {_UNITS[-1]}"


def format_duration(duration_s: float) -> str:
    """0.18 ms, 42 ms, 1.25 s, 95 s, 12 min: what matters of it."""
    milliseconds = duration_s * 1000
    if milliseconds < 9.95:
        return f"{milliseconds:.2g} ms" if milliseconds >= 0.01 else f"{milliseconds:.2f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if duration_s < 9.995:
        return f"{duration_s:.2f} s"
    if duration_s < 119.5:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min"


def format_rate(tokens_s: float) -> str:
    return f"{tokens_s:.3g} tok/s" if tokens_s < 99.95 else f"{tokens_s:.0f} tok/s"


def _number(value: float, *, exact: bool) -> str:
    return f"{value:.0f}" if exact or value >= 99.95 else f"{value:.1f}"
