"""A stage more is one room and one block of dvc.yaml; which model begins with which is a line of parameters; and what leads to
nothing that is asked for runs by no door."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.environment import environment
from flows.pipeline.finish import final_model
from flows.staleness.plan import make_plan
from flows.workspaces.smoke import copy_project
from lm.checkpoint import read_description
from lm.hugging_face.export import save_hf
from tasks.core.yaml import dump_yaml
from tasks.report.read import read_stages
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import DATA_STAGES, ROOT, TINY

ROOM = '''"""Handed: hands its model on as it is."""

from pathlib import Path

from lm.checkpoint import save_model
from lm.config import Config
from lm.model_folder import read_model
from tasks.core.config import StartModel
from tasks.core.log import Log


class HandedConfig(Config):
    model: StartModel


def run(config: HandedConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/handed."""
    model, tokenizer = read_model(data / config.model)
    save_model(data / "handed", model, tokenizer)
    return {"parameters": model.num_parameters()}
'''
BLOCK = """  handed:
    cmd: python -m tasks.runner handed
    deps: [kernels, tasks/core, lm, tasks/handed/stage.py, "data/${handed.model}"]
    params: [handed, libraries.python, libraries.torch, libraries.tokenizers, libraries.safetensors]
    outs: [data/handed, data/keys/handed.json]
    metrics:
    - data/metrics/handed.json: {cache: false}
"""
FEW = {"sft": {"steps": 2}, "rl": {"steps": 2}, "distill": {"steps": 2}, "evaluate": {"problems_counted": 4}}
BASE = {
    **{name: value | FEW.get(name, {}) if isinstance(value, dict) else value for name, value in TINY.items()},
    "curriculum": {**TINY["curriculum"], "tokens": 512},
    "models": ["handed", "quantize"],
    "handed": {"model": "distill"},
    "quantize": {**TINY["quantize"], "model": "handed"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "laptop": BASE,
    "quantized-rl": {"models": ["quantize"], "quantize": {"model": "rl"}},
    "distilled-checkpoint": {
        "models": ["checkpoint", "distill"],
        "distill": {"model": "checkpoint"},
        "tokenize": {"method": {"name": "hugging_face"}},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the room and the block, presets of the smallest models, and a Hugging Face model."""
    folder = copy_project(ROOT, tmp_path_factory.mktemp("project"))
    (folder / "dvc.lock").unlink()
    (folder / "params.yaml").unlink()
    (folder / "tasks/handed").mkdir()
    (folder / "tasks/handed/stage.py").write_text(ROOM)
    (folder / "dvc.yaml").write_text(
        (folder / "dvc.yaml").read_text().replace("  quantize:\n", f"{BLOCK}  quantize:\n", 1)
    )
    for name, params in PRESETS.items():
        (folder / "presets" / f"{name}.yaml").write_text(dump_yaml(params))
    save_hf(toy_model(layers=3), toy_tokenizer(), folder / "data/checkpoint", torch.float32)
    return folder


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command there, with the code that is there."""
    surroundings = {**os.environ, **environment(project), "TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1"}
    surroundings |= {"PYTHONPATH": str(project), "PREFECT_HOME": str(project / ".scratch/prefect")}
    surroundings.pop("PREFECT_API_URL", None)
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=surroundings, capture_output=True, text=True, check=False
    )


def stages_run(done: subprocess.CompletedProcess[str]) -> set[str]:
    """What the last line of the pipeline says."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("ran: ")]
    return set(line.removeprefix("ran: ").split(", "))


@pytest.fixture(scope="module")
def pruned(project: Path) -> set[str]:
    return stages_run(run(project, "-m", "flows.pipeline", "--preset", "laptop"))


def test_a_stage_between_two_is_planned_rehearsed_and_run(project: Path, pruned: set[str], monkeypatch) -> None:
    chain = ["pretrain", "sft", "rl", "distill", "handed", "quantize", "evaluate@handed", "evaluate@quantize"]
    assert pruned == {*DATA_STAGES, *chain}
    assert "handed" in json.loads(next((project / ".scratch/preflight").glob("*.json")).read_text())["stages"]
    monkeypatch.chdir(project)
    after = {stage.address: stage.after for stage in make_plan(project, [])}
    assert after["handed"] == ["distill"] and "handed" in after["quantize"] and "distill" not in after["quantize"]
    assert final_model(project) == "quantize"
    assert {stage.model for stage in read_stages(project) if stage.model} == {"handed", "quantize"}
    forecast = run(project, "-m", "flows.forecast")
    assert forecast.returncode == 0 and [row.split()[0] for row in forecast.stdout.splitlines()[1:5]] == chain[:4]


def test_a_preset_quantizes_the_model_of_another_stage(project: Path, pruned: set[str], monkeypatch) -> None:
    """What made the model that was quantized before does not run, nor is it shown, by any door."""
    done = run(project, "-m", "flows.pipeline", "--preset", "quantized-rl", "--set", "distill.steps=3")
    assert stages_run(done) == {"quantize", "evaluate@quantize"}
    layers = {
        name: read_description(project / "data" / name)["model"]["layers"] for name in ("rl", "quantize", "distill")
    }
    assert layers == {"rl": 2, "quantize": 2, "distill": 1}
    monkeypatch.chdir(project)
    assert {"distill", "handed", "evaluate@handed"}.isdisjoint(stage.address for stage in make_plan(project, []))
    assert {"distill", "handed"}.isdisjoint(stage.name for stage in read_stages(project))

    plain = run(project, "-m", "dvc", "repro", "-q")
    unasked = re.search(r"(distill|preference|reward|prune): leads to nothing that is asked for", plain.stderr)
    assert plain.returncode and unasked, plain.stderr
    for command in (["flows/stage/dvc_cli.py", "repro"], ["-m", "dvc", "repro", "evaluate"]):
        done = run(project, *command)
        assert done.returncode == 0 and "distill" not in done.stdout, done.stdout + done.stderr
    assert "distill" in stages_run(run(project, "-m", "flows.pipeline", "--targets", "distill"))


def test_a_preset_distils_from_a_hugging_face_folder(project: Path, pruned: set[str]) -> None:
    done = run(project, "-m", "flows.pipeline", "--preset", "distilled-checkpoint")
    # both tokenizers are of bytes, so the plan stays
    assert stages_run(done) == {"tokenize", "distill", "evaluate@checkpoint", "evaluate@distill"}
    student = read_description(project / "data/distill")["model"]
    assert (student["layers"], student["width"]) == (1, toy_model(layers=3).config.width)
    assert final_model(project) == "distill"
