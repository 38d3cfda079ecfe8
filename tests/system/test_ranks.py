"""Ranks of real stages: killed, stopped and rescaled, the output has the digest of one process that was never interrupted."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lm.checkpoint import load_model
from tasks.runner.ranks import too_few
from tests.processes import PATIENCE, wait_for
from tests.project import TINY, digest, run_stage, start_stage
from tests.tiny import Tiny

pytestmark = pytest.mark.usefixtures("on_cpu")
SHARDED = {**TINY, "pretrain": {**TINY["pretrain"], "shards": 4}}


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the plan that pretraining follows."""
    return tiny.project(tmp_path_factory.mktemp("project"), "curriculum", SHARDED)


@pytest.fixture
def project(made: Path) -> Path:
    for left in (made / "data" / "pretrain", made / ".scratch" / "pretrain"):
        shutil.rmtree(left, ignore_errors=True)
    return made


@pytest.fixture(scope="module")
def whole(made: Path) -> str:
    """The digest that one process gives."""
    run_stage(made, "pretrain")
    return digest(made / "data" / "pretrain")


def points(project: Path) -> int:
    """Steps that the run has logged so far; 0 where a folder that the run puts away goes while it is looked into."""
    try:
        return sum(path.read_bytes().count(b"\n") for path in (project / ".scratch" / "pretrain").rglob("curves.jsonl"))
    except FileNotFoundError:
        return 0


def other_ranks(process: subprocess.Popen) -> list[psutil.Process]:
    """The ranks that this one has started; it also starts git, which tells the run's commit."""
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "tasks.runner" in child.cmdline():
                found.append(child)
    return found


def at_step(project: Path, step: int, ranks: int) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Start pretraining, with a checkpoint after every step; (rank 0, the others) once it has logged `step` of them."""
    process = start_stage(project, "pretrain", TOKENMILL_CHECKPOINT_SECONDS="0", TOKENMILL_RANKS=str(ranks))
    wait_for(lambda: points(project) >= step, process)
    return process, other_ranks(process)


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=PATIENCE)[1]


def test_killed_and_rescaled_equals_one_process(project: Path, whole: str) -> None:
    for ranks, step in zip((2, 1, 4), sorted(random.Random(7).sample(range(2, 28), 3)), strict=True):
        process, others = at_step(project, step, ranks)
        assert len(others) == ranks - 1
        process.kill()
        process.communicate()
        assert gone(others), "a rank outlived the first"
    run_stage(project, "pretrain", TOKENMILL_RANKS="2")
    assert digest(project / "data" / "pretrain") == whole


def test_asked_to_stop_all_ranks_stop_after_one_step(project: Path, whole: str) -> None:
    process, others = at_step(project, 3, 2)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    assert process.returncode == 143 and "stopped; the next run continues" in printed
    assert gone(others)
    run_stage(project, "pretrain")
    assert digest(project / "data" / "pretrain") == whole


def test_a_rank_that_ends_is_named_and_costs_nothing(project: Path, whole: str) -> None:
    process, (other,) = at_step(project, 3, 2)
    other.kill()
    printed, _ = process.communicate()
    assert process.returncode == 1 and "pretrain: rank 1 ended with -9" in printed
    run_stage(project, "pretrain")
    assert digest(project / "data" / "pretrain") == whole


def test_a_rank_that_ends_before_it_meets_the_others_is_named(project: Path) -> None:
    process = start_stage(project, "pretrain", TOKENMILL_RANKS="2")
    wait_for(lambda: other_ranks(process), process)[0].kill()
    printed, _ = process.communicate()
    assert process.returncode == 1 and "pretrain: rank 1 ended with -9" in printed


def test_a_rank_that_starts_after_its_first_was_killed_ends(project: Path) -> None:
    process = start_stage(project, "pretrain", TOKENMILL_RANKS="2")
    others = wait_for(lambda: other_ranks(process), process)  # which have then yet to import torch
    process.kill()
    process.communicate()
    assert gone(others)


def test_torchrun_starts_the_ranks_as_well(project: Path, whole: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ran = subprocess.run(
        [*command, "-m", "tasks.runner", "pretrain"], cwd=project, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert digest(project / "data" / "pretrain") == whole
    ran = subprocess.run(
        [*command, "-m", "tasks.runner", "dedup"], cwd=project, env=environment, capture_output=True, text=True
    )
    assert ran.returncode != 0 and "dedup: works in one process: start it without torchrun" in ran.stderr


@pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed needs g++ on a CPU")
def test_a_stage_trains_under_deepspeed(project: Path, whole: str) -> None:
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("name: muon", "name: adamw"))
    try:
        run_stage(project, "pretrain")
        alone, _ = load_model(project / "data" / "pretrain")
        shutil.rmtree(project / "data" / "pretrain")
        run_stage(project, "pretrain", TOKENMILL_RANKS="2", TOKENMILL_PARALLEL="zero2")
        together, _ = load_model(project / "data" / "pretrain")
    finally:
        (project / "params.yaml").write_text(params)
    for name, weight in alone.state_dict().items():
        # 32 updates; sums in another order. A rank that saw the wrong rows is off by some 1e-2
        assert (together.state_dict()[name] - weight).abs().max() < 1e-3, name


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"TOKENMILL_RANKS": "8"}, "shards: 4 cannot be divided among 8 ranks: set it to 8 or more"),
        ({"TOKENMILL_RANKS": "two"}, "TOKENMILL_RANKS: must be a whole number of at least 1 (got 'two')"),
        ({"TOKENMILL_RANKS": "2", "TOKENMILL_PARALLEL": "zero2"}, "muon needs whole tensors"),
        (
            {"TOKENMILL_RANKS": "3", "TOKENMILL_PARALLEL": "ddp"},
            "step 0 of the plan has 8 sequences, which 3 shards or ranks cannot",
        ),
    ],
)
def test_what_cannot_be_is_one_line(project: Path, settings: dict[str, str], reason: str) -> None:
    process = start_stage(project, "pretrain", **settings)
    printed, _ = process.communicate()
    assert process.returncode == 2 and reason in printed and "Traceback" not in printed
    assert not (project / "data" / "pretrain").exists()


@pytest.mark.parametrize(
    ("ranks", "gpus", "few"), [(2, 0, False), (2, 1, True), (2, 2, False), (4, 3, True), (1, 1, False)]
)
def test_each_rank_needs_a_gpu_where_there_are_any(ranks: int, gpus: int, few: bool) -> None:
    assert (too_few(ranks, gpus) is not None) == few


# a stage in a process for which torch counts one GPU
ON_ONE_GPU = """
import runpy, sys, torch
torch.cuda.device_count = lambda: 1
sys.argv = ["runner", "pretrain"]
runpy.run_module("tasks.runner", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("name", "more"), [("TOKENMILL_RANKS", {}), ("WORLD_SIZE", {"RANK": "0", "LOCAL_WORLD_SIZE": "2"})]
)
def test_more_ranks_than_gpus_is_one_line_before_anything_starts(
    project: Path, name: str, more: dict[str, str]
) -> None:
    environment = {**os.environ, "TOKENMILL_TRACKING": "off", name: "2", **more}
    ran = subprocess.run(
        [sys.executable, "-c", ON_ONE_GPU], cwd=project, env=environment, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr.splitlines()) == (2, "", [
        f"{name}: 2 ranks need a GPU each, and this machine shows 1 GPU; ask for 1, or set CUDA_VISIBLE_DEVICES to nothing to "
        "train on the CPU"
    ])  # fmt: skip
    assert not (project / ".scratch" / "pretrain").exists()
