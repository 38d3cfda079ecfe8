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

KILLS, RANKS, SEED = 50, (1, 2, 4), 0
EQUAL = Metric("equal", "of 50 kills", higher_is_better=True)
PARAMS = {**TINY, "pretrain": {**TINY["pretrain"], "shards": max(RANKS)}}


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
    """Raises RuntimeError when a run that was not killed fails."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        project = make_project(Path(name), PARAMS)
        for stage in ("ingest", "dedup", "filter", "tokenize", "curriculum"):
            run_stage(project, stage)
        began = time.monotonic()
        run_stage(project, "pretrain")
        alone, whole = time.monotonic() - began, digest(project / "data" / "pretrain")
        chance, equal = random.Random(SEED), 0
        for kill in range(KILLS):
            shutil.rmtree(project / "data" / "pretrain")
            before, after = chance.choice(RANKS), chance.choice(RANKS)
            # ranks take as much longer to start as there are more of them than cores
            when = chance.uniform(0.3, 1.2) * alone * max(1, before / (psutil.cpu_count() or 1))
            killed = _killed(project, before, when, chance)
            left = len(list((project / ".scratch" / "pretrain").rglob("step-*.safetensors")))
            if not (project / "data" / "pretrain").exists():
                run_stage(project, "pretrain", TOKENMILL_RANKS=str(after))
            same = digest(project / "data" / "pretrain") == whole
            equal += same
            print(
                f"{kill + 1}/{KILLS}: {before} ranks, {killed} after {when:.1f} s with {left} checkpoints, then {after} ranks: "
                f"{'equal' if same else 'NOT EQUAL'}",
                flush=True,
            )
    return equal


def _killed(project: Path, ranks: int, seconds: float, chance: random.Random) -> str:
    """Start pretraining, a checkpoint after every step, and kill one of its processes at that moment; which it was."""
    process = start_stage(project, "pretrain", TOKENMILL_RANKS=str(ranks), TOKENMILL_CHECKPOINT_SECONDS="0")
    try:
        process.wait(seconds)
        return "ended before the kill"
    except subprocess.TimeoutExpired:
        pass
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    index = chance.randrange(len(every))
    every[index].kill()
    process.communicate()
    psutil.wait_procs(every, timeout=60)
    return f"rank {index} killed"
