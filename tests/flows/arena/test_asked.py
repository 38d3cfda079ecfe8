"""A study that is asked for: a room and its methods, or a file; and each mistake in one line."""

import re
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flows.arena import hold as holding
from flows.arena.alike import refuse_alike, refuse_measure
from flows.arena.asked import methods, study_of
from flows.arena.checkout import Checkout
from flows.arena.runs import Job
from flows.arena.study import Study, read_study
from flows.params.compose import check, compose
from lm.config import ConfigError
from tasks.core.yaml import read_yaml
from tasks.runner.graph import graph_of, value_of, with_upstream
from tasks.runner.rooms import config_of
from tests.project import ROOT


def asked(**given: object) -> Namespace:
    nothing = {
        "study": None,
        "room": None,
        "methods": [],
        "preset": None,
        "set": [],
        "budget": None,
        "target": None,
        "seeds": None,
        "trials": None,
        "measure": None,
        "better": None,
        "control": None,
    }
    return Namespace(**{**nothing, **given})


def test_a_room_and_methods_are_a_study_whose_arms_are_tuned_alike() -> None:
    name, study = study_of(
        ROOT, asked(room="pretrain.optimizer", methods=["adamw", "muon", "drop_muon"], seeds=4, budget="flop=1e12")
    )
    assert (
        re.fullmatch("pretrain-optimizer-adamw-muon-drop_muon-[0-9a-f]{8}", name)
        and study.baseline == "adamw"
        and study.seeds == 4
    )
    assert (study.budget.kind, study.budget.amount) == ("flop", 1e12)
    widths = {key: high / low for arm in study.arms for key, (low, high) in study.ranges(arm).items()}
    assert set(widths) == {"pretrain.optimizer.lr", "pretrain.optimizer.adamw_lr"} and len(set(widths.values())) == 1


def rooms() -> dict[str, list[str]]:
    """The parameters of each stage that are a choice of methods, of those stages that have one."""
    found: dict[str, list[str]] = {}
    for stage in read_yaml(ROOT / "dvc.yaml")["stages"]:
        for field in config_of(stage).model_fields:
            with suppress(ConfigError):
                methods(f"{stage}.{field}")
                found.setdefault(stage, []).append(f"{stage}.{field}")
    return found


def pair(checkout: Checkout, room: str) -> list[str]:
    """The method that the preset has, where it names one, and another; two of the room where it does not."""
    now = value_of(f"{room}.name", checkout.compose("arena", []))
    return [*([now] if now else []), *(name for name in methods(room) if name != now)][:2]


def refusal(checkout: Checkout, study: Study, name: str) -> str:
    """Why a study is refused before any run, "" where it is not."""
    try:
        refuse_measure(checkout, study)
        refuse_alike(checkout, study, name)
    except ConfigError as error:
        return str(error)
    return ""


def test_methods_of_any_room_can_be_raced(tmp_path: Path) -> None:
    """Up to what their stage makes: both arms of four rooms were one run where all were measured after the first training."""
    checkout, raced = Checkout(ROOT, tmp_path), dict[str, list[str]]()
    for stage, found in rooms().items():
        for room in found:
            name, study = study_of(ROOT, asked(room=room, methods=pair(checkout, room)))
            graph = graph_of(ROOT, checkout.compose(study.preset, study.set))
            assert stage in with_upstream(graph, [study.stage_and_metric[0]]), room
            why = refusal(checkout, study, name)
            assert why.startswith("arm ") or not why  # what else a method asks for
            if not why:
                raced.setdefault(stage, []).append(room)
    without = {stage for stage in rooms() if stage not in raced}
    assert without == {"dedup"}  # of the first other method of each of its rooms: it asks for a folder
    assert len(rooms()) > 10 and sum(map(len, raced.values())) > 50
    name, study = study_of(ROOT, asked(room="dedup.near", methods=["minhash", "keep_all"]))
    assert not refusal(checkout, study, name)


