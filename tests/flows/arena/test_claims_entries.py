"""claims.yaml and studies/: every name is there, every run's parameters hold, and all of it costs what its head says."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flows.arena.checkout import Checkout
from flows.arena.claims import SAYS
from flows.arena.study import METHOD, Study, read_study
from flows.arena.study_plan import plans_of
from flows.params.compose import check, compose
from lm.config import ConfigError
from tasks.core.yaml import parse_yaml, read_yaml
from tests.project import ROOT

Entry = dict[str, Any]
CLAIMS: dict[str, Entry] = read_yaml(ROOT / "claims.yaml")
FILES = sorted((ROOT / "studies").glob("*.yaml"))
SAID = {"room", "method", "paper", "source", "headline"}
SHOWN = SAID | {"study", "quantity", "expects", "control"}
QUANTITIES = {"value", "tokens_to_target", "flop_to_target", "seconds_to_target", "seconds"}
PAPER = re.compile(r"\d{3}-\d{2,3}(\+\d{3}-\d{2,3})*")  # papers that were listed twice have two ids
MOST_HOURS = 3
# for a reader to hold: whole recipes beside each other, the law over tokens, and bytes beside byte pairs
OF_NO_PAPER = {"recipes", "tokens", "tokenizers"}
# (baseline, control) where a study's habit would be an arm that the paper does not compare with
BESIDE: dict[str, tuple[str, str | None]] = {
    "radam": ("warmed", "adamw"),  # as good as Adam with a warm-up, which without one is worse
    "adamod": ("warmed", "adamw"),
    "batch_ramp": ("small", None),  # a batch that stays as small: more updates
    "logit_softcap": ("unbounded", "softcap_30"),
    "by_score": ("shuffled_alike", "shuffled"),  # with its schedule and average, and as most recipes are
    "expert_choice": ("top_two", "switch"),
    "few_bits": ("full", "rounded"),
    "clustered": ("full", "rounded"),
    "fast_forward": ("plain", "half"),  # all steps, and as few without it
    "soft_targets": ("hard_labels", None),
    "sequences": ("hard_labels", None),
    "top_eight": ("hard_labels", None),
    "remax": ("ppo", None),
}
ROWS = [json.loads(line) for line in (ROOT / "benchmarks/results/claims.jsonl").read_text().splitlines()]


@cache
def studies() -> dict[str, Study]:
    return {path.stem: read_study(path) for path in FILES}


def given(study: Study, arm: str) -> dict[str, Any]:
    """What an arm sets, by key of params.yaml; its method under the study's room."""
    return {study.room if key == METHOD else key: value for key, value in study.arms[arm].items()}


def mistakes(name: str, entry: Entry, known: Mapping[str, Study]) -> Iterator[str]:
    """What is wrong with an entry, whatever its parameters are."""
    keys = SAID | {"cannot"} if "cannot" in entry else SHOWN
    if set(entry) != keys:
        yield f"keys: {sorted(set(entry) ^ keys)} too many or missing"
        return
    if entry["paper"] is not None and not PAPER.fullmatch(entry["paper"]):
        yield f"paper: {entry['paper']!r} is no id"
    for key in ("source", "headline", "cannot"):
        if key in entry and not (isinstance(entry[key], str) and entry[key].strip() and "\n" not in entry[key]):
            yield f"{key}: must be a line"
    if "cannot" in entry:
        return
    if entry["study"] not in known:
        yield f"study: there is no {entry['study']!r}"
        return
    study = known[entry["study"]]
    if name not in study.arms:
        yield f"study: {entry['study']} has no arm {name!r}"
        return
    if name == study.baseline:
        yield "the arm is the baseline"
    if entry["quantity"].startswith("seconds") and not study.timed:
        yield "quantity: seconds are compared, so the study must say timed: true"
    if (set_there := given(study, name).get(entry["room"])) != entry["method"]:
        yield f"method: the arm sets {entry['room']} to {set_there!r}"
    if entry["control"] is not None and entry["control"] not in set(study.arms) - {name, study.baseline}:
        yield f"control: no other arm {entry['control']!r}"
    yield from unclear(entry, study)


def unclear(entry: Entry, study: Study) -> Iterator[str]:
    """What keeps an entry's verdict from being computed."""
    quantity, expects = entry["quantity"], entry["expects"]
    if quantity not in QUANTITIES:
        yield f"quantity: {quantity!r} is none"
    if quantity.endswith("_to_target") and study.target is None:
        yield "quantity: the study has no target"
    better = study.better if quantity == "value" else "lower"
    if set(expects) != {"ratio", "better"} or expects["better"] != better:
        yield f"expects: must have a ratio, and better: {better}"
    elif not 0.5 <= expects["ratio"] <= 2:
        yield f"expects: a ratio of {expects['ratio']} is beyond what a small study shows"


