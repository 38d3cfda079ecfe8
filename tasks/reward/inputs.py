"""Files of pairs that a reward model learns from: there are some, and one of the first rows is a pair."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.pairs import check_files
from tasks.about.sections import Sections


def inputs(sections: Sections) -> Iterator[Finding]:
    """What is wrong with the files."""
    yield from check_files("reward", sections)
