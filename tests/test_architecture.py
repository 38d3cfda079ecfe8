"""The house stays as drawn: imports go one way, one module a service, a method is one file, and dvc.yaml names all code."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from lm.config import Config, methods_of
from tasks.core.config import load, read_params
from tasks.core.unseen import UNSEEN
from tasks.runner.graph import Entry, items_of, read_graph
from tasks.runner.recorded import path_of
from tests.core import readers
from tests.imports import ROOMS, closure, imports_of, is_room
from tests.project import ROOT

ORDER = ["kernels", "lm", "tasks", "flows"]  # each may import itself and what stands before it
# wings of flows/: each may import itself and what stands before it
WINGS = [
    "settings", "environment", "params", "servers", "staleness", "stage", "forecast", "shards", "preflight", "pipeline", "workspaces",
    "replay", "agents", "ui", "serve", "arena", "card", "cli",
]  # fmt: skip
# of tasks/ what is no stage and looks at what stages have left: it may import the runner
BESIDE = ("about", "audit", "ledger", "report")
# of a stage's room what speaks of the stage before it runs, and decides none of its bytes
ABOUT = {"toy.py", "examples.py", "needs.py", "contracts.py", "inputs.py", "checkpoint.py", "compose.py"}
GRAPH = read_graph(ROOT)
SOURCES = sorted(path for folder in ORDER for path in (ROOT / folder).rglob("*.py"))


def undeclared(entry: Entry, files: set[Path], root: Path = ROOT) -> list[str]:
    """Files that decide a stage's output and are under none of its dependencies. An __init__ file without code, and that of a
    room, which only lists methods, decides nothing."""
    deps = [(root / dep).resolve() for dep in entry.deps]
    return sorted(
        str(path.relative_to(root))
        for path in files
        if not (path.name == "__init__.py" and (is_room(path) or is_without_code(path)))
        and not any(path == dep or dep in path.parents for dep in deps)
    )


@cache
def is_without_code(path: Path) -> bool:
    """Whether a file holds nothing but a docstring."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def chosen_methods(entry: Entry) -> set[Path]:
    return {ROOT / dep for dep in entry.deps if (ROOT / dep).is_file() and (ROOT / dep).parent in ROOMS}


@pytest.mark.parametrize("address", GRAPH)
def test_every_import_of_a_stage_is_a_dependency(address: str) -> None:
    entry = GRAPH[address]
    files = closure(ROOT / "tasks" / entry.name / "stage.py").union(*(closure(path) for path in chosen_methods(entry)))
    assert undeclared(entry, files) == []


@pytest.mark.parametrize("address", GRAPH)
def test_what_any_other_method_would_import_is_a_dependency(address: str) -> None:
    """A method is one line of params: choosing it must not leave what it imports outside the key."""
    entry = GRAPH[address]
    folders = [path for dep in entry.deps if (path := ROOT / dep).is_dir() and "data" not in Path(dep).parts]
    imported = set[Path]().union(*(closure(file) for folder in folders for file in folder.rglob("*.py")))
    # what the stage's own code imports by its file, as ingest does the worksheets' problems, is no choice
    for room in {path.parent for path in chosen_methods(entry) - imported}:
        for method in room.glob("[!_]*.py"):
            assert undeclared(entry, closure(method) - {method}) == [], method


def test_a_missing_dependency_is_found() -> None:
    entry = GRAPH["pretrain"]
    fewer = Entry(
        entry.address, entry.cmd, [dep for dep in entry.deps if dep != "lm/model.py"], entry.params, entry.outs
    )
    assert undeclared(fewer, closure(ROOT / "tasks" / "pretrain" / "stage.py")) == ["lm/model.py"]


@pytest.mark.parametrize("address", GRAPH)
def test_code_dependencies_exist_and_outputs_follow_the_convention(address: str) -> None:
    entry = GRAPH[address]
    assert [dep for dep in entry.deps if not dep.startswith("data/") and not (ROOT / dep).exists()] == []
    assert entry.outs == [f"data/{address.replace('@', '/')}", path_of(address)]


