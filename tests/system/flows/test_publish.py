"""Publishing, with a real DVC remote and a real MLflow store: all of it or nothing, and only what was looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mlflow
from flows.environment import environment
from flows.pipeline.finish import REGISTERED_AS
from flows.pipeline.publish import Candidate, candidate, conclude, publish
from tests.project import ROOT

STAGES = {
    "model": {
        "cmd": "mkdir -p data/metrics data/model && cp params.yaml data/model/config.json && echo {} > data/metrics/model.json",
        "params": ["model"],
        "outs": ["data/model"],
        "metrics": [{"data/metrics/model.json": {"cache": False}}],
    }
}


def dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    surroundings = {**environment(folder), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=surroundings, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose one stage has made a model."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (folder / "params.yaml").write_text("model: {value: 1}\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "-q")
    dvc(folder, "repro", "-q")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TOKENMILL_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def champion(project: Path) -> dict[str, str]:
    """The tags of the version that the alias points to; empty where there is none."""
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow/store/mlflow.db")
    if not client.search_registered_models():
        return {}
    try:
        return client.get_model_version_by_alias(REGISTERED_AS, "champion").tags
    except mlflow.MlflowException:
        return {}


def the(project: Path) -> Candidate:
    found = candidate(project)
    assert found is not None
    return found


def test_the_bytes_are_pushed_and_the_alias_follows_the_newest(project: Path, tmp_path: Path) -> None:
    dvc(project, "remote", "add", "-d", "store", str(tmp_path / "remote"))
    first = the(project)
    assert "version 1, alias `champion`" in publish(project, first, "abc", None)
    assert publish(project, first, "abc", None).count("version 1") == 1  # again: the same bytes keep their version
    assert champion(project) == {
        "dvc.md5": first.md5, "dvc.path": "data/model", "dvc.stage": "model", "git.revision": "abc",
    }  # fmt: skip
    stored = tmp_path / "remote" / "files" / "md5"
    listing = json.loads((stored / first.md5[:2] / first.md5[2:]).read_text())
    assert all((stored / entry["md5"][:2] / entry["md5"][2:]).exists() for entry in listing)

    (project / "params.yaml").write_text("model: {value: 2}\n")
    dvc(project, "repro", "-q")
    with pytest.raises(RuntimeError, match="data/model was made anew in the meantime"):
        publish(project, first, "abc", None)
    assert champion(project)["dvc.md5"] == first.md5
    assert "version 2" in publish(project, the(project), "abc", None)
    assert champion(project)["dvc.md5"] == the(project).md5 != first.md5


def test_bytes_that_the_cache_has_lost_are_put_back_and_pushed_or_it_is_refused(project: Path, tmp_path: Path) -> None:
    """`dvc push` passes over what the cache lacks, says so of 0 files, and ends well."""
    dvc(project, "remote", "add", "-d", "store", str(tmp_path / "remote"))
    (project / ".dvc" / "cache").rename(tmp_path / "moved away")
    first = the(project)
    assert "Its bytes are on the DVC remote `store`" in publish(project, first, "abc", None)
    stored = tmp_path / "remote" / "files" / "md5"
    listing = json.loads((stored / first.md5[:2] / first.md5[2:]).read_text())
    assert len(listing) == 1 and all((stored / e["md5"][:2] / e["md5"][2:]).exists() for e in listing)

    (project / ".dvc" / "cache").rename(tmp_path / "moved again")
    (project / "data" / "model" / "config.json").write_text("edited\n")
    with pytest.raises(RuntimeError, match="DVC's cache lacks bytes of data/model, and data/ has others"):
        publish(project, first, "abc", None)


def test_without_a_remote_it_says_where_the_bytes_are(project: Path) -> None:
    assert "no DVC remote is configured" in publish(project, the(project), "abc", None)


def test_a_remote_that_refuses_leaves_no_champion(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder\n")
    dvc(project, "remote", "add", "-d", "store", str(tmp_path / "file" / "below"))
    with pytest.raises(RuntimeError, match="dvc push to store failed"):
        publish(project, the(project), "abc", None)
    assert champion(project) == {}


def test_what_was_asked_for_fails_where_it_cannot_be_done(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_TRACKING", "off")
    with pytest.raises(RuntimeError, match="TOKENMILL_TRACKING=off leaves no registry"):
        publish(project, the(project), "abc", None)
    (project / "data" / "model" / "config.json").unlink()
    with pytest.raises(RuntimeError, match="there is no model"):
        conclude(project, "always", "abc", None, [])
    conclude(project, "no", "abc", None, [])


# Of a thousand problems as many right as the parameter says; bits per byte are 1.5
LOOK = """
import json, pathlib, sys
import pyarrow, pyarrow.parquet, yaml
value = yaml.safe_load(open("params.yaml"))["model"]["value"]
folder = pathlib.Path("data/look/model")
folder.mkdir(parents=True, exist_ok=True)
rows = [{"id": str(n), "score": float(n < value), "valid": True} for n in range(1000)]
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "answers.parquet")
pathlib.Path("data/metrics/look@model.json").write_text(json.dumps({"bits_per_byte": 1.5, "accuracy": value / 1000}))
"""
LOOKING = {
    "look": {
        "foreach": ["model"],
        "do": {
            "cmd": f"{sys.executable} look.py ${{item}}",
            "deps": ["data/${item}", "look.py"],
            "outs": ["data/look/${item}"],
            "metrics": [{"data/metrics/look@${item}.json": {"cache": False}}],
        },
    }
}


def test_a_model_that_fails_its_gates_is_a_candidate_and_no_more(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.pipeline.publish.create_markdown_artifact", lambda *_, **__: None)
    (project / "look.py").write_text(LOOK)
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES | LOOKING}))

    def concluded(right: int, **gates: float) -> str:
        params = {"model": {"value": right}, "models": ["model"], **({"gates": gates} if gates else {})}
        (project / "params.yaml").write_text(yaml.safe_dump(params))
        dvc(project, "repro", "-q")
        conclude(project, "always", "abc", None, [])
        return capsys.readouterr().out

    def alias(name: str) -> str:
        client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow/store/mlflow.db")
        return str(client.get_model_version_by_alias(REGISTERED_AS, name).version)

    assert "alias `champion`" in concluded(800, max_accuracy_loss=0.01)  # the first has none to be held to
    assert champion(project)["gates"].startswith("passed: there is no champion")
    said = concluded(700, max_accuracy_loss=0.01)
    assert "version 2, alias `candidate`, and not champion: FAILED: accuracy" in said and said.count("\n") == 1
    assert "in points: -10.0 (" in said and (alias("champion"), alias("candidate")) == ("1", "2")
    assert "FAILED: bits_per_byte 1.5, at most 1.4" in concluded(801, max_accuracy_loss=0.01, max_bits_per_byte=1.4)
    assert alias("champion") == "1"
    assert "version 3, alias `champion`" in concluded(801, max_accuracy_loss=0.01, max_bits_per_byte=1.5)
    assert champion(project)["gates"].startswith("passed: accuracy") and alias("candidate") == "3"
    for path in (project / ".dvc/cache").rglob("*.dir"):  # whose listing was of the champion's answers
        path.chmod(0o644)
        path.unlink()
    assert "DVC's cache lacks the champion's answers" in concluded(900, max_accuracy_loss=0.01)
    assert "version 4, alias `champion`" in concluded(900) and "gates" not in champion(project)
