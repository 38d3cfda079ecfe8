"""Clusters of 2 million signatures in 512 MiB of data: from band keys on disk to which documents go, none verified."""

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.contest import Contest, Metric
from benchmarks.dedup_peers import BANDS, ROWS
from benchmarks.subprocess_arm import PEERS, ROOT, subprocess_arm

# The peer takes minutes for all of them; beside it there are fewer.
DOCUMENTS, FEWER = 2_000_000, 400_000
COPIES = 0.03
BUCKET = 0.025  # of the documents share one key: 50,000
SHARDS = 8
LIMIT = 512 << 20
METRICS = (Metric("time", "s"), Metric("peak_memory_bytes", "B"))


def contests(threads: int) -> Iterator[Contest]:
    """Clusters of DOCUMENTS by ours, and of FEWER beside datatrove. The gate: as many documents go."""
    (ROOT / ".scratch").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".scratch") as folder:
        for documents in (DOCUMENTS, FEWER):
            keys = Path(folder) / str(documents)
            make(keys, documents)
            arm = subprocess_arm(f"groups, {documents} documents", "benchmarks.cluster:ours", folder=str(keys))
            if documents == DOCUMENTS:
                yield Contest(arm, METRICS, packages=("numba",))
            else:
                write_signatures(keys)
                peer = subprocess_arm("datatrove", "benchmarks.dedup_peers:datatrove_clusters", PEERS, folder=str(keys))
                yield Contest(arm, METRICS, (peer,), pairs=3, packages=("numba",))


def make(folder: Path, documents: int) -> None:
    """Keys of 14 bands by shards: 3% of the documents share 1 to 14 bands with another, and one key of the first band is
    that of 50,000 of 2 million."""
    generator = np.random.default_rng(2)
    keys_BN = generator.integers(0, 2**60, size=(BANDS, documents), dtype=np.uint64)
    copies = generator.choice(documents, size=int(documents * COPIES), replace=False)
    originals = generator.integers(0, documents, size=len(copies))
    for band, shared in enumerate(generator.random((BANDS, len(copies))) < generator.uniform(0.1, 1, len(copies))):
        keys_BN[band, copies[shared]] = keys_BN[band, originals[shared]]
    keys_BN[0, generator.choice(documents, size=int(documents * BUCKET), replace=False)] = 7
    folder.mkdir()
    for number, part in enumerate(np.array_split(keys_BN, SHARDS, axis=1)):
        np.save(folder / f"{number}.npy", part)


def write_signatures(folder: Path) -> None:
    """Write the sorted files of datatrove's first stage: 8 numbers, here all the key, and the number of the document."""
    kind = np.dtype([*((f"hash{row}", "<u8") for row in range(ROWS)), ("document", "<u4")])
    for number in range(SHARDS):
        for band, keys in enumerate(np.load(folder / f"{number}.npy")):
            lines = np.empty(len(keys), dtype=kind)
            order = np.argsort(keys, kind="stable")
            for row in range(ROWS):
                lines[f"hash{row}"] = keys[order]
            lines["document"] = order
            (folder / "signatures" / f"bucket_{band:03}").mkdir(parents=True, exist_ok=True)
            lines.tofile(folder / "signatures" / f"bucket_{band:03}" / f"{number:05}.minhash.sig")


def ours(folder: str) -> tuple[dict[str, float], int]:
    """What the near slot does between the signatures and the verification, with no more data than the limit."""
    from tasks.dedup.engine.compiled_clusters import roots, unite_groups
    from tasks.dedup.methods.minhash import load, save_buckets

    def cluster(keys: list[np.ndarray], scratch: Path) -> int:
        ends = np.cumsum([part.shape[1] for part in keys])
        rows = [np.arange(end - part.shape[1], end) for part, end in zip(keys, ends, strict=True)]
        first_N = np.arange(int(ends[-1]))
        for bucket in save_buckets(keys, rows, scratch / "buckets"):
            unite_groups(*load(bucket), first_N)
        roots(first_N)
        return int((first_N != np.arange(len(first_N))).sum())

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    files = [np.asarray(np.load(path, mmap_mode="r")) for path in sorted(Path(folder).glob("*.npy"))]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        few = [part[:, :9].copy() for part in files]
        for part in few:
            part.flags.writeable = False
        cluster(few, Path(scratch))  # compiled code comes from its cache before the clock starts
        began = time.perf_counter()
        gone = cluster(files, Path(scratch))
        return {"time": time.perf_counter() - began}, gone
