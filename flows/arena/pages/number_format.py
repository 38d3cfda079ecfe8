"""Figures of the arena as people read them, the same in the terminal, on the pages and in docs/claims.md."""

from tasks.report.words import ABSENT, number

FLOP_IS = (
    "FLOP are those of the model's matrix products, forward and backward, by formula, as of a reference machine on which "
    "nothing else takes time: an optimizer's own work is not in them, but in the seconds."
)
STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_ratio(value: float | None) -> str:
    """Three decimals below 10, and as many more, up to six, as it takes that what is not 1 does not read 1; `-` for None."""
    if value is None:
        return ABSENT
    if abs(value) >= 10 or abs(value) < 0.1:
        return format_measured(value)
    texts = [f"{value:.{decimals}f}" for decimals in (3, 4, 5, 6)]
    return next((text for text in texts if (float(text) == 1) == (value == 1)), texts[-1])


def format_interval(ends: tuple[float, float] | None) -> str:
    """`0.920 to 0.940`; `-` for None."""
    return ABSENT if ends is None else f"{format_ratio(ends[0])} to {format_ratio(ends[1])}"


def format_with_interval(value: float | None, ends: tuple[float, float] | None) -> str:
    """`0.930 (0.920 to 0.940)`; without brackets where there is no interval."""
    return format_ratio(value) + (f" ({format_interval(ends)})" if ends else "")


def format_signed(value: float | None) -> str:
    """A difference of measured values with its sign; `-` for None."""
    return ABSENT if value is None else f"{'+' if value >= 0 else ''}{format_measured(value)}"


def format_measured(value: float | None) -> str:
    """Five significant digits with their zeros, so that columns line up; whole numbers from 1000 on, powers below 0.001."""
    if value is None:
        return ABSENT
    if abs(value) >= 1000:
        return number(value)
    if 0 < abs(value) < 0.001:
        return format_power(value)
    return f"{value:.{2 if abs(value) >= 100 else 3 if abs(value) >= 10 else 4}f}"


def format_power(value: float | None) -> str:
    """Three significant digits, with a power of ten where it is short: `7.25e11`; `-` for None."""
    if value is None:
        return ABSENT
    text = f"{value:.3g}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def format_flop(value: float | None) -> str:
    """`2e13 FLOP`; `-` for None."""
    return ABSENT if value is None else f"{format_power(value)} FLOP"


def format_compact(value: float) -> str:
    """Three significant digits and a letter for thousands, millions and on: the label of a tick, `250k`."""
    size, letter = next((step for step in STEPS if abs(value) >= 0.9995 * step[0]), (1.0, ""))
    return f"{format_power(value / size)}{letter}"
