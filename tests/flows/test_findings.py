"""A finding is a line, whatever a user's own names hold."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.preflight import toy_run
from flows.preflight.read import inputs
from tasks.runner.graph import read_graph
from tests.flows.preflight_project import make_project, params_of

BROKEN = '"a\\n# b"'  # a label over two lines, as YAML takes one
SOURCES = {
    "no file": f"{{name: jsonl, label: {BROKEN}, path: '*.none'}}",
    "no folder": f"{{name: text_folder, label: {BROKEN}, path: nowhere}}",
    "no usable row": f"{{name: jsonl, label: {BROKEN}, path: bad.jsonl}}",
}


@pytest.mark.parametrize("fault", SOURCES)
def test_what_is_said_of_a_label_over_two_lines_is_one(tmp_path: Path, monkeypatch, fault: str) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    Path("data/raw/bad.jsonl").write_text("no JSON\n")
    (line,) = map(str, inputs(params_of(f"ingest.sources=[{SOURCES[fault]}]"), ["ingest"]))
    assert "\n" not in line and line.startswith("params.yaml: ingest.sources: a # b: "), line


def test_the_traceback_of_a_toy_stage_stays_where_its_finding_says(tmp_path: Path, monkeypatch) -> None:
    """The folder that it worked in goes."""
    monkeypatch.chdir(make_project(tmp_path / "project"))
    monkeypatch.setattr(toy_run, "room_of", lambda name: SimpleNamespace(run=broken))
    (found,) = toy_run.rehearse_stage(read_graph()["ingest"], params_of(), tmp_path / "toy", {})
    assert "see .scratch/preflight/ingest.log, and" in str(found)
    assert "KeyError: 'broken'" in Path(".scratch/preflight/ingest.log").read_text()


def test_a_full_disk_is_no_fault_of_the_section(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    monkeypatch.setattr(toy_run, "room_of", lambda name: SimpleNamespace(run=full))
    (found,) = toy_run.rehearse_stage(read_graph()["ingest"], params_of(), tmp_path / "toy", {})
    assert str(found) == (
        f"ingest (toy run): [Errno 28] No space left on device: 'x'; make room in {tmp_path}, or name another TMPDIR"
    )


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "x")


def broken(*_: object) -> None:
    raise KeyError("broken")
