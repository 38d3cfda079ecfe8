"""Finished runs of the tiny project to compare, and ways to spoil them."""

import os
import shutil
from importlib.metadata import distribution
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lm.training.checkpoint.file import read, write
from lm.training.checkpoint.snapshot import Snapshot
from tests.project import TINY, make_project, run_stage

PARAMS = {
    **TINY,
    "ingest": {**TINY["ingest"], "sources": [{"name": "parquet", "path": "*.parquet"}]},
    "tokenize": {**TINY["tokenize"], "max_overlap": 1.0},  # these documents are numbers, and much alike
}
SHARDS, ROWS = 2, 60


def texts(shard: int) -> list[str]:
    """Documents that differ in more than a byte."""
    return [
        f"document {shard} {row}: " + " ".join(str(row * 7919 % (k + 11)) for k in range(40)) for row in range(ROWS)
    ]


def write_shard(raw: Path, shard: int, rows: list[str]) -> None:
    """Two row groups of rows without ids: what ingest calls a document then follows from its place."""
    pq.write_table(pa.table({"text": rows}), raw / f"{shard:05}.parquet", row_group_size=ROWS // 2)


def make_run(folder: Path, *stages: str) -> Path:
    """A project of which these stages have run."""
    project = make_project(folder, PARAMS)
    for shard in range(SHARDS):
        write_shard(project / "data" / "raw", shard, texts(shard))
    for stage in stages:
        run_stage(project, stage)
    return project


def copy_of(project: Path, folder: Path) -> Path:
    """The same run once more."""
    return shutil.copytree(project, folder, symlinks=True)


def run_again(project: Path, stage: str, **environment: str) -> None:
    """Run a stage of a copy anew."""
    shutil.rmtree(project / "data" / stage)
    run_stage(project, stage, **environment)


def flip_bit_of_weight(checkpoint: Path, name: str) -> None:
    """The lowest bit of a weight's tenth entry, in a checkpoint that is whole again afterwards."""
    metadata, tensors = read(checkpoint)
    tensors = {each: tensor.clone() for each, tensor in tensors.items()}
    tensors[name].view(-1).numpy().view("u4")[10] ^= 1
    entries, data = Snapshot().take(tensors)
    write(checkpoint, entries, data, {key: metadata[key] for key in ("step", "optimizer")})


def other_xxhash(folder: Path) -> dict[str, str]:
    """An environment whose first xxhash is a copy in `folder` that calls itself 9.9.9 and answers otherwise when it is given a
    seed, as tokenize does to hold documents out."""
    found = distribution("xxhash")
    for name in ("xxhash", f"xxhash-{found.version}.dist-info"):
        shutil.copytree(found.locate_file(name), folder / name.replace(found.version, "9.9.9"))
    metadata = folder / "xxhash-9.9.9.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace(f"Version: {found.version}", "Version: 9.9.9"))
    with (folder / "xxhash" / "__init__.py").open("a") as module:
        module.write(
            "_as_it_was = xxh3_64_intdigest\n"
            "def xxh3_64_intdigest(data, seed=0):\n"
            "    return _as_it_was(data, seed) if seed == 0 else _as_it_was(data, seed + 1)\n"
        )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
