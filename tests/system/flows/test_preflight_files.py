"""A user's own files, by the commands that a user gives: preflight rehearses what is read from files, and what passes there runs."""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.environment import environment
from flows.staleness.toy_folders import PREFIX
from flows.workspaces.smoke import copy_project
from tasks.core.yaml import dump_yaml, read_yaml
from tests.project import ROOT, TINY

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SOURCES = [
    {"name": "text_folder", "pattern": "*.txt"},
    {"name": "jsonl", "path": "*.jsonl"},
    {"name": "csv", "path": "*.csv"},
    {"name": "parquet", "path": "*.parquet"},
]
MINE: dict[str, Any] = {
    **{name: section for name, section in TINY.items() if name not in ("problems", "checkpoint", "conversations")},
    "models": ["preference"],
    "pretrain": {**TINY["pretrain"], "model": {**TINY["pretrain"]["model"], "context": 128}},
    "sft": {**TINY["sft"], "steps": 2, "sources": [{"name": "files"}]},
    "preference": {
        **{key: part for key, part in TINY["preference"].items() if key != "folder"},
        "steps": 2,
        "batch": 4,
        "held_out_fraction": 0.2,
        "pairs": [{"name": "files"}],
    },
}


def text_of(number: int) -> str:
    drawn = random.Random(number)
    return " ".join("".join(drawn.choices(LETTERS, k=drawn.randint(2, 8))) for _ in range(90)) + "."


def write_corpus(folder: Path) -> None:
    """Documents in a file each, in JSON lines, a table of CSV and Parquet."""
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(text_of(number))
    rows = [{"text": text_of(number), "page": number} for number in range(20, 80)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    with (folder / "b.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["text", "page"])
        table.writeheader()
        table.writerows(rows[20:40])
    pq.write_table(pa.Table.from_pylist(rows[40:]), folder / "c.parquet")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of the project, with a preset and files of a user's own: a corpus beside it, conversations and pairs at the places
    that data/ has for them."""
    folder = copy_project(ROOT, tmp_path / "clone")
    write_corpus(tmp_path / "my-corpus")
    mine = {**MINE, "ingest": {"folder": "../my-corpus", "max_bytes": 60_000, "sources": SOURCES}}
    (folder / "presets/mine.yaml").write_text(dump_yaml(mine))
    asked = [{"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(24)]
    pairs = [{"prompt": f"{n} + 1 =", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(24)]
    for name, rows in (("conversations", asked), ("preferences", pairs)):
        (folder / "data" / name / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tokenmill(folder: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in the clone, whose temporary folder is `place`."""
    place.mkdir(exist_ok=True)
    surroundings = {**environment(folder), "PYTHONPATH": str(folder), "TMPDIR": str(place)}
    command = [sys.executable, "-m", "tokenmill", *words]
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)


def test_what_a_user_has_in_files_passes_preflight_and_runs(clone: Path, tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    # nor is a pattern that a user adds meant for samples
    with (clone / ".dvcignore").open("a") as lines:
        lines.write("/notes/\n0.jsonl\npairs.jsonl\n")
    done = tokenmill(clone, place, "preflight", "--preset", "mine")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "rehearsing preference" in done.stdout and "rehearsing sft" in done.stdout
    assert not [path for path in place.iterdir() if path.name.startswith(PREFIX)]
    done = tokenmill(clone, place, "pipeline", "--preset", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    read = pq.read_table(clone / "data/ingest/sources.parquet").to_pydict()
    assert dict(zip(read["source"], read["documents"], strict=True)) == dict.fromkeys(
        ("text_folder", "jsonl", "csv", "parquet"), 20
    )
    assert {"sft", "preference", "evaluate@preference"} <= set(read_yaml(clone / "dvc.lock")["stages"])
