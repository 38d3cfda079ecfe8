"""Pretraining killed at a random instant and gone on with on another number of ranks: is the output the same to the bit?"""

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil

from benchmarks.contest import Arm, Contest, Metric, Sample
from tests.project import TINY, digest, make_project, run_stage, start_stage

# modules of the stages that it starts, which decide what a row says: benchmarks/standing.py reads them
RUNS = (
    "tasks.runner.__main__", "tasks.ingest.stage", "tasks.dedup.stage", "tasks.filter.stage", "tasks.tokenize.stage",
    "tasks.curriculum.stage", "tasks.pretrain.stage",
)  # fmt: skip
KILLS, RANKS, SEED = 50, (1, 2, 4), 0
EQUAL = Metric("equal", "of 50 kills", higher_is_better=True)
# 200 steps, so that most kills find a run that trains, and many one that writes a checkpoint
PARAMS = {
    **TINY,
    "pretrain": {**TINY["pretrain"], "shards": max(RANKS)},
    "curriculum": {**TINY["curriculum"], "tokens": 200 * TINY["curriculum"]["tokens_per_step"]},
}


def contests(threads: int) -> Iterator[Contest]:
    """One figure: after how many of the kills the digest was that of an uninterrupted run of one process."""
    yield Contest(
        Arm("pretrain, SIGKILL and rescaling", lambda: Sample({EQUAL.name: equal_digests()})),
        (EQUAL,),
        pairs=1,
        threads=1,
    )


@cache
def equal_digests() -> int:
    """Raises RuntimeError when a run that was not killed fails or differs."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        project = make_project(Path(name), PARAMS)
        for stage in ("ingest", "dedup", "filter", "tokenize", "curriculum"):
            run_stage(project, stage)
        run_stage(project, "pretrain")
        whole = digest(project / "data" / "pretrain")
        seconds = {ranks: _seconds(project, ranks, whole) for ranks in RANKS}
        chance, kills, equal = random.Random(SEED), 0, 0
        while kills < KILLS:
            shutil.rmtree(project / "data" / "pretrain")
            before, after = chance.choice(RANKS), chance.choice(RANKS)
            when = chance.uniform(0.2, 1.0) * seconds[before]
            killed = _killed(project, before, when, chance)
            if killed is None:
                continue  # it was faster this time
            left = len(list((project / ".scratch" / "pretrain").rglob("step-*.safetensors")))
            run_stage(project, "pretrain", TOKENMILL_RANKS=str(after))
            same = digest(project / "data" / "pretrain") == whole
            kills, equal = kills + 1, equal + same
            print(
                f"{kills}/{KILLS}: {before} ranks, rank {killed} killed after {when:.1f} s with {left} checkpoints, then "
                f"{after} ranks: {'equal' if same else 'NOT EQUAL'}",
                flush=True,
            )
    return equal


def _seconds(project: Path, ranks: int, whole: str) -> float:
    """Seconds that an uninterrupted run of so many ranks takes."""
    shutil.rmtree(project / "data" / "pretrain")
    began = time.monotonic()
    run_stage(project, "pretrain", TOKENMILL_RANKS=str(ranks), TOKENMILL_CHECKPOINT_SECONDS="0")
    if digest(project / "data" / "pretrain") != whole:
        raise RuntimeError(f"{ranks} ranks, never killed, do not give the digest of one process")
    return time.monotonic() - began


def _killed(project: Path, ranks: int, seconds: float, chance: random.Random) -> int | None:
    """Start pretraining, a checkpoint after every step, and kill one of its processes at that moment; which rank it was, None
    where the run had ended by itself."""
    process = start_stage(project, "pretrain", TOKENMILL_RANKS=str(ranks), TOKENMILL_CHECKPOINT_SECONDS="0")
    try:
        process.wait(seconds)
        return None
    except subprocess.TimeoutExpired:
        pass
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    index = chance.randrange(len(every))
    every[index].kill()
    process.communicate()
    psutil.wait_procs(every, timeout=60)
    return index
