"""Where a stage goes, and the exit code that says whether another try may help."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from flows.agents.order import Answer, is_inside_project, make_order
from flows.stage.pools import pool_of
from flows.stage.process import TRANSIENT_CODES, run_stage
from flows.staleness.declared import overlap, stage_declarations
from tests.flows.small_graph import dvc, make_repo, surroundings
from tests.flows.team import commit, git, processes_in
from tests.project import ROOT


@pytest.mark.parametrize(
    ("meta", "pools", "expected"),
    [
        ({}, "gpu", None),
        ({"gpus": 1}, "", None),
        ({"gpus": 1}, "gpu", "gpu"),
        ({"gpus": 0}, "gpu", None),
        ({"gpus": 8, "pool": "big"}, "gpu, big", "big"),
        ({"gpus": 8, "pool": "big"}, "gpu", None),
        ({"pool": "big"}, "big", "big"),
    ],
)
def test_meta_names_the_pool_and_the_environment_says_whether_it_is_used(
    meta: dict[str, Any], pools: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENMILL_POOLS", pools)
    assert pool_of(meta) == expected


@pytest.mark.parametrize(
    ("ending", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143), ("exit 143", 143)]
)
def test_the_stages_own_exit_code_is_told(tmp_path: Path, ending: str, code: int) -> None:
    folder = make_repo(tmp_path / "repo")
    (folder / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"a": {"cmd": f"echo begun; {ending}", "outs": ["data/a"]}}})
    )
    ended = run_stage(folder, "a", False, lambda line: None, {"PYTHONPATH": str(ROOT)})
    assert ended.code == code and (code in TRANSIENT_CODES) == (code != 3)
    assert "begun" in ended.tail


def test_an_order_holds_what_decides_the_stage_and_refuses_what_cannot_travel(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo")
    dvc(folder, "repro")
    commit(folder, "all")
    (folder / "params.yaml").write_text("a: {value: 1}\nc: {value: 2}\n")
    order = make_order(folder, "b", False, {})
    assert order.revision == git(folder, "rev-parse", "HEAD") and "c: {value: 2}" in order.params
    assert set(order.dependencies()) == {"data/a", "lib.txt"}
    again = type(order).model_validate_json(order.model_dump_json())
    assert again == order
    for change in (
        {"revision": "--upload-pack=x"},
        {"environment": {"LD_PRELOAD": "x"}},
        {"environment": {"TOKENMILL_RUNNER": "os:abort"}},
    ):
        with pytest.raises(ValidationError):
            type(order).model_validate(order.model_dump() | change)
    entry = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]["b"]
    assert Answer(code=0, entry=yaml.safe_dump(entry)).checked_entry(order) == entry
    for change, said in (
        ({"cmd": "true"}, "its cmd is 'true', not"),
        ({"outs": entry["outs"] + [{"path": "../x", "md5": "0" * 32}]}, r"its outs differ: '../x' more"),
        ({"deps": entry["deps"][1:]}, "its deps differ: 'data/a' less"),
        ({"params": {"params.yaml": {"c": 1}}}, "its params differ: 'c' more"),
    ):
        with pytest.raises(ValueError, match=rf"^b: the agent's answer is of another stage: {said}"):
            Answer(code=0, entry=yaml.safe_dump(entry | change)).checked_entry(order)
    entry["deps"][1]["md5"] = "0" * 32
    with pytest.raises(ValueError, match=r"^b: the agent made it of another lib.txt$"):
        Answer(code=0, entry=yaml.safe_dump(entry)).checked_entry(order)
    (folder / "lib.txt").write_text("edited\n")
    with pytest.raises(
        ValueError, match=r"^b: an agent runs committed code, and lib.txt is not as in \w{12}: commit and push$"
    ):
        make_order(folder, "b", False, {})
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().replace("lib.txt\n", "../lib.txt\n"))
    with pytest.raises(ValueError, match=r"^b: reads \.\./lib\.txt, outside the project"):
        make_order(folder, "b", False, {})


def test_an_order_is_held_to_dvc_yaml_in_all_that_it_says(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo")
    dvc(folder, "repro")
    commit(folder, "all")
    order, graph = make_order(folder, "b", False, {}), stage_declarations(folder)
    order.held_to(graph, graph)
    lock = yaml.safe_load(order.lock)

    def locked(**change: Any) -> dict[str, Any]:
        return {"lock": yaml.safe_dump(lock | {"stages": {"a": lock["stages"]["a"] | change}})}

    def stage(**change: Any) -> dict[str, Any]:
        return {"declared": graph["b"].model_copy(update=change)}

    out = {"path": "/etc/passwd", "md5": "0" * 32}
    for change, said in (
        (stage(cmd="id"), "in b: its cmd is 'id', not"),
        (stage(deps=("data/a",)), "in b: its deps differ: 'lib.txt' less"),
        (stage(params=("a",)), "in b: its params differ: 'a' more"),
        (stage(outs=("data/b", "x")), "in b: its outs differ: 'x' more"),
        (locked(cmd="id"), "in a: its cmd is 'id', not"),
        (locked(deps=[out]), "in a: its deps differ: '/etc/passwd' more"),
        (locked(params={}), "in a: its params differ: 'a' less"),
        (locked(outs=[*lock["stages"]["a"]["outs"], out]), "in a: its outs differ: '/etc/passwd' more"),
        ({"lock": yaml.safe_dump(lock | {"stages": {}})}, r"the order's lock has \[\] more and \['a'\] less"),
        (
            {"lock": yaml.safe_dump(lock | {"stages": lock["stages"] | {"b": lock["stages"]["a"]}})},
            r"the order's lock has \['b'\] more and \[\] less",
        ),
        ({"lock": "stages: {a: 1}"}, "no entry of dvc.lock"),
        ({"inputs": {}}, r"the order's inputs has \[\] more and \['lib.txt'\] less"),
        (
            {"inputs": order.inputs | {"/etc/passwd": "0"}},
            r"the order's inputs has \['/etc/passwd'\] more and \[\] less",
        ),
        ({"address": "z"}, "z: dvc.yaml of revision .* has no such stage"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            order.model_copy(update=change).held_to(graph, graph)
        assert len(str(caught.value).splitlines()) == 1
    injected = graph | {"b": graph["b"].model_copy(update={"cmd": graph["b"].cmd + "; id"})}
    with pytest.raises(ValueError, match="the order's params change the cmd"):
        order.model_copy(update={"declared": injected["b"]}).held_to(injected, graph)


def test_paths_by_hand() -> None:
    assert overlap("data/a", "data/a/x") and overlap("data/a/x", "data/a") and overlap("data/a", "data/a/")
    assert not overlap("data/a", "data/ab")
    assert (
        is_inside_project("data/raw")
        and not is_inside_project("../x")
        and not is_inside_project("/x")
        and not is_inside_project("data/../../x")
    )


ENDED = """
import threading
import subprocess
import sys
from pathlib import Path
from flows.stage.process import run_stage, stop_all
root, found = Path.cwd(), []
def say(line):
    if "begun" in line: threading.Thread(target=stop_all).start()
for _ in range(2):
    found.append(run_stage(root, "a", False, say, {}).code)
print(found)
"""


def test_a_stage_that_was_ended_is_not_begun_again(tmp_path: Path) -> None:
    """Its exit code alone, that of a killed stage, asks for another try."""
    folder = make_repo(tmp_path / "repo")
    cmd = "echo begun; mkdir -p data/a; sleep 600; echo woke > data/a/x"
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": {"cmd": cmd, "outs": ["data/a"]}}}))
    command = [sys.executable, "-c", ENDED]
    done = subprocess.run(command, cwd=folder, env=surroundings(folder), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[143, 130]"
    assert processes_in(folder) == []
