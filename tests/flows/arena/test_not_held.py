"""Methods without an entry in claims.yaml are told by the pages of claims, and are no mistake."""

from types import SimpleNamespace

import pytest

from flows.arena import unclaimed as module
from flows.arena.claims import read_claims_file
from flows.arena.pages.claims_markdown import markdown
from flows.arena.pages.claims_page import page
from flows.arena.study import read_study
from flows.arena.unclaimed import in_use, names_in, unclaimed_methods
from flows.params.places import places
from lm.config import Config
from tasks.runner.graph import read_graph
from tests.flows.arena import pages_examples as examples
from tests.project import ROOT

CLAIMS = read_claims_file(ROOT)
PLACES = places(dict.fromkeys(entry.name for entry in read_graph(ROOT).values()))
STUDIES = [read_study(path) for path in sorted((ROOT / "studies").glob("*.yaml"))]


def test_every_method_that_is_claimed_is_one() -> None:
    for name, claim in CLAIMS.items():
        if named := set(names_in(claim.method)):
            assert named <= PLACES[claim.room].keys(), name


def test_a_method_whose_entry_is_gone_is_told_and_baselines_and_defaults_are_not() -> None:
    before = unclaimed_methods(ROOT, CLAIMS.values(), STUDIES)
    assert not {"lion", "muon", "adamw"} & {name for names in before.values() for name in names}
    fewer = [claim for claim in CLAIMS.values() if "lion" not in names_in(claim.method)]
    after = unclaimed_methods(ROOT, fewer, STUDIES)
    assert sorted([*before.get("pretrain.optimizer", []), "lion"]) == after.pop("pretrain.optimizer")
    assert {room: names for room, names in before.items() if room != "pretrain.optimizer"} == after


def test_a_new_method_is_told_where_its_room_has_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newest(Config):
        name: str = "newest"

    newest = {**PLACES, "rl.advantage": {**PLACES["rl.advantage"], "newest": Newest}}
    monkeypatch.setattr(module, "places", lambda stages: newest)
    claims = [claim for claim in CLAIMS.values() if claim.room == "rl.advantage"]
    assert "newest" in unclaimed_methods(ROOT, claims, [])["rl.advantage"]


def test_defaults_that_stand_in_a_list_or_nowhere_are_found() -> None:
    method = PLACES["rl.advantage"]["grpo"]()
    sections = {"rl": SimpleNamespace(some=[method, 3], none=None)}
    assert in_use(sections, "rl.some") == {type(method)} and in_use(sections, "rl.none.deeper") == set()


def test_both_pages_say_them() -> None:
    text, found = examples.as_lines(examples.claims(1)), {"rl.loss": ["cispo", "<gspo>"]}
    assert "Not held yet" not in markdown(text) + page(text)
    assert "* rl.loss: cispo, &lt;gspo&gt;\n" in markdown(text, {}, found)
    assert "<li>rl.loss: cispo, &lt;gspo&gt;</li>" in page(text, {}, found)
