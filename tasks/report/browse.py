"""`make browse STAGE=filter REASON=too_few_words`: documents that a stage dropped for a reason, beside some of those it kept.

REASON=changed shows what rules changed in documents that stay, before and after. Without a reason: how many of each there are.
"""

import argparse
import shutil
import sys
import textwrap
from pathlib import Path

import duckdb

from tasks.core.config import ConfigError
from tasks.runner.answer import add_json_option, one_or_more, print_json
from tasks.runner.harmless import harmless

LINES = 12


def reasons(folder: Path) -> list[tuple[str, str, int]]:
    """Each kind of reason and source, and how many documents it dropped, the most first; what was changed last."""
    found = _rows(
        folder / "dropped",
        "select split_part(reason, ':', 1), source, count(*) from {} group by all order by 3 desc, 1, 2",
    )
    if (folder / "changed").exists():
        found += _rows(folder / "changed", "select 'changed', source, count(*) from {} group by all order by 3 desc, 2")
    return found


def pairs(folder: Path, reason: str, count: int) -> list[tuple[str, str]]:
    """Up to `count` dropped documents of a reason, each with a kept one of its source; for "changed", what was before with what
    came of it. The same ones every time: they are in the order of a hash of their ids.

    Raises ConfigError when there are none of that reason.
    """
    order = "order by md5(id), id limit $count"
    if reason == "changed":
        found = _rows(
            folder / "changed", f"select id || ' ' || counts, before, id, after from {{}} {order}", count=count
        )
    else:
        picked = f"select id, source, reason, text from {{}} where split_part(reason, ':', 1) = $reason {order}"
        found = []
        kept: dict[str, list[tuple[str, str]]] = {}
        for name, source, why, text in _rows(folder / "dropped", picked, reason=reason, count=count):
            if source not in kept:
                wanted = f"select id, text[:2000] from {{}} where source = $source {order}"
                kept[source] = _rows(folder / "documents", wanted, source=source, count=count)[::-1]
            found.append((f"{name} {why}", text, *(kept[source].pop() if kept[source] else ("", ""))))
    if not found:
        known = ", ".join(dict.fromkeys(name for name, *_ in reasons(folder)))
        raise ConfigError(f"{folder}: nothing was dropped for {reason!r}; reasons there are: {known}")
    return [
        (f"{a}\n{left}", f"{b}\n{right}" if b else "(no other of this source was kept)") for a, left, b, right in found
    ]


def side_by_side(left: str, right: str, width: int) -> str:
    """Two texts in columns, each cut to LINES lines after its title, without what a terminal would obey."""
    half = (width - 3) // 2
    columns = []
    for text in (left, right):
        lines = [part for line in text.splitlines() for part in (textwrap.wrap(harmless(line), half) or [""])]
        columns.append(lines[: LINES + 1])
    rows = max(map(len, columns))
    return "\n".join(
        f"{a:<{half}} | {b}".rstrip() for a, b in zip(*(c + [""] * (rows - len(c)) for c in columns), strict=True)
    )


def _rows(table: Path, query: str, **values: object) -> list[tuple]:
    """The answer to a query about a table of shards, `{}` in it."""
    files = [str(path) for path in sorted(table.glob("*.parquet"))]
    if not files:
        raise ConfigError(f"{table}: no such table; run the stage first")
    with duckdb.connect() as connection:
        return connection.execute(query.format("read_parquet($files)"), {"files": files, **values}).fetchall()


def main() -> int:
    """Exit code: 0 shown, 2 where there is nothing to show."""
    parser = argparse.ArgumentParser(prog="tokenmill browse", description=__doc__)
    parser.add_argument("stage", nargs="?", default="filter")
    parser.add_argument("reason", nargs="?")
    parser.add_argument("--count", type=one_or_more, default=5)
    add_json_option(parser)
    given = parser.parse_args()
    folder, width = Path("data") / given.stage, shutil.get_terminal_size((160, 40)).columns
    try:
        if given.reason is None:
            found = reasons(folder)
            if given.json:
                print_json([dict(zip(("reason", "source", "documents"), row, strict=True)) for row in found])
                return 0
            for reason, source, count in found:
                print(f"{count:>10}  {harmless(reason)}  ({harmless(source)})")
            return 0
        names = ("before", "after") if given.reason == "changed" else ("dropped", "kept")
        shown = pairs(folder, given.reason, given.count)
        if given.json:
            print_json([dict(zip(names, pair, strict=True)) for pair in shown])
            return 0
        for left, right in shown:
            print(f"{side_by_side(left, right, width)}\n{'-' * width}")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