def keys_of(schema: dict[str, Any], definitions: dict[str, Any], name: str, inside: frozenset[str]) -> Iterator[str]:
    """The dotted name of every key that a JSON schema has, those of each method included."""
    if "$ref" in schema:
        if schema["$ref"] not in inside:
            target = definitions[schema["$ref"].removeprefix("#/$defs/")]
            yield from keys_of(target, definitions, name, inside | {schema["$ref"]})
        return
    for part in [part for kind in ("anyOf", "oneOf", "allOf", "prefixItems") for part in schema.get(kind, [])]:
        yield from keys_of(part, definitions, name, inside)
    if isinstance(schema.get("items"), dict):
        yield from keys_of(schema["items"], definitions, name, inside)
    for key, part in schema.get("properties", {}).items():
        yield f"{name}.{key}"
        yield from keys_of(part, definitions, f"{name}.{key}", inside)


def config_of(stage: str) -> type[Config]:
    return getattr(importlib.import_module(f"tasks.{stage}.stage"), f"{stage.capitalize()}Config")


@pytest.mark.parametrize("stage", dict.fromkeys(entry.name for entry in GRAPH.values()))
def test_no_parameter_is_called_what_dvc_does_not_see(stage: str) -> None:
    """Neither a section's own keys nor those of any method that may be chosen in it; `load` refuses them where any key may
    stand."""
    schema = TypeAdapter(config_of(stage)).json_schema()
    names = set(keys_of(schema, schema.get("$defs", {}), stage, frozenset()))
    assert len(names) > 2 and [name for name in names if name.rpartition(".")[2] in UNSEEN] == []


def test_no_section_or_library_is_called_what_dvc_does_not_see() -> None:
    declared = {part for entry in GRAPH.values() for name in entry.params for part in name.split(".")}
    assert declared.isdisjoint(UNSEEN) and {"dedup", "libraries"} <= declared
    plain = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")  # DVC takes * ? and [ in a name for a pattern
    assert [name for entry in GRAPH.values() for name in entry.params if not plain.fullmatch(name)] == []


@pytest.mark.parametrize("stage", dict.fromkeys(entry.name for entry in GRAPH.values()))
def test_no_parameter_may_be_of_two_types_that_dvc_takes_for_one(stage: str) -> None:
    """1, 1.0 and true are equal to DVC, so no key may mean something else by each of them."""
    schema = TypeAdapter(config_of(stage)).json_schema()
    for body in [schema, *schema.get("$defs", {}).values()]:
        for name, part in body.get("properties", {}).items():
            kinds = {kind.get("type") for kind in part.get("anyOf", [part])} & {"integer", "number", "boolean"}
            assert len(kinds) < 2, name


def test_no_file_of_a_stage_is_the_method_it_did_not_choose() -> None:
    unchosen = {"tasks/dedup/methods/substring.py", "lm/optimizers/muon.py"}
    assert unchosen.isdisjoint(GRAPH["dedup"].deps) and unchosen.isdisjoint(GRAPH["sft"].deps)


@pytest.mark.parametrize("folder", ORDER)
def test_imports_go_one_way(folder: str) -> None:
    paths = [path for path in SOURCES if path.is_relative_to(ROOT / folder)]
    wrong = [f"{path}: {line}" for path in paths for module in imports_of(path) if (line := misplaced(path, module))]
    assert len(paths) > 20 and wrong == []


def misplaced(path: Path, module: str) -> str:
    """What is wrong with a file's import of a module of ours; "" where it may."""
    parts, (first, *rest) = path.relative_to(ROOT).parts, module.split(".")
    if first in ORDER[ORDER.index(parts[0]) + 1 :]:
        return f"imports {module}"
    if first == parts[0] == "tasks" and rest and len(parts) > 2:
        allowed = {"core", parts[1]}
        allowed |= {"runner"} if parts[1] in BESIDE else set()
        allowed |= {"about"} if parts[-1] in ABOUT else set()
        return "" if rest[0] in allowed else f"imports another room: {module}"
    return ""


