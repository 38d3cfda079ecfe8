"""Rows of cells as lines of text in columns."""

from collections.abc import Collection, Sequence


def aligned(
    rows: Sequence[Sequence[str]], left: Collection[int] = (0,), between: str = "  ", least: Sequence[int] = ()
) -> list[str]:
    """A line for each row, without white space at its end; columns are as wide as their widest cell, and as `least` says.

    left: the columns that stand to the left, all others to the right. A row may have fewer cells than others.
    """
    widths = list(least)
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        widths[: len(row)] = map(max, widths, map(len, row))
    return [between.join(_padded(row, widths, left)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int], left: Collection[int]) -> list[str]:
    return [
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
