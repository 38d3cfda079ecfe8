"""The versions in the key: each stage declares the libraries that its code reaches, and runs with no others than declared."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from flows.params.compose import compose, libraries, presets
from flows.params.compose import main as write_running
from flows.params.versions import versions
from tasks.core.config import ConfigError, read_params
from tasks.core.libraries import SECTION, check_versions, installed, libraries_in
from tasks.core.yaml import read_yaml
from tasks.runner.graph import read_graph
from tasks.runner.key import Inputs
from tests.imports import closure, imports_of
from tests.project import ROOT, TINY, make_project, start_stage
from tests.test_architecture import GRAPH, chosen_methods

# They decide no number of an output: params and dvc.yaml in, records and bars out.
DECIDE_NOTHING = {"mlflow", "pathspec", "psutil", "pydantic", "ruamel", "tqdm"}
# Imported there by processes that train together, and every stage that trains reaches it by other ways, too.
FOR_RANKS = {ROOT / "tasks" / "core" / "ranks.py": {"torch"}}
OURS = {"kernels", "lm", "tasks"}


@cache
def distributions() -> dict[str, set[str]]:
    """Of each module that can be imported, the libraries in lower case that bring it."""
    return {module: {name.lower() for name in names} for module, names in packages_distributions().items()}


def reached(address: str) -> set[str]:
    """The modules of others that a stage's code imports, whichever of the methods is chosen."""
    entry = GRAPH[address]
    rooms = {path.parent for path in chosen_methods(entry)}
    starts = [ROOT / "tasks" / entry.name / "stage.py", *(m for room in rooms for m in room.glob("[!_]*.py"))]
    if entry.name == "ingest":  # its sources are a list, and all of their files are dependencies
        starts += (ROOT / "tasks" / "ingest" / "sources").glob("[!_]*.py")
    files = set().union(*map(closure, starts))
    modules = {(m.split(".")[0], path) for path in files for m in imports_of(path)}
    return {
        name
        for name, path in modules
        if name not in sys.stdlib_module_names and name not in OURS and name not in FOR_RANKS.get(path, ())
    }


@pytest.mark.parametrize("address", GRAPH)
def test_a_stage_declares_the_libraries_that_its_code_reaches(address: str) -> None:
    declared = set(libraries_in(GRAPH[address].params))
    missing = {m for m in reached(address) - DECIDE_NOTHING if not distributions().get(m, {m}) & declared}
    assert missing == set(), f"dvc.yaml: {address}: declare libraries.<name> of these, or say that they decide nothing"
    assert "python" in declared
    assert declared - {"python", "llvmlite"} <= {d for m in reached(address) for d in distributions().get(m, {m})}
    assert ("numba" in declared) == ("llvmlite" in declared)  # the one hands its code to the other


def test_what_code_reaches_is_found() -> None:
    assert {"torch", "numpy"} <= reached("rl") and "duckdb" in reached("ingest") and "torch" not in reached("ingest")
    assert "pydantic" in reached("rl") and "sklearn" not in reached("dedup")


def test_params_have_what_is_installed_of_what_is_declared_and_presets_have_none() -> None:
    names = libraries(ROOT)
    assert {"torch", "numpy", "pyarrow", "duckdb", "tokenizers", "python"} <= set(names)
    for preset in presets(ROOT):
        assert SECTION not in read_yaml(ROOT / "presets" / f"{preset}.yaml")
        assert compose(ROOT, preset, [])[SECTION] == {name: installed(name) for name in names}
    assert installed("python") == "{}.{}".format(*sys.version_info) and installed("no-such-library") is None
    assert all(re.fullmatch(r"[0-9a-z.]+", version) for name in names if (version := installed(name)))


def test_the_section_is_not_set_by_hand(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SET: libraries.torch: says what is installed; install another version"):
        compose(ROOT, "laptop", ["libraries.torch=9"])


def test_each_library_that_differs_is_one_line() -> None:
    running = {name: installed(name) for name in ("numpy", "torch")}
    names = ["rl", "seed", "libraries.numpy", "libraries.torch", "libraries.absent"]
    check_versions(names, {SECTION: {**running, "absent": None}})
    with pytest.raises(ConfigError) as caught:
        check_versions(names, {SECTION: {"torch": "1.0", "absent": "3"}})
    assert str(caught.value).splitlines() == [
        "params.yaml: libraries.numpy: is not there: run `make pipeline`, which writes what runs here",
        f"params.yaml: libraries.torch: 1.0, but {running['torch']} runs here: run `make pipeline`, which writes the running "
        "versions, or install what params.yaml says",
        "params.yaml: libraries.absent: 3, but none runs here: run `make pipeline`, which writes the running versions, or "
        "install what params.yaml says",
    ]


def other_version(folder: Path, name: str, version: str) -> Path:
    """A folder that, on the path of Python, has importlib.metadata find this version of a library first."""
    described = folder / f"{name}-{version}.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_a_version_is_read_anew_once_another_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert versions(["numpy", "no-such-library"]) == {"numpy": installed("numpy"), "no-such-library": None}
    other_version(tmp_path, "no_such_library", "1.0")
    assert versions(["no-such-library"]) == {"no-such-library": "1.0"}
    shutil.rmtree(tmp_path / "no_such_library-1.0.dist-info")
    assert versions(["no-such-library"]) == {"no-such-library": None}


def test_a_stage_refuses_to_run_with_another_library_until_params_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path, TINY)
    path = str(other_version(tmp_path / "other", "pyarrow", "99.0"))
    process = start_stage(project, "ingest", PYTHONPATH=os.pathsep.join([path, str(ROOT)]))
    printed, _ = process.communicate()
    assert process.returncode == 2 and printed == (
        f"params.yaml: libraries.pyarrow: {installed('pyarrow')}, but 99.0 runs here: run `make pipeline`, which writes the "
        "running versions, or install what params.yaml says\n"
    )
    assert not (project / ".scratch").exists()
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([path, str(ROOT)])}
    written = subprocess.run([sys.executable, "-m", "flows.params.compose"], cwd=project, env=surroundings, check=False)
    assert written.returncode == 0 and read_params(project / "params.yaml")[SECTION]["pyarrow"] == "99.0"
    monkeypatch.chdir(project)
    assert write_running() == 0 and read_params()[SECTION]["pyarrow"] == installed("pyarrow")


def test_the_key_has_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_project(tmp_path, TINY))
    entry, params = read_graph()["ingest"], read_params()
    first = Inputs(entry, params)
    assert first.params["libraries.pyarrow"] == installed("pyarrow") and "libraries.torch" not in first.params
    for name, same in (("pyarrow", False), ("torch", True)):
        other = Inputs(entry, {**params, SECTION: {**params[SECTION], name: "0"}})
        assert (other.key == first.key) == same