def assigned(entry: Entry) -> list[str]:
    """The method of an entry as SET has it."""
    return [f"{entry['room']}={json.dumps(entry['method'])}"]


@pytest.mark.parametrize("name", CLAIMS)
def test_an_entry_has_no_mistakes(name: str) -> None:
    assert list(mistakes(name, CLAIMS[name], studies())) == []


def sound() -> tuple[dict[str, Any], dict[str, Study]]:
    study = Study.model_validate(
        {
            "room": "pretrain.optimizer",
            "baseline": "adamw",
            "arms": {name: {"method": {"name": name}} for name in ("adamw", "muon", "lion")},
            "budget": {"tokens": 4096},
        },
        strict=False,
    )
    text = (
        "{room: pretrain.optimizer, method: {name: muon}, paper: 000-39+002-130, source: a, headline: b, study: one, "
        "quantity: value, expects: {ratio: 0.97, better: lower}, control: null}"
    )
    return parse_yaml(text), {"one": study}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("muon", {"study": "two"}, "study: there is no 'two'"),
        ("moun", {}, "study: one has no arm 'moun'"),
        ("adamw", {"method": {"name": "adamw"}}, "the arm is the baseline"),
        ("muon", {"method": {"name": "lion"}}, "method: the arm sets pretrain.optimizer to {'name': 'muon'}"),
        ("muon", {"room": "sft.optimizer"}, "method: the arm sets sft.optimizer to None"),
        ("muon", {"control": "sgd"}, "control: no other arm 'sgd'"),
        ("muon", {"control": "muon"}, "control: no other arm 'muon'"),
        ("muon", {"control": "adamw"}, "control: no other arm 'adamw'"),
        ("muon", {"paper": "39"}, "paper: '39' is no id"),
        ("muon", {"headline": ""}, "headline: must be a line"),
        ("muon", {"quantity": "tokens_to_target"}, "quantity: the study has no target"),
        ("muon", {"quantity": "speed"}, "quantity: 'speed' is none"),
        ("muon", {"quantity": "seconds"}, "quantity: seconds are compared, so the study must say timed: true"),
        ("muon", {"expects": {"ratio": 1.1, "better": "higher"}}, "expects: must have a ratio, and better: lower"),
        (
            "muon",
            {"expects": {"ratio": 0.01, "better": "lower"}},
            "expects: a ratio of 0.01 is beyond what a small study shows",
        ),
        ("muon", {"cannot": "no time"}, "keys: ['control', 'expects', 'quantity', 'study'] too many or missing"),
    ],
)
def test_a_planted_mistake_is_found(name: str, change: Entry, said: str) -> None:
    entry, known = sound()
    assert list(mistakes("muon", entry, known)) == []
    assert list(mistakes(name, {**entry, **change}, known)) == [said]


@pytest.mark.parametrize("name", [name for name, entry in CLAIMS.items() if "cannot" in entry])
def test_a_method_that_no_study_has_can_be_chosen(name: str) -> None:
    check(ROOT, compose(ROOT, "arena", assigned(CLAIMS[name])))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameters_of_every_arm_hold_over_the_whole_of_its_range(path: Any) -> None:
    study = studies()[path.stem]
    for arm in study.arms:
        ranges = study.ranges(arm)
        for end in (0, 1) if ranges else (0,):
            tuned = {key: limits[end] for key, limits in ranges.items()}
            params = compose(ROOT, study.preset, study.assignments(arm, tuned, 1))
            check(ROOT, params)
            assert study.stage_and_metric[0].partition("@")[2] in params["models"]


