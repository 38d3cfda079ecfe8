"""Who is held out: whole groups, what a source says, and nothing that training has; the same for any shards."""

import itertools
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.config import ConfigError
from tasks.core.grams import grams_of, mark, table_of
from tasks.core.held_out import GROUP, HELD_OUT
from tasks.core.tables import read_table
from tasks.tokenize import overlap
from tasks.tokenize.methods import Bytes
from tests.forks.work import share_among_two
from tests.project import digest
from tests.tokenize.test_stage import TEXTS, run_stage

WORDS = [f"{first}{last}" for first in ("an", "be", "co", "du", "el") for last in ("ra", "so", "ti", "up", "wa", "xy")]


def prose(seed: int, words: int = 60) -> str:
    drawn = random.Random(seed)
    return " ".join(drawn.choice(WORDS) for _ in range(words))


def splits(out: Path) -> dict[int, str]:
    """The split of each document, by its number."""
    return {int(row["id"][1:]): row["split"] for row in read_table(out / "documents.parquet").to_pylist()}


def shared(text: str, others: list[str], length: int = overlap.GRAM) -> tuple[int, int]:
    """(grams of the text that stand in one of the others, its grams), letter by letter."""
    folded = "".join(text.lower().split())
    length = min(length, len(folded))
    grams = [folded[at : at + length] for at in range(len(folded) - length + 1)] if folded else []
    corpus = ["".join(other.lower().split()) for other in others]
    return sum(any(gram in other for other in corpus) for gram in grams), len(grams)


@pytest.mark.parametrize("field", ["repo", GROUP])
def test_a_group_is_on_one_side(tmp_path: Path, field: str) -> None:
    metas = [{field: f"module {i // 5}", "other": i} if i < 150 else {"other": i} for i in range(200)]
    group_by = [field] if field == "repo" else []
    metrics, out = run_stage(tmp_path, method=Bytes(), metas=metas, group_by=group_by, fraction=0.3)
    found = splits(out)
    for first in range(0, 150, 5):
        assert len({found[first + i] == "train" for i in range(5)}) == 1
    assert 0 < sum(found[i] != "train" for i in range(150, 200)) < 50, "the others are groups by themselves"
    held = read_table(out / "held_out.parquet").to_pylist()
    names = {row["group"] for row in held}
    assert metrics["held_out_groups"] == len(names) < len(held)
    assert all(row["group"] == metas[int(row["id"][1:])].get(field, row["id"]) for row in held)


def test_numbers_and_lone_surrogates_name_groups(tmp_path: Path) -> None:
    metas = [{"key": value} for value in [7, "\ud800", ["a", 1], "7", None] for _ in range(40)]
    _, out = run_stage(tmp_path, method=Bytes(), metas=metas, group_by=["key"], fraction=0.5)
    found = splits(out)
    for first in range(0, 160, 40):
        assert len({found[first + i] == "train" for i in range(40)}) == 1
    assert len({found[i] == "train" for i in range(160, 200)}) == 2, "null names no group"


def test_a_source_may_say_which_documents_are_held_out(tmp_path: Path) -> None:
    metas = [{HELD_OUT: i % 10 == 3} for i in range(200)]
    _, out = run_stage(tmp_path, method=Bytes(), metas=metas, fraction=0.5)
    assert all((side == "held_out") == (i % 10 == 3) for i, side in splits(out).items())