@pytest.mark.parametrize(
    ("room", "names", "measure", "better", "tuned"),
    [
        ("dedup.near", "minhash keep_all", "evaluate@pretrain.bits_per_byte", "lower", {"pretrain.optimizer.lr"}),
        ("pretrain.schedule", "linear wsd", "evaluate@pretrain.bits_per_byte", "lower", {"pretrain.optimizer.lr"}),
        ("sft.loss", "cross_entropy confidence_limited", "evaluate@sft.accuracy", "higher", {"sft.optimizer.lr"}),
        ("sft.optimizer", "adamw lion", "evaluate@sft.accuracy", "higher", {"sft.optimizer.lr"}),
        ("preference.loss", "dpo ipo", "evaluate@preference.accuracy", "higher", {"preference.optimizer.lr"}),
        ("reward.loss", "bradley_terry pointwise", "reward.held_out_accuracy", "higher", {"reward.optimizer.lr"}),
        ("rl.advantage", "grpo rloo", "evaluate@rl.accuracy", "higher", {"rl.optimizer.lr"}),
        ("distill.divergence", "forward_kl jsd", "evaluate@distill.accuracy", "higher", {"distill.optimizer.lr"}),
        ("prune.weights", "magnitude wanda", "evaluate@prune.bits_per_byte", "lower", set()),
        ("quantize.method", "rtn gptq", "evaluate@quantize.bits_per_byte", "lower", set()),
    ],
)
def test_the_measure_its_direction_and_what_is_tuned_follow_from_the_rooms_stage(
    room: str, names: str, measure: str, better: str, tuned: set[str]
) -> None:
    _, study = study_of(ROOT, asked(room=room, methods=names.split()))
    assert (study.measure, study.better) == (measure, better)
    assert {key for arm in study.arms for key in study.ranges(arm)} == tuned


def test_rates_are_tried_around_those_that_the_stage_has() -> None:
    """A method's default is a rate of a first training: of what goes on from a taught model the preset's is a hundredth."""
    _, study = study_of(ROOT, asked(room="rl.optimizer", methods=["adamw", "lion"]))
    low, high = study.ranges("adamw")["rl.optimizer.lr"]
    assert (low * high) ** 0.5 == pytest.approx(0.00004) and high / low == pytest.approx(64)
    _, study = study_of(ROOT, asked(room="rl.loss", methods=["reinforce", "gspo"], set=["rl.optimizer.lr=0.0001"]))
    low, high = study.ranges("gspo")["rl.optimizer.lr"]
    assert (low * high) ** 0.5 == pytest.approx(0.0001)


def test_a_method_before_a_training_that_learns_itself_is_tuned_in_that_training_as_the_others_are() -> None:
    _, study = study_of(ROOT, asked(room="filter.quality", methods=["keep_all", "quality_classifier"]))
    assert list(study.ranges("keep_all")) == ["pretrain.optimizer.lr"]
    assert set(study.ranges("quality_classifier")) == {"filter.quality.lr", "pretrain.optimizer.lr"}
    assert (
        study.ranges("quality_classifier")["pretrain.optimizer.lr"] == study.ranges("keep_all")["pretrain.optimizer.lr"]
    )


@pytest.mark.parametrize(
    ("room", "names", "measure", "acts"),
    [
        ("quantize.cache", "exact int8", "evaluate@quantize.accuracy", "quantize.model=sft"),
        ("prune.layer_score", "shift influence", "evaluate@prune.bits_per_byte", "prune.layers=2"),
        ("prune.unit_score", "activation magnitude", "evaluate@prune.bits_per_byte", "prune.ffn_width=88"),
    ],
)
def test_methods_that_act_on_nothing_their_stage_is_measured_by_have_what_they_act_on(
    room: str, names: str, measure: str, acts: str, tmp_path: Path
) -> None:
    name, study = study_of(ROOT, asked(room=room, methods=names.split()))
    assert study.measure == measure and acts in study.set
    assert refusal(Checkout(ROOT, tmp_path), study, name) == ""


