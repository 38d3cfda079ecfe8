"""The classifier: parity with the same sums in NumPy, the same bits every time, exact fractions, and what it learns."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.tables import shard_path, write_table
from tasks.filter.engine.compiled_classifier import buckets_of, probabilities, train
from tasks.filter.engine.examples import read_examples
from tasks.filter.engine.lowered import lowered
from tasks.filter.engine.ranks import score_at
from tasks.filter.methods import QualityClassifier
from tasks.filter.methods.quality_classifier import area_under_curve, trained
from tasks.filter.rule import Setting
from tests.filter.documents import batch_of
from tests.real_text import REAL_TEXT, on_real_text

GOOD = [
    f"the {noun} was {verb} by careful people"
    for noun in ("bridge", "letter", "song")
    for verb in ("made", "kept", "seen")
] * 4
BAD = [
    f"buy {noun} now {verb} cheap cheap click" for noun in ("pills", "shoes", "gold") for verb in ("win", "save", "get")
] * 4


def column(texts: list[str]):
    return lowered(pa.array(texts, pa.large_string()))


def documents(folder: Path, shards: list[list[str]]) -> Path:
    for number, texts in enumerate(shards):
        columns = {"id": [f"{number}-{i}" for i in range(len(texts))], "source": ["a"] * len(texts)}
        table = pa.table({**columns, "text": pa.array(texts, pa.large_string()), "meta": ["{}"] * len(texts)})
        write_table(shard_path(folder / "documents", number), table)
    return folder / "documents"


def examples(folder: Path, name: str, texts: list[str]) -> str:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(folder / f"{name}.jsonl")


def prepared(folder: Path, table: Path | None = None, **params) -> QualityClassifier:
    rule = QualityClassifier(
        good=examples(folder, "good", GOOD),
        bad=examples(folder, "bad", BAD),
        bucket_bits=12,
        width=4,
        epochs=20,
        **params,
    )
    rule.prepare(Setting(table or folder, None, folder, Log()))
    return rule


def plain_sgd(ids: list[list[int]], labels: list[int], order, epochs: int, lr: float, embedding: np.ndarray):
    """The same training, as it is written in a textbook: float64, one example at a time."""
    embedding, weight, bias, done = embedding.astype(np.float64), np.zeros(embedding.shape[1]), 0.0, 0
    for _ in range(epochs):
        for text in order:
            rate = lr * (1 - done / (epochs * len(order)))
            done += 1
            hidden = embedding[ids[text]].mean(0)
            gap = rate * (labels[text] - 1 / (1 + math.exp(-(weight @ hidden + bias))))
            step = gap * weight / len(ids[text])
            weight, bias = weight + gap * hidden, bias + gap
            np.add.at(embedding, ids[text], step)
    return weight, bias, embedding


def test_parity_with_numpy() -> None:
    texts, labels = [*GOOD[:9], *BAD[:9], "One", "the the the"], [1] * 9 + [0] * 9 + [1, 0]
    data, places = column(texts)
    room, V = np.empty(64, np.int64), 1 << 10
    ids = [list(room[: buckets_of(data, places[i], places[i + 1], V, room)]) for i in range(len(texts))]
    assert [len(found) for found in ids[-2:]] == [1, 5] and len(set(ids[-1])) == 2
    rng = np.random.default_rng(0)
    embedding, order = rng.uniform(-0.2, 0.2, (V, 5)).astype(np.float32), rng.permutation(len(texts))
    expected = plain_sgd(ids, labels, order, 4, 0.5, embedding)
    weight, bias, seen = train(data, places, np.array(labels), order, 4, 0.5, embedding, 64)
    assert np.allclose(weight, expected[0], atol=1e-5) and abs(bias - expected[1]) < 1e-5
    assert np.allclose(embedding, expected[2], atol=1e-5) and set(np.flatnonzero(seen)) == {
        i for row in ids for i in row
    }
    worth = embedding.astype(np.float64) @ weight
    scores = probabilities(data, places, worth.astype(np.float32), bias)
    plain = [1 / (1 + math.exp(-(expected[0] @ expected[2][row].mean(0) + expected[1]))) for row in ids]
    assert np.allclose(scores, plain, atol=1e-5)


def test_it_learns_and_is_the_same_every_time(tmp_path: Path) -> None:
    rule = prepared(tmp_path)
    worth, facts = (tmp_path / "worth.npy").read_bytes(), (tmp_path / "classifier.json").read_text()
    judged = rule.judge(batch_of(["The SONG was seen!", "cheap gold, click", "", "unheard of"]), tmp_path)
    assert list(judged.reasons[:2]) == [None, "low_quality"] and judged.scores["quality"].dtype == np.float32
    assert judged.scores["quality"][2] == judged.scores["quality"][3]  # what was never seen says nothing
    prepared(tmp_path)
    assert ((tmp_path / "worth.npy").read_bytes(), (tmp_path / "classifier.json").read_text()) == (worth, facts)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 1.0])
def test_the_best_fraction_is_kept_whatever_the_shards(fraction: float, tmp_path: Path, monkeypatch) -> None:
    texts = [" ".join(GOOD[i % 9].split()[: 1 + i % 6] + BAD[i % 7].split()[: i % 5] + [f"w{i}"]) for i in range(100)]
    kept = []
    for number, cut in enumerate(([texts], [texts[:7], [], texts[7:]])):
        monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")
        (folder := tmp_path / str(number)).mkdir()
        rule = prepared(folder, documents(folder, cut), keep_fraction=fraction)
        judged = rule.judge(batch_of(texts), folder)
        kept.append([reason is None for reason in judged.reasons])
        scores = np.sort(judged.scores["quality"])[::-1]
        assert sum(kept[-1]) == (scores >= scores[math.ceil(fraction * 100) - 1]).sum()  # ties stay together
    assert kept[0] == kept[1]


def test_the_documents_themselves_may_be_the_bad_ones(tmp_path: Path) -> None:
    table = documents(tmp_path, [BAD[:20], BAD[20:]])
    rule = QualityClassifier(good=examples(tmp_path, "good", GOOD), bucket_bits=12, epochs=20)
    rule.prepare(Setting(table, None, tmp_path, Log()))
    assert list(rule.judge(batch_of([GOOD[0], BAD[0]]), tmp_path).reasons) == [None, "low_quality"]


def test_bad_examples_are_named(tmp_path: Path) -> None:
    setting = Setting(tmp_path, None, tmp_path, Log())
    with pytest.raises(ConfigError, match="filter.quality_classifier.good: .*none: no text in it"):
        QualityClassifier(good=str(tmp_path / "none"), bad="x").prepare(setting)
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud800"}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: needs a JSON object with a string `text`"):
        QualityClassifier(good=str(tmp_path / "a.jsonl")).prepare(setting)
    for name in ("good", "bad"):
        (tmp_path / f"{name}.txt").write_text("one text")
    with pytest.raises(ConfigError, match="1 good and 1 bad texts"):
        QualityClassifier(good=str(tmp_path / "good.txt"), bad=str(tmp_path / "bad.txt")).prepare(setting)


WORDS = st.sampled_from([*"abc", *GOOD[0].split(), *BAD[0].split(), "\N{EM DASH}", "\N{GREEK SMALL LETTER ALPHA}"])


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.lists(st.one_of(st.text(max_size=30), st.lists(WORDS).map(" ".join)), min_size=1, max_size=6), st.integers(0, 5)
)
def test_a_document_is_judged_alone(tmp_path_factory, texts: list[str], cut: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "classifier"
    if not folder.exists():
        folder.mkdir()
        prepared(folder)
    judge = QualityClassifier().judge
    whole, parts = judge(batch_of(texts), folder), [judge(batch_of(p), folder) for p in (texts[:cut], texts[cut:]) if p]
    assert whole.reasons.shape == (len(texts),) and whole.reasons.dtype == object
    assert list(np.concatenate([part.reasons for part in parts])) == list(whole.reasons)
    assert np.concatenate([p.scores["quality"] for p in parts]).tobytes() == whole.scores["quality"].tobytes()


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False)), min_size=1, max_size=4), st.integers(0, 50))
def test_the_score_at_a_rank(tmp_path_factory, shards: list[list[float]], rank: int) -> None:
    values = sorted(value for each in shards for value in each)
    if not values:
        return
    files = [tmp_path_factory.getbasetemp() / f"scores-{number}.npy" for number in range(len(shards))]
    for file, each in zip(files, shards, strict=True):
        np.save(file, np.array(each, np.float32))
    assert score_at(files, rank % len(values) + 1) == values[rank % len(values)]


def test_area_under_curve_by_hand() -> None:
    assert area_under_curve(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == 3.5 / 4


@on_real_text
def test_real_text_is_told_apart_as_well_as_by_another_library(record_property) -> None:
    """Two hundred characters of a film review or of the Brown corpus: not easy. The other way to do it is logistic regression on
    hashed words and pairs."""
    sklearn = pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = []
    for name in ("brown", "movie_reviews"):
        with gzip.open(REAL_TEXT / "prose" / f"{name}.jsonl.gz", "rt") as lines:
            rows = [json.loads(line)["text"].lower().replace("\n", " ") for line in lines][:400]
        texts.append([row[1000:1200] for row in rows])
    learnt, held = ([t[:300] for t in texts], [t[300:] for t in texts])
    model = trained(*learnt, 16, 16, 20, 0.5, 0)
    ours = area_under_curve(*(probabilities(*column(t), *model) for t in held))
    vectors = HashingVectorizer(ngram_range=(1, 2), n_features=1 << 16, alternate_sign=False)
    other = LogisticRegression(C=100, max_iter=200).fit(
        vectors.transform([*learnt[0], *learnt[1]]), [1] * 300 + [0] * 300
    )
    theirs = area_under_curve(*(other.decision_function(vectors.transform(t)) for t in held))
    record_property("auc", (ours, theirs))
    print(f"AUC {ours:.4f}, scikit-learn {sklearn.__version__} {theirs:.4f}")
    assert ours > 0.87 and ours > theirs - 0.02


def test_a_batch_of_nothing(tmp_path: Path) -> None:
    judged = prepared(tmp_path).judge(batch_of([]), tmp_path)
    assert len(judged.reasons) == 0 and all(
        len(each) == 0 for each in [*judged.scores.values(), *judged.counts.values()]
    )


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "a.jsonl",
            '{"text": "caf\u00e9"}\n'.encode("latin-1"),
            r"a.jsonl:1: is no UTF-8: its byte 14 is 0xe9: write the file as UTF-8",
        ),
        ("a.jsonl", b'{"text": "one"}\n{"text": 5}\n', r"a.jsonl:2: needs a JSON object"),
        ("a.jsonl.gz", b'{"text": "one"}\n', r"a.jsonl.gz: not gzip, as its name says"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "one"}\n' * 50, mtime=0)[:30],
            r"a.jsonl.gz.*: the gzip data ends before it is whole",
        ),
        ("a.txt", gzip.compress(b"one text", mtime=0)[:-4], r"a.txt: the gzip data ends before it is whole"),
        ("a.txt", b"PK\x03\x04", r"a.txt: is a zip archive: unpack it"),
        ("a.txt", b"caf\xe9", r"a.txt: is no UTF-8: its byte 4 is 0xe9"),
        ("a.parquet", b"no table", r"a.parquet: not a Parquet file that can be read"),
        ("a.parquet", {"text": [1, 2]}, r"a.parquet: column 'text' is int64; of text is no column"),
        ("a.parquet", {"body": ["one"]}, r"a.parquet: has no column 'text'; it has body"),
    ],
)
def test_examples_that_cannot_be_read_are_named(tmp_path: Path, name: str, data: bytes | dict, said: str) -> None:
    if isinstance(data, bytes):
        (tmp_path / name).write_bytes(data)
    else:
        pq.write_table(pa.table(data), tmp_path / name)
    with pytest.raises(ConfigError, match=said):
        read_examples("filter.classifier.good", tmp_path / name, 100)


@pytest.mark.parametrize(
    "data", ["a text of caf\u00e9".encode("utf-16"), gzip.compress("\ufeffa text of caf\u00e9".encode(), mtime=0)]
)
def test_a_text_is_read_whatever_it_is_written_in(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_examples("filter.classifier.good", tmp_path, 100) == ["a text of caf\u00e9"]


def test_of_two_columns_of_text_the_first_is_read(tmp_path: Path) -> None:
    both = pa.Table.from_arrays([pa.array(["one"]), pa.array(["other"])], names=["text", "text"])
    pq.write_table(both, tmp_path / "a.parquet")
    assert read_examples("filter.classifier.good", tmp_path, 100) == ["one"]


def test_examples_of_any_column_of_text_are_read(tmp_path: Path) -> None:
    for kind in (pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(["one", None, "two"]).cast(kind)}), tmp_path / "a.parquet")
        assert read_examples("filter.classifier.good", tmp_path, 100) == ["one", "two"], kind
