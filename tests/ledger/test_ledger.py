"""The ledger over tables made by hand: every question, tables as files and as folders, and what is not there."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lm.config import ConfigError
from lm.inputs.hashed import read_ignored
from tasks.core.tables import shard_path, write_table
from tasks.ledger.__main__ import main
from tasks.ledger.documents import fate_of, licences, removed_by
from tasks.ledger.run import Run
from tasks.ledger.steps import documents_of, ranges_of, token_at
from tasks.runner.key import path_md5
from tasks.tokenize.methods import Bytes

TEXTS = {
    "a": "the first document",
    "b": "held out",
    "c": "the third\nhas two lines",
    "d": "never planned",
    "e": "as in c",
}


def rows_of(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.Table.from_pylist(rows))


def documents(texts: dict[str, str]) -> list[dict]:
    return [{"id": name, "source": f"s{name}", "text": text, "meta": "{}"} for name, text in texts.items()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five documents kept in two shards, one duplicate, one filtered, one row rejected; a plan of two steps, whose first has
    the tokens 2 to 7 of a and 0 to 4 of c, twice 6 tokens, and whose second is the end of c."""
    data, tokenizer = tmp_path / "data", Bytes()(iter([]), Path())
    lost = {"x": "the first document", "y": "! ! !"}
    for stage, kept in (("ingest", TEXTS | lost), ("dedup", TEXTS | {"y": lost["y"]})):
        rows_of(shard_path(data / stage / "documents", 0), documents(kept))
    for number, names in enumerate(("ab", "cde")):
        rows_of(shard_path(data / "filter" / "documents", number), documents({n: TEXTS[n] for n in names}))
    dropped = {"source": "sx", "text": lost["x"]}
    rows_of(data / "dedup" / "dropped.parquet", [dropped | {"id": "x", "reason": "duplicate_of:a"}])
    rows_of(data / "dedup" / "clusters.parquet", [{"id": n, "cluster": "a" if n == "x" else n} for n in "abcdxy"])
    rows = [{"id": "y", "source": "sy", "reason": "symbols: too many", "text": lost["y"]}]
    rows_of(shard_path(data / "filter" / "dropped", 0), rows)
    bad = {"source": "web", "file": "f.jsonl", "row": 7, "reason": "not_json", "excerpt": "{\x1b["}
    rows_of(data / "ingest" / "quarantine.parquet", [bad])
    ids = [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS.values()]
    lengths = np.array([len(each) for each in ids])
    starts = np.cumsum(lengths) - lengths
    table = [
        {
            "id": n,
            "source": f"s{n}",
            "split": {"b": "held_out", "e": "contained"}.get(n, "train"),
            "start": int(s),
            "length": int(k),
        }
        | {"bytes": len(TEXTS[n].encode())}
        for n, s, k in zip(TEXTS, starts, lengths, strict=True)
    ]
    rows_of(data / "tokenize" / "documents.parquet", table)
    np.save(data / "tokenize" / "tokens.npy", np.concatenate(ids).astype(np.uint16))
    tokenizer.save(data / "tokenize")
    ranges = [(0, 0, 0, 2, 3), (0, 0, 2, 0, 3), (0, 1, 0, 5, 3), (0, 1, 2, 2, 3), (1, 0, 2, 19, 5)]
    names = ("step", "sequence", "document", "offset", "length")
    rows_of(data / "curriculum" / "plan.parquet", [dict(zip(names, row, strict=True)) for row in ranges])
    return data


def test_a_step(data: Path) -> None:
    run = Run(data)
    told = [(row["id"], row["tokens"], row["ranges"], row["share"]) for row in documents_of(run, 0)]
    assert told == [("a", 6, 2, 0.5), ("c", 6, 2, 0.5)]
    placed = [(row["id"], row["position"], row["offset"], row["length"]) for row in ranges_of(run, 0, 1)]
    assert placed == [("a", 0, 5, 3), ("c", 3, 2, 3)]


