"""Edge contracts that the parameters alone break: what one stage asks of another, as their rooms say it, with the numbers as
they will be.

The toy run makes all of these numbers small, so whatever depends on their true size is told here.
"""

from collections.abc import Iterable
from typing import Any

from tasks.about.contracts import contracts_of
from tasks.about.finding import Finding, findings_of
from tasks.about.sections import Sections


def check_edges(params: dict[str, Any], stages: Iterable[str]) -> list[Finding]:
    """All that is broken among these stages; a section that cannot be read at all is a finding, too."""
    sections = Sections(params)
    return findings_of(*(lambda stage=stage: contracts_of(stage, sections) for stage in dict.fromkeys(stages)))
