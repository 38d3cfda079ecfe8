"""Numbers and texts as people read them."""

import math

from tasks.runner.harmless import harmless

ABSENT = "-"


def pluralize(count: int, word: str) -> str:
    """`1 finding`, `2 findings`, `no findings`."""
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"


def number(value: float | None) -> str:
    """Four significant digits, thousands in groups; `-` for None."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def size(count: float | None) -> str:
    """Bytes in units of a thousand."""
    if count is None:
        return ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, then minutes, then hours, from two days on days; `-` for None."""
    if seconds is None:
        return ABSENT
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def percent(share: float | None) -> str:
    """A share of one, with one decimal."""
    return ABSENT if share is None else f"{100 * share:.1f}%"


def truncate(text: str, most: int = 400) -> str:
    """The text cut to `most` characters, harmless."""
    return harmless(text[:most]) + "\u2026" * (len(text) > most)
