"""The stage: rules in their order, every row kept or dropped with a reason that is counted, the same bytes from any workers."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.cli import show
from lm.config import Config
from lm.problems import Arithmetic
from tasks.core.config import Checkpoint, ConfigError
from tasks.core.log import Log
from tasks.core.tables import read_table, shard_path, write_table
from tasks.filter.judge import EXCERPT
from tasks.filter.methods import C4, Fineweb, GopherQuality, GopherRepetition, KeepAll
from tasks.filter.rule import Batch, Judgement, Setting
from tasks.filter.stage import SLOTS, FilterConfig, run
from tasks.report import browse
from tests.filter.documents import GOOD
from tests.forks.work import share_among_two
from tests.processes import wait_for
from tests.project import TINY, digest, make_project, parts_made, run_stage, start_stage

DOCUMENTS = [GOOD, "too short", GOOD + " #" * 9, "short too", GOOD + "\nx" * 5]
OTHERS: dict[str, Any] = {"problems": Arithmetic(), "checkpoint": Checkpoint(folder="data/checkpoint")}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


def write_documents(data: Path, shards: list[list[str]]) -> None:
    """data/dedup of these texts; every other row is of source a, the rest of source b."""
    for number, texts in enumerate(shards):
        rows = {
            "id": [f"{number}-{row}" for row in range(len(texts))],
            "source": ["ba"[row % 2] for row in range(len(texts))],
        }
        table = pa.table(rows | {"text": pa.array(texts, pa.large_string()), "meta": ["{}"] * len(texts)})
        kinds = [("id", pa.string()), ("source", pa.string()), ("text", pa.large_string()), ("meta", pa.string())]
        write_table(shard_path(data / "dedup" / "documents", number), table.cast(pa.schema(kinds)))
    (data / "filter").mkdir(exist_ok=True)


def filtered(data: Path, texts: list[str], **slots: Any) -> tuple[dict, list[dict], list[dict], list[dict]]:
    write_documents(data, [texts])
    metrics = run(FilterConfig(**slots, **OTHERS), data, Log())
    return metrics, *(read_table(data / "filter" / name).to_pylist() for name in ("documents", "dropped", "changed"))


class Shouting(Config):
    """A rule for these tests: a text in capitals, its length as a score, and how many letters it made large."""

    name: Literal["shouting"] = "shouting"
    sources: list[str] | None = None

    def prepare(self, setting: Setting) -> None:
        with (setting.folder / "prepared").open("a") as file:
            file.write("once ")

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        assert (folder / "prepared").read_text() == "once "
        lengths = pc.utf8_length(batch.texts).to_numpy().astype(np.float32)
        upper = pc.utf8_upper(batch.texts)
        count = lengths.astype(np.int64)
        return Judgement(np.full(len(upper), None, dtype=object), upper, {"length": lengths}, {"shouted": count})


def with_rule(config: FilterConfig, slot: str, rule: Any) -> FilterConfig:
    return config.model_copy(update={slot: rule})


def test_every_row_is_kept_or_dropped_with_a_reason_that_is_counted(tmp_path: Path) -> None:
    metrics, kept, dropped, changed = filtered(
        tmp_path, DOCUMENTS, quality=GopherQuality(), repetition=GopherRepetition()
    )
    assert [r["id"] for r in kept] == ["0-0"] and changed == []
    reasons = [
        ("0-1", "too_few_words"),
        ("0-2", "too_many_hashes"),
        ("0-3", "too_few_words"),
        ("0-4", "duplicate_lines"),
    ]
    assert [(r["id"], r["reason"]) for r in dropped] == reasons
    counted = {name: count for name, count in metrics.items() if name.startswith("dropped_")}
    assert counted == {"dropped_too_few_words": 2, "dropped_too_many_hashes": 1, "dropped_duplicate_lines": 1}
    assert metrics["documents"] == 5 == metrics["kept"] + metrics["dropped"] and metrics["bytes"] == len(GOOD)


def test_the_slots_are_judged_in_their_order(tmp_path: Path) -> None:
    fields = list(FilterConfig.model_fields)
    assert fields[: len(SLOTS)] == list(SLOTS) and set(fields[len(SLOTS) :]) == {"problems", "checkpoint", "references"}
    rules = {"structure": GopherQuality(), "lines": Fineweb(max_short_line_fraction=1.0)}
    _, _, dropped, _ = filtered(tmp_path, [GOOD.replace("\n", ".\n"), "short", "short."], **rules)
    assert [r["reason"] for r in dropped] == ["too_few_punctuated_lines", "too_few_words"]


def test_later_rules_see_changed_texts(tmp_path: Path) -> None:
    page = "\n".join(["One line that is long enough.", "a menu", "Another line that is long enough.", "x"] * 20)
    _, kept, _, _ = filtered(
        tmp_path, [GOOD, page], lines=C4(), structure=Fineweb(max_repeated_line_character_fraction=1)
    )
    assert [r["id"] for r in kept] == ["0-1"] and "menu" not in kept[0]["text"]


def test_what_was_changed_is_told_about_its_first_difference(tmp_path: Path) -> None:
    long = "A line that stays is long enough.\n" * 200
    metrics, kept, dropped, changed = filtered(tmp_path, [long + "x\n" + long, "no end", long], lines=C4())
    assert metrics["removed_short_lines"] == 0 and metrics["removed_unended_lines"] == 1
    assert [(r["id"], json.loads(r["counts"])) for r in changed] == [("0-0", {"removed_unended_lines": 1}), ("0-2", {})]
    assert "\nx\n" in changed[0]["before"] and "\nx\n" not in changed[0]["after"]
    assert len(changed[0]["before"]) <= EXCERPT and kept[0]["text"] == (long + long).strip()
    assert dropped[0]["text"] == "no end"


def test_scores_are_columns_and_counts_are_of_what_stays(tmp_path: Path) -> None:
    write_documents(tmp_path, [["abc", "drop me", GOOD], []])
    config = with_rule(
        FilterConfig(quality=GopherQuality(sources=["a"]), **OTHERS), "personal_data", Shouting(sources=["b"])
    )
    metrics = run(config, tmp_path, Log())
    kept = read_table(tmp_path / "filter" / "documents").to_pylist()
    assert [(r["text"], r["score_length"]) for r in kept] == [("ABC", 3.0), (GOOD.upper(), float(len(GOOD)))]
    assert metrics["shouted"] == 3 + len(GOOD) and metrics["dropped_too_few_words"] == 1
    assert (
        read_table(tmp_path / "filter" / "documents" / "00001.parquet").schema.field("score_length").type
        == pa.float32()
    )


def test_a_rule_is_heard_about_the_sources_it_is_given(tmp_path: Path) -> None:
    _, kept, _, _ = filtered(tmp_path, ["short"] * 4, quality=GopherQuality(sources=["a"]))
    assert [r["source"] for r in kept] == ["b", "b"]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 2 documents is left: too_few_words 2"):
        filtered(tmp_path, ["short"] * 2, quality=GopherQuality())


def test_shards_stay_where_they_were_even_empty_ones(tmp_path: Path) -> None:
    write_documents(tmp_path, [[GOOD, "short"], ["short"], [], [GOOD]])
    run(FilterConfig(quality=GopherQuality(), **OTHERS), tmp_path, Log())
    out = tmp_path / "filter" / "documents"
    assert [read_table(out / f"0000{n}.parquet").num_rows for n in range(4)] == [1, 0, 0, 1]


def test_batches_and_workers_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [[GOOD[: 20 * n] + "." for n in range(30)], [GOOD, "short"] * 30]
    slots: dict[str, Any] = {
        "quality": GopherQuality(min_words=20),
        "repetition": GopherRepetition(),
        "lines": C4(min_words=3, min_sentences=0),
    }
    found = set()
    for workers, threads in ((1, "1"), (1, "3"), (2, "2")):
        if workers == 2:
            share_among_two(monkeypatch)
        monkeypatch.setenv("TOKENMILL_THREADS", threads)
        data = tmp_path / f"{workers}-{threads}"
        data.mkdir()
        write_documents(data, shards)
        run(FilterConfig(**slots, **OTHERS), data, Log())
        found.add(digest(data / "filter"))
    assert len(found) == 1


def test_a_document_of_16_mb_goes_through(tmp_path: Path) -> None:
    large = "".join(f"Line {n} of a page that is really quite large.\n" for n in range(340_000))
    assert len(large) > 16_000_000
    metrics, kept, _, _ = filtered(tmp_path, [large, GOOD], quality=GopherQuality(max_words=10**9), lines=C4())
    assert kept[0]["text"] == large.strip() and metrics["kept"] == 1  # no line of the other ends with a mark


def test_killed_and_started_again_it_leaves_the_same(tmp_path: Path) -> None:
    params = TINY | {
        "filter": TINY["filter"] | {"quality": {"name": "gopher_quality", "min_words": 5, "min_stop_words": 0}}
    }
    digests = []
    for name, kills in (("whole", 0), ("killed", 2)):
        (tmp_path / name).mkdir()
        project = make_project(tmp_path / name, params)
        write_documents(project / "data", [[f"{GOOD} {n} {m}" for m in range(200)] for n in range(4)])
        for number in range(kills):
            process = start_stage(project, "filter", TOKENMILL_SHARD_WORKERS="1")
            wait_for(
                lambda p=process, at=project, n=number: p.poll() is not None or parts_made(at, "filter", "shards") > n
            )
            process.kill()
            process.communicate()
        run_stage(project, "filter", TOKENMILL_SHARD_WORKERS="1")
        digests.append(digest(project / "data" / "filter"))
    assert digests[0] == digests[1]


def test_documents_say_nothing_to_the_terminal() -> None:
    """These would set the window's title, clear the screen and write over the line."""
    shown = browse.side_by_side("id\nab\x1b]0;title\x07cd\r\nnext\x9b2J", "ef\x08\x00gh\ti", 60)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c != "\n"]
    assert [line.split("|")[0].strip() for line in shown.splitlines()] == [
        "id",
        "ab\ufffd]0;title\ufffdcd",
        "next\ufffd2J",
    ]


