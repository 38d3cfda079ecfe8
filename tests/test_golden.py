"""The first ten losses of every trainer, to the last digit: a change of them is a line that somebody must look at.

`python -m tests.test_golden` writes them anew. Floats differ between kinds of CPU and versions of torch, so a file's head names
both; elsewhere the losses must agree to 1e-3.
"""

import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from tests.project import DATA_STAGES, TINY, make_project, run_stage

GOLDEN = Path(__file__).parent / "golden"
TRAINERS, STEPS = ["pretrain", "sft", "rl", "distill"], 10
# SFT goes on until some answers are right, and not until all samples of a problem are one: else RL has nothing to reinforce and
# a loss of 0 whatever it computes.
PARAMS = {
    **TINY,
    "sft": {**TINY["sft"], "steps": 120, "batch": 32},
    "rl": {**TINY["rl"], "steps": STEPS, "prompts": 16},
    "distill": {**TINY["distill"], "steps": STEPS},
}


def here() -> str:
    """Kind of CPU and version of torch."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cpu = names[0].split(":")[1].strip() if names else platform.machine()
    return f"{cpu}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__.partition('+')[0]}"


def losses(folder: Path) -> dict[str, list[float]]:
    """Of every trainer, from real stages one after another, on one thread."""
    project = make_project(folder, PARAMS)
    found = {}
    for stage in [*DATA_STAGES, *TRAINERS]:
        run_stage(project, stage)
        if stage in TRAINERS:
            lines = (project / "data" / stage / "curves.jsonl").read_text().splitlines()[:STEPS]
            found[stage] = [json.loads(line)["loss"] for line in lines]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return losses(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("stage", TRAINERS)
def test_losses_are_the_golden_ones(found: dict[str, list[float]], stage: str) -> None:
    machine, *lines = (GOLDEN / f"{stage}.txt").read_text().splitlines()
    golden = [float(line) for line in lines]
    assert len(golden) == STEPS and len(set(golden)) > 1
    if machine == here():
        assert found[stage] == golden
    else:
        assert found[stage] == pytest.approx(golden, rel=1e-3, abs=1e-5)


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        for name, values in losses(Path(scratch)).items():
            (GOLDEN / f"{name}.txt").write_text("\n".join([here(), *map(repr, values)]) + "\n")
