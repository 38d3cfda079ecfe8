"""What others do from Parquet to packed token ids: each arm writes the ids of all documents once, an end token after each.

Sequences are cut out of the documents end to end, as ours are; where they are a view of what is written, nothing more is.
They run in the environment of the peers and import nothing of ours. `lost` counts tokens that no sequence has.
"""

import hashlib
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq

LENGTH, EOS = 1024, "<|endoftext|>"
Answer = tuple[dict[str, float], list]


def files_of(folder: str) -> list[str]:
    return [str(path) for path in sorted((Path(folder) / "filter" / "documents").glob("*.parquet"))]


def answered(seconds: float, megabytes: float, ids: bytes, lost: int) -> Answer:
    return {"rate": megabytes / seconds}, [hashlib.sha256(ids).hexdigest(), lost]


def with_ends(ids: np.ndarray, lengths: np.ndarray, eos: int) -> np.ndarray:
    """Ids with the end token after each document, as a user of NumPy would make them."""
    return np.insert(ids, np.cumsum(lengths), eos).astype(np.uint16)


def gigatoken(folder: str, megabytes: float) -> Answer:
    """encode_files, then one array, whose rows of LENGTH are the sequences: packing is a reshape."""
    import awkward  # noqa: F401
    from gigatoken.gigatoken_rs import BPETokenizer, ParquetFileSource

    with TemporaryDirectory(dir=folder) as out:
        began = time.perf_counter()
        tokenizer = BPETokenizer.from_hf(f"{folder}/tokenizer.json")
        encoded = tokenizer.encode_files(ParquetFileSource([*files_of(folder)])).layout
        ids = with_ends(encoded.content.data, np.diff(np.asarray(encoded.offsets.data)), 0)
        ids.tofile(f"{out}/tokens")
        seconds = time.perf_counter() - began
        return answered(seconds, megabytes, Path(out, "tokens").read_bytes(), len(ids) % LENGTH)


def hugging_face(folder: str, megabytes: float) -> Answer:
    """datasets' map with encode_batch_fast, then TRL's pack_dataset with documents end to end."""
    import trl
    from datasets import load_dataset
    from tokenizers import Tokenizer

    with TemporaryDirectory(dir=folder) as out:
        began = time.perf_counter()
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")

        def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
            encoded = tokenizer.encode_batch_fast(rows["text"], add_special_tokens=False)
            return {"input_ids": [[*some.ids, 0] for some in encoded]}

        rows = load_dataset("parquet", data_files=files_of(folder), split="train", cache_dir=out)
        rows = rows.map(encode, batched=True, remove_columns=rows.column_names)
        packed = trl.pack_dataset(rows, LENGTH, "wrapped")
        packed.save_to_disk(f"{out}/packed")
        seconds = time.perf_counter() - began
        parts = packed.with_format("numpy").iter(1000)
        ids = np.concatenate([np.concatenate(part["input_ids"]) for part in parts])
        return answered(seconds, megabytes, ids.astype(np.uint16).tobytes(), len(ids) % LENGTH)


def tiktoken(folder: str, megabytes: float) -> Answer:
    """encode_ordinary_batch of a row group at a time, on two threads."""
    import json

    import tiktoken as library
    from tokenizers import pre_tokenizers

    with TemporaryDirectory(dir=folder) as out:
        described = json.loads(Path(folder, "tokenizer.json").read_text())
        vocabulary = described["model"]["vocab"]
        letters = sorted(
            pre_tokenizers.ByteLevel.alphabet(), key=vocabulary.__getitem__
        )  # ids 5 to 260 are bytes in order
        byte = {letter: value for value, letter in enumerate(letters)}
        ranks = {bytes(byte[c] for c in token): rank for token, rank in vocabulary.items() if rank >= 5}
        pattern = described["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        began = time.perf_counter()
        encoding = library.Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={EOS: 0})
        total = 0
        with open(f"{out}/tokens", "wb") as file:
            for path in files_of(folder):
                for batch in pq.ParquetFile(path).iter_batches(4096, columns=["text"]):
                    encoded = encoding.encode_ordinary_batch(batch.column(0).to_pylist(), num_threads=2)
                    ids = np.array([i for some in encoded for i in (*some, 0)], dtype=np.uint16)
                    total += len(ids)
                    ids.tofile(file)
        seconds = time.perf_counter() - began
        return answered(seconds, megabytes, Path(out, "tokens").read_bytes(), total % LENGTH)


def datatrove(folder: str, megabytes: float) -> Answer:
    """DocumentTokenizer, without its shuffle; sequences are cut when they are read, so packing costs nothing."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    with TemporaryDirectory(dir=folder) as out:
        began = time.perf_counter()
        reader = ParquetReader(f"{folder}/filter/documents", read_metadata=False)
        writer = DocumentTokenizer(
            f"{out}/tokens",
            f"{folder}/tokenizer.json",
            eos_token=EOS,
            shuffle_documents=False,
            local_working_dir=f"{out}/work",
        )
        LocalPipelineExecutor([reader, writer], tasks=1, logging_dir=f"{out}/logs").run()
        seconds = time.perf_counter() - began
        (written,) = Path(out, "tokens").glob("*.ds")
        return answered(seconds, megabytes, written.read_bytes(), 0)
