"""From Parquet to packed token ids on disk: read, encode, pack into sequences of 1024, write."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.contest import Contest, Metric
from benchmarks.corpus import texts, write
from benchmarks.subprocess_arm import PEERS, ROOT, subprocess_arm

MEGABYTES, VOCABULARY, LENGTH = 200, 8192, 1024
METRICS = (Metric("rate", "MB/s", higher_is_better=True), Metric("peak_memory_bytes", "B"))
SLOW = {"tokenizers + TRL": "hugging_face", "datatrove": "datatrove", "tiktoken + NumPy": "tiktoken"}
PACKAGES = ("gigatoken", "tokenizers", "tiktoken", "datatrove", "trl")


def contests(threads: int) -> Iterator[Contest]:
    """Ours beside the adopted encoder with NumPy, and beside the slower peers, which take a minute. The gate: every id of every
    document is the same, and no token is lost but those that do not fill the last sequence."""
    scratch = ROOT / ".scratch"
    scratch.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=scratch) as folder:
        prepare(Path(folder), MEGABYTES)
        given: dict[str, Any] = {"folder": folder, "megabytes": MEGABYTES}
        ours = subprocess_arm("ours", "benchmarks.encode:ours", **given)
        # a sample takes a second, in which the speed of a shared machine may double: so many pairs
        for pairs, peers in ((15, {"gigatoken + NumPy": "gigatoken"}), (3, SLOW)):
            arms = [
                subprocess_arm(name, f"benchmarks.encode_peers:{kind}", PEERS, **given) for name, kind in peers.items()
            ]
            yield Contest(ours, METRICS, tuple(arms), gate=same, pairs=pairs, packages=PACKAGES)


def prepare(folder: Path, megabytes: int) -> None:
    """The documents in shards, and a tokenizer trained on them that all arms encode with."""
    from tasks.tokenize.methods.bpe import Bpe

    documents = texts(megabytes)
    write(folder / "filter" / "documents", documents)
    Bpe(vocab_size=VOCABULARY)(iter(documents[:5000]), Path()).save(folder)


def same(ours: list, peer: list) -> str:
    if ours[0] != peer[0]:
        return "other token ids"
    lost = [
        f"{name} loses {lost} tokens" for name, lost in (("ours", ours[1]), ("the peer", peer[1])) if lost >= LENGTH
    ]
    return "; ".join(lost)


def ours(folder: str, megabytes: int) -> tuple[dict[str, float], list]:
    """The tokenize stage with a tokenizer that is there, and the plan of the curriculum room over what it wrote."""
    import awkward  # noqa: F401 (imports are not in the time of any arm)
    import gigatoken  # noqa: F401
    import pandas  # noqa: F401 (pyarrow does at its first array)

    from tasks.core.config import Checkpoint
    from tasks.core.log import Log
    from tasks.core.tables import read_table
    from tasks.curriculum.methods import ShuffledPacking
    from tasks.curriculum.orders import Shuffled
    from tasks.curriculum.plan import Budget, Documents
    from tasks.curriculum.stage import write_plan
    from tasks.curriculum.stream import drawing
    from tasks.tokenize.methods import HuggingFace
    from tasks.tokenize.stage import TokenizeConfig, run

    with TemporaryDirectory(dir=folder) as out:
        data = Path(out)
        (data / "filter").symlink_to(Path(folder) / "filter")
        (data / "tokenize").mkdir()
        began = time.perf_counter()
        # the one document that is always held out stands in training too, where texts come again to fill the size
        given: dict[str, Any] = {"held_out_fraction": 1e-9, "max_overlap": 1.0}
        config = TokenizeConfig(method=HuggingFace(), checkpoint=Checkpoint(folder=folder), **given)
        run(config, data, Log())
        length = read_table(data / "tokenize" / "documents.parquet", ["length"])["length"].to_numpy()
        sequences = (int(length.sum()) - 1) // LENGTH
        documents = Documents(np.arange(len(length)), length)
        draw = drawing(documents, Shuffled(), None, np.zeros(0, dtype=np.int64), 0)
        plan = ShuffledPacking(sequence_length=LENGTH)(documents, draw, Budget(sequences * LENGTH, LENGTH), 0)
        write_plan(data / "plan.parquet", plan)
        seconds = time.perf_counter() - began
        tokens = np.load(data / "tokenize" / "tokens.npy")
        lost = int(length.sum()) - int(plan.length.sum()) + sequences - 1  # neighbours share a token
        return {"rate": megabytes / seconds}, [hashlib.sha256(tokens.tobytes()).hexdigest(), lost]