def test_a_step_shows_text_of_its_own_documents_alone(data: Path, capsys: pytest.CaptureFixture) -> None:
    """The tokens of the next document follow in the same file."""

    def shown(step: int) -> dict[str, str]:
        assert main(["--run", str(data), "--step", str(step)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line[: lines[1].index("text")].split()[-2]: line[lines[1].index("text") :] for line in lines[2:]}

    third = TEXTS["c"].replace("\n", "\\n")
    assert {name: text.partition("\\x")[0] for name, text in shown(0).items()} == {"a": TEXTS["a"][2:], "c": third}
    names = ("step", "sequence", "document", "offset", "length")
    last = len(TEXTS["a"])  # a piece of one token, that of the document's end
    rows_of(data / "curriculum" / "plan.parquet", [dict(zip(names, (0, 0, 0, last, 1), strict=True))])
    assert "held" not in shown(0)["a"]


def test_an_unknown_document_is_compared_with_those_of_nearly_its_name(data: Path) -> None:
    known = Run(data).rows("SELECT id, source, split, start, length, bytes FROM documents")
    gzip = {"id": "stdlib:gzip.py:1", "source": "stdlib", "split": "train", "start": 0, "length": 1, "bytes": 1}
    rows_of(data / "tokenize" / "documents.parquet", [*known, gzip])
    with pytest.raises(
        ConfigError, match=r"^DOCUMENT=stdlib:gzip.py:7: ingest never saw it; did you mean stdlib:gzip.py:1\?$"
    ):
        fate_of(Run(data), "stdlib:gzip.py:7")
    with pytest.raises(ConfigError, match=r"^DOCUMENT=xyz: ingest never saw it$"):
        fate_of(Run(data), "xyz")


def test_a_position_is_a_token_of_a_document(data: Path) -> None:
    run, text = Run(data), TEXTS["c"]
    found = token_at(run, 0, 1, 4)
    assert (found.document, found.offset, found.text, found.length) == ("c", 3, text[3], len(text) + 1)
    assert (found.before, found.after) == (text[:3], text[4:])
    assert token_at(run, 1, 0, 4).text == "<end of document>"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((2, None), "STEP=2: the plan has steps 0 to 1"),
        ((-1, 0), "STEP=-1: the plan has steps 0 to 1"),
        ((0, 2), "SEQUENCE=2: step 0 has sequences 0 to 1"),
    ],
)
def test_what_is_not_in_the_plan_is_said(data: Path, place: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ranges_of(Run(data), *place)


def test_a_position_past_the_end_is_said(data: Path) -> None:
    with pytest.raises(ConfigError, match="POSITION=6: sequence 1 of step 0 has positions 0 to 5"):
        token_at(Run(data), 0, 1, 6)


def test_what_became_of_a_document(data: Path) -> None:
    run = Run(data)
    assert fate_of(run, "c").seen == [(0, 6), (1, 5)] and fate_of(run, "a").what == "in the plan"
    assert (fate_of(run, "b").stage, fate_of(run, "b").what) == ("tokenize", "held out of training")
    assert fate_of(run, "e").what == "held out of training, and not measured: much of it stands in training"
    assert fate_of(run, "d").what == "for training, but the plan has no part of it"
    assert (fate_of(run, "x").stage, fate_of(run, "x").instead) == ("dedup", "a")
    assert (fate_of(run, "y").stage, fate_of(run, "y").what) == ("filter", "dropped: symbols: too many")
    rejected = fate_of(run, "web:f.jsonl:7")
    assert (rejected.stage, rejected.what) == ("ingest", "quarantined: not_json")
    with pytest.raises(ConfigError, match="DOCUMENT=cc: ingest never saw it; did you mean c"):
        fate_of(run, "cc")


@pytest.mark.parametrize(
    ("reason", "stage", "name"),
    [
        ("duplicate_of", "dedup", "x"),
        ("duplicate_of:a", "dedup", "x"),
        ("symbols", "filter", "y"),
        ("not_json", "ingest", "web:f.jsonl:7"),
    ],
)
def test_what_a_reason_removed(data: Path, reason: str, stage: str, name: str) -> None:
    counts, rows = removed_by(Run(data), reason)
    assert [(row["stage"], row["documents"]) for row in counts] == [(stage, 1)] and rows[0]["id"] == name


def test_an_unknown_reason_names_those_there_are(data: Path) -> None:
    known = r"duplicate_of \(dedup, 1\), symbols \(filter, 1\), not_json \(ingest, 1\)"
    with pytest.raises(ConfigError, match=f"REMOVED=z: removed nothing; what did: {known}"):
        removed_by(Run(data), "z")


def test_tokens_by_licence(data: Path) -> None:
    assert {row["licence"] for row in licences(Run(data))} == {None}
    rows = [{"source": "sa", "licence": "MIT", "files": 2}, {"source": "sc", "licence": "CC0", "files": 1}]
    rows_of(data / "ingest" / "sources.parquet", rows)
    told = [(row["licence"], row["source"], row["tokens"], row["planned"]) for row in licences(Run(data))]
    assert told == [("CC0", "sc", 24, 11), ("MIT", "sa", 19, 6), (None, "sd", 14, 0)]


def test_texts_come_from_any_shard_in_any_order(data: Path) -> None:
    assert Run(data).texts([3, 0, 3]) == {0: TEXTS["a"], 3: TEXTS["d"]}
    with pytest.raises(ConfigError, match="has 5 documents, and the plan asks for number 5"):
        Run(data).texts([5])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("--step 0", ["12 tokens of 2 documents", "sa 50.0%", "e first document"]),
        ("--step 0 --sequence 1", ["position", "offset"]),
        ("--step 0 --sequence 1 --position 4", ["number 3 of the 24 of c", "the[[ ]]third\\nhas"]),
        ("--document x", ["dropped: duplicate_of:a", "what stands for it", "1 steps saw 6 tokens"]),
        ("--removed not_json", ["web:f.jsonl:7", "{\\x1b["]),
        ("--licences", ["unknown", "no licence is known"]),
    ],
)
def test_the_command_says_it(data: Path, capsys: pytest.CaptureFixture, asked: str, words: list[str]) -> None:
    assert main(["--run", str(data), *asked.split()]) == 0
    said = capsys.readouterr().out
    assert [word for word in words if word not in said] == [] and "\x1b" not in said