def test_an_import_the_other_way_is_seen() -> None:
    lm, room = ROOT / "lm" / "model.py", ROOT / "tasks" / "filter" / "stage.py"
    assert misplaced(lm, "tasks.core.config") == "imports tasks.core.config" and not misplaced(lm, "kernels.rope")
    assert misplaced(room, "tasks.dedup.stage") == "imports another room: tasks.dedup.stage"
    assert misplaced(room, "tasks.runner.graph") and not misplaced(room, "tasks.core.config")


def wing_of(path: Path) -> str:
    """The wing of flows/ that a file lies in, or its own name where it stands beside them."""
    return path.relative_to(ROOT / "flows").parts[0].removesuffix(".py")


def test_flows_is_made_of_wings_and_imports_between_them_go_one_way() -> None:
    beside = {path.name for path in (ROOT / "flows").iterdir() if path.is_file()}
    assert beside == {"__init__.py", "environment.py", "settings.py", "shards.py"}
    paths = [path for path in SOURCES if path.is_relative_to(ROOT / "flows") and path != ROOT / "flows" / "__init__.py"]
    assert {len(path.relative_to(ROOT).parts) for path in paths} == {
        2,
        3,
        4,
    }  # flows/shards.py to flows/arena/pages/plot.py
    wrong = [f"{path} imports {module}" for path in paths for module in imports_of(path) if is_upwards(path, module)]
    assert wrong == []


def is_upwards(path: Path, module: str) -> bool:
    """Whether a file of flows/ imports a wing that stands after its own."""
    first, *rest = module.split(".")
    return first == "flows" and bool(rest) and WINGS.index(rest[0]) > WINGS.index(wing_of(path))


@pytest.mark.parametrize("name", ["shards.py", "stage/pools.py", "arena/pages/plot.py"])
def test_an_import_of_a_later_wing_is_seen_however_deep_the_file(name: str) -> None:
    assert is_upwards(ROOT / "flows" / name, "flows.cli.show") and not is_upwards(
        ROOT / "flows" / name, "flows.settings"
    )


def test_a_stage_is_started_by_the_runner_and_knows_nothing_of_it() -> None:
    for entry in GRAPH.values():
        assert entry.cmd == " ".join(["python -m tasks.runner", *entry.address.split("@")])
        assert not [path for path in closure(ROOT / "tasks" / entry.name / "stage.py") if "runner" in path.parts]
        assert not [dep for dep in entry.deps if dep.startswith(("tasks/runner", "tasks/audit", "flows"))]


def test_what_a_room_says_of_its_stage_is_in_no_key() -> None:
    for entry in GRAPH.values():
        room = ROOT / "tasks" / entry.name
        reached = closure(room / "stage.py")
        for path in [room / name for name in ABOUT if (room / name).exists()]:
            assert path not in reached and undeclared(entry, {path}), path
        assert not [dep for dep in entry.deps if dep.startswith("tasks/about")]


def strings_of(path: Path) -> Iterator[str]:
    """The strings of a file, docstrings and those of annotations left out."""
    tree = ast.parse(path.read_text())
    left_out = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


@pytest.mark.parametrize("folder", ["flows", "lm", "kernels"])
def test_no_file_outside_the_rooms_names_a_stage(folder: str) -> None:
    """By a string that is a name, an address, a path or a module; problems have splits that are called as stages are. What only
    shows how a parameter is written, as `rl.steps=50`, is words."""
    stages, named = {entry.name for entry in GRAPH.values()}, []
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.parent == ROOT / "lm" / "problems" or path.name.startswith(("test_", "bench_")):
            continue
        words = [text for text in strings_of(path) if not re.search(r"\s|=|^/", text)]
        named += [f"{path}: {text}" for text in words if stages & set(re.split(r"[^a-z0-9_]+", text))]
        named += [
            f"{path}: {module}"
            for module in imports_of(path)
            if module.split(".")[:1] == ["tasks"] and stages & set(module.split("."))
        ]
    assert named == []


