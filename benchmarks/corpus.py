"""Text for benchmarks of tokenizers: prose, and the code of Python's standard library, in one order for all arms."""

import gzip
import json
import random
import sysconfig
from itertools import cycle
from pathlib import Path

import pyarrow as pa

from tasks.core.tables import shard_path, write_table

PROSE = Path("../shared/data/prose")
CODE_CHARACTERS = 3000
SHARD_BYTES = 64 << 20


def texts(megabytes: int) -> list[str]:
    """Documents of `megabytes` MB together, again from the first where there are not enough. Raises ValueError without the
    folder of prose."""
    files = sorted(PROSE.glob("*.jsonl.gz"))
    if not files:
        raise ValueError(
            f"{PROSE}: no *.jsonl.gz there; give this benchmark a folder of prose as presets/prose.yaml has"
        )
    found = [json.loads(line)["text"] for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*/*.py")):
        if "site-packages" not in path.parts:
            code = path.read_text(errors="replace")
            found += [code[start : start + CODE_CHARACTERS] for start in range(0, len(code), CODE_CHARACTERS)]
    random.Random(0).shuffle(found)
    chosen, size = [], 0
    for text in cycle(found):
        chosen.append(text)
        size += len(text.encode())
        if size >= megabytes * 1_000_000:
            return chosen
    raise AssertionError


def write(folder: Path, documents: list[str]) -> None:
    """The documents as the filter stage leaves them, in shards."""
    number = size = first = 0
    for place, text in enumerate(documents, 1):
        size += len(text.encode())
        if size >= SHARD_BYTES or place == len(documents):
            rows = documents[first:place]
            columns = {"id": [f"d{row}" for row in range(first, place)], "source": ["s"] * len(rows)}
            table = pa.table({**columns, "text": pa.array(rows, pa.large_string()), "meta": ["{}"] * len(rows)})
            write_table(shard_path(folder, number), table)
            number, size, first = number + 1, 0, place
