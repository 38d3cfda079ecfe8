"""A share of the test files: `pytest --share 2/3` runs the second of three parts, so that three runs have run all.

Files are dealt by the seconds of tests/seconds.json, the longest first and each to the part that has least so far: parts take
about as long as each other, and what part a file is in is said by that table alone.
"""

from collections.abc import Iterable

import pytest

from tests.order import file_of, known_seconds


class Share:
    """A plugin of pytest that leaves out what is in other parts."""

    def __init__(self, part: int, parts: int, known: dict[str, int]) -> None:
        self._part, self._parts, self._known = part, parts, known

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        files = {file_of(item.nodeid) for item in items}
        kept = split_by_seconds(files, self._known, self._parts)[self._part - 1]
        config.hook.pytest_deselected(items=[item for item in items if file_of(item.nodeid) not in kept])
        items[:] = [item for item in items if file_of(item.nodeid) in kept]


def split_by_seconds(files: Iterable[str], seconds: dict[str, int], parts: int) -> list[set[str]]:
    """Files in so many parts of about equal seconds; a file that is not in the table counts as one second."""
    found: list[set[str]] = [set() for _ in range(parts)]
    took = [0] * parts
    for name in sorted(files, key=lambda name: (-seconds.get(name, 1), name)):
        least = took.index(min(took))
        found[least].add(name)
        took[least] += seconds.get(name, 1)
    return found


def parse_share(text: str) -> tuple[int, int]:
    """(2, 3) of "2/3"; UsageError for what is no part of so many."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--share {text}: the number of a part and of how many, such as 2/3")
    return int(part), int(parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", default="1/1", help="2/3: the second of three parts of the test files")


def pytest_configure(config: pytest.Config) -> None:
    part, parts = parse_share(config.getoption("share"))
    if parts > 1:
        config.pluginmanager.register(Share(part, parts, known_seconds(config)), "a share")
