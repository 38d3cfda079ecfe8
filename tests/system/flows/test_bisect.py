"""Runs of real stages with one thing spoilt: bisect names the stage, the place in it, and the suspect, and no other."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.replay.bisect import EQUAL, Divergence, compare, divergence
from flows.replay.causes import Suspect, of_code, of_hardware, of_libraries, of_params, suspects
from flows.replay.finished_run import FinishedRun, from_folder
from tasks.runner.record import Record
from tests.flows.runs import (
    ROWS,
    copy_of,
    flip_bit_of_weight,
    make_run,
    other_xxhash,
    run_again,
    texts,
    write_shard,
)
from tests.processes import wait_for
from tests.project import DATA_STAGES, ROOT, digest, run_stage, start_stage


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("original"), *DATA_STAGES, "pretrain")


@pytest.fixture
def again(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path / "again")


def first(left: Path, right: Path) -> Divergence:
    """The first divergence of two folders."""
    sides = from_folder(left), from_folder(right)
    stage = next(found.stage for found in compare(*sides) if found.kind != EQUAL)
    return divergence(stage, *sides)


def bisect(left: Path, right: Path) -> tuple[int, str]:
    """Exit code and what it prints."""
    command = [sys.executable, "-m", "flows.replay.bisect", str(left), str(right)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TOKENMILL_TRACKING": "off"}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_equal_runs_are_equal_and_no_run_is_said_in_a_line(original: Path, again: Path, tmp_path: Path) -> None:
    code, printed = bisect(original, again)
    assert code == 0 and printed.count("| bit-equal\n") == 6 and "first difference" not in printed
    (tmp_path / "empty").mkdir()
    code, printed = bisect(original, tmp_path / "empty")
    assert code == 2 and printed.count("\n") == 1 and "no stage has run there" in printed


def test_one_flipped_bit_of_an_input(original: Path, again: Path) -> None:
    rows = texts(1)
    flipped = bytearray(rows[47].encode())
    flipped[30] ^= 4
    rows[47] = flipped.decode()
    write_shard(again / "data" / "raw", 1, rows)
    run_again(again, "ingest")
    code, printed = bisect(original, again)
    where = "data/raw/00001.parquet: row group 1, row 47, column text: byte 30: "
    assert code == 1 and "first difference: ingest\n" in printed
    assert f"suspect: data: {where}" in printed and printed.rstrip().endswith("1 bit") and "  or: " not in printed


def test_a_reordered_shard(original: Path, again: Path) -> None:
    rows = texts(0)
    write_shard(again / "data" / "raw", 0, [*rows[:33], *reversed(rows[33:50]), *rows[50:]])
    run_again(again, "ingest")
    found = first(original, again)
    where = f"reordered: the same {ROWS} rows, the first out of place at row group 1, row 33"
    assert found.stage == "ingest" and found.suspects == [Suspect("data", f"data/raw/00000.parquet: {where}")]


def test_two_shards_in_each_others_place(original: Path, again: Path) -> None:
    for shard in (0, 1):
        write_shard(again / "data" / "raw", shard, texts(1 - shard))
    run_again(again, "ingest")
    where = "data/raw/00000.parquet: reordered: the shard is the same, and is 00001.parquet now"
    assert first(original, again).suspects == [Suspect("data", where)]


def test_another_version_of_a_library(original: Path, again: Path, tmp_path: Path) -> None:
    changed = other_xxhash(tmp_path / "library")
    params = again / "params.yaml"
    params.write_text(
        re.sub("xxhash: .*", "xxhash: 9.9.9", params.read_text())
    )  # as whatever composes them would there
    for stage in DATA_STAGES[:4]:
        run_again(again, stage, **changed)
    found = first(original, again)
    before = from_folder(original).records["tokenize"].libraries["xxhash"]
    assert found.stage == "tokenize" and found.suspects == [Suspect("library", f"xxhash {before} -> 9.9.9")]


def test_a_weight_that_changed_between_two_steps(original: Path, again: Path) -> None:
    shutil.rmtree(again / "data" / "pretrain")
    process = start_stage(again, "pretrain", TOKENMILL_CHECKPOINT_SECONDS="0")
    curves = again.glob
    wait_for(lambda: sum(p.read_bytes().count(b"\n") for p in curves(".scratch/pretrain/*/curves.jsonl")) >= 9, process)
    process.kill()
    process.communicate()
    newest = max(again.glob(".scratch/pretrain/*/checkpoints/step-*.safetensors"))
    name = "blocks.1.ffn.up.weight"
    flip_bit_of_weight(newest, f"model.{name}")
    run_stage(again, "pretrain")
    found = first(original, again)
    assert found.stage == "pretrain" and found.step is not None
    assert (found.step.step, found.step.what) == (int(newest.stem.removeprefix("step-")), "weights")
    assert found.step.tensors == [name] and found.step.since == found.step.step - 1
    assert [suspect.kind for suspect in found.suspects] == ["nondeterminism"]


def test_other_instructions_of_the_processor(original: Path, again: Path) -> None:
    run_again(again, "pretrain", ATEN_CPU_CAPABILITY="default")
    found = first(original, again)
    assert found.stage == "pretrain" and found.step is not None and found.step.step == 0
    assert {suspect.kind for suspect in found.suspects} == {"hardware"}
    assert any(s.what.startswith("instructions ") and s.what.endswith("-> DEFAULT") for s in found.suspects)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"TOKENMILL_POSITIONS": "64"}, ["TOKENMILL_POSITIONS unset -> 64", "positions whole batches -> 64 at once"]),
        ({"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, ["ONEDNN_DEFAULT_FPMATH_MODE unset -> BF16"]),
    ],
    ids=str,
)
def test_an_execution_setting(original: Path, again: Path, environment: dict[str, str], named: list[str]) -> None:
    run_again(again, "pretrain", **environment)
    if digest(original / "data" / "pretrain") == digest(again / "data" / "pretrain"):
        assert "POSITIONS" not in str(environment)  # a processor without bf16 products does not take the other one
        return
    assert first(original, again).suspects == [Suspect("hardware", line) for line in named]


def test_an_output_that_was_changed_after_it_was_written(original: Path, again: Path) -> None:
    path = again / "data" / "tokenize" / "tokens.npy"
    tokens = np.load(path)
    tokens[100] ^= 1
    np.save(path, tokens)
    found = first(original, again)
    where = (
        f"data/tokenize/tokens.npy: entry [100]: {tokens[100] ^ 1} -> {tokens[100]}, 1 bit; 1 of {len(tokens)} entries"
    )
    assert found.stage == "tokenize" and found.place.startswith(where)
    assert [s.kind for s in found.suspects] == ["data"] and "is not what curriculum read there" in found.suspects[
        0
    ].what


RECORD = Record(
    "sft", "k", "c", {"lm": "1", "data/x": "2"}, {"sft": {"steps": 3, "optimizer": {"lr": 0.1}}},
    {"lm/a.py": "1", "lm/b.py": "2"}, {"torch": "2.13", "numpy": "2.4"}, {"cpu": "one", "flags": "a b c"},
)  # fmt: skip


def test_each_kind_is_named_by_what_differs(tmp_path: Path) -> None:
    params = {"sft": {"steps": 3, "optimizer": {"lr": 0.2}}}
    assert of_params(RECORD, replace(RECORD, params=params)) == [Suspect("params", "sft.optimizer.lr 0.1 -> 0.2")]
    other = replace(RECORD, deps={**RECORD.deps, "lm": "9"}, code={"lm/a.py": "1", "lm/b.py": "9"})
    left, right = (FinishedRun(n, tmp_path, tmp_path / "data", {"sft": r}) for n, r in (("A", RECORD), ("B", other)))
    assert of_code(RECORD, other, left, right) == [Suspect("code", "lm/b.py")]
    assert of_libraries(RECORD, replace(RECORD, libraries={"torch": "2.14", "jinja2": "3"})) == [
        Suspect("library", "torch 2.13 -> 2.14")
    ]
    machine = replace(RECORD, hardware={"cpu": "two", "flags": "a c d", "gpu": "H100"})
    assert [s.what for s in of_hardware(RECORD, machine)] == [
        "cpu one -> two",
        "flags: only one has b d",
        "gpu unset -> H100",
    ]


def test_what_was_not_recorded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_TRACKING", "off")
    bare = replace(RECORD, libraries={}, hardware={})
    left, right = (FinishedRun(n, tmp_path, tmp_path / "data", {"sft": r}) for n, r in (("A", bare), ("B", RECORD)))
    found = suspects("sft", left, right)
    assert found == [Suspect("library or hardware", "nothing else differs, and of A these were not recorded")]


def test_a_stage_that_did_not_promise_equal_bits_is_the_suspect(tmp_path: Path) -> None:
    free = replace(RECORD, hardware={**RECORD.hardware, "deterministic": "no"})
    left, right = (FinishedRun(n, tmp_path, tmp_path / "data", {"sft": free}) for n in ("A", "B"))
    assert suspects("sft", left, right) == [Suspect("nondeterminism", "sft.deterministic is off in A and B")]
    sections = replace(free, params={"sft": {**free.params["sft"], "deterministic": False}})
    right = FinishedRun("B", tmp_path, tmp_path / "data", {"sft": sections})
    assert suspects("sft", left, right) == [Suspect("params", "sft.deterministic absent -> false")]
