"""The first ten losses of every trainer, to the last digit: a change of them is a line that somebody must look at.

`python -m tests.test_golden` writes those of this machine anew. Floats differ between kinds of CPU and versions of torch, so a
file has a part for each, whose head names both. On any other machine losses over given text must agree to 1e-3 with each part.
Those over sampled text cannot: weights that are 1e-3 apart after fine-tuning sample other tokens, and from there on learn
others; there they are held to what must be true of them anywhere.
"""

import json
import platform
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from tests.project import DATA_STAGES, TINY, make_project, run_stage

GOLDEN = Path(__file__).parent / "golden"
TRAINERS, STEPS = ["pretrain", "sft", "rl", "distill"], 10
SAMPLED = {"rl", "distill"}
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


def parts(stage: str) -> dict[str, list[float]]:
    """Golden losses by the machine that they are of."""
    text = (GOLDEN / f"{stage}.txt").read_text().strip()
    read = [part.splitlines() for part in text.split("\n\n")]
    return {machine: [float(line) for line in lines] for machine, *lines in read}


@pytest.mark.parametrize("stage", TRAINERS)
def test_losses_are_the_golden_ones(found: dict[str, list[float]], stage: str) -> None:
    golden = parts(stage)
    assert all(len(losses) == STEPS and len(set(losses)) > 1 for losses in golden.values())
    if here() in golden:
        assert found[stage] == golden[here()]
    elif stage in SAMPLED:
        assert len(found[stage]) == STEPS and all(map(isfinite, found[stage])) and len(set(found[stage])) > 1
    else:
        for losses in golden.values():
            assert found[stage] == pytest.approx(losses, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("stage", sorted(set(TRAINERS) - SAMPLED))
def test_machines_agree_on_losses_over_given_text(stage: str) -> None:
    first, *others = parts(stage).values()
    for losses in others:
        assert losses == pytest.approx(first, rel=1e-3, abs=1e-5)


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        for name, values in losses(Path(scratch)).items():
            every = parts(name) | {here(): values}
            blocks = ["\n".join([machine, *map(repr, numbers)]) for machine, numbers in sorted(every.items())]
            (GOLDEN / f"{name}.txt").write_text("\n\n".join(blocks) + "\n")
