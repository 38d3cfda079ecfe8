"""The room of a stage, tasks/<stage>/, and what it says of itself there.

stage.py has the stage's config, called <Stage>Config, and its `run`. Beside it, where the stage has something to say, and in no
stage's key, since stage.py imports none of them:

    toy.py        toy(params, folder): what of its section is otherwise in the toy run (tasks/about/toy.py: what without it)
                  inputs(params, folder): the same, with small inputs made in the folder
    needs.py      needs(sections): bytes of disk, and the step that it trains by; shape(sections): of the model that it makes
    contracts.py  contracts(sections): what its parameters ask of others that does not hold (tasks/about/contracts.py: the same)
    inputs.py     inputs(sections): what is wrong with what it reads from outside the graph
    checkpoint.py reads(section): what of the model in checkpoint.folder its methods read
    examples.py   examples(sections, data, count): what it learns from, in pieces with their weights (`make show STAGE=...`)
    compose.py    composed(section), under(base, preset): what is made of its section when parameters are composed
"""

import importlib
from types import ModuleType

from lm.config import Config


def room_of(stage: str) -> ModuleType | None:
    """tasks.<stage>.stage; None where there is none, or it has no `run`: the command is somebody else's then."""
    module = part_of(stage, "stage")
    return module if module and hasattr(module, "run") else None


def part_of(stage: str, part: str) -> ModuleType | None:
    """tasks.<stage>.<part>; None where there is no such file."""
    name = f"tasks.{stage}.{part}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (f"tasks.{stage}", name):
            raise
        return None


def config_of(stage: str) -> type[Config]:
    """The class of a stage's section. Raises ModuleNotFoundError where it has no room."""
    return getattr(importlib.import_module(f"tasks.{stage}.stage"), f"{stage.capitalize()}Config")
