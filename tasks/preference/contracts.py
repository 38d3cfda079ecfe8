"""What preference asks of its problems and its model: pairs that divide, and prompts that leave room for answers."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.pairs import check_pairs
from tasks.about.prompts import check_carries
from tasks.about.sections import Sections
from tasks.about.training import check_alike


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of preference ask of others and that does not hold."""
    yield from check_pairs("preference", sections)
    yield from check_carries(sections, "preference")
    yield from check_alike("preference", sections)