def test_what_stands_in_training_is_not_measured(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """A copy in other case and spaces, most of one, half of one, little of one, a short one inside another."""
    trained = [prose(seed) for seed in range(20)]
    words = trained[3].split()
    held = [
        trained[0].upper().replace(" ", "\n\n"),
        " ".join(words[:50]) + prose(100, 10),
        " ".join(words[:20]) + " " + prose(101, 40),
        prose(102),
        " ".join(words[5:8]),
        "a short one",
        "",
    ]
    metas = [{HELD_OUT: False}] * len(trained) + [{HELD_OUT: True}] * len(held)
    metrics, out = run_stage(tmp_path, [*trained, *held], method=Bytes(), metas=metas, max_overlap=0.5)
    found = [splits(out)[len(trained) + i] for i in range(len(held))]
    counts = [shared(text, trained) for text in held]
    assert found == ["contained" if seen > 0.5 * total else "held_out" for seen, total in counts]
    assert found == ["contained", "contained", "held_out", "held_out", "contained", "held_out", "held_out"]
    assert [row["text"] for row in read_table(out / "held_out.parquet").to_pylist()] == [held[i] for i in (2, 3, 5, 6)]
    assert metrics["contained_documents"] == 3 and metrics["held_out_documents"] == 4
    seen, total = (sum(counts[i][side] for i in (2, 3, 5, 6)) for side in (0, 1))
    assert metrics["held_out_overlap"] == seen / total > 0
    tokens = [metrics[f"{side}_tokens"] for side in ("train", "held_out", "contained")]
    assert sum(tokens) == metrics["tokens"] and tokens[2] == sum(len(held[i]) + 1 for i in (0, 1, 4))
    assert "3 of 7 held-out documents stand in training by more than 50%" in capfd.readouterr().err


def test_contained_documents_do_not_train_the_tokenizer(tmp_path: Path) -> None:
    """Neither do held-out ones: the tokenizer is that of the training documents alone."""
    trained, tokenizers = [prose(seed) for seed in range(20)], []
    for name, held in (("some", ["zq zq zq", prose(3)]), ("other", ["xj xj xj"])):
        metas = [{HELD_OUT: False}] * 20 + [{HELD_OUT: True}] * len(held)
        _, out = run_stage(tmp_path / name, [*trained, *held], metas=metas)
        tokenizers.append((out / "tokenizer.json").read_bytes())
    assert tokenizers[0] == tokenizers[1]


def mixture() -> tuple[list[str], list[dict]]:
    """Documents of which some held-out ones stand in training to any degree, in groups of three."""
    drawn = random.Random(0)
    pieces = [prose(seed, 12) for seed in range(300)]
    texts = [" ".join(drawn.choice(pieces) for _ in range(drawn.randrange(1, 6))) for _ in range(200)]
    return texts, [{"group": i // 3} for i in range(200)]


@pytest.mark.parametrize("most", [overlap.MOST_GRAMS, 500])
def test_shards_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Also where a sample of the grams stands for all."""
    monkeypatch.setattr(overlap, "MOST_GRAMS", most)
    texts, metas = mixture()
    given = {"method": Bytes(), "metas": metas, "group_by": ["group"], "fraction": 0.3}
    metrics, out = run_stage(tmp_path / "whole", texts, **given)
    assert metrics["contained_documents"] > 5 and metrics["held_out_documents"] > 5
    for number, (cuts, workers) in enumerate([((0, 1, 37, 38, 150), 1), (tuple(range(20, 200, 20)), 2)]):
        if workers == 2:
            if most == 500:
                continue  # a process of its own does not see the patch
            share_among_two(monkeypatch)
        again, other = run_stage(tmp_path / str(number), texts, cuts=cuts, **given)
        assert again == metrics and digest(other) == digest(out)


def test_overlap_is_what_is_counted_letter_by_letter(tmp_path: Path) -> None:
    texts, metas = mixture()
    _, out = run_stage(tmp_path, texts, method=Bytes(), metas=metas, group_by=["group"], fraction=0.3, max_overlap=0.3)
    found = splits(out)
    trained = [texts[i] for i, side in found.items() if side == "train"]
    for i, side in found.items():
        if side != "train":
            seen, total = shared(texts[i], trained)
            assert side == ("contained" if seen > 0.3 * total else "held_out")


def test_a_sample_of_the_grams_finds_about_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, metas = mixture()
    given = {"method": Bytes(), "metas": metas, "group_by": ["group"], "fraction": 0.3, "max_overlap": 1.0}
    whole, out = run_stage(tmp_path / "whole", texts, **given)
    sides = splits(out)
    assert sum(shared(text, [])[1] for i, text in enumerate(texts) if sides[i] != "train") > 4 * 1000
    monkeypatch.setattr(overlap, "MOST_GRAMS", 1000)
    sampled, _ = run_stage(tmp_path / "sampled", texts, **given)
    # a share of 1000 draws has a standard deviation of 0.016; some are the same gram, which is drawn in all places or none
    assert sampled["held_out_overlap"] == pytest.approx(whole["held_out_overlap"], abs=5 * 0.016)
    assert 0.2 < whole["held_out_overlap"] < 0.8


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.text("aB \nc\u00e9", max_size=30), min_size=1, max_size=6), st.integers(1, 8))
def test_grams_are_found_where_they_stand_and_nowhere_else(texts: list[str], length: int) -> None:
    data = np.frombuffer("".join(texts).encode() or b" ", np.uint8)
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    keys = [set(grams_of(data, a, b, length).tolist()) for a, b in itertools.pairwise(offsets)]
    folded = [b"".join(text.encode().lower().split()) for text in texts]
    grams = [{each[at : at + length] for at in range(len(each) - length + 1)} for each in folded]
    assert [len(found) for found in keys] == [len(found) for found in grams]
    slots = table_of(np.array(sorted(keys[0]), np.uint64))
    seen = np.zeros(len(slots), dtype=bool)
    mark(data, offsets[1:], length, np.full(8, 2**64 - 1, np.uint64), slots, seen)
    assert seen.sum() == len(grams[0] & set().union(*grams[1:]))


@pytest.mark.parametrize(
    ("metas", "given", "message"),
    [
        (
            [{"a": 1}, {"b": 2}] * 5,
            {"group_by": ["c"]},
            "group_by: no document's meta has a field 'c'; there are: a, b",
        ),
        ([{}] * 10, {"group_by": ["c"]}, "it is empty in all"),
        ([{"a": 1}] * 10, {"group_by": ["a"]}, "all documents are of one group"),
        ([{HELD_OUT: True}] * 10, {}, "`held_out` of the documents' meta is true in all of them"),
        ([{HELD_OUT: False}] * 10, {}, "`held_out` of the documents' meta is false in all of them"),
    ],
)
def test_what_leaves_one_side_empty_is_named(tmp_path: Path, metas: list, given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage(tmp_path, TEXTS[:10], method=Bytes(), metas=metas, **given)


def test_that_nothing_is_left_to_measure_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 of 2 held-out documents stand in training by more than 20%.*max_overlap"):
        run_stage(tmp_path, [prose(1)] * 10, method=Bytes(), metas=[{HELD_OUT: i < 2} for i in range(10)])
    metrics, _ = run_stage(
        tmp_path / "all", [prose(1)] * 10, method=Bytes(), metas=[{HELD_OUT: i < 2} for i in range(10)], max_overlap=1.0
    )
    assert metrics["held_out_documents"] == 2 and metrics["held_out_overlap"] == 1


def test_ids_may_be_any_text(tmp_path: Path) -> None:
    """The group of a document without one is its id, which a column holds: any UTF-8."""
    metrics, out = run_stage(tmp_path, TEXTS[:20], method=Bytes(), fraction=0.5)
    held = read_table(out / "held_out.parquet")
    assert held["group"].to_pylist() == held["id"].to_pylist() and held.schema.field("group").type == pa.string()
    assert metrics["held_out_groups"] == metrics["held_out_documents"] == len(held)
