"""What curriculum takes on disk: a row of the plan for each document and sequence."""

from tasks.about.sections import Sections
from tasks.about.work import StageNeeds

PLAN_ROW = 8  # bytes, packed


def needs(sections: Sections) -> StageNeeds:
    """Two ranges a sequence: the end of one document and the beginning of the next."""
    return StageNeeds(PLAN_ROW * 2 * sections["curriculum"].tokens / sections.plan_length())
