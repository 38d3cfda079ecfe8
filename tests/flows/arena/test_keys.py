"""A run's key holds what decides its outcome, whatever the arm is called, and nothing beside it."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from flows.arena.keys import Keys, plain, taken
from flows.arena.runs import read_otherwise
from flows.params.compose import compose
from flows.workspaces.smoke import copy_project
from lm.config import Config, ConfigError
from tasks.runner.graph import graph_of, with_upstream
from tests.project import ROOT

STAGE = "evaluate@pretrain"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "project"
    folder.mkdir()
    return copy_project(ROOT, folder)


def key(root: Path, *assignments: str, beside: tuple[object, ...] = (1,)) -> str:
    return Keys(root).key(compose(root, "smoke", list(assignments)), STAGE, list(beside))


def test_what_decides_a_run_is_in_its_key(root: Path) -> None:
    plain = key(root)
    assert plain == key(root) == key(root, "rl.steps=3", "quantize.method.group=32")  # after the measure
    others = [
        key(root, "pretrain.clip=0.5"),
        key(root, "seed=1"),
        key(root, "ingest.max_bytes=300000"),
        key(root, "pretrain.optimizer={name: lion}"),
        key(root, beside=(2,)),
    ]
    assert len({plain, *others}) == 6


SETTINGS = ("TOKENMILL_PARALLEL", "TOKENMILL_RANKS", "TOKENMILL_OFFLOAD", "TOKENMILL_POSITIONS")


def test_a_setting_that_decides_bits_is_in_the_key_and_what_holds_without_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*given: str) -> str:
        for name, value in zip(SETTINGS, (*given, *[""] * len(SETTINGS)), strict=False):
            monkeypatch.setenv(name, value)
        return keys.key(params, STAGE, [1])

    keys, params = Keys(root), compose(root, "smoke", [])
    apart = [
        ("ddp", "2"), ("fsdp", "2"), ("ddp", "4"), ("fsdp", "2", "1"), ("ddp", "2", "", "64"), ("", "", "", "64"),
        ("", "", "", "0"),
    ]  # fmt: skip
    assert len({of(), *(of(*each) for each in apart)}) == len(apart) + 1
    # ranks that train exactly give the same bits, and one rank is exact whatever it is asked for
    assert {of(*each) for each in (("exact",), ("", "1"), ("exact", "4"), ("ddp", "1"), ("ddp",))} == {of()}
    with pytest.raises(ConfigError, match="^TOKENMILL_POSITIONS: must be"):
        of("", "", "", "few")


def test_without_settings_a_key_is_what_finished_runs_are_known_by(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    keys, params = Keys(root), compose(root, "smoke", [])
    graph = keys._graph(params)
    made = {out for entry in graph.values() for out in entry.outs}
    said = [
        [name, graph[name].cmd, taken(graph[name], params), {dep: keys.md5(dep) for dep in graph[name].deps if dep not in made}]
        for name in with_upstream(graph, [STAGE])
    ]  # fmt: skip
    known = sha256(json.dumps([said, [1]], sort_keys=True, default=str).encode()).hexdigest()[:16]
    assert keys.key(params, STAGE, [1]) == known


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("lm/optimizers/muon.py", True),  # chosen
        ("lm/model.py", True),
        ("tasks/evaluate/bits_per_byte.py", True),
        ("lm/optimizers/lion.py", False),  # another method
        ("tasks/rl/stage.py", False),  # after the measure
        ("flows/arena/race.py", False),
        ("README.md", False),
    ],
)
def test_code_counts_where_a_stage_up_to_the_measure_has_it(root: Path, name: str, counts: bool) -> None:
    before, path = key(root), root / name
    text = path.read_text()
    path.write_text(text + "\n# another\n")
    try:
        assert (key(root) != before) == counts
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    "said",
    [
        "pretrain.model.feed_forward={name: swiglu}",
        "pretrain.model.embeddings=[]",
        "curriculum.order={name: shuffled}",
        "pretrain.clip=1",
    ],
)
def test_what_is_so_by_default_is_said_or_left_out(root: Path, said: str) -> None:
    keys, short, its = Keys(root), *(compose(root, "smoke", each) for each in ([], [said]))
    assert str(short) != str(its) and keys.key(short, STAGE, []) == keys.key(its, STAGE, [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "pretrain.model.embeddings=[{name: bigram, rows: 512}]",
            "pretrain.model.embeddings=[{name: bigram, rows: 1024}]",
        ),
        ("pretrain.optimizer={name: adamw, lr: 0.01}", "pretrain.optimizer={name: adamw, lr: 0.01, cautious: true}"),
        ("pretrain.rounding={name: none}", "pretrain.rounding={name: mus}"),
        ("problems.worked_fraction=0.5", "problems.worked_fraction=0.6"),  # a section that stages share
        ("checkpoint.folder=data/one", "checkpoint.folder=data/other"),
    ],
)
def test_a_key_tells_values_of_a_method_apart(root: Path, one: str, other: str) -> None:
    assert len({key(root), key(root, one), key(root, other)} - {key(root)}) == (1 if "none" in one else 2)


def test_a_config_is_whole_in_a_key_whatever_its_slot_is_declared_with() -> None:
    class Slot(Config):
        name: str

    class Method(Slot):
        rate: float

    class Section(Config):
        method: Slot
        more: tuple[Slot, ...] = ()

    made = Section(method=Method(name="a", rate=1.0), more=(Method(name="b", rate=2.0),))
    assert plain(made) == {"method": {"name": "a", "rate": 1.0}, "more": [{"name": "b", "rate": 2.0}]}
    assert plain(made) != made.model_dump()  # which has of each what its slot has


def test_what_a_run_read_otherwise_than_its_key_says_is_named(root: Path) -> None:
    """A variant that a killed study left has the inputs of then, and its run would be known by those of now."""
    params = compose(root, "smoke", [])
    graph, keys = graph_of(root, params), Keys(root)
    stages = with_upstream(graph, [STAGE])
    made = {out for entry in graph.values() for out in entry.outs}
    locked = {
        address: {"deps": [{"path": path, "md5": keys.md5(path) or "made"} for path in graph[address].deps]}
        for address in stages
    }
    assert read_otherwise(graph, stages, locked, keys.md5) == []
    kinds = {path in made for path in graph["pretrain"].deps}
    assert kinds == {True, False}
    for dep in locked["pretrain"]["deps"]:
        dep["md5"] = "of then" if dep["path"] in (*made, "tasks/pretrain/stage.py") else dep["md5"]
    assert read_otherwise(graph, stages, locked, keys.md5) == ["tasks/pretrain/stage.py"]
