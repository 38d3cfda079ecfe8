"""Row groups by several threads: in order, and a damaged file is an error rather than a wait without end."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dedup.documents import Shard
from tasks.dedup.engine.row_groups import over_texts

GROUPS, ROWS = 12, 50
READ = """
import sys
from pathlib import Path
from tests.dedup.test_row_groups import read
read(Path(sys.argv[1]))
"""


def write(path: Path) -> Path:
    texts = [f"{number} " + "word " * 40 for number in range(GROUPS * ROWS)]
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    pq.write_table(table, path, row_group_size=ROWS, compression="none", use_dictionary=False)
    return path


def read(path: Path) -> list[str]:
    shard = Shard(path, 0, np.ones(GROUPS * ROWS, dtype=bool))
    return [text for some in over_texts(shard, lambda texts: texts.to_pylist()) for text in some]


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_texts_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("TOKENMILL_THREADS", threads)
    path = write(tmp_path / "00000.parquet")
    assert read(path) == pq.read_table(path)["text"].to_pylist()


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "00000.parquet")
    content = bytearray(path.read_bytes())
    first, last = (pq.read_metadata(path).row_group(group).column(0) for group in (0, GROUPS - 1))
    end = last.data_page_offset + last.total_compressed_size
    content[first.data_page_offset : end] = b"\xff" * (end - first.data_page_offset)
    path.write_bytes(content)
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "OSError" in done.stderr, done.stderr
