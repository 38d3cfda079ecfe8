"""What a reward model asks of its problems and its model: pairs that divide, and prompts that leave room for answers."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.pairs import check_pairs
from tasks.about.sections import Sections


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of reward ask of others and that does not hold."""
    yield from check_pairs("reward", sections)