def test_a_method_that_there_is_not_does_not_hold() -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.optimizer\.name: no method 'moun'"):
        check(ROOT, compose(ROOT, "arena", ["pretrain.optimizer={name: moun}"]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_arms_of_a_study_are_tuned_alike_and_differ(path: Any) -> None:
    """Equal trials are there by construction; here as many dimensions, and ranges of one width on the log scale."""
    study = studies()[path.stem]
    widths = [sorted(math.log(high / low) for low, high in study.ranges(arm).values()) for arm in study.arms]
    assert all(own == pytest.approx(widths[0]) for own in widths)
    assert study.trials == 1 if not any(widths) else study.trials > 1
    made = [json.dumps(study.assignments(arm, {}, 1), sort_keys=True) for arm in study.arms]
    assert len(set(made)) == len(made)


def test_every_study_is_that_of_a_claim_and_every_arm_has_a_reader() -> None:
    shown = {(entry["study"], name) for name, entry in CLAIMS.items() if "study" in entry}
    beside = {(entry["study"], entry["control"]) for entry in CLAIMS.values() if entry.get("control")}
    bases = {(name, study.baseline) for name, study in studies().items()}
    every = {(name, arm) for name, study in studies().items() for arm in study.arms}
    assert shown | beside | bases == {(name, arm) for name, arm in every if name not in OF_NO_PAPER} | bases


@pytest.mark.parametrize("name", BESIDE)
def test_a_method_is_held_beside_what_its_paper_compares_with(name: str) -> None:
    entry = CLAIMS[name]
    assert (studies()[entry["study"]].baseline, entry["control"]) == BESIDE[name]


@pytest.mark.parametrize("name", ["mixture_of_depths", "masked_layers", "apollo", "v_cycle", "large"])
def test_a_method_whose_tokens_cost_less_is_raced_at_equal_flop(name: str) -> None:
    assert studies()[CLAIMS[name]["study"]].budget.kind == "flop"


def too_tight(expects: Mapping[str, Any], row: Entry) -> bool:
    """Whether a margin is below half of the width of the intervals seen, so that not even an equal arm could be told to lie
    within it. Intervals that lie wholly on one side of it have told."""
    ratio, better = expects["ratio"], expects["better"]
    if (ratio > 1) != (better == "lower"):
        return False
    low, high = (end([row["t"][place], row["bootstrap"][place]]) for place, end in ((0, min), (1, max)))
    return low < ratio < high and abs(math.log(ratio)) < math.log(high / low) / 2


@pytest.mark.parametrize(
    ("expects", "t", "found"),
    [
        ({"ratio": 1.002, "better": "lower"}, [0.978, 1.015], True),
        ({"ratio": 1.02, "better": "lower"}, [0.978, 1.015], False),
        ({"ratio": 1.02, "better": "lower"}, [1.0, 1.03], False),  # wide enough, though it was not shown
        ({"ratio": 1.002, "better": "lower"}, [0.95, 0.99], False),  # told: within
        ({"ratio": 1.002, "better": "lower"}, [1.01, 1.05], False),  # told: beyond
        ({"ratio": 0.97, "better": "higher"}, [0.9, 1.3], True),
        ({"ratio": 0.97, "better": "lower"}, [0.9, 1.3], False),  # no margin
    ],
)
def test_a_margin_below_what_was_told_apart_is_found(expects: dict[str, Any], t: list[float], found: bool) -> None:
    assert too_tight(expects, {"t": t, "bootstrap": t}) is found


@pytest.mark.parametrize("row", [row for row in ROWS if row["ratio"] is not None], ids=lambda row: str(row["method"]))
def test_no_margin_is_tighter_than_its_seeds_tell_apart(row: Entry) -> None:
    entry = CLAIMS.get(row["method"], {})
    if (entry.get("study"), entry.get("quantity")) == (row["study"], row["quantity"]) and row["t"] and row["bootstrap"]:
        assert not too_tight(entry["expects"], row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["method"]))
def test_a_row_that_is_committed_is_of_what_its_claim_says(row: Entry) -> None:
    entry = {"study": None, "control": None, "quantity": "value", **CLAIMS.get(row["method"], {})}
    assert {key: row[key] for key in SAYS} == {key: entry.get(key) for key in SAYS}
    assert row["verdict"] != "cannot be shown here" or row["why"] == entry["cannot"]


def test_at_least_thirty_claims_have_a_study() -> None:
    assert sum("study" in entry for entry in CLAIMS.values()) >= 30


def test_the_head_says_what_it_costs_and_that_is_within_the_limit(tmp_path: Path) -> None:
    head = (ROOT / "claims.yaml").read_text().partition("\n\n")[0].replace("\n#", "")
    found = re.search(r"(\d+) runs.* of (\d+) s each on one core, two at once: (\d+\.\d) hours", head)
    assert found
    runs, seconds, hours = int(found[1]), int(found[2]), float(found[3])
    claimed = {name: study for name, study in studies().items() if name not in OF_NO_PAPER}
    plans = plans_of(Checkout(ROOT, tmp_path), claimed, threads=1)
    assert runs == sum(plan.runs for plan in plans.values()) == sum(plan.new for plan in plans.values())
    assert hours == pytest.approx(runs * seconds / 2 / 3600, abs=0.05)
    assert hours <= MOST_HOURS
