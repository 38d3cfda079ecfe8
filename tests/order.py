"""The order of test files: those that take longest first, or the last of them would be waited for alone.

tests/seconds.json has the seconds of the files that take more than LEAST, as `pytest --keep-seconds` has found them; a run without
that option changes no file. The others come after, in the order of their names. With --as-given nothing is sorted.
"""

import json
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SECONDS = Path("tests") / "seconds.json"
LEAST = 3


class Order:
    """A plugin of pytest that sorts files by known seconds; with `keeps`, it writes those of this run in place of them."""

    def __init__(self, path: Path, known: dict[str, int], keeps: bool, backwards: bool = False) -> None:
        self._path, self._known, self._keeps, self._backwards = path, known, keeps, backwards
        self._now = defaultdict[str, float](float)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Every second worker reads folders from their end, so that two of a new checkout each compile a half of the files, and
        find the other half compiled. What they find is sorted all the same."""
        report = yield
        if self._backwards and isinstance(collector, pytest.Directory):
            report.result.reverse()
        return report

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._place(item.nodeid))  # a stable sort: within a file it stays as it is written

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._now[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        if self._keeps:
            others = {name: seconds for name, seconds in self._known.items() if name not in self._now}
            found = {name: round(seconds) for name, seconds in self._now.items() if seconds > LEAST}
            self._path.write_text(json.dumps(dict(sorted((others | found).items())), indent=1) + "\n")

    def _place(self, nodeid: str) -> tuple[int, str]:
        name = file_of(nodeid)
        return -self._known.get(name, 0), name


def file_of(nodeid: str) -> str:
    """The file of a test, by pytest's name of it."""
    return nodeid.partition("::")[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-seconds", action="store_true", help=f"write what files took to {SECONDS}, the order of later runs"
    )

    parser.addoption("--as-given", action="store_true", help="files in the order in which they are named")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: every worker has the table of the process that started it, or they might not agree on an order."""
    node.workerinput["seconds"] = known_seconds(node.config)


def known_seconds(config: pytest.Config) -> dict[str, int]:
    """The table of this run: of a worker, that of the process that started it."""
    given = getattr(config, "workerinput", None)
    found: dict[str, int] = given["seconds"] if given else json.loads((config.rootpath / SECONDS).read_text())
    return found


def pytest_configure(config: pytest.Config) -> None:
    keeps = not hasattr(config, "workerinput") and config.getoption("keep_seconds")
    backwards = getattr(config, "workerinput", {}).get("workerid", "gw0")[-1] in "13579"
    order = Order(config.rootpath / SECONDS, known_seconds(config), keeps, backwards)
    if not config.getoption("as_given"):
        config.pluginmanager.register(order, "longest first")
