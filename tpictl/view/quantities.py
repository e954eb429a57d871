"""Seconds and rates as people read them."""


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


def format_age(age_s: float) -> str:
    """0 s, 59 s, 12 min, 5 h, 3 d: whole units, of what has gone on for long."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if age_s >= 2 * unit_s:
            return f"{age_s / unit_s:.0f} {unit}"
    return f"{max(age_s, 0.0):.0f} s"


def format_rate(tokens_s: float) -> str:
    return f"{tokens_s:.3g} tok/s" if tokens_s < 99.95 else f"{tokens_s:.0f} tok/s"
