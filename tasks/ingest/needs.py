"""What ingest takes on disk: its documents, and the runs that they are sorted in meanwhile."""

from tasks.about.sections import Sections
from tasks.about.text import PACKED, text_bytes
from tasks.about.work import StageNeeds


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where a source cannot list its files."""
    text = text_bytes(sections)
    return StageNeeds(PACKED * text, PACKED * text + text)