def test_one_module_a_service() -> None:
    allowed = {"mlflow": {"tasks/runner/tracking.py"}, "deepspeed": {"lm/training/parallel/zero.py"}}
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for module in {m.split(".")[0] for m in imports_of(path)}:
            assert name in allowed.get(module, {name}), f"{name} imports {module}"
            assert module not in ("prefect", "dvc") or name.startswith("flows/"), f"{name} imports {module}"


LISTING = re.compile(r"\.(rglob|glob|iterdir)\(|\bos\.(walk|scandir|listdir)\(")


def test_every_reader_of_a_users_folder_is_held_to_what_dvc_hashes() -> None:
    """By the property test of tests/core/test_hashed.py, which has these readers."""
    stages = [ROOT / "tasks" / name for name in {"core", *(entry.name for entry in GRAPH.values())}]
    ours = [path for path in SOURCES if any(path.is_relative_to(room) for room in (ROOT / "lm", *stages))]
    ours = [path for path in ours if path.parent not in stages or path.name not in ABOUT]
    asks = {path.relative_to(ROOT).as_posix() for path in ours if "lm.inputs.hashed" in imports_of(path)}
    assert asks == {*readers.FILES, *readers.FOLDERS, *readers.PLACES, *readers.SOURCES, *readers.BESIDE}
    lists = {path.relative_to(ROOT).as_posix() for path in ours if LISTING.search(path.read_text())}
    assert lists == {*readers.LISTS}


def test_the_library_mlflow_is_not_shadowed() -> None:
    """Which file would be imported: to import it takes a second and more."""
    found = find_spec("mlflow")
    assert found and found.origin and (ROOT not in Path(found.origin).parents or ".venv" in found.origin)
    assert not list((ROOT / "mlflow").rglob("*.py")) and not list((ROOT / "data").rglob("*.py"))


def test_files_are_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in [*SOURCES, *(ROOT / "benchmarks").rglob("*.py")]}
    assert [str(path) for path, count in lines.items() if count > 400] == []
    assert sorted(lines.values())[len(lines) // 2] < 150


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_method_bears_the_name_of_its_file(room: Path) -> None:
    methods = methods_of(importlib.import_module(".".join(room.relative_to(ROOT).parts)))
    assert methods
    for method in methods:
        assert method.__module__.rpartition(".")[2] == method.model_fields["name"].default


def test_params_load_for_every_stage_and_equal_the_default_preset() -> None:
    params = read_params(ROOT / "params.yaml")
    for name in {entry.name for entry in GRAPH.values()}:
        module = importlib.import_module(f"tasks.{name}.stage")
        load(name, getattr(module, f"{name.capitalize()}Config"), params)
    assert {"data/metrics/" + address for address in GRAPH} == {
        metric.removesuffix(".json") for metric in declared_metrics()
    }


def declared_metrics() -> list[str]:
    stages, params = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], read_params(ROOT / "params.yaml")
    found = []
    for body in stages.values():
        for metric in (m for part in body.get("do", body)["metrics"] for m in part):
            found += [metric.replace("${item}", item or "") for item in items_of(body, params)]
    return found


def test_git_is_asked_in_one_place() -> None:
    """So that a machine without git, or a folder that is no repository, is answered the same everywhere."""
    named = re.compile(r"""\[["']git["']""")
    ours = [*SOURCES, *(ROOT / "benchmarks").glob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in ours if named.search(path.read_text())}
    assert found == {"tasks/runner/git.py", "benchmarks/synthetic.py"}  # the other times what a newcomer types
