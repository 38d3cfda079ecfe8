"""What a stage will take, as its room says; of a room that says nothing, the model that it hands on."""

from tasks.about.sections import Sections
from tasks.about.training import model_bytes
from tasks.about.work import StageNeeds
from tasks.runner.rooms import part_of


def needs_of(stage: str, sections: Sections) -> StageNeeds:
    """Raises ConfigError for what its contracts have already told of."""
    room = part_of(stage, "needs")
    if room and hasattr(room, "needs"):
        return room.needs(sections)
    return StageNeeds(model_bytes(sections.shape(stage)) if sections.starts_from(stage) else 0.0)
