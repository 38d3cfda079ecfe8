"""The five data stages on a corpus of four times the memory that each process may have (`ulimit -d`)."""

import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from benchmarks.contest import Arm, Contest, Metric, Sample
from benchmarks.subprocess_arm import ROOT
from tests.project import TINY, make_project, start_stage

# MiB: of `ulimit -d`, and of text. Of the first an interpreter with its libraries and the stacks of their threads has 250.
LIMIT, CORPUS, FILES = 768, 3072, 24
STAGES = ("ingest", "dedup", "filter", "tokenize", "curriculum")
# modules of the stages that it times, and of their methods: benchmarks/standing.py reads them
RUNS = (
    "tasks.runner.__main__", "tasks.ingest.stage", "tasks.dedup.stage", "tasks.filter.stage", "tasks.tokenize.stage",
    "tasks.curriculum.stage", "tasks.ingest.sources.jsonl", "tasks.dedup.methods.exact", "tasks.dedup.methods.minhash",
    "tasks.filter.methods.gopher_repetition", "tasks.filter.methods.gopher_quality", "tasks.filter.methods.c4",
    "tasks.filter.methods.fineweb", "tasks.filter.methods.contamination", "tasks.filter.methods.personal_data",
    "tasks.tokenize.methods.bpe", "tasks.curriculum.methods.best_fit_packing",
)  # fmt: skip
RULES = {
    "repetition": {"name": "gopher_repetition"},
    "quality": {"name": "gopher_quality", "min_stop_words": 0},
    "lines": {"name": "c4"},
    "structure": {"name": "fineweb"},
    "contamination": {"name": "contamination"},
    "personal_data": {"name": "personal_data"},
}
PARAMS = {
    **TINY,
    "ingest": {"folder": "data/raw", "max_bytes": CORPUS << 21, "sources": [{"name": "jsonl", "path": "*.jsonl"}]},
    "dedup": {**TINY["dedup"], "near": {"name": "minhash"}},
    "filter": {**TINY["filter"], **RULES},
    "tokenize": {"method": {"name": "bpe", "vocab_size": 4096, "train_bytes": 16 << 20}, "held_out_fraction": 0.001},
    "curriculum": {
        "method": {"name": "best_fit_packing", "sequence_length": 1024},
        "tokens": 64 << 20,
        "tokens_per_step": 1 << 19,
    },
}


def contests(threads: int) -> Iterator[Contest]:
    """One run: seconds and peak memory of each stage, which fails where the limit is met."""
    metrics = tuple(
        Metric(f"{stage}_{what}", unit) for stage in STAGES for what, unit in (("time", "s"), ("peak", "MB"))
    )
    yield Contest(Arm(f"{CORPUS} MiB in {LIMIT} MiB", lambda: Sample(measure_stages(threads))), metrics, pairs=1)


@cache
def measure_stages(threads: int) -> dict[str, float]:
    """Raises AssertionError with what a stage printed that did not come to its end."""
    found: dict[str, float] = {}
    scratch = ROOT / ".scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        project = make_project(Path(name), PARAMS)
        write_corpus(project / "data" / "raw")
        unlimited = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT << 20, unlimited[1]))  # children have it as well
        try:
            for stage in STAGES:
                began = time.monotonic()
                given = {"TOKENMILL_SHARD_WORKERS": "1", "TOKENMILL_THREADS": str(threads)}
                process = start_stage(project, stage, **given)
                printed, _ = process.communicate()
                assert process.returncode == 0, f"{stage} exited {process.returncode}:\n{printed}"
                facts = json.loads((project / "data" / "timings" / f"{stage}.json").read_text())
                found |= {f"{stage}_time": time.monotonic() - began, f"{stage}_peak": facts["peak_memory_bytes"] / 1e6}
                print(f"{stage}: {found[f'{stage}_time']:.0f} s, {found[f'{stage}_peak']:.0f} MB", flush=True)
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    return found


def write_corpus(folder: Path) -> None:
    """Documents of sentences of words drawn from 20,000, 2.5 KB on average, one in ten a copy of an earlier one with a word
    changed."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 10))) for _ in range(20_000)]
    last = words[:300]
    for number in range(FILES):
        written = 0
        with (folder / f"{number:02}.jsonl").open("w") as file:
            while written < (CORPUS << 20) // FILES:
                if chance.random() < 0.1:
                    last = [*last[:-1], chance.choice(words)]
                else:
                    last = chance.choices(words, k=int(chance.lognormvariate(5.6, 0.8)) + 60)
                sentences = [" ".join(last[first : first + 12]) for first in range(0, len(last), 12)]
                text = ".\n".join(sentences) + "."
                written += len(text)
                file.write(json.dumps({"text": text}) + "\n")