def test_a_model_that_no_stage_makes_is_one_line_an_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before rooms are asked what that model has."""
    monkeypatch.setattr(holding, "FOLDER", tmp_path)
    name, study = study_of(ROOT, asked(room="quantize.method", methods=["int8", "rtn"], set=["quantize.model=nope"]))
    with pytest.raises(ConfigError) as caught:
        holding.hold(ROOT, name, study, 1, "a command")
    assert [line.partition(": params.yaml: quantize")[0] for line in str(caught.value).splitlines()] == ["arm int8"]


def test_two_arms_that_are_one_run_are_refused_whichever_they_are(tmp_path: Path) -> None:
    arms = {name: {"method": {"name": name.strip("2")}} for name in ("adamw", "muon", "muon2", "lion")}
    values = {"room": "pretrain.optimizer", "baseline": "adamw", "arms": arms, "budget": {"tokens": 163840}}
    checkout = Checkout(ROOT, tmp_path)
    for control in (None, "muon2"):
        study = Study.model_validate({**values, "control": control}, strict=False)
        assert refusal(checkout, study, "a") == (
            "arms: muon2: up to evaluate@pretrain.bits_per_byte the same run as muon: leave it out, or set something else"
        )
    arms["lion"] = arms["adamw"]
    lines = refusal(checkout, Study.model_validate(values, strict=False), "a").splitlines()
    assert [line.partition(":")[2][:5] for line in lines] == [" lion", " muon"]
    assert "the same run as the baseline, adamw: leave it out" in lines[0]


def test_more_seeds_or_a_target_take_no_timed_run_from_a_study(tmp_path: Path) -> None:
    checkout = Checkout(ROOT, tmp_path)

    def key(**given: Any) -> str:
        name, study = study_of(ROOT, asked(**given))
        job = Job(study.baseline, {}, 1, study.assignments(study.baseline, {}, 1))
        return checkout.key_of(study, name, job, 1)

    pair = {"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "seconds=20"}
    for given in ({"study": "studies/drop_muon.yaml"}, pair):
        others = [{"seeds": 7}, {"target": 2.5}, {"trials": 9}, {"control": "muon"}]
        assert {key(**given, **other) for other in others} == {key(**given)}
    assert key(**pair, control="lion") == key(**pair)
    timed, third = {"study": "studies/drop_muon.yaml"}, {**pair, "methods": ["adamw", "lion"]}
    assert len({key(**timed), key(**timed, set=["pretrain.clip=0.5"]), key(**pair), key(**third)}) == 4


def test_every_arm_packs_sequences_of_the_presets_length() -> None:
    _, study = study_of(ROOT, asked(room="curriculum.method", methods=["shuffled_packing", "best_fit_packing"]))
    assert {arm["method"]["sequence_length"] for arm in study.arms.values()} == {128}


@pytest.mark.parametrize(
    ("given", "measure", "better"),
    [
        ({"measure": "evaluate@sft.bits_per_byte"}, "evaluate@sft.bits_per_byte", "lower"),
        ({"measure": "evaluate@rl.accuracy"}, "evaluate@rl.accuracy", "higher"),
        ({"measure": "evaluate@sft.pass_at_n", "better": "higher"}, "evaluate@sft.pass_at_n", "higher"),
        ({"better": "lower"}, "evaluate@sft.accuracy", "lower"),
    ],
)
def test_a_measure_and_its_direction_can_be_asked_for(given: dict[str, str], measure: str, better: str) -> None:
    _, study = study_of(ROOT, asked(room="sft.loss", methods=["cross_entropy", "confidence_limited"], **given))
    assert (study.measure, study.better) == (measure, better)
    _, study = study_of(ROOT, asked(study="studies/coverage.yaml", measure="evaluate@sft.bits_per_byte_stdlib"))
    assert study.better == "lower"


@pytest.mark.parametrize("control", ["muon", "lion"])
def test_a_control_is_an_arm_of_the_methods_or_one_more(control: str) -> None:
    _, study = study_of(ROOT, asked(room="pretrain.optimizer", methods=["adamw", "muon"], control=control))
    assert study.control == control and list(study.arms) == list(dict.fromkeys(["adamw", "muon", control]))


def test_what_a_preset_says_of_sizes_stands() -> None:
    _, study = study_of(ROOT, asked(room="quantize.method", methods=["rtn", "gptq"], preset="smoke"))
    assert study.set == ["quantize.model=pretrain"]
    _, study = study_of(ROOT, asked(room="rl.advantage", methods=["grpo", "rloo"], preset="smoke"))
    assert not [each for each in study.set if each.startswith(("sft.", "curriculum.", "ingest."))]


def test_a_name_follows_from_all_that_was_asked_for() -> None:
    """The same race on another corpus took the result and the page of the one before it."""
    base: dict[str, Any] = {"room": "pretrain.optimizer", "methods": ["adamw", "muon"]}
    others = [{}, {"set": ["ingest.max_bytes=300000"]}, {"preset": "smoke"}, {"seeds": 3}, {"budget": "tokens=40960"}]
    names = [study_of(ROOT, asked(**base, **each))[0] for each in others]
    assert len(set(names)) == len(names) and names[0] == study_of(ROOT, asked(**base))[0]
    many = study_of(ROOT, asked(room="pretrain.optimizer", methods=list(methods("pretrain.optimizer"))))[0]
    assert max(map(len, [*names, many])) <= 50  # of a variant's 60
    file = "studies/optimizers.yaml"
    assert study_of(ROOT, asked(study=file))[0] == "optimizers" != study_of(ROOT, asked(study=file, seeds=3))[0]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_has_parameters_that_can_be_used(path: Path) -> None:
    study = read_study(path)
    for arm in study.arms:
        tuned = {key: (low * high) ** 0.5 for key, (low, high) in study.ranges(arm).items()}
        check(ROOT, compose(ROOT, study.preset, study.assignments(arm, tuned, 1)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muno"]}, "METHODS: pretrain.optimizer has no 'muno'; did you mean 'muon'?"),
        ({"room": "pretrain.optimiser", "methods": ["a", "b"]}, "ROOM: pretrain has no 'optimiser'; did you mean 'optimizer'?"),
        ({"room": "pretrain.clip", "methods": ["a", "b"]}, "ROOM: pretrain.clip is no choice of methods"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "adamw"]}, "is one method"),
        ({"room": "pretrane.optimizer", "methods": ["a", "b"]}, "ROOM: no stage 'pretrane'"),
        ({"room": "sft.problems", "methods": ["arithmetic", "code"]}, "ROOM: sft.problems is no choice of methods"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "control": "muno"}, "CONTROL: pretrain.optimizer has no 'muno'; did you mean 'muon'?"),
        ({"study": "studies/optimizers.yaml", "control": "none"}, "control: no arm 'none'"),
        ({"room": "sft.loss", "methods": ["cross_entropy", "confidence_limited"], "measure": "evaluate@sft.pass_at_n"}, "BETTER: lower or higher?"),
        ({"room": "sft.loss", "methods": ["cross_entropy", "confidence_limited"], "measure": "accuracy"}, "must read stage.metric"),
        ({"methods": ["adamw", "muon"]}, "ROOM and METHODS are needed"),
        ({"study": "studies/none.yaml"}, "none.yaml: no such file"),
        ({"study": "studies"}, "studies: no file of a study: Is a directory"),
        ({"study": "params.yaml/x"}, "x: no file of a study: Not a directory"),
        ({"study": sys.executable}, "no file of a study: no text"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "300000"}, "BUDGET: '300000' must read"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "tokens=many"}, "BUDGET: 'many' is no number"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "tokens=inf"}, "BUDGET: 'inf' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "bytes=-inf"}, "BUDGET: '-inf' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "tokens=nan"}, "BUDGET: 'nan' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "flop=1e400"}, "BUDGET: '1e400' is not finite"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "budget": "hours=3"}, "budget.hours"),
        ({"room": "pretrain.optimizer", "methods": ["adamw", "muon"], "seeds": 2}, "seeds: Input should be greater than or equal to 3"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(given: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(ROOT, asked(**given))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_with_unequal_budgets_or_names_that_there_are_not_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    begin = "room: pretrain.optimizer\nbaseline: adamw\narms: {adamw: {}, muon: {}}\n"
    for more, said in (
        ("budget: {tokens: 1000, seconds: 3}", "one of tokens, flop, seconds, bytes; these are tokens, seconds"),
        ("budget: {tokens: 1000}\ntrials: {adamw: 6, muon: 12}", "trials"),
        ("budget: {tokens: 1000}\nbudget_of: {muon: {tokens: 2000}}", "budget_of"),
        ("budget: {tokens: 1000}\ntune: {pretrain.clip: [2, 1]}", "2 to 1 is no range above 0"),
        ("budget: {tokens: 1000}\ntune_of: {muno: {a.b: [1, 2]}}", "no arm 'muno'"),
        ("budget: {tokens: 1000}\ncontrol: random", "control: no arm 'random'"),
        ("budget: {tokens: 1000", "no YAML"),
    ):
        path.write_text(begin + more)
        with pytest.raises(ConfigError) as caught:
            read_study(path)
        assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value) and "\n" not in str(caught.value)
