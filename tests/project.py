"""A small copy of the project to run real stages in: the code by links, its own params, data and scratch."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from flows.params.compose import libraries
from flows.params.versions import versions
from tasks.core.libraries import SECTION
from tasks.core.yaml import read_yaml
from tasks.filter.stage import SLOTS
from tests.forks.process import PLAIN, TRAINING, Forked, started
from tests.imports import ROOT
from tests.processes import files_in

# These hold no torch; what a process has imported is part of its record.
DATA_STAGES = ("ingest", "dedup", "filter", "tokenize", "curriculum")

TINY: dict[str, Any] = {
    "seed": 0,
    "models": ["pretrain", "sft", "rl", "distill", "quantize"],
    "problems": {"name": "arithmetic", "folder": "data/problems", "digits": 1},
    "checkpoint": {"folder": "data/checkpoint"},
    "references": {"folder": "data/references"},
    "conversations": {"folder": "data/conversations"},
    "ingest": {"folder": "data/raw", "max_bytes": 60_000, "sources": [{"name": "worksheets", "digits": 1}]},
    "dedup": {
        "against": {"name": "keep_all"},
        "exact": {"name": "exact"},
        "near": {"name": "keep_all"},
        "semantic": {"name": "keep_all"},
        "substring": {"name": "keep_all"},
    },
    "filter": {slot: {"name": "keep_all"} for slot in SLOTS},
    "tokenize": {"method": {"name": "bytes"}, "held_out_fraction": 0.1},
    "curriculum": {
        "method": {"name": "shuffled_packing", "sequence_length": 32},
        "tokens": 8192,
        "tokens_per_step": 256,
    },
    "pretrain": {
        "start": {"name": "random"},
        "model": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_width": 64, "context": 64},
        "objective": {"name": "next_token"},
        "optimizer": {"name": "muon"},
        "schedule": {"name": "wsd"},
        "average": {"name": "last"},
    },
    "sft": {
        "model": "pretrain",
        "steps": 20,
        "batch": 16,
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "cosine"},
        "average": {"name": "last"},
    },
    "rl": {
        "model": "sft",
        "scorer": "checkpoint",
        "steps": 24,
        "prompts": 4,
        "samples": 4,
        "updates": 2,
        "max_new_tokens": 16,
        "advantage": {"name": "grpo"},
        "loss": {"name": "policy_gradient"},
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "cosine"},
        "average": {"name": "last"},
    },
    "lessons": {"model": "rl", "steps": 24, "batch": 8, "corpus_sequences": 2, "max_new_tokens": 16, "top_k": 8},
    "distill": {
        "model": "rl",
        "beside": "teachers",
        "learner": "rl",
        "student": {"name": "layers", "layers": 1},
        "steps": 24,
        "batch": 8,
        "corpus_sequences": 2,
        "max_new_tokens": 16,
        "divergence": {"name": "forward_kl"},
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "cosine"},
        "average": {"name": "last"},
    },
    "prune": {
        "model": "distill",
        "weights": {"name": "wanda"},
        "calibration": {"problems": 4, "sequences": 2, "max_new_tokens": 8},
    },
    "quantize": {"model": "distill", "method": {"name": "rtn"}, "embedding": {"name": "int8"}},
    "evaluate": {"problems_counted": 20, "max_new_tokens": 16},
}
# of any other stage, which no test here runs, dvc.yaml needs the section
# Folders of data/ that are a user's own: each says so in the README that stands there
OWN = sorted(path.parent.name for path in (ROOT / "data").glob("*/README.md"))
TINY |= {
    stage: section
    for stage, section in read_yaml(ROOT / "presets/laptop.yaml").items()
    if stage in read_yaml(ROOT / "dvc.yaml")["stages"] and stage not in TINY
}


def make_inputs(folder: Path) -> None:
    """The folders of a user's own in data/, each with a file."""
    for name in OWN:
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "README.md").write_text("inputs\n")


def make_project(folder: Path, params: dict) -> Path:
    """A project folder with these params: code and graph are links to ours, so a stage's key is as in the real one."""
    for name in ("tasks", "lm", "kernels", "dvc.yaml", ".dvcignore"):
        (folder / name).symlink_to(ROOT / name)
    make_inputs(folder)
    write_params(folder, params)
    return folder


def write_params(folder: Path, params: dict) -> None:
    """params.yaml with these params and the versions of the libraries that run."""
    there = {SECTION: versions(libraries(ROOT))}
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, **there}, sort_keys=False))


def start_stage(project: Path, stage: str, **environment: str) -> Forked | subprocess.Popen[str]:
    """A stage as the process that `dvc repro` starts: evaluate@rl is `python -m tasks.runner evaluate rl`. It comes of a server
    that has the libraries, which takes a tenth of a new process's seconds."""
    libraries = PLAIN if stage in DATA_STAGES else TRAINING
    given = {**os.environ, "TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1", **environment}
    return started("tasks.runner", stage.split("@"), project, given, libraries)


def run_stage(project: Path, stage: str, **environment: str) -> str:
    """Run a stage to its end and return what it printed; a failure raises with it."""
    process = start_stage(project, stage, **environment)
    printed, _ = process.communicate()
    assert process.returncode == 0, f"{stage} exited {process.returncode}:\n{printed}"
    return printed


def count_parts_made(project: Path, stage: str, work: str = "*") -> int:
    """How many parts of a map of this name a running stage has made."""
    return sum(path.match(f"parts/{work}/[0-9]*/facts.json") for path in files_in(project / ".scratch" / stage))


def digest(folder: Path) -> str:
    """A digest of every file of a folder: names and bytes."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
