"""Sources before a run: those of which no row can be used are named, and one bad file among them is no fault."""

from pathlib import Path

import pytest

from tasks.about.finding import findings_of
from tasks.about.sections import Sections
from tasks.ingest.inputs import inputs
from tests.flows.preflight_project import make_project, params_of


def test_an_empty_file_before_a_good_one_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, sections = (
        make_project(tmp_path / "project"),
        Sections(params_of("ingest.sources=[{name: jsonl, path: '*.jsonl'}]")),
    )
    monkeypatch.chdir(project)
    (project / "data/raw/0.jsonl").write_bytes(b"")
    (project / "data/raw/1.jsonl").write_bytes(b'{"body": 1}\n')
    [found] = map(str, findings_of(lambda: inputs(sections)))
    assert all(word in found for word in ("0.jsonl", "what follows", "one usable row")), found
    (project / "data/raw/2.jsonl").write_bytes(b'{"text": "a"}\n')
    assert findings_of(lambda: inputs(sections)) == []
