"""`make methods` names every method there is, from the parameters alone: no list of them is kept by hand."""

import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from flows.cli.methods import docstring_summary, main
from flows.params.places import names_of, places
from lm.config import methods_of
from tasks.runner.graph import read_graph
from tests.imports import ROOMS
from tests.project import ROOT

PLACES = places(dict.fromkeys(entry.name for entry in read_graph(ROOT).values()))
NAMED = {method: key for key, methods in PLACES.items() for method in methods.values()}


def module_of(room: Path) -> ModuleType:
    return import_module(".".join(room.relative_to(ROOT).parts))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: "-".join(room.relative_to(ROOT).parts))
def test_every_method_of_a_package_can_be_chosen_and_says_what_it_is(room: Path) -> None:
    methods = methods_of(module_of(room))
    assert methods and [method.__name__ for method in methods if method not in NAMED] == []
    for method in methods:
        assert docstring_summary(method), f"{method.__module__}: its docstring says what it is"
        assert set(names_of(method)) <= PLACES[NAMED[method]].keys()


def test_a_place_and_a_stage_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)

    def said(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["methods", *words])
        code, read = main(), capsys.readouterr()
        return code, read.out, read.err

    assert json.loads(said("--json")[1]).keys() == PLACES.keys()
    code, out, _ = said("rl.advantage")
    assert code == 0 and out.startswith("rl.advantage\n") and "arXiv:2402.14740" in out and "cispo" not in out
    assert {"rl.advantage", "rl.loss"} <= set(re.findall(r"^\S+$", said("rl")[1], re.M))
    code, out, err = said("rl.advantge")
    assert (code, out) == (2, "") and "did you mean 'rl.advantage'?" in err and err.count("\n") == 1
    code, out, _ = said()
    assert code == 0 and "pretrain.optimizer sft.optimizer" in out and "muon" in out
