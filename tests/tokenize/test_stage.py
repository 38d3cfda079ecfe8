"""Tokenize: the files it writes, and who is held out."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.tokenizer import Tokenizer
from tasks.core.config import Checkpoint, ConfigError
from tasks.core.log import Log
from tasks.core.tables import read_table, shard_path, write_table
from tasks.tokenize.methods import Bpe, Bytes, HuggingFace
from tasks.tokenize.sides import held_out_below, points
from tasks.tokenize.stage import TokenizeConfig, run
from tests.lm.models import other_tokenizer

# words of their own: no document stands in another
TEXTS = [
    f"document {i}: "
    + "".join(f"some words, {(i * 7919 + j * 104729) % 99991} and \N{GREEK SMALL LETTER ALPHA} " for j in range(i % 7))
    for i in range(200)
]


def table_of(texts: list[str], metas: list[dict] | None = None) -> pa.Table:
    """Documents as filter leaves them, with a score."""
    ids, scores = [f"d{i}" for i in range(len(texts))], pa.array([i / 7 for i in range(len(texts))], pa.float32())
    columns = {"id": ids, "source": ["s"] * len(texts), "text": pa.array(texts, pa.large_string())}
    written = [json.dumps(meta) for meta in metas or [{}] * len(texts)]
    return pa.table({**columns, "meta": written, "score_length": scores})


def run_stage(
    folder: Path,
    texts: list[str] = TEXTS,
    method=None,
    fraction: float = 0.1,
    cuts: tuple[int, ...] = (),
    metas: list[dict] | None = None,
    **settings,
) -> tuple[dict, Path]:
    """The metrics and the output of the stage over these documents, cut into shards at these rows."""
    for name in ("filter", "tokenize"):
        (folder / name).mkdir(parents=True)
    table, bounds = table_of(texts, metas), [0, *cuts, len(texts)]
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        write_table(shard_path(folder / "filter" / "documents", number), table.slice(start, end - start))
    chosen = method or Bpe(vocab_size=400)
    config = TokenizeConfig(method=chosen, checkpoint=Checkpoint(folder=""), held_out_fraction=fraction, **settings)
    return run(config, folder, Log()), folder / "tokenize"


def test_the_files_hold_every_document_where_they_say(tmp_path: Path) -> None:
    metrics, out = run_stage(tmp_path)
    tokens, tokenizer = np.load(out / "tokens.npy"), Tokenizer.load(out)
    rows = read_table(out / "documents.parquet").to_pylist()
    assert [r["id"] for r in rows] == [f"d{i}" for i in range(200)]
    assert [r["score_length"] for r in rows] == table_of(TEXTS)[
        "score_length"
    ].to_pylist() and tokens.dtype == np.uint16
    for row, text in zip(rows, TEXTS, strict=True):
        ids = tokens[row["start"] : row["start"] + row["length"]].tolist()
        assert ids[-1] == tokenizer.eos_id and tokenizer.decode(ids[:-1]) == text and row["bytes"] == len(text.encode())
    held = read_table(out / "held_out.parquet").to_pylist()
    assert [r["id"] for r in held] == [r["id"] for r in rows if r["split"] == "held_out"]
    assert [r["text"] for r in held] == [TEXTS[int(r["id"][1:])] for r in held] and 5 < len(held) < 40
    assert metrics["tokens"] == len(tokens) == metrics["train_tokens"] + metrics["held_out_tokens"]
    assert sorted(p.name for p in out.iterdir()) == [
        "contract.json",
        "documents.parquet",
        "held_out.parquet",
        "tokenizer.json",
        "tokens.npy",
    ]


def test_held_out_documents_do_not_train_the_tokenizer(tmp_path: Path) -> None:
    first, changed = tmp_path / "first", tmp_path / "changed"
    _, out = run_stage(first)
    chosen = {r["id"] for r in read_table(out / "held_out.parquet").to_pylist()}
    texts = [text if f"d{i}" not in chosen else "zqxj " * 500 for i, text in enumerate(TEXTS)]
    _, other = run_stage(changed, texts)
    assert (out / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.text(max_size=5), min_size=2, max_size=30, unique=True), st.floats(0.001, 0.999))
def test_some_are_held_out_and_some_are_not(ids: list[str], fraction: float) -> None:
    found = points(pa.array(ids))
    given = {"given_to_training": 0, "given_to_held_out": 0}
    below = held_out_below([{**given, "lowest": int(found.min()), "highest": int(found.max())}], fraction)
    chosen = found < np.uint64(below)
    assert 0 < chosen.sum() < len(ids)
    one_by_one = [{**given, "lowest": int(point), "highest": int(point)} for point in found]
    assert held_out_below(one_by_one, fraction) == below, "a shard for each document"
    if fraction * 2**64 > found.min() + 1 and fraction * 2**64 < found.max():
        assert (chosen == (found < fraction * 2**64)).all()


def test_bytes_need_no_training(tmp_path: Path) -> None:
    metrics, _ = run_stage(tmp_path, method=Bytes())
    assert metrics["vocab_size"] == 261 and metrics["tokens"] == metrics["bytes"] + 200


def test_one_document_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 documents; tokenize needs two"):
        run_stage(tmp_path, ["one"])


def test_documents_without_text_are_an_end_token_each(tmp_path: Path) -> None:
    metrics, out = run_stage(tmp_path, ["", "", "", "a", ""], fraction=0.5)
    assert np.load(out / "tokens.npy").tolist().count(0) == 5 and metrics["tokens"] == 6 and metrics["bytes"] == 1


def test_one_long_document_is_encoded_whole(tmp_path: Path) -> None:
    long = "It was the best of times, it was the worst of times; 1859.\n" * (
        9_000_000 // 59
    )  # more than a batch of any step
    _, out = run_stage(tmp_path, ["short", long, "another"])
    row = read_table(out / "documents.parquet").to_pylist()[1]
    tokens = np.load(out / "tokens.npy", mmap_mode="r")[row["start"] : row["start"] + row["length"]]
    assert Tokenizer.load(out).decode(tokens[:-1].tolist()) == long and row["bytes"] == len(long)


def test_more_than_65536_tokens_take_four_bytes(tmp_path: Path) -> None:
    """The vocabulary decides, so that a corpus that uses few of its tokens has the same type."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    inner = other_tokenizer()
    inner.add_tokens([f"<extra{i}>" for i in range(1 << 16)])
    inner.save(str(folder / "tokenizer.json"))
    for name in ("filter", "tokenize"):
        (tmp_path / name).mkdir()
    write_table(shard_path(tmp_path / "filter" / "documents", 0), table_of(TEXTS))
    config = TokenizeConfig(method=HuggingFace(), checkpoint=Checkpoint(folder=str(folder)), held_out_fraction=0.1)
    run(config, tmp_path, Log())
    assert np.load(tmp_path / "tokenize" / "tokens.npy").dtype == np.uint32
