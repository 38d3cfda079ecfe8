"""A corpus of prose for benchmarks that train: made by the project's own stages, so that all arms have the same tokens."""

from hashlib import blake2b
from pathlib import Path

from lm.model import Decoder
from lm.problems import Arithmetic
from lm.tokenizer import Tokenizer
from tasks.core.config import Checkpoint
from tasks.core.log import Log
from tasks.dedup import stage as dedup
from tasks.dedup.methods import KeepAll, Minhash
from tasks.evaluate.bits_per_byte import document_bits
from tasks.evaluate.stage import held_out
from tasks.filter import stage as filters
from tasks.filter.methods import GopherQuality, GopherRepetition
from tasks.ingest import stage as ingest
from tasks.ingest.sources import Jsonl
from tasks.tokenize import stage as tokenize
from tasks.tokenize.methods import Bpe

# As in presets/prose.yaml; more bytes than the folder has.
FOLDER, MAX_BYTES = Path("../shared/data/prose"), 30_000_000
# Of the documents; 66,000 tokens of the prose, which take a few seconds to evaluate.
HELD_OUT = 0.01


def prepare(data: Path, source: Path = FOLDER, vocab_size: int = 2048, held_out_fraction: float = HELD_OUT) -> None:
    """source/*.jsonl.gz -> data/ingest, data/dedup, data/filter, data/tokenize, by the stages of these names.

    Raises ValueError when there is no such file.
    """
    if not any(source.glob("*.jsonl.gz")):
        raise ValueError(
            f"{source}: no *.jsonl.gz there; give this benchmark a folder of prose as presets/prose.yaml has"
        )
    read = ingest.IngestConfig(folder=str(source), max_bytes=MAX_BYTES, sources=[Jsonl(path="*.jsonl.gz")], seed=0)
    quality = GopherQuality(
        min_words=20, max_mean_word_length=10.0, max_symbol_ratio=0.1, min_alphabetic_fraction=0.7, min_stop_words=1
    )
    keep = filters.FilterConfig(
        quality=quality, repetition=GopherRepetition(), problems=Arithmetic(), checkpoint=Checkpoint(folder="")
    )
    encode = tokenize.TokenizeConfig(
        method=Bpe(vocab_size=vocab_size), checkpoint=Checkpoint(folder=""), held_out_fraction=held_out_fraction
    )
    for name in ("ingest", "dedup", "filter", "tokenize"):
        (data / name).mkdir(parents=True)
    ingest.run(read, data, Log())
    off = KeepAll()
    near = dedup.DedupConfig(against=off, exact=off, near=Minhash(), semantic=off, substring=off)
    dedup.run(near, data, Log())
    filters.run(keep, data, Log())
    tokenize.run(encode, data, Log())


def bits_per_byte(model: Decoder, data: Path) -> tuple[float, str]:
    """Bits per byte of the held-out documents together, as the evaluate stage counts them; and a digest of those documents."""
    documents = held_out(data / "tokenize", Tokenizer.load(data / "tokenize"))
    bits = document_bits(model, [document.ids for document in documents], lambda *_: None)
    texts = [document.text.encode() for document in documents]
    return sum(bits) / sum(map(len, texts)), blake2b(b"\0".join(texts), digest_size=8).hexdigest()
