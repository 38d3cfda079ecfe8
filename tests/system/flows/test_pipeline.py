"""The flow over small graphs of shell commands: real DVC, a real Prefect server, one lock whichever way it was made."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from benchmarks.synthetic import repository
from flows.staleness.compare import differences
from flows.staleness.plan import make_plan, may_run
from tasks.runner.lock import read_lock
from tests.flows.small_graph import RUN, dvc, make_repo, run_flow, surroundings
from tests.processes import PATIENCE, wait_for


def test_the_flow_and_dvc_write_the_same_lock_and_a_change_reruns_what_follows_it(
    tmp_path: Path, server, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_flow, by_dvc = make_repo(tmp_path / "flow"), make_repo(tmp_path / "dvc")
    code, printed = run_flow(by_flow, server)
    assert code == 0, printed
    dvc(by_dvc, "repro")
    left, right = read_lock(by_flow / "dvc.lock"), read_lock(by_dvc / "dvc.lock")
    assert left == right and set(left) == {"a", "b", "c", "each@b", "each@c"}
    monkeypatch.chdir(by_flow)  # DVC names stages relative to where it stands
    assert may_run(make_plan(by_flow, [])) == []

    (by_flow / "params.yaml").write_text("a: {value: 1}\nc: {value: 2}\n")
    plan = {stage.address: stage.reason for stage in may_run(make_plan(by_flow, []))}
    assert set(plan) == {"c", "each@c"} and plan["c"] == "c.value: 1 -> 2" and plan["each@c"] is None
    (by_flow / "lib.txt").write_text("another\n")
    assert {s.address for s in may_run(make_plan(by_flow, []))} == {"b", "c", "each@b", "each@c"}
    assert {s.address for s in make_plan(by_flow, ["b"])} == {"a", "b"}
    code, printed = run_flow(by_flow, server, "each")
    assert code == 0 and may_run(make_plan(by_flow, [])) == []


def test_a_failed_stage_stops_only_what_follows_it(tmp_path: Path, server) -> None:
    folder = make_repo(tmp_path / "repo")
    (folder / "dvc.yaml").write_text(
        (folder / "dvc.yaml").read_text().replace("cp data/a/x data/c/x", "echo no such luck && exit 3")
    )
    code, printed = run_flow(folder, server)
    assert code == 1 and "no such luck" in printed and "each@c was not begun" in printed
    assert set(read_lock(folder / "dvc.lock")) == {"a", "b", "each@b"}


def test_nothing_to_do_needs_nothing_of_a_run(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo")
    dvc(folder, "repro")
    program = "import sys; from flows.pipeline.__main__ import main, leave; code = main();"
    program += "assert not {'prefect', 'flows.preflight.start', 'flows.stage.process'} & set(sys.modules); leave(code)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=surroundings(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("nothing to do: all 5 stages are up to date"), done.stderr


def test_differences_by_hand() -> None:
    one = {"cmd": "x", "deps": [{"path": "d", "md5": "1"}], "outs": [{"path": "o", "md5": "2"}]}
    assert differences(one, one) == [] and differences(one, None) == ["is in one lock only"]
    other = {"cmd": "y", "deps": [{"path": "d", "md5": "1"}], "outs": [{"path": "o", "md5": "3"}], "params": {"p": {}}}
    assert differences(one, other) == ["command", "params", "output o"]


def newest_run(server: dict[str, str]) -> dict[str, Any]:
    """The flow run that was begun last, with its task runs by name and the text of its log."""
    run = ask(server, "flow_runs", {"sort": "START_TIME_DESC", "limit": 1})[0]
    mine = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = {task["name"]: task["state"] for task in ask(server, "task_runs", mine)}
    lines = ask(server, "logs", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"})
    return {**run, "tasks": tasks, "log": "\n".join(line["message"] for line in lines)}


def ask(server: dict[str, str], kind: str, what: dict[str, Any]) -> list[dict[str, Any]]:
    body = json.dumps(what).encode()
    request = Request(f"{server['PREFECT_API_URL']}/{kind}/filter", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "cancelled"])
def test_what_is_stopped_is_cancelled_and_says_how_to_go_on(tmp_path: Path, server, number: int) -> None:
    """The stage that ran and the run: neither failed, tried again, nor with a traceback; the next run does the rest."""
    folder = make_repo(tmp_path / "repo")
    graph = (folder / "dvc.yaml").read_text()
    waits = "echo begun >> begun && test -e go || tail -f /dev/null && cp data/a/x data/c/x"
    (folder / "dvc.yaml").write_text(graph.replace("cp data/a/x data/c/x", waits))
    program = "from prefect.exceptions import CancelledRun\n" + RUN.replace("ValueError)", "ValueError, CancelledRun)")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "each@c"],
        cwd=folder,
        env=surroundings(folder, **server),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for((folder / "begun").exists, process)
    process.send_signal(number)
    printed, _ = process.communicate()
    assert "failed stopped in c; run again to go on" in printed and "Traceback" not in printed, printed
    run = newest_run(server)
    assert run["state_type"] == "CANCELLED" and "stopped in c" in run["state"]["message"]
    assert run["tasks"]["a"]["type"] == "COMPLETED" and run["tasks"]["c"]["type"] == "CANCELLED"
    assert run["tasks"]["each@c"]["type"] not in ("COMPLETED", "FAILED", "RUNNING")
    assert "Traceback" not in run["log"] and "Retries" not in run["log"]
    assert (folder / "begun").read_text() == "begun\n"
    (folder / "go").touch()
    code, printed = run_flow(folder, server, "each@c")
    assert code == 0 and (folder / "data/each/c/x").exists(), printed


def test_a_failure_is_a_line_and_not_a_traceback_in_the_log_of_the_run(tmp_path: Path, server) -> None:
    folder = make_repo(tmp_path / "repo")
    wrong = (folder / "dvc.yaml").read_text().replace("cp data/a/x data/c/x", "echo no such luck && exit 3")
    (folder / "dvc.yaml").write_text(wrong)
    assert run_flow(folder, server, "c")[0] == 1
    run = newest_run(server)
    assert run["state_type"] == "FAILED" and "no such luck" in run["state"]["message"]
    assert run["tasks"]["c"]["type"] == "FAILED" and "Traceback" not in run["log"]
    code, printed = run_flow(folder, server, "nowhere")
    run = newest_run(server)
    assert code == 1 and "TARGETS: no stage 'nowhere'" in run["state"]["message"] and "Traceback" not in run["log"]


def test_a_run_answers_with_how_it_ended_and_what_there_is(tmp_path: Path) -> None:
    root = repository(
        tmp_path / "project", 2
    )  # its stages record nothing, so they count as restored and have no figures
    command = [sys.executable, "-m", "tokenmill", "pipeline", "--json"]

    def answer(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], cwd=root, env=surroundings(root), capture_output=True, text=True, check=False
        )

    for words in ("s1 | restored", "nothing to do"):
        done = answer()
        found = json.loads(done.stdout)
        assert (found["code"], found["ran"], list(found["stages"])) == (0, [], ["s0", "s1"]) and words in done.stderr
    done = answer("--set", "s9.value=1")
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
