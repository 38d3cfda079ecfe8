"""Near-duplicates among planted ones: from a table of documents to the rows that stay, in MB of text a second."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.contest import Contest, Metric
from benchmarks.planted import Corpus, Judge, make, write
from benchmarks.subprocess_arm import PEERS, ROOT, subprocess_arm
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.dedup.methods import KeepAll, Minhash
from tasks.dedup.stage import DedupConfig, run

METRICS = (Metric("throughput", "MB/s", higher_is_better=True), Metric("peak_memory_bytes", "B"))
DOCUMENTS = 24_000  # 60 MB
RECALL, PRECISION, PEERS_RECALL = 0.98, 0.98, 0.9
SCRATCH = ROOT / ".scratch"


def contests(threads: int) -> Iterator[Contest]:
    """Ours as the stage runs it, candidates verified, against whole pipelines of peers with 14 bands of 8.
    The gate asks 0.98 of ours in recall and precision; of the peers 0.9 in recall, and no precision: they verify nothing."""
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        table = Path(folder) / "ingest" / "documents"
        corpus = make(DOCUMENTS)
        write(corpus, table)
        ours = subprocess_arm("minhash", "benchmarks.dedup:ours", data=folder)
        gate = printing_gate(Judge(corpus))
        for name, (function, pairs) in ARMS.items():
            peer = subprocess_arm(name, f"benchmarks.dedup_peers:{function}", PEERS, table=str(table))
            yield Contest(ours, METRICS, (peer,), gate, pairs, packages=("numba", "pyarrow"))


# a sample of ours takes less than a second, so as many pairs as the peer's time allows
ARMS = {
    "rensa": ("rensa_full", 9),
    "rensa rho": ("rensa_rho", 5),
    "datasketch": ("datasketch_lsh", 5),
    "text-dedup": ("text_dedup_minhash", 5),
    "datatrove": ("datatrove_minhash", 3),
}


def printing_gate(judge: Judge) -> Callable[[Any, Any], str]:
    """A gate that also prints what either side found."""

    def gate(ours: list[int], peer: list[int]) -> str:
        found = {"ours": judge(ours), "peer": judge(peer)}
        for side, figures in found.items():
            print(f"  {side}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
        if found["ours"]["recall"] < RECALL or found["ours"]["precision"] < PRECISION:
            return f"ours: recall {found['ours']['recall']:.3f}, precision {found['ours']['precision']:.3f}"
        return "" if found["peer"]["recall"] >= PEERS_RECALL else f"peer: recall {found['peer']['recall']:.3f}"

    return gate


def ours(data: str) -> tuple[dict[str, float], list[int]]:
    """The stage with the one method; compiled code comes from its cache, and is loaded before the clock starts."""
    off = KeepAll()
    config = DedupConfig(against=off, exact=off, near=Minhash(), semantic=off, substring=off)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder)
        texts = [f"text {number // 2} of a few words" for number in range(50)]
        write(Corpus(texts, [None] * 50, [None] * 50), small / "ingest" / "documents")
        run(config, small, Log())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        (Path(folder) / "ingest").symlink_to(Path(data) / "ingest")
        run(config, Path(folder), Log())
        seconds = time.perf_counter() - began
        cluster = read_table(Path(folder) / "dedup" / "clusters", ["cluster"])["cluster"]
    size = sum(megabytes(path) for path in sorted((Path(data) / "ingest" / "documents").iterdir()))
    return {"throughput": size / seconds}, [int(first) for first in cluster.to_pylist()]


def megabytes(path: Path) -> float:
    """MB of text in a table."""
    return pc.sum(pc.binary_length(pq.read_table(path, columns=["text"])["text"])).as_py() / 1e6
