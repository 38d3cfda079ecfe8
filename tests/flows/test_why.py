"""`make why` and the plan's one sentence: what differs, by name, with the old and the new value; else who made the bytes."""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flows.environment import environment
from flows.staleness.changes import Change, file_changes, only_words, param_changes
from flows.staleness.plan import NAMED, make_plan, reason_of
from flows.staleness.why import explain
from tasks.core.config import ConfigError, read_params
from tasks.runner.graph import read_graph
from tasks.runner.key import Inputs
from tasks.runner.lock import lock_entry
from tasks.runner.tracking import EXPERIMENT
from tests import repositories
from tests.forks.process import run_forked
from tests.project import ROOT

STAGES = {
    "first": {
        "cmd": "mkdir -p data/first && cp -r given/. data/first && cat tasks/room/* > /dev/null",
        "deps": ["given", "tasks/room", "tasks/${first.loss.name}.py"],
        "params": ["first", "libraries.torch"],
        "outs": ["data/first"],
        "metrics": [{"data/metrics/first.json": {"cache": False}}],
    },
    "second": {
        "cmd": "mkdir -p data/second && cp data/first/a data/second",
        "deps": ["data/first"],
        "outs": ["data/second"],
    },
}
STAGES["first"]["cmd"] += " && mkdir -p data/metrics && echo 1 > data/metrics/first.json"
FIRST = {"steps": 40, "loss": {"name": "plain"}, "rates": [0.1, 0.2]}
CODE = '"""A docstring."""\n\n\ndef add(a, b):\n    # a comment\n    return a + b\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages that have run, and a commit of what they ran with."""
    root = tmp_path_factory.mktemp("made")
    for name, text in {
        "dvc.yaml": yaml.safe_dump({"stages": STAGES}),
        "params.yaml": yaml.safe_dump({"first": FIRST, "libraries": {"torch": "2.12.0"}}),
        ".gitignore": "/data\n.scratch\n",
        "given/a": "a",
        "given/b": "b",
        "tasks/room/one.py": CODE,
        "tasks/room/two.py": CODE,
        "tasks/plain.py": CODE,
        "tasks/other.py": CODE + "\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    repositories.init(root)
    for command in (
        ["git", "add", "-A"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"],
    ):
        subprocess.run(command, cwd=root, env=environment(root), check=True)
    repro(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENMILL_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def repro(root: Path) -> None:
    repositories.dvc(root, "repro", "-q", surroundings=environment(root))


def reasons(root: Path) -> dict[str, str | None]:
    return {stage.address: stage.reason for stage in make_plan(root, [])}


def set_params(torch: str = "2.12.0", **first: object) -> None:
    values = {"first": FIRST | first, "libraries": {"torch": torch}}
    Path("params.yaml").write_text(yaml.safe_dump(values))


def test_parameters_and_versions_are_named_with_both_values(root: Path) -> None:
    assert reasons(root) == {"first": None, "second": None}
    set_params(steps=50, torch="2.13.0")
    assert reasons(root) == {"first": "first.steps: 40 -> 50; libraries.torch: 2.12.0 -> 2.13.0", "second": None}
    set_params(steps="40", rates=[0.1], sizes={"b": None})
    assert reasons(root)["first"] == (
        "first.rates.1: 0.2 -> not there; first.steps: 40 -> '40'; first.sizes.b: not there -> null"
    )
    set_params(loss={"name": "other", "beta": 0.1})
    assert reasons(root)["first"] == (
        "first.loss.name: plain -> other; first.loss.beta: not there -> 0.1; tasks/other.py is a new dependency"
    )


def test_an_input_that_dvc_cannot_take_is_one_line_before_dvc_looks_at_it(root: Path) -> None:
    for name, make, words in (
        (
            "given/gone.txt",
            lambda path: path.symlink_to("nowhere"),
            "given/gone.txt: a link to nowhere, which is no file",
        ),
        ("given/pipe", os.mkfifo, "given/pipe: neither a file nor a folder"),
        ("given/dvc.yaml", lambda path: path.write_text("stages: ["), "given/dvc.yaml: DVC would run it as a pipeline"),
        ("given/.dvcignore", lambda path: path.write_text("a"), "given/.dvcignore: only the .dvcignore of the project"),
        ("broken.dvc", lambda path: path.write_text("outs: ["), "DVC: .*broken.dvc"),
    ):
        make(root / name)
        with pytest.raises(ConfigError, match=rf"^{words}.*$") as told:
            make_plan(root, [])
        assert "\n" not in str(told.value)
        (root / name).unlink()
    assert reasons(root) == {"first": None, "second": None}


def test_an_input_that_dvc_ignores_is_one_line(root: Path) -> None:
    """DVC hashes it as if it were empty, so that no change of it would be seen."""
    (root / ".dvcignore").write_text("/given/\n")
    with pytest.raises(
        ConfigError, match=r"^given is ignored by \.dvcignore, so DVC would not see it change: move it else"
    ):
        make_plan(root, [])


def test_files_are_named_in_folders_of_code_by_git_and_of_data_by_the_cache(root: Path) -> None:
    Path("tasks/room/two.py").write_text(CODE.replace("a + b", "a - b"))
    Path("tasks/room/three.py").write_text(CODE)
    Path("tasks/plain.py").write_text(CODE.replace("a comment", "another"))
    assert reasons(root)["first"] == ("tasks/plain.py changed; tasks/room/three.py added; tasks/room/two.py changed")
    commit = subprocess.run(["git", "show", "-s", "--format=%h of %as"], capture_output=True, text=True, check=True)
    there = f"as commit {commit.stdout.strip()} has it"
    assert explain(root, "first") == [
        "first is stale:",
        "  tasks/plain.py changed, in comments, docstrings or layout alone; dvc.lock records tasks/plain.py " + there,
        "  tasks/room/three.py added; dvc.lock records tasks/room " + there,
        "  tasks/room/two.py changed; dvc.lock records tasks/room " + there,
    ]
    Path("data/first/a").unlink()
    Path("data/first/c").write_text("c")
    assert reasons(root)["second"] == "data/first/a removed; data/first/c added"
    assert explain(root, "second")[-1] == "  first may run before it, and it runs again if what that leaves differs"


def test_a_stage_after_a_stale_one_is_not_called_up_to_date(root: Path) -> None:
    Path("dvc.yaml").write_text(
        yaml.safe_dump(
            {
                "stages": STAGES
                | {
                    "third": STAGES["second"]
                    | {"deps": ["data/second"], "cmd": "cp -r data/second data/third", "outs": ["data/third"]}
                }
            }
        )
    )
    repro(root)
    assert explain(root, "third")[0].startswith("third is up to date")
    set_params(steps=50)
    assert explain(root, "third") == [
        "third may run: nothing of its own has changed, but what it stands on has:",
        "  first: first.steps: 40 -> 50",
        "  second may run before it, and it runs again if what that leaves differs",
    ]


def test_a_folder_that_nobody_remembers_is_named_as_a_whole(root: Path) -> None:
    Path("tasks/room/two.py").write_text("# never committed\n")
    repro(root)
    Path("tasks/room/two.py").write_text("# nor this\n")
    assert reasons(root)["first"] == "tasks/room changed"
    assert explain(root, "first")[1:] == [
        "  tasks/room changed; none of the last commits has what dvc.lock records of tasks/room"
    ]


def test_commands_outputs_and_what_is_missing(root: Path) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("cp data/first/a", "cp -f data/first/a"))
    Path("data/metrics/first.json").write_text("2\n")
    command = "mkdir -p data/second && cp {}data/first/a data/second"
    assert reasons(root) == {
        "first": "its output was edited: data/metrics/first.json",
        "second": f"its command: {command.format('')} -> {command.format('-f ')}",
    }
    Path("tasks/plain.py").unlink()
    subprocess.run(["rm", "-r", "data/second"], check=True)
    found = reasons(root)
    assert found["first"].startswith("tasks/plain.py is not there; ")
    assert found["second"].endswith("its output data/second is not there")
    Path("dvc.lock").unlink()
    assert set(reasons(root).values()) == {"it has not run: dvc.lock has no entry of it"}


def test_an_up_to_date_stage_says_which_run_made_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    locked = lock_entry(root, "second")
    assert explain(root, "second") == [
        "second is up to date: command, 1 dependencies, 0 sections of params and versions of libraries, and outputs are those "
        "that dvc.lock records",
        f"  data/second: md5 {locked['outs'][0]['md5']}, 1 bytes",
        explain(root, "second")[-1],
    ]
    assert explain(root, "second")[-1].startswith("  no MLflow run with its key")
    monkeypatch.setenv("TOKENMILL_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/runs.db")
    key = Inputs(read_graph()["second"], read_params()).key
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = client.create_run(client.create_experiment(EXPERIMENT), tags={"stage.key": key}).info.run_id
    assert explain(root, "second")[-1].startswith("  no MLflow run with its key")  # it has not ended
    client.set_terminated(run)
    ended = datetime.fromtimestamp(client.get_run(run).info.end_time / 1000, UTC)
    assert explain(root, "second")[-1] == (
        f"  made by the MLflow run {run} that ended at {ended:%Y-%m-%d %H:%M:%S} UTC; its key is {key[:12]}"
    )


def test_the_command_names_its_mistakes_and_explains_every_stage_of_a_name() -> None:
    done = run_forked("flows.staleness.why", ["pretrian"], ROOT, dict(os.environ))
    assert done.returncode == 2 and done.stderr.startswith("STAGE: no stage 'pretrian'; did you mean 'pretrain'?")


def test_a_plan_names_some_and_counts_the_others() -> None:
    changes = [Change(f"p{n}: 1 -> 2") for n in range(NAMED + 3)]
    assert reason_of(changes[:2]) == "p0: 1 -> 2; p1: 1 -> 2"
    assert reason_of(changes).endswith(f"p{NAMED - 1}: 1 -> 2; and 3 more")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES, VALUES)
def test_sections_that_differ_have_a_difference_and_equal_ones_have_none(old: object, new: object) -> None:
    assert bool(param_changes("p", old, new)) == (old != new)


@given(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from("12")),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from("12")),
)
def test_listings_differ_by_file(old: dict[str, str], new: dict[str, str]) -> None:
    assert len(file_changes("d", old, new)) == len(set(old.items()) ^ set(new.items())) - sum(
        name in new and new[name] != old[name] for name in old
    )


def test_only_words() -> None:
    assert only_words(CODE, "def add(a, b):\n    '''Another.'''\n    return (a + b)\n")
    assert not only_words(CODE, CODE.replace("+", "-")) and not only_words(CODE, "def add(")
