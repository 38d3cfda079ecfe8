"""A stage that trains, as a newcomer adds it to a copy of the project: its files, its block of dvc.yaml and its section."""

from pathlib import Path

from flows.workspaces.smoke import copy_project
from tasks.core.yaml import dump_yaml
from tests.project import ROOT

STAGE = '''"""Contrast: rows of two that stay together; here it hands its model on as it is."""

from pathlib import Path

from pydantic import Field

from lm.checkpoint import save_model
from lm.model_folder import read_model
from lm.training.recipe import Recipe
from tasks.core.config import StartModel
from tasks.core.log import Log


class ContrastConfig(Recipe):
    model: StartModel
    steps: int = Field(60, gt=0)
    contrast: int = Field(32, gt=0)


def run(config: ContrastConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/contrast."""
    model, tokenizer = read_model(data / config.model)
    save_model(data / "contrast", model, tokenizer)
    return {"parameters": model.num_parameters()}
'''
STEP = '''"""The step of contrast."""

from torch import Tensor

from lm.model import Decoder


def loss_of(model: Decoder, ids_RN: Tensor) -> Tensor:
    """A share of the loss."""
    return model(ids_RN).square().mean()
'''
NEEDS = '''"""What contrast take."""

import torch

from lm.model import Decoder
from lm.training.batch import Batch
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower, model_bytes
from tasks.about.work import StageNeeds, Step, Work
from tasks.core.config import ConfigError
from tasks.contrast.step import loss_of


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError for a context of one token."""
    config, shape = sections["contrast"], sections.shape("contrast")
    if shape.context < 3:
        raise ConfigError("contrast: nothing fits the context")
    R = 2 * config.contrast

    def step() -> Step:
        model, ids_RN = Decoder(shape), torch.zeros((R, 3), dtype=torch.int64)
        return Step(model, Batch(R, 2, 2 * R, lambda rows: (loss_of(model, ids_RN[rows]), {}), together=2))

    work = Work(config, shape, config.steps, 2.0 * R, step, lower(sections, config.model))
    return StageNeeds(model_bytes(shape), checkpoint_bytes(shape), work)
'''
ROOM = {"stage.py": STAGE, "step.py": STEP, "needs.py": NEEDS}
BLOCK = """  contrast:
    cmd: python -m tasks.runner contrast
    deps: [kernels, tasks/core, lm, tasks/contrast/stage.py, tasks/contrast/step.py, "data/${contrast.model}"]
    params:
    - contrast
    - seed
    - libraries.python
    - libraries.jinja2
    - libraries.numpy
    - libraries.pyarrow
    - libraries.safetensors
    - libraries.tokenizers
    - libraries.torch
    - libraries.triton
    outs: [data/contrast, data/keys/contrast.json]
    metrics:
    - data/metrics/contrast.json: {cache: false}
    meta: {gpus: 1}
"""
SECTION = {
    "model": "sft",
    "steps": 60,
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "cosine"},
    "average": {"name": "last"},
}


def write_room(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, text in ROOM.items():
        (folder / name).write_text(text)


def copy_with_the_stage(folder: Path) -> Path:
    """A copy of the project with the room, its block and its section."""
    root = copy_project(ROOT, folder)
    write_room(root / "tasks/contrast")
    graph, laptop = root / "dvc.yaml", root / "presets/laptop.yaml"
    graph.write_text(graph.read_text().replace("  rl:\n", f"{BLOCK}  rl:\n", 1))
    laptop.write_text(laptop.read_text().replace("\nrl:\n", f"\n{dump_yaml({'contrast': SECTION})}rl:\n", 1))
    return root