@pytest.mark.parametrize("asked", ["", "--step 1 --licences", "--position 3 --step 1", "--sequence 1"])
def test_one_question_at_a_time(data: Path, capsys: pytest.CaptureFixture, asked: str) -> None:
    with pytest.raises(SystemExit):
        main(["--run", str(data), *asked.split()])


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--run", str(tmp_path), "--step", "0"]) == 2
    assert "documents.parquet: no such table; has tokenize run?" in capsys.readouterr().err


def test_the_data_of_a_revision(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """As DVC stores it: objects by md5, a listing for each folder, a lock that names the listing."""
    root = data.parent
    monkeypatch.chdir(root)
    objects, stages = root / ".dvc" / "cache" / "files" / "md5", {}
    for folder in sorted(data.iterdir()):
        listing = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            md5 = path_md5(file, read_ignored())
            (objects / md5[:2]).mkdir(parents=True, exist_ok=True)
            file.rename(objects / md5[:2] / md5[2:])
            listing.append({"md5": md5, "relpath": file.relative_to(folder).as_posix()})
        md5 = f"{len(stages):032x}.dir"
        (objects / md5[:2]).mkdir(parents=True, exist_ok=True)
        (objects / md5[:2] / md5[2:]).write_text(json.dumps(listing))
        stages[folder.name] = {"outs": [{"path": f"data/{folder.name}", "md5": md5}]}
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
    for command in ("init -q", "add dvc.lock", "-c user.name=n -c user.email=e commit -qm lock"):
        subprocess.run(["git", *command.split()], check=True)
    assert main(["--run", "HEAD", "--step", "0"]) == 0 and "12 tokens" in capsys.readouterr().out
    assert main(["--run", "nowhere", "--step", "0"]) == 2 and "RUN=nowhere" in capsys.readouterr().err
