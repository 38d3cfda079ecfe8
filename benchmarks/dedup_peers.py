"""The peers of benchmarks/dedup.py, in their own environment: from a table of one shard to the rows that stay, as Parquet.

Each returns MB/s, without imports, and for every row the row of the first of its cluster, GONE where all that is known is that
it goes, FLAGGED where all that is known is that it has a duplicate. Five-word shingles, 14 bands of 8.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BANDS, ROWS, SIZE = 14, 8, 5
GONE, FLAGGED = -1, -2
# for datatrove's workers, whose default would import all of it once more in each, within the time
FORK = "fork"
Answer = tuple[dict[str, float], list[int]]


def file_of(table: str) -> str:
    return f"{table}/00000.parquet"


def shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + SIZE]) for i in range(max(1, len(words) - SIZE + 1))]


def in_memory(table: str, clusters_of: Callable[[list[str]], list[int]]) -> Answer:
    """Read all, find clusters, write what stays."""
    began = time.perf_counter()
    rows = pq.read_table(file_of(table))
    texts = rows["text"].to_pylist()
    cluster = clusters_of(texts)
    stays = pa.array([first == row for row, first in enumerate(cluster)])
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(rows.filter(stays), f"{folder}/kept.parquet", compression="zstd")
    seconds = time.perf_counter() - began
    return {"throughput": sum(len(text.encode()) for text in texts) / 1e6 / seconds}, cluster


def rensa_full(table: str) -> Answer:
    """All tokens of a document, with the bulk calls that its README times; flags alone, neither clusters nor verification."""
    from rensa import RMinHash, RMinHashLSH

    def flags(texts: list[str]) -> list[int]:
        matrix = RMinHash.digest_matrix_from_token_sets(map(shingles, texts), num_perm=BANDS * ROWS, seed=1)
        lsh = RMinHashLSH(threshold=0.7, num_perm=BANDS * ROWS, num_bands=BANDS)
        gone = lsh.query_duplicate_flags_matrix_one_shot(matrix)
        return [FLAGGED if each else row for row, each in enumerate(gone)]

    return in_memory(table, flags)


def rensa_rho(table: str) -> Answer:
    """The sketch behind its fastest published figure: a sample of the tokens of long documents."""
    from rensa import RMinHash, RMinHashLSH

    def flags(texts: list[str]) -> list[int]:
        matrix = RMinHash.digest_matrix_from_token_sets_rho(map(shingles, texts), BANDS * ROWS, 1, probes=4)
        lsh = RMinHashLSH(threshold=0.7, num_perm=BANDS * ROWS, num_bands=BANDS)
        gone = lsh.query_duplicate_flags_matrix_one_shot(matrix)
        return [FLAGGED if each else row for row, each in enumerate(gone)]

    return in_memory(table, flags)


def datasketch_lsh(table: str) -> Answer:
    """MinHash.generator, its bulk call, then one look into the index and one insertion a document."""
    from datasketch import MinHash, MinHashLSH

    def clusters(texts: list[str]) -> list[int]:
        sets: Iterator[list[bytes]] = ([s.encode() for s in shingles(text)] for text in texts)
        lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        firsts: list[int] = []
        for row, minhash in enumerate(MinHash.generator(sets, num_perm=BANDS * ROWS)):
            near = lsh.query(minhash)
            firsts.append(min((firsts[other] for other in near), default=row))
            lsh.insert(row, minhash, check_duplication=False)
        return firsts

    return in_memory(table, clusters)


def datatrove_minhash(table: str) -> Answer:
    """datatrove's four stages with two processes, as its example of MinHash has them."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config = MinhashConfig(n_grams=SIZE, num_buckets=BANDS, hashes_per_bucket=ROWS)
    rows = pq.read_table(file_of(table), columns=["id", "text"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        half = (rows.num_rows + 1) // 2
        for part in range(2):  # a file a task
            pq.write_table(rows.slice(part * half, half), f"{folder}/in/{part}.parquet", compression="zstd")
        reader = ParquetReader(f"{folder}/in")
        signatures = MinhashDedupSignature(f"{folder}/signatures", config)
        buckets = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
        cluster = MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)
        kept = [reader, MinhashDedupFilter(f"{folder}/remove"), ParquetWriter(f"{folder}/kept", compression="zstd")]
        began = time.perf_counter()
        stages = (([reader, signatures], 2), ([buckets], BANDS), ([cluster], 1), (kept, 2))
        for number, (steps, tasks) in enumerate(stages):
            logs = f"{folder}/logs/{number}"  # of its own: what one stage calls done the next would not do
            LocalPipelineExecutor(steps, tasks, min(tasks, 2), logs, start_method=FORK).run()
        seconds = time.perf_counter() - began
        stays = {int(each) for each in pq.read_table(f"{folder}/kept", columns=["id"])["id"].to_pylist()}
    cluster_of = [row if row in stays else GONE for row in range(rows.num_rows)]
    return {"throughput": size_of(rows) / seconds}, cluster_of


def text_dedup_minhash(table: str) -> Answer:
    """text-dedup's command, called as a function so that its imports are over, with two processes and the hash function that it
    says is faster."""
    os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}  # read by its import of datasets
    from datasets import load_from_disk
    from text_dedup.minhash import main as minhash

    rows = pq.read_table(file_of(table), columns=["id", "text"])
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "path": "parquet", "data_files": file_of(table), "split": "train", "cache_dir": f"{folder}/cache", "output":
            f"{folder}/kept", "column": "text", "ngram": SIZE, "num_perm": BANDS * ROWS, "b": BANDS, "r": ROWS,
            "min_length": 0, "hash_func": "xxh3", "hash_bits": 32, "num_proc": 2, "batch_size": 10_000,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        began = time.perf_counter()
        minhash.main(words, standalone_mode=False)
        seconds = time.perf_counter() - began
        stays = {int(each) for each in load_from_disk(f"{folder}/kept")["id"]}
    return {"throughput": size_of(rows) / seconds}, [row if row in stays else GONE for row in range(rows.num_rows)]


def size_of(rows: pa.Table) -> float:
    """MB of text in a table's rows."""
    return float(np.sum([len(text.encode()) for text in rows["text"].to_pylist()])) / 1e6


def datatrove_clusters(folder: str) -> tuple[dict[str, float], int]:
    """Seconds of datatrove's second and third stage on signatures that are there, with two processes, and how many documents
    go."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    config = MinhashConfig(n_grams=SIZE, num_buckets=BANDS, hashes_per_bucket=ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        signatures = f"{folder}/signatures"
        buckets = MinhashDedupBuckets(signatures, f"{scratch}/buckets", config=config, lines_to_buffer=1000)
        cluster = MinhashDedupCluster(f"{scratch}/buckets", f"{scratch}/remove", config=config, lines_to_buffer=1000)
        began = time.perf_counter()
        LocalPipelineExecutor([buckets], BANDS, 2, f"{scratch}/logs/2", start_method=FORK).run()
        LocalPipelineExecutor([cluster], 1, logging_dir=f"{scratch}/logs/3").run()
        seconds = time.perf_counter() - began
        gone = sum(path.stat().st_size // 4 for path in Path(f"{scratch}/remove").glob("*.remove"))
    return {"time": seconds}, gone
