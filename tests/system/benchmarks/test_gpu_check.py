"""The check of a GPU: all of it on a CPU with no more libraries than a bare GPU machine has, and what keeps its minutes well spent."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu.check import NEEDS_GPU, Check, off, table
from benchmarks.gpu.corpus import prepare
from benchmarks.gpu.items import ITEMS
from benchmarks.gpu.measure import distance, peak_above
from benchmarks.gpu.predictions import PREDICTIONS, Prediction
from benchmarks.gpu.runner import ERRORS, Item, run
from benchmarks.gpu.watch import Watch
from lm.training.data.plan import Plan
from tests.gpu_libraries import block_refused, refused
from tests.processes import PATIENCE
from tests.project import ROOT


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What `--tiny` says where none of the refused can be imported, in any process that it starts."""
    folder = tmp_path_factory.mktemp("check")
    environment = {**os.environ, **block_refused(folder), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--budget", "3000", "--out", str(folder / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    errors = folder / "out" / ERRORS
    assert done.returncode == 0, done.stdout + done.stderr + (errors.read_text() if errors.exists() else "")
    return [json.loads(line) for line in (folder / "out" / "rows.jsonl").read_text().splitlines()]


def test_every_item_works_without_a_gpu(rows: list[dict]) -> None:
    assert {"dvc", "mlflow", "prefect", "deepspeed", "orjson"} <= set(refused())
    assert list(dict.fromkeys(row["item"] for row in rows)) == [item.name for item in ITEMS]
    assert [row for row in rows if row["name"] in ("error", "failed", "stopped", "skipped")] == []
    said = {(row["item"], row["name"]): row["value"] for row in rows}
    for item in ("kernel_tests", "device_tests"):
        assert re.match(r"\d+ passed", said[item, "tests"]) and "skipped" not in said[item, "tests"]
    assert said["step_preset", "host waits in a step"] == NEEDS_GPU


def test_what_is_predicted_is_measured(rows: list[dict]) -> None:
    """A prediction of a name that no item says would never be shown."""
    assert set(PREDICTIONS) <= {(row["item"], row["name"]) for row in rows}
    assert all(0 < found.low < found.high for found in PREDICTIONS.values())


def test_the_losses_of_the_plain_loop_are_those_of_the_stage(rows: list[dict]) -> None:
    """As on a GPU they must be, so that both are known to do the same work."""
    [apart] = [row["value"] for row in rows if row["name"].startswith("losses beside")]
    assert 0 <= apart < 1e-3


def test_the_items_fit_into_nine_minutes_by_their_least() -> None:
    assert sum(item.least for item in ITEMS) < 540 and all(item.least < item.most for item in ITEMS)


def check_in(folder: Path) -> Check:
    return Check(torch.device("cpu"), False, folder)


def named(name: str, work: Callable[[Check], None], most: float = PATIENCE) -> Item:
    work.__name__ = name
    return Item(work, 1, most)


def test_an_item_that_fails_dies_or_hangs_leaves_its_rows_and_the_next_its_time(tmp_path: Path) -> None:
    def fails(check: Check) -> None:
        check.say("before", 1.0)
        raise ValueError("no")

    items = [
        named("fails", fails),
        named("dies", lambda check: os._exit(3)),
        named("hangs", lambda check: subprocess.run(["sleep", "inf"], check=True) and None, 0.5),
        named("works", lambda check: check.say("value", 2.0, "s")),
    ]
    run(items, check_in(tmp_path), PATIENCE)
    said = [(row["item"], row["name"], row["value"]) for row in check_in(tmp_path).rows() if row["name"] != "seconds"]
    assert said[:2] == [("fails", "before", 1.0), ("fails", "error", "ValueError: no")]
    assert said[2] == ("dies", "error", "the process ended with 3") and said[3][:2] == ("hangs", "stopped")
    assert said[4:] == [("works", "value", 2.0)]
    assert "raise ValueError" in (tmp_path / ERRORS).read_text()


def test_what_the_budget_does_not_hold_is_skipped_and_says_so(tmp_path: Path) -> None:
    run([Item(test_every_item_works_without_a_gpu, 40, 50)], check_in(tmp_path), 30)
    [row] = check_in(tmp_path).rows()
    assert row["name"] == "skipped" and row["value"] == "30 s left, it asks for 40"


def test_a_figure_stands_beside_its_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = check_in(tmp_path).of("head")
    low, high, why = PREDICTIONS["head", "ours: time"]
    check.say("ours: time", 2 * high, "ms")
    check.say("ours: time", low, "ms")
    missed, met = check.rows()
    assert (
        missed["predicted"] == [low, high] and missed["because"] == why and missed["off"] == 1.0 and met["off"] == 0.0
    )
    assert f"predicted {low:g} to {high:g}, +100%" in capsys.readouterr().out
    assert table(check.rows()).endswith("predicted 38 to 46, +100%]") and table([met]).count("\n") == 1
    assert off(30.0, Prediction(40, 50, "")) == -0.25


def test_the_check_refuses_to_measure_a_cpu_and_names_its_items() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    for words, said in (
        ([], "no GPU is here"),
        (["--tiny", "--only", "haed"], "no item haed (there are: environment, roofs"),
    ):
        command = [sys.executable, "-m", "benchmarks.gpu", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and said in done.stderr


def test_the_corpus_is_a_plan_of_whole_documents(tmp_path: Path) -> None:
    prepare(tmp_path, 512, steps=3, sequences=4, context=600)
    plan = Plan(tmp_path / "curriculum", tmp_path / "tokenize")
    assert plan.steps == 3 and torch.equal(
        torch.cat([plan.batch(step).flatten() for step in range(3)]).int(),
        torch.from_numpy(plan.tokens.astype("int32")),
    )
    bounds = plan.bounds(0)
    # two documents or so a sequence of 600, and every row begins one
    assert 4 < len(bounds) < 40 and set(range(0, 2401, 600)) <= set(bounds.tolist())


def test_what_is_timed_leaves_out_the_first_steps_and_those_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([0.0, 9.0, 9.0, 12.0, 12.0, 13.0, 13.0, 15.0, 15.0, 22.0, 22.0, 30.0, 30.0])
    monkeypatch.setattr("benchmarks.gpu.watch.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    log = Watch(check_in(tmp_path).of("x"), 6, 100, 1.0, look=True)
    for step in range(6):
        log(step, loss=1.0)
        log.progress(step + 1, 6)
    log.finish()
    said = {row["name"]: row["value"] for row in check_in(tmp_path).rows()}
    # of 9, 3, 1, 2, 7 and 8 seconds the first two compile, the last two are looked at
    assert said["until the first step is done, compiling included"] == 9.0 and said["step"] == 1.5
    assert said["tokens a second"] == pytest.approx(100 / 1.5)


def test_distance_and_memory() -> None:
    assert distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])) == pytest.approx(1 / 34**0.5)
    assert peak_above(lambda: None, torch.device("cpu")) is None
