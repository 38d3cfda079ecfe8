"""A finished pipeline in small, made by code: every kind of file that the report reads."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE = "<script>alert('x')</script> & \x00 </pre><img src=//evil.example/x>"
MODELS = ("pretrain", "rl")
GRAPH = """
stages:
  ingest:
    cmd: "true"
    deps: ["${ingest.folder}"]
    params: [ingest]
    outs: [data/ingest]
  dedup:
    cmd: "true"
    deps: ["tasks/dedup/methods/${dedup.method.name}.py", tasks/core, data/ingest]
    params: [dedup.method.name]
    outs: [data/dedup]
  pretrain:
    cmd: "true"
    deps: [data/dedup]
    outs: [data/pretrain]
  rl:
    cmd: "true"
    deps: [data/pretrain, data/dedup]
    outs: [data/rl]
  evaluate:
    foreach: [pretrain, rl]
    do:
      cmd: "true ${item}"
      deps: ["data/${item}", data/dedup]
      outs: ["data/evaluate/${item}"]
"""
PARAMS = "seed: 7\ningest:\n  folder: data/raw\ndedup:\n  method:\n    name: minhash\n"
METRICS = {
    "ingest": {"documents": 40, "quarantined": 2, "quarantined_truncated": 2},
    "dedup": {"documents": 40, "kept": 31, "dropped_duplicate_of": 8, "dropped_empty": 1},
    "pretrain": {"steps": 60, "parameters": 12345},
    "rl": {"steps": 1},
    "evaluate@pretrain": {
        "bits_per_byte": 1.875,
        "bits_per_byte_low": 1.8125,
        "bits_per_byte_high": 1.9375,
        "gzip_bits_per_byte": 2.625,
        "bits_per_byte_prose": 1.9375,
        "gzip_bits_per_byte_prose": 2.75,
        "accuracy": 0.125,
        "accuracy_low": 0.0625,
        "accuracy_high": 0.25,
        "size_bytes": 4_321_000,
        "parameters": 1_080_250,
    },
    "evaluate@rl": {
        "bits_per_byte": 1.999,
        "gzip_bits_per_byte": 2.625,
        "bits_per_byte_prose": 2.0625,
        "gzip_bits_per_byte_prose": 2.75,
        "accuracy": 0.875,
        "accuracy_low": 0.75,
        "accuracy_high": 0.9375,
        "size_bytes": 4_321_500,
        "parameters": 1_080_250,
    },
}


def build(root: Path) -> Path:
    """The tree, with text that would break a page that does not escape. Returns root."""
    for name, text in (("dvc.yaml", GRAPH), ("params.yaml", PARAMS)):
        (root / name).write_text(text)
    for name, metrics in METRICS.items():
        _json(root / "data" / "metrics" / f"{name}.json", metrics)
        timings = {"seconds": 1.5 + len(name), "peak_memory_bytes": 3e8}
        _json(
            root / "data" / "timings" / f"{name}.json", timings | ({"tokens_per_second": 4567} if "@" in name else {})
        )
    for folder in ("ingest", "dedup"):
        rows = [{"id": f"d{i}", "source": "prose", "text": f"text {i} {HOSTILE}", "meta": "{}"} for i in range(31)]
        _table(root / "data" / folder / "documents" / "00000.parquet", rows)
    quarantine = [
        {"source": "prose", "file": "a.gz", "row": i, "reason": "truncated", "excerpt": HOSTILE} for i in range(2)
    ]
    _table(root / "data" / "ingest" / "quarantine.parquet", quarantine)
    reasons = [f"duplicate_of:d{i}" for i in range(8)] + ["empty"]
    dropped = [{"id": f"x{i}", "source": "prose", "reason": r, "text": "z" * 2000} for i, r in enumerate(reasons)]
    _table(root / "data" / "dedup" / "dropped" / "00000.parquet", dropped)
    curves(
        root / "data" / "pretrain",
        [{"step": i, "loss": 5 * math.exp(-i / 20) + 0.01 * (i % 7), "lr": 0.1} for i in range(60)],
    )
    samples = [{"step": step, "texts": {f"once {HOSTILE}": f"upon {step}"}} for step in (20, 40)]
    (root / "data" / "pretrain" / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    curves(root / "data" / "rl", [{"step": 0, "reward": 0.5}])
    for model in MODELS:
        answers = [
            {
                "id": f"p{i}",
                "prompt": f"{i} + 1 {HOSTILE}",
                "completion": str(i),
                "answer": str(i + 1),
                "score": float(i % 2),
                "valid": i != 0,
            }
            for i in range(20)
        ]
        _table(root / "data" / "evaluate" / model / "answers.parquet", answers)
    return root


def curves(folder: Path, points: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))


def _json(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
