"""A tree of 12 pretraining runs, three lengths by four decays: what sharing trunks leaves of the cost of 12 runs alone."""

import json
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.contest import Arm, Contest, Metric, Sample
from tests.project import TINY, digest, make_project, run_stage

# modules of the stages that it times, each in a process of its own: benchmarks/standing.py reads them
RUNS = ("tasks.runner.__main__", "tasks.curriculum.methods.shuffled_packing", "tasks.pretrain.stage")
LENGTHS, DECAYS = (160, 240, 320), (0.3, 0.2, 0.1, 0.05)
TOKENS_PER_STEP = 1024
DATA = ("ingest", "dedup", "filter", "tokenize")
METRICS = (Metric("steps", "steps"), Metric("time", "s"))


def params(steps: int, decay: float) -> dict[str, Any]:
    """Parameters of a variant: a decoder of 0.8 million weights, whose steps take longer than to start a process for a run of
    them."""
    shape = {"width": 128, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_width": 352, "context": 128}
    schedule = {"name": "wsd", "warmup_fraction": 8.5 / steps, "decay_fraction": decay}  # 8 steps, whatever the total
    plan = {
        "method": {"name": "shuffled_packing", "sequence_length": 128},
        "order": {"name": "repeated_subsets", "fraction": 0.01},
        "tokens": steps * TOKENS_PER_STEP,
        "tokens_per_step": TOKENS_PER_STEP,
    }
    return {
        **TINY,
        "ingest": {**TINY["ingest"], "max_bytes": 400_000},
        "curriculum": plan,
        "pretrain": {**TINY["pretrain"], "model": shape, "schedule": schedule},
    }


def contests(threads: int) -> Iterator[Contest]:
    """The tree with the store of trunks beside without. The gate: all 12 outputs have the same digests, model, curves and
    losses."""
    yield Contest(
        Arm("tree of 12, trunks", lambda: tree(True)),
        METRICS,
        (Arm("12 alone", lambda: tree(False)),),
        pairs=1,
        threads=1,
    )


@cache
def tree(shares: bool) -> Sample:
    """Steps and seconds of pretraining in 12 processes, one after another, those that decay first in front. The stages before
    are made once and not counted. What feeds the gate is what is measured: a second time it would only be found again."""
    with tempfile.TemporaryDirectory(prefix="tree-") as name:
        root = Path(name)
        made = project(root / "data", params(max(LENGTHS), DECAYS[0]))
        for stage in DATA:
            run_stage(made, stage)
        steps, seconds, digests = 0, 0.0, dict[str, str]()
        for length, decay in sorted(product(LENGTHS, DECAYS), key=lambda variant: variant[0] * (1 - variant[1])):
            here = project(root / f"{length}-{decay}", params(length, decay))
            for stage in DATA:
                (here / "data" / stage).symlink_to(made / "data" / stage)
            run_stage(here, "curriculum")
            began = time.monotonic()
            run_stage(here, "pretrain", TOKENMILL_TRUNKS=str(root / "trunks") if shares else "")
            seconds += time.monotonic() - began
            facts = json.loads((here / "data/timings/pretrain.json").read_text())
            skipped = int(facts.get("steps_from_trunk", 0))
            steps, digests[f"{length}-{decay}"] = steps + length - skipped, digest(here / "data" / "pretrain")
            held_up = facts.get("trunk_seconds", 0.0)
            print(
                f"{length} steps, decay {decay}: {skipped} of a trunk, held up {held_up:.2f} s; {steps} steps, {seconds:.1f} s",
                flush=True,
            )
        return Sample({"steps": steps, "time": seconds}, digests)


def project(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir()
    return make_project(folder, values)
