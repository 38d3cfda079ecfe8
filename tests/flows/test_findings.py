"""A finding is a line, whatever a user's own names hold."""

from pathlib import Path

import pytest

from flows.preflight.read import inputs
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
