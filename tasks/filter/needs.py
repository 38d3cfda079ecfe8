"""What filter takes on disk: the documents that it keeps, all of them at most."""

from tasks.about.sections import Sections
from tasks.about.text import PACKED, text_bytes
from tasks.about.work import StageNeeds


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where a source cannot list its files."""
    return StageNeeds(PACKED * text_bytes(sections))
