"""A stage more that trains: which files it takes, and what is said of it where its room says nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from flows.forecast.forecasts import works_of
from flows.params.compose import compose
from flows.preflight.contracts import check_edges
from flows.preflight.shrink import shrunk
from flows.workspaces.smoke import copy_project
from lm.config import ConfigError
from tasks.core.yaml import dump_yaml, read_yaml
from tasks.runner.git import git
from tasks.runner.graph import read_graph
from tests.project import ROOT, TINY

STAGE = '''"""Pairs: rows of two that stay together."""

from pathlib import Path

from pydantic import Field

from lm.training.recipe import Recipe
from tasks.core.config import StartModel
from tasks.core.log import Log


class PairsConfig(Recipe):
    model: StartModel
    steps: int = Field(60, gt=0)
    pairs: int = Field(32, gt=0)


def run(config: PairsConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/pairs."""
    return {}
'''
STEP = '''"""The step of pairs."""

from torch import Tensor

from lm.model import Decoder


def loss_of(model: Decoder, ids_RN: Tensor) -> Tensor:
    """A share of the loss."""
    return model(ids_RN).square().mean()
'''
NEEDS = '''"""What pairs take."""

import torch

from lm.model import Decoder
from lm.training.batch import Batch
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower, model_bytes
from tasks.about.work import StageNeeds, Step, Work
from tasks.core.config import ConfigError
from tasks.pairs.step import loss_of


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError for a context of one token."""
    config, shape = sections["pairs"], sections.shape("pairs")
    if shape.context < 3:
        raise ConfigError("pairs: nothing fits the context")
    R = 2 * config.pairs

    def step() -> Step:
        model, ids_RN = Decoder(shape), torch.zeros((R, 3), dtype=torch.int64)
        return Step(model, Batch(R, 2, 2 * R, lambda rows: (loss_of(model, ids_RN[rows]), {}), together=2))

    work = Work(config, shape, config.steps, 2.0 * R, step, lower(sections, config.model))
    return StageNeeds(model_bytes(shape), checkpoint_bytes(shape), work)
'''
ROOM = {"stage.py": STAGE, "step.py": STEP, "needs.py": NEEDS}
BLOCK = """  pairs:
    cmd: python -m tasks.runner pairs
    deps: [kernels, tasks/core, lm, tasks/pairs/stage.py, tasks/pairs/step.py, "data/${pairs.model}"]
    params: [pairs, seed, libraries.python, libraries.torch]
    outs: [data/pairs, data/keys/pairs.json]
    metrics:
    - data/metrics/pairs.json: {cache: false}
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


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """tasks.pairs can be imported, for as long as the test lasts."""
    write_room(tmp_path / "tasks/pairs")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    yield
    for name in [name for name in sys.modules if name.startswith("tasks.pairs")]:
        del sys.modules[name]
    vars(tasks).pop("pairs", None)


def params_of(**changes: Any) -> dict[str, Any]:
    return {**TINY, "pairs": {**SECTION, **changes}}


def test_the_toy_run_of_a_room_that_says_nothing_has_two_steps(room: None, tmp_path: Path) -> None:
    params = params_of()
    toy = shrunk(params, ["dedup", "sft", "pairs"], tmp_path)
    assert toy["pairs"] == {**params["pairs"], "steps": 2, "compile": "off"}
    assert toy["sft"] == {**params["sft"], "steps": 2, "batch": 4, "compile": "off"}  # as its room says
    assert toy["dedup"] == params["dedup"] and toy["rl"] == params["rl"]


def test_the_rows_of_its_step_must_divide(room: None) -> None:
    assert check_edges(params_of(pairs=8, shards=8), ["pairs"]) == []
    [found] = check_edges(params_of(pairs=6, shards=4), ["pairs"])  # 12 rows divide by 4, and 6 pairs do not
    assert str(found) == (
        "params.yaml: pairs: 12 rows a step, 2 of which stay together, cannot be divided into 4 shards; change either"
    )
    narrow = params_of()
    narrow["pretrain"] = {**narrow["pretrain"], "model": {**narrow["pretrain"]["model"], "context": 2}}
    assert "nothing fits the context" in str(check_edges(narrow, ["pairs"]))


def test_it_is_forecast_by_its_config_whether_or_not_it_has_a_step_of_its_own(room: None, tmp_path: Path) -> None:
    assert works_of(params_of(), ["ingest", "pairs"]).keys() == {"pairs"}
    (tmp_path / "tasks/pairs/needs.py").write_text(NEEDS.replace("tasks.pairs.step", "tasks.pairs.stage"))
    (tmp_path / "tasks/pairs/stage.py").write_text(STAGE + STEP.partition("\n\n")[2])
    (tmp_path / "tasks/pairs/step.py").unlink()
    for name in [name for name in sys.modules if name.startswith("tasks.pairs.")]:
        del sys.modules[name]
    assert works_of(params_of(), ["pairs"])["pairs"].step().batch.rows == 64


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the room, its block and its section, as a newcomer makes them."""
    folder = copy_project(ROOT, tmp_path / "project")
    write_room(folder / "tasks/pairs")
    graph, laptop = folder / "dvc.yaml", folder / "presets/laptop.yaml"
    graph.write_text(graph.read_text().replace("  rl:\n", f"{BLOCK}  rl:\n", 1))
    laptop.write_text(laptop.read_text().replace("\nrl:\n", f"\n{dump_yaml({'pairs': SECTION})}rl:\n", 1))
    return folder


def test_a_stage_that_trains_is_six_files_and_params_is_written_for_it(project: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^params.yaml: pairs.model: [^\n]*`make pipeline`[^\n]*presets/laptop.yaml$"
    ):
        read_graph(project)
    before = (project / "params.yaml").read_text()
    command = [
        sys.executable,
        "-m",
        "flows.params.compose",
    ]  # the first that `make repro` does; `make pipeline` does it, too
    done = subprocess.run(command, cwd=project, env={"PYTHONPATH": str(project)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "params.yaml: pairs.steps - -> 60" in done.stdout
    text = f"\n{dump_yaml({'pairs': SECTION})}rl:\n"
    assert (project / "params.yaml").read_text() == before.replace("\nrl:\n", text, 1)
    read_graph(project)
    for name in ("data/pairs/model.safetensors", "data/keys/pairs.json", "data/timings/pairs.json"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("what a run leaves")
    git(project, "add", "-A")
    assert git(project, "diff", "--cached", "--name-only").split() == [
        "dvc.yaml",
        "params.yaml",
        "presets/laptop.yaml",
        *sorted(f"tasks/pairs/{name}" for name in ROOM),
    ]


def test_sections_that_are_there_stay_and_the_base_gives_no_more_than_lacks(project: Path) -> None:
    path = project / "params.yaml"
    params = read_yaml(path)
    params["seed"], params["rl"] = 7, {**params["rl"], "steps": 5}
    del params["quantize"]
    path.write_text(dump_yaml(params))
    found = compose(project, "current", ["pairs.steps=9"])
    assert (
        found["pairs"] == {**SECTION, "steps": 9}
        and found["quantize"] == read_yaml(project / "presets/laptop.yaml")["quantize"]
    )
    assert {name: found[name] for name in params if name != "libraries"} == {
        n: v for n, v in params.items() if n != "libraries"
    }
    (project / "presets/laptop.yaml").unlink()
    assert "pairs" not in compose(project, "current", [])
