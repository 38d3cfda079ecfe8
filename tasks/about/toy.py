"""A stage's section in the toy run, as its room says; of a room that says nothing, the section as it is, and two steps where it
trains for so many."""

from pathlib import Path

from tasks.about.shrink import Params
from tasks.about.training import is_training_stage
from tasks.runner.rooms import config_of, part_of


def toy_of(stage: str, params: Params, folder: Path) -> Params:
    """What of the section is otherwise, with the toy's inputs in this folder."""
    room = part_of(stage, "toy")
    if room and hasattr(room, "toy"):
        return room.toy(params, folder)
    if not is_training_stage(stage):
        return {}
    few = {"steps": 2} if "steps" in config_of(stage).model_fields else {}
    return {**few, "compile": "off"}
