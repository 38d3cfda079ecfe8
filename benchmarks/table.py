"""`python -m benchmarks.table`: the newest row of every (bench, impl, peer, metric), aligned, and what speaks against it.

A row is marked whose commit is not clean or not there, whose code has changed since, or whose machine most rows have not.
"""

import argparse
from collections.abc import Iterable
from typing import Any

from benchmarks.rows import read
from benchmarks.standing import doubts
from tasks.runner.answer import add_json_option, print_json
from tasks.runner.columns import aligned

WIDTHS = {"bench": 14, "impl": 34, "peer": 10, "metric": 16, "value": 12, "unit": 10, "ratio": 24, "runs": 4}


def newest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each (bench, impl, peer, metric): the last by date, in the order in which they first came."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for r in rows:
        key = (r["bench"], r["impl"], r["peer"], r["metric"])
        if key not in found or r["date"] >= found[key]["date"]:
            found[key] = r
    return list(found.values())


def render(rows: list[dict[str, Any]], head: bool = True, marks: list[str] | None = None) -> str:
    """The rows as lines of text, under a heading, a mark after each; columns are as wide as WIDTHS or their longest cell."""
    lines = [[*WIDTHS, "gate"]] if head else []
    lines += [_cells(r) for r in rows]
    for line, mark in zip(lines[head:], marks or [], strict=False):
        line[-1] += f"  ! {mark}" if mark else ""
    left = {i for i, name in enumerate([*WIDTHS, "gate"]) if name not in ("value", "runs")}
    return "\n".join(aligned(lines, left, least=list(WIDTHS.values())))


def _cells(r: dict[str, Any]) -> list[str]:
    ratio = ""
    if r["ratio_median"] is not None:
        ratio = f"{r['ratio_median']:.2f} ({r['ratio_min']:.2f}-{r['ratio_max']:.2f})"
    value = "-" if r["value"] is None else f"{r['value']:.4g}"
    shown = {**r, "peer": r["peer"] or "", "value": value, "ratio": ratio}
    return [*(str(shown[name]) for name in WIDTHS), r["gate"]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.table", description=__doc__)
    add_json_option(parser)
    given, shown = parser.parse_args(), newest(read())
    marks = doubts(shown)
    if given.json:
        print_json([{**one, "mark": mark} for one, mark in zip(shown, marks, strict=True)])
        return
    print(render(shown, marks=marks))
    print(f"{sum(map(bool, marks))} of {len(shown)} rows are marked: make bench BENCH=<name> measures one anew")


if __name__ == "__main__":
    main()
