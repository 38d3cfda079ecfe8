"""Gopher's rules and C4's lines from Parquet to kept rows, beside datatrove's filters; of real prose.

Prose is cut into documents of log-normal length, mean 2.5 KB; three in ten are damaged as pages are: menus, repeated lines or
paragraphs, lists, numbers, cut-off lines.
"""

import gzip
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.apart import PEERS, ROOT, apart
from benchmarks.contest import Contest, Metric

FOLDER = ROOT.parent / "shared" / "data" / "prose"
# datatrove takes over a minute for it, and a rate does not hang on how much it is
BYTES, MEAN_BYTES, DAMAGED, DISAGREEING = 30_000_000, 2500, 0.3, 0.001
PAIRS = 3
METRICS = (Metric("rate", "MB/s", higher_is_better=True),)
MENU = "Home\nAbout us\nProducts\nContact\nTerms of use\n"

Answer = dict[str, str]


def damages(random: random.Random) -> list[Callable[[str], str]]:
    """What may befall a page."""
    return [
        lambda text: MENU + text + "\n" + MENU,
        lambda text: text + "\n" + "\n".join(text.splitlines()[-1:] * 9),
        lambda text: text + "\n\n" + text[: len(text) // 3] + "\n\n" + text[: len(text) // 3],
        lambda text: "\n".join(f"- {part.strip()}" for part in text.split(",")),
        lambda text: " ".join(word if random.random() < 0.6 else str(random.randrange(10**6)) for word in text.split()),
        lambda text: "\n".join(line[:60] + "..." for line in text.splitlines()),
    ]


def documents(size: int = BYTES) -> Iterator[str]:
    """Texts of `size` bytes in all. Raises ValueError when there is no prose."""
    files = sorted(FOLDER.glob("*.jsonl.gz"))
    if not files:
        raise ValueError(
            f"{FOLDER}: no *.jsonl.gz there; give this benchmark a folder of prose as presets/prose.yaml has"
        )
    texts = [json.loads(line)["text"] for file in files for line in gzip.open(file, "rt")]
    generator = random.Random(0)
    generator.shuffle(texts)
    prose, at, made = "\n\n".join(texts), 0, 0
    ways = damages(generator)
    while made < size:
        length = max(100, int(generator.lognormvariate(math.log(MEAN_BYTES) - 0.5, 1.0)))
        if at + length > len(prose):
            at = generator.randrange(1000)  # once more, cut elsewhere
        text = prose[at : at + length].strip()
        at += length
        if generator.random() < DAMAGED:
            text = generator.choice(ways)(text)
        if text:
            made += len(text.encode())
            yield text


def write(data: Path) -> int:
    """The documents as data/dedup has them, and halved for datatrove's two workers in data/halves; returns their bytes."""
    from tasks.core.tables import Writer, shard_path, write_table

    texts = list(documents())
    table = pa.table(
        {
            "id": [str(number) for number in range(len(texts))],
            "source": ["prose"] * len(texts),
            "text": pa.array(texts, pa.large_string()),
            "meta": ["{}"] * len(texts),
        }
    )
    with Writer(shard_path(data / "dedup" / "documents", 0), table.schema) as writer:
        writer.write(table)
    middle = table.num_rows // 2
    for number, half in enumerate((table.slice(0, middle), table.slice(middle))):
        write_table(shard_path(data / "halves", number), half)
    return sum(len(text.encode()) for text in texts)


def ours(data: str, size: int, threads: int) -> tuple[dict[str, float], Answer]:
    """The filter stage on one shard, compiled beforehand."""
    from lm.problems import Arithmetic
    from tasks.core.config import Checkpoint
    from tasks.core.log import Log
    from tasks.core.tables import shard_path, write_table
    from tasks.filter.methods import C4, GopherQuality, GopherRepetition
    from tasks.filter.stage import FilterConfig, run

    os.environ["TOKENMILL_THREADS"] = str(threads)
    config = FilterConfig(
        repetition=GopherRepetition(definitions="datatrove"),
        quality=GopherQuality(definitions="datatrove"),
        lines=C4(end_marks=".?!\"'", min_words=3, min_sentences=5),
        problems=Arithmetic(),
        checkpoint=Checkpoint(folder=""),
    )
    with tempfile.TemporaryDirectory() as warm:
        first = pq.ParquetFile(Path(data) / "dedup" / "documents" / "00000.parquet").read_row_group(0)
        write_table(shard_path(Path(warm) / "dedup" / "documents", 0), first)
        (Path(warm) / "filter").mkdir()
        run(config, Path(warm), Log())
    shutil.rmtree(Path(data) / "filter", ignore_errors=True)
    (Path(data) / "filter").mkdir()
    began = time.perf_counter()
    run(config, Path(data), Log())
    return {"rate": size / 1e6 / (time.perf_counter() - began)}, answer(Path(data) / "filter" / "documents")


def datatrove(data: str, size: int) -> tuple[dict[str, float], Answer]:
    """datatrove's filters in a local pipeline of two tasks on two workers, from Parquet to Parquet."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    out = Path(data) / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    steps = [
        ParquetReader(str(Path(data) / "halves")),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(),
        ParquetWriter(str(out / "kept")),
    ]
    began = time.perf_counter()
    # its default would import all of it once more in each worker, within the time
    LocalPipelineExecutor(steps, 2, 2, str(out / "logs"), start_method="fork").run()
    return {"rate": size / 1e6 / (time.perf_counter() - began)}, answer(out / "kept")


def answer(folder: Path) -> Answer:
    """A digest of the text of each document that was kept, by its id."""
    kept = pa.concat_tables([pq.read_table(file, columns=["id", "text"]) for file in sorted(folder.rglob("*.parquet"))])
    rows = zip(kept["id"].to_pylist(), kept["text"].to_pylist(), strict=True)
    return {name: blake2b(text.encode(), digest_size=8).hexdigest() for name, text in rows}


def gate(mine: Answer, theirs: Answer) -> str:
    """What is wrong; empty when at most one document of a thousand is kept by one alone, or by both with other text; each of
    these is printed."""
    texts = list(documents())
    differ = [name for name in sorted(mine.keys() | theirs.keys(), key=int) if mine.get(name) != theirs.get(name)]
    for name in differ:
        how = (
            "other text"
            if name in mine and name in theirs
            else f"kept by {'ours' if name in mine else 'datatrove'} alone"
        )
        print(f"document {name}: {how}: {texts[int(name)]!r:.200}", file=sys.stderr)
    print(f"{len(differ)} of {len(texts)} documents differ; ours keeps {len(mine)}", file=sys.stderr)
    return f"{len(differ)} of {len(texts)} documents differ" if len(differ) > DISAGREEING * len(texts) else ""


def contests(threads: int) -> Iterator[Contest]:
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {"data": folder, "size": write(Path(folder))}
        yield Contest(
            ours=apart("ours", "benchmarks.filter:ours", threads=threads, **given),
            metrics=METRICS,
            peers=(apart("datatrove", "benchmarks.filter:datatrove", python=PEERS, **given),),
            gate=gate,
            pairs=PAIRS,
            packages=("numba", "pyarrow"),
        )
