"""Whatever is shown or stored of a stage is of the very bytes that lie there: after A, B, A it is A's."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.environment import environment
from flows.pipeline.finish import figures_of
from flows.replay.finished_run import from_folder
from flows.stage.process import Ended, run_stage
from flows.stage.ready import ready
from tasks.core.yaml import dump_yaml
from tasks.report.read import read_facts, read_stages
from tasks.runner.key import file_md5, locked_key
from tasks.runner.lock import lock_entry
from tasks.runner.timings import STORE, facts_of, paths, restore_timings, write
from tests import repositories
from tests.project import ROOT, TINY, make_project, write_params


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = make_project(tmp_path_factory.mktemp("figures"), TINY)
    (folder / ".gitignore").write_text("/data\n.scratch\n")
    (folder / ".dvcignore").unlink()  # `dvc init` writes one of its own
    repositories.init(folder)
    (folder / ".dvcignore").unlink()
    (folder / ".dvcignore").symlink_to(ROOT / ".dvcignore")
    with ready(folder, ["ingest", "dedup"], TINY):
        yield folder


def ingest(project: Path, seed: int, **more: str) -> Ended:
    write_params(project, {**TINY, "seed": seed})
    extra = {"TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    ended = run_stage(project, "ingest", False, lambda line: None, extra)
    assert ended.code == 0, ended.tail
    return ended


def left(project: Path) -> list[dict[str, Any]]:
    """The figures of the run and its record, as they lie beside the bytes."""
    return [json.loads((project / path).read_text()) for path in paths("ingest")]


def shown(project: Path) -> dict[str, float]:
    """What the report shows of ingest's time and memory."""
    return next(stage.timings for stage in read_stages(project) if stage.name == "ingest")


def test_after_a_b_a_times_and_record_are_of_the_run_that_made_a(project: Path) -> None:
    assert ingest(project, 0).how == "Ran"
    first = left(project)
    assert shown(project) == first[0] and first[0]["seconds"] > 0
    assert ingest(project, 1).how == "Ran"
    second = left(project)
    assert second[0] != first[0] and second[1]["params"]["seed"] == 1 and shown(project) == second[0]
    assert ingest(project, 0).how == "Restored"
    assert left(project) == first and shown(project) == first[0]
    assert first[1]["key"] == locked_key(lock_entry(project, "ingest")) == from_folder(project).records["ingest"].key
    # a plain `dvc repro` brings back bytes alone
    write_params(project, {**TINY, "seed": 1})
    given = {**environment(project), "PYTHONPATH": str(ROOT)}
    repositories.dvc(project, "repro", "--quiet", "--single-item", "ingest", surroundings=given)
    assert left(project) == first and shown(project) == second[0]
    assert from_folder(project).records["ingest"].params["seed"] == 1
    restore_timings(project, "ingest", locked_key(lock_entry(project, "ingest")))
    assert left(project) == second


def test_bytes_that_were_made_elsewhere_have_no_times_here(project: Path, tmp_path: Path) -> None:
    assert ingest(project, 0).how in ("Restored", "Ran")
    copied = shutil.copytree(project, tmp_path / "clone", symlinks=True)
    shutil.rmtree(copied / "data" / "timings" / "by_key")
    ended = ingest(copied, 1)  # restored from the cache; the run was in another folder
    assert ended.how == "Restored" and shown(copied) == {}
    assert not any((copied / path).exists() for path in paths("ingest"))


def test_a_file_of_times_that_was_cut_off_is_no_reason_to_fail(project: Path, tmp_path: Path) -> None:
    ingest(project, 0)
    copied = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    key = locked_key(lock_entry(copied, "ingest"))
    whole = facts_of(copied, "ingest", key)
    for path in paths("ingest"):
        (copied / path).write_text('{"key": ')
    assert facts_of(copied, "ingest", key) == whole
    (copied / "data" / "timings" / "by_key" / "ingest" / f"{key}.json").write_text("[1, ")
    assert facts_of(copied, "ingest", key) == {}


def test_metrics_that_the_lock_does_not_record_are_not_shown(project: Path, tmp_path: Path) -> None:
    ingest(project, 0)
    copied = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    found = {stage.name: stage for stage in read_stages(copied)}
    assert found["ingest"].current and found["ingest"].metrics["documents"] > 0
    path = copied / "data" / "metrics" / "ingest.json"
    path.write_text(path.read_text().replace('"documents": ', '"documents": 1'))
    assert not {stage.name: stage for stage in read_stages(copied)}["ingest"].metrics


def test_a_stage_whose_files_are_of_another_run_is_not_shown(project: Path, tmp_path: Path) -> None:
    """As after a switch of git that brought dvc.lock and metrics, and no data."""
    ingest(project, 1)
    other = (project / "data" / "ingest" / "origins.parquet").read_bytes()
    ingest(project, 0)
    copied = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    assert next(stage for stage in read_stages(copied) if stage.name == "ingest").current
    assert (copied / "data" / "ingest" / "origins.parquet").read_bytes() != other
    (copied / "data" / "ingest" / "origins.parquet").write_bytes(other)
    assert not next(stage for stage in read_stages(copied) if stage.name == "ingest").current


def test_a_model_bears_figures_of_its_own_evaluation_alone(tmp_path: Path) -> None:
    """`TARGETS=quantize` makes a model and does not evaluate it: the last evaluation was of the model before."""
    metrics = tmp_path / "data" / "metrics" / "evaluate@quantize.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"accuracy": 0.5}\n')
    evaluate = {
        "foreach": ["quantize"],
        "do": {"cmd": "true", "deps": ["data/${item}"], "outs": ["data/evaluate/${item}"]},
    }
    (tmp_path / "dvc.yaml").write_text(dump_yaml({"stages": {"evaluate": evaluate}}))
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    entry: dict[str, Any] = {
        "cmd": "python -m tasks.runner evaluate quantize",
        "deps": [{"path": "data/quantize", "md5": "one.dir"}],
        "outs": [{"path": "data/metrics/evaluate@quantize.json", "md5": file_md5(metrics)}],
    }

    def figures(md5: str, entry: dict[str, Any]) -> dict[str, float]:
        (tmp_path / "dvc.lock").write_text(dump_yaml({"schema": "2.0", "stages": {"evaluate@quantize": entry}}))
        return figures_of(tmp_path, "quantize", md5)

    assert figures("one.dir", entry) == {"accuracy": 0.5}
    assert figures("two.dir", entry) == {}
    other = copy.deepcopy(entry)
    other["outs"][0]["md5"] = "0" * 32  # a switch of git has brought another file
    assert figures("one.dir", other) == {}
    assert figures("one.dir", {}) == {}


def test_where_git_cannot_tell_the_report_does_not_say_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    assert read_facts(tmp_path).dirty is None
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert read_facts(tmp_path).dirty is True
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setitem(os.environ, "PATH", str(empty))
    assert read_facts(tmp_path).dirty is None


def test_runs_of_one_key_side_by_side_write_into_no_file_of_each_other(tmp_path: Path) -> None:
    """Variants of a checkout keep their figures in one place: what another process is writing there is not this one's."""
    others = tmp_path / STORE / "toy" / ".k.json.unfinished"
    others.mkdir(parents=True)
    write(tmp_path, "toy", {"seconds": 1.5}, {"key": "k"})
    assert facts_of(tmp_path, "toy", "k") == {"seconds": 1.5} and others.exists()
