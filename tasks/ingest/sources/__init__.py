"""Sources: `(folder, max_bytes, seed) -> records and rejected rows`, in an order that is always the same."""

from tasks.ingest.sources.jsonl import Jsonl
from tasks.ingest.sources.parquet import Parquet
from tasks.ingest.sources.stdlib import Stdlib
from tasks.ingest.sources.text_folder import TextFolder
from tasks.ingest.sources.worksheets import Worksheets
