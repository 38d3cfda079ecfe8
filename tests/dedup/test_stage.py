"""The stage: what holds with every method of the room, what becomes of the rows, cuts, and a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lm.config import Config, ConfigError, methods_of
from tasks.core.log import Log
from tasks.core.tables import read_table, shard_paths
from tasks.dedup import methods
from tasks.dedup.decisions import Decisions, merged_cuts
from tasks.dedup.documents import DedupResult
from tasks.dedup.engine.tfidf_svd import TfidfSvd
from tasks.dedup.methods import Exact, KeepAll, Minhash
from tasks.dedup.output import write_output
from tests.compiled import arrays_left
from tests.dedup.made import config_of, found_by, recut, rows_of, run_stage, write_rows
from tests.processes import wait_for
from tests.project import TINY, digest, make_project, start_stage
from tests.project import run_stage as run_real_stage

WORDS = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow", "yew"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), max_size=12)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


# what holds for a method holds for it with few features, of which it takes minutes to have as many as by default
SMALL = TfidfSvd(dimensions=8, features=256)
ALL = [m for m in methods_of(methods) if not any(f.is_required() for f in m.model_fields.values())]


def small(method: type[Config]) -> Any:
    """The method with its defaults, but for its embedding."""
    return method(**({"embedding": SMALL} if "embedding" in method.model_fields else {}))


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.__name__)
@settings(deadline=None, max_examples=8, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts.filter(len), st.integers(0, 12), st.integers(0, 2**12 - 1))
def test_what_holds_for_every_method(method: Any, documents: list[str], edge: int, left: int) -> None:
    """Firsts are named by themselves and come no later, rows that had gone take no part, and shards leave no trace."""
    rows = rows_of(documents)
    alive = np.array([bool(left >> row & 1) for row in range(len(rows))])
    found = found_by(small(method), [rows], alive)
    assert (found.first_N <= np.arange(len(rows))).all() and (found.first_N[found.first_N] == found.first_N).all()
    assert (found.first_N[~alive] == np.flatnonzero(~alive)).all() and alive[found.first_N[alive]].all()
    again = found_by(small(method), recut(rows, min(edge, len(rows))), alive)
    assert (found.first_N == again.first_N).all() and (found.keep_N[alive] == again.keep_N[alive]).all()
    assert (found.cuts_K3 == again.cuts_K3).all()


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.__name__)
def test_compiled_code_frees_what_it_makes(method: Any) -> None:
    documents = [" ".join(WORDS[n % 7 :]) * (1 + n % 3) for n in range(40)]
    assert arrays_left(lambda: found_by(small(method), [rows_of([*documents, "\u00e9t\u00e9 " * 3000])])) == 0


@pytest.mark.parametrize("method", [Exact, Minhash])
@settings(deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts.filter(len))
def test_copies_join_their_original_and_what_is_kept_has_none(method: Any, documents: list[str]) -> None:
    copies = [text.upper().replace(" ", "\n ") for text in documents]
    found = found_by(method(), [rows_of([*documents, *copies])])
    assert (found.first_N[len(documents) :] == found.first_N[: len(documents)]).all()
    kept = [text for text, keep in zip(documents, found.keep_N[: len(documents)], strict=True) if keep]
    assert found_by(method(), [rows_of(kept)]).keep_N.all()


def test_what_is_dropped_is_kept_as_data_with_its_reason(tmp_path: Path) -> None:
    rows = [
        ("a", "Same text"),
        ("b", "other"),
        ("c", "same  text"),
        ("d", "SAME TEXT " + "x" * 3000),
        ("e", "same text"),
    ]
    metrics, out = run_stage(tmp_path, recut(rows, 2, 2, 4), exact=Exact())
    assert [len(shard_paths(out / name)) for name in ("documents", "clusters", "dropped")] == [4, 4, 4]
    assert [r["id"] for r in read_table(out / "documents").to_pylist()] == ["a", "b", "d"]
    assert [(r["id"], r["reason"], r["text"]) for r in read_table(out / "dropped").to_pylist()] == [
        ("c", "duplicate_of:a", "same  text"),
        ("e", "duplicate_of:a", "same text"),
    ]
    clusters = read_table(out / "clusters").to_pydict()
    assert clusters["cluster"] == ["a", "b", "a", "d", "a"] and clusters["keep"] == [True, True, False, True, False]
    expected = {"documents": 5, "kept": 3, "dropped": 2, "dropped_exact": 2, "dropped_near": 0, "clusters": 1, "largest_cluster": 3}  # fmt: skip
    assert expected.items() <= metrics.items()
    assert metrics["bytes"] == sum(len(r["text"]) for r in read_table(out / "documents").to_pylist())


def test_a_cluster_found_in_two_slots_is_one(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(60)]
    near = " ".join([*words[:30], "new", *words[30:]])
    metrics, out = run_stage(tmp_path, [rows_of([" ".join(words), near, near.upper()])], exact=Exact(), near=Minhash())
    assert read_table(out / "clusters")["cluster"].to_pylist() == ["d0000"] * 3
    assert (metrics["dropped_exact"], metrics["dropped_near"], metrics["largest_cluster"]) == (1, 1, 3)


@pytest.mark.parametrize("documents", [[], ["alone"], ["all the same"] * 50, ["", " ", "\n"]])
def test_tables_of_nothing_of_one_and_of_one_text(tmp_path: Path, documents: list[str]) -> None:
    metrics, out = run_stage(tmp_path, [rows_of(documents), []], exact=Exact(), near=Minhash())
    assert metrics["kept"] == min(1, len(documents)) == read_table(out / "documents").num_rows
    assert metrics["dropped"] == len(documents) - metrics["kept"] == read_table(out / "dropped").num_rows


def test_the_rows_are_the_same_in_any_shards(tmp_path: Path) -> None:
    rows = rows_of([*("copy of a text" for _ in range(20)), *(f"text {n} of its own kind" for n in range(30))])
    outs = [
        run_stage(tmp_path / str(n), recut(rows, *edges), exact=Exact(), near=Minhash())[1]
        for n, edges in enumerate([(), (1, 20), (10, 10, 35, 49)])
    ]
    for name in ("documents", "clusters", "dropped"):
        assert read_table(outs[0] / name).equals(read_table(outs[1] / name))
        assert read_table(outs[0] / name).equals(read_table(outs[2] / name))


def test_cuts_take_bytes_out_of_what_stays_and_an_emptied_document_goes(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "in", [[("a", "one two"), ("b", "\xe9t\xe9 three")], [("c", "four"), ("d", "five")]])
    decisions = Decisions.for_table(table)
    cuts = np.array([[3, 0, 2], [1, 3, 5], [2, 0, 4], [0, 0, 4], [1, 0, 3]])
    decisions.add(
        "substring", "repeated", DedupResult(np.array([0, 1, 2, 2]), np.array([True, True, True, False]), cuts)
    )
    counts = write_output(table, decisions, tmp_path / "out", Log())
    rows = read_table(tmp_path / "out" / "documents").to_pylist()
    assert [(r["id"], r["text"]) for r in rows] == [("a", "two"), ("b", " three")]
    dropped = read_table(tmp_path / "out" / "dropped").to_pylist()
    assert [(r["reason"], r["text"]) for r in dropped] == [("emptied", "four"), ("duplicate_of:c", "five")]
    assert (counts["kept"], counts["emptied"], counts["substring"], counts["bytes"], counts["bytes_cut"]) == (2, 1, 1, 9, 9)  # fmt: skip


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(1, 6)), max_size=12))
def test_cuts_of_several_slots_become_one_without_overlaps(given_cuts: list[tuple[int, int, int]]) -> None:
    merged = merged_cuts(np.array([(row, begin, begin + size) for row, begin, size in given_cuts] or np.zeros((0, 3)), dtype=np.int64))  # fmt: skip
    covered = {(row, at) for row, begin, size in given_cuts for at in range(begin, begin + size)}
    assert {(row, at) for row, begin, end in merged.tolist() for at in range(begin, end)} == covered
    for before, after in zip(merged.tolist(), merged.tolist()[1:], strict=False):
        assert before[0] < after[0] or before[2] < after[1]


def test_a_method_stands_in_one_slot() -> None:
    config_of(near=KeepAll())
    with pytest.raises((ValidationError, ConfigError), match="one slot alone"):
        config_of(exact=Exact(), near=Exact())


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    params = {**TINY, "dedup": {**TINY["dedup"], "near": {"name": "minhash"}}}
    project = make_project(tmp_path, params)
    run_real_stage(project, "ingest")
    run_real_stage(project, "dedup")
    whole = digest(project / "data" / "dedup")
    memo = list((project / ".scratch" / "memo" / "dedup").glob("*/near_files.npy"))
    assert len(memo) == 1
    for part in ("near_files_keys", "output"):
        process = start_stage(project, "dedup")
        made = f".scratch/dedup/*/parts/{part}/00000"
        wait_for(lambda process=process, made=made: process.poll() is not None or list(project.glob(made)))
        process.kill()
        process.communicate()
    run_real_stage(project, "dedup")
    assert digest(project / "data" / "dedup") == whole
