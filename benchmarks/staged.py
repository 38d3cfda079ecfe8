"""The pretrain stage as the process that `dvc repro` starts, over made-up tokens, so that params alone decide what it costs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from lm.tokenizer import SPECIALS, Tokenizer
from tasks.core.yaml import dump_yaml

ROOT = Path(__file__).parents[1]
# modules of the process that peak_memory starts, which decide what a row says: benchmarks/standing.py reads them
RUNS = ("tasks.runner.__main__", "tasks.pretrain.stage")


def tokenizer_of(vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly so many tokens: special tokens, bytes, and pairs of bytes. Raises ValueError for a size that
    these do not give."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in alphabet for b in alphabet][: max(vocab_size - len(SPECIALS) - len(alphabet), 0)]
    names = [*SPECIALS, *alphabet, *(a + b for a, b in pairs)]
    if len(names) != vocab_size:
        raise ValueError(f"vocab_size {vocab_size}: must be {len(SPECIALS) + 256} to {len(SPECIALS) + 256 + 256**2}")
    inner = tokenizers.Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, pairs))
    inner.add_special_tokens(SPECIALS)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return Tokenizer(inner)


def prepare(root: Path, params: dict[str, Any]) -> None:
    """A project in `root`: code and graph by links, these params, and what tokenize and curriculum would have left for the
    vocabulary, context, steps and batch that they ask for."""
    for name in ("tasks", "lm", "kernels", "dvc.yaml", ".dvcignore"):
        (root / name).symlink_to(ROOT / name)
    (root / "params.yaml").write_text(dump_yaml(params))
    for name in ("raw", "problems", "checkpoint", "tokenize", "curriculum"):
        (root / "data" / name).mkdir(parents=True)
    vocab_size, plan = params["tokenize"]["method"]["vocab_size"], params["curriculum"]
    steps, length = plan["tokens"] // plan["tokens_per_step"], plan["method"]["sequence_length"]
    rows = plan["tokens_per_step"] // length
    ids = np.random.default_rng(0).integers(vocab_size, size=(steps * rows, length + 1)).astype(np.uint16)
    np.save(root / "data/tokenize/tokens.npy", ids.ravel())
    tokenizer_of(vocab_size).save(root / "data/tokenize")
    facts = {"start": [0], "length": [ids.size], "bytes": [ids.size]}  # the whole corpus is one document
    pq.write_table(pa.table(facts), root / "data/tokenize/documents.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), root / "data/tokenize/held_out.parquet")
    sequence = np.arange(len(ids))
    columns = {
        "step": sequence // rows,
        "sequence": sequence % rows,
        "document": np.zeros(len(ids), dtype=np.int64),
        "offset": sequence * (length + 1),
        "length": np.full(len(ids), length + 1),
    }
    pq.write_table(pa.table(columns), root / "data/curriculum/plan.parquet")


def peak_memory(root: Path) -> int:
    """Run the pretrain stage of a prepared project, with a checkpoint after every step: peak_memory_bytes of its timings.

    Raises CalledProcessError when the stage fails.
    """
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000", "TOKENMILL_CHECKPOINT_SECONDS": "0"}
    # sh starts it: ru_maxrss begins at what the parent had, which a fork hands down
    command = ["/bin/sh", "-c", f"{sys.executable} -m tasks.runner pretrain; exit $?"]
    subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads((root / "data/timings/pretrain.json").read_text())["peak_memory_bytes"]
