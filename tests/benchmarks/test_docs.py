"""docs/benchmarks.md says of each benchmark what its newest rows say."""

import re

import pytest

from benchmarks.rows import read
from benchmarks.run import names
from benchmarks.table import newest
from tests.project import ROOT

LINES = {
    cells[0].strip("`"): cells
    for line in (ROOT / "docs/benchmarks.md").read_text().splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("| ").split(" | ")]]
}
# a ratio as it is written there: median (least-most)
RATIO = re.compile(r"(?<![/\d.])(\d[\d.]*) \((\d[\d.]*)-(\d[\d.]*)\)")
# what is counted or has no peer is the same, or is compared, on no machine
OF_NO_MACHINE = {"gpu_counts", "roofs"}
ROWS = newest(read())


def test_every_benchmark_has_a_line() -> None:
    assert set(LINES) == set(names())


@pytest.mark.parametrize("name", sorted(LINES))
def test_the_ratios_of_a_line_are_those_of_its_newest_rows(name: str) -> None:
    rows, figure = [row for row in ROWS if row["bench"] == name], LINES[name][3]
    assert figure.startswith("No row yet") == (not rows)
    ratios = [[row[key] for key in ("ratio_median", "ratio_min", "ratio_max")] for row in rows if row["ratio_median"]]
    for words in RATIO.findall(figure):
        # half a unit of the last digit that is written, and what a fraction of two digits has of rounding beside
        within = [0.501 * 10 ** -len(word.partition(".")[2]) for word in words]
        assert any(
            all(abs(float(word) - value) <= most for word, value, most in zip(words, ratio, within, strict=True))
            for ratio in ratios
        ), f"{name}: no newest row has {words}"
    if rows and name not in OF_NO_MACHINE:
        assert all(
            ("Xeon" in row["machine"]) == ("Xeon." in figure) for row in rows if row["ratio_median"] or not ratios
        )
