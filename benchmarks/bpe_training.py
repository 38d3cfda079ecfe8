"""Training a BPE tokenizer of 8192 tokens on 50 MB of text, in our division into words."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.apart import ROOT, apart
from benchmarks.contest import Contest, Metric
from benchmarks.corpus import texts, write

MEGABYTES, CHECKED_MEGABYTES, VOCABULARY = 50, 2, 8192
# The same number of tokens, chosen by counts alone but for ties, makes a text as long to one part in a thousand.
TOLERANCE = 1e-3
METRICS = (Metric("rate", "MB/s", higher_is_better=True), Metric("peak_memory_bytes", "B"))


def contests(threads: int) -> Iterator[Contest]:
    """The gate: how many tokens the tokenizers make of the same text. gigatoken counts words as GPT-2 divides them, whatever
    it is asked for, so its tokenizer cannot take our place; its row is a bound."""
    with TemporaryDirectory(dir=scratch()) as folder:
        write(Path(folder), texts(MEGABYTES))
        arms = {
            name: apart(name, f"benchmarks.bpe_training:{kind}", folder=folder)
            for name, kind in (
                ("ours (rustbpe)", "ours"),
                ("tokenizers", "hugging_face"),
                ("gigatoken (GPT-2 words)", "gigatoken"),
            )
        }
        ours, peer, other = arms.values()
        packages = ("rustbpe", "tokenizers", "gigatoken")
        yield Contest(ours, METRICS, (peer,), gate=near, packages=packages)
        yield Contest(ours, METRICS, (other,), bound=True, packages=packages)


def scratch() -> Path:
    (ROOT / ".scratch").mkdir(exist_ok=True)
    return ROOT / ".scratch"


def near(ours: int, peer: int) -> str:
    return "" if abs(ours / peer - 1) <= TOLERANCE else f"ours makes {ours} tokens, the peer {peer}"


def read(folder: str) -> Iterator[str]:
    from tasks.core.tables import read_batches

    for batch in read_batches(Path(folder), ["text"]):
        yield from batch.column(0).to_pylist()


def measured(began: float, trained: Any, folder: str) -> tuple[dict[str, float], int]:
    seconds = time.perf_counter() - began
    checked = [text for text, _ in zip(read(folder), range(CHECKED_MEGABYTES * 300), strict=False)]
    trained.encode_special_tokens = True
    tokens = sum(len(some.ids) for some in trained.encode_batch_fast(checked, add_special_tokens=False))
    return {"rate": MEGABYTES / seconds}, tokens


def ours(folder: str) -> tuple[dict[str, float], int]:
    from tasks.tokenize.methods.bpe import train

    began = time.perf_counter()
    return measured(began, train(read(folder), VOCABULARY, 1 << 30), folder)


def hugging_face(folder: str) -> tuple[dict[str, float], int]:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from lm.tokenizer import SPECIALS
    from tasks.tokenize.methods.bpe import WORDS

    began = time.perf_counter()
    inner, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), level])
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(read(folder), trainer)
    return measured(began, inner, folder)


def gigatoken(folder: str) -> tuple[dict[str, float], int]:
    from gigatoken import ParquetFileSource, train_bpe

    from tasks.core.tables import shard_paths

    began = time.perf_counter()
    vocabulary, _ = train_bpe(
        ParquetFileSource([str(path) for path in shard_paths(Path(folder))]), VOCABULARY, ["<|endoftext|>"]
    )
    return {"rate": MEGABYTES / (time.perf_counter() - began)}, len(vocabulary)