@pytest.mark.parametrize("count", ["-1", "0", "few", "1.5"])
@pytest.mark.parametrize("command", [browse.main, show.main])
def test_a_count_is_1_or_more(
    command: Callable[[], int], count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["command", "filter", "--count", count])
    with pytest.raises(SystemExit) as caught:
        command()
    said = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and f"argument --count: must be a whole number of 1 or more (got '{count}')" in said


def test_dropped_and_kept_side_by_side(tmp_path: Path) -> None:
    filtered(tmp_path, [GOOD, "so short", GOOD + "!", "shorter"], quality=GopherQuality())
    folder = tmp_path / "filter"
    assert browse.reasons(folder) == [("too_few_words", "a", 2)]
    found = browse.pairs(folder, "too_few_words", 5)
    assert len(found) == 2 and all("too_few_words" in left for left, _ in found)
    assert {right for _, right in found} == {"(no other of this source was kept)"}
    with pytest.raises(ConfigError, match="nothing was dropped for 'no'; reasons there are: too_few_words"):
        browse.pairs(folder, "no", 5)
    shown = browse.side_by_side("left text\nmore", "right " * 9, 40).splitlines()
    assert shown[0] == "left text          | right right right" and len(shown) == 3


def test_what_was_changed_can_be_looked_at(tmp_path: Path) -> None:
    page = "A line that stays is long enough.\n" * 5
    filtered(tmp_path, [page + "menu\n" + page, page.strip()], lines=C4())
    ((left, right),) = browse.pairs(tmp_path / "filter", "changed", 5)
    assert "removed_unended_lines" in left and "menu" in left and "menu" not in right


def test_keep_all_is_the_default() -> None:
    config = FilterConfig(**OTHERS)
    assert all(getattr(config, slot) == KeepAll() for slot in SLOTS)
