"""What a study costs before its first run: nothing is read, composed or imported again for each of its arms and runs."""

import ast
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flows.arena import claims
from flows.arena import run_study as holding
from flows.arena.budget import calibration_tokens, tokens_of
from flows.arena.checkout import Checkout
from flows.arena.input_checks import refuse_inputs
from flows.arena.outcomes import Outcome
from flows.arena.result import curve
from flows.arena.runs import RATE, Job, outcome_of
from flows.arena.statistics.to_target import smoothed
from flows.arena.study import Study, read_study
from flows.forecast.estimate import MACHINES
from flows.forecast.forecasts import forecast_of, step_of, works_of
from flows.params import compose as composing
from flows.params.compose import Composer, compose, presets
from lm.config import ConfigError
from lm.training.flops import flops_of_steps, flops_per_token
from tasks.about.work import Work
from tasks.report.read import Stage
from tests.flows.arena.races import study
from tests.imports import closure
from tests.project import ROOT

STUDY = read_study(ROOT / "studies/optimizers.yaml")
# What an arm that runs, a result or a fitted law has use for, in CPU seconds: 0.5, 0.8, 0.2, 0.3 and 1.7
LATER = ("dvc.repo", "scipy.stats", "scipy.optimize", "optuna", "mlflow")


def test_versions_and_rooms_are_asked_for_once_for_all_arms_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, composed = Counter[str](), composing.composers
    monkeypatch.setattr(composing, "versions", lambda names: asked.update(names) or dict.fromkeys(names, "1"))
    monkeypatch.setattr(composing, "composers", lambda root: asked.update(["rooms"]) or composed(root))
    checkout = Checkout(ROOT, tmp_path)
    refuse_inputs(checkout, STUDY)
    assert {tokens_of(checkout.compose, STUDY, arm) for arm in STUDY.arms} == {163840}
    assert len(asked) > 10 and set(asked.values()) == {1}


def test_a_budget_is_of_tokens_where_steps_grow_and_a_target_of_tokens_is_refused(tmp_path: Path) -> None:
    grows = {"grows": {"method": {"name": "adamw"}, "curriculum.ramp": {"doublings": 2}}}
    given = {"arms": {"adamw": {"method": {"name": "adamw"}}, **grows}, "budget": {"tokens": 163840}, "preset": "arena"}
    base = {"room": "pretrain.optimizer", "baseline": "adamw", "trials": 1, **given}
    checkout = Checkout(ROOT, tmp_path)
    found = Study.model_validate(base, strict=False)
    assert {tokens_of(checkout.compose, found, arm) for arm in found.arms} == {163840}
    assert calibration_tokens(checkout.compose, found, "grows") == calibration_tokens(checkout.compose, found, "adamw")
    aimed = Study.model_validate({**base, "target": 3.0}, strict=False)
    assert tokens_of(checkout.compose, aimed, "adamw") == 163840
    with pytest.raises(ConfigError, match="target: tokens of a step grow in grows"):
        tokens_of(checkout.compose, aimed, "grows")


def test_budgets_and_targets_of_a_model_that_grows(tmp_path: Path) -> None:
    """A budget of FLOP is spent to a step, by the layers of a run of as many steps; a target asks for no other tokens."""
    given = {
        "arms": {"whole": {"method": {"name": "whole"}}, "staged": {"method": {"name": "staged"}}},
        "baseline": "whole",
    }
    base = {"room": "pretrain.growth", "trials": 1, "budget": {"tokens": 163840}, "preset": "arena", **given}
    checkout = Checkout(ROOT, tmp_path)
    assert tokens_of(checkout.compose, Study.model_validate(base, strict=False), "staged") == 163840
    aimed = Study.model_validate({**base, "target": 3.0}, strict=False)
    assert tokens_of(checkout.compose, aimed, "whole") == 163840
    assert tokens_of(checkout.compose, aimed, "staged") == 163840
    work = works_of(checkout.compose("arena", aimed.assignments("staged", {}, 0)), ["pretrain"])["pretrain"]
    step, each = step_of(work), work.tokens / work.steps
    assert step.growth

    def taken(steps: int) -> float:
        return each * sum(flops_of_steps(step.model, step.batch.length, step.growth, steps))

    for flop in (taken(9), 1.3 * taken(7), 0.999 * taken(11)):
        asked = Study.model_validate({**base, "budget": {"flop": flop}}, strict=False)
        steps = (tokens_of(checkout.compose, asked, "staged") or 0) / each
        assert steps == int(steps) and taken(int(steps)) <= flop * (1 + 1e-9) < taken(int(steps) + 1)


def ran(*assigned: str) -> tuple[Work, Outcome]:
    """What is said of a run of these parameters, whose rate decays in the last quarter of the steps."""
    work = works_of(compose(ROOT, "arena", list(assigned)), ["pretrain"])["pretrain"]
    rates = [(float(step), 1.0 if 4 * step < 3 * work.steps else 0.5) for step in range(work.steps)]
    losses = [(float(step), 3.0) for step in range(work.steps)]
    trained = Stage("pretrain", [], Path(), curves={"loss": losses, RATE: rates})
    return work, outcome_of(Job("arm", {}, 0, []), "digest", 3.0, trained, work, "data", 0.0)


def test_points_of_a_curve_are_at_the_tokens_that_steps_had_until_then() -> None:
    """A ramp of two doublings, by hand: steps of a quarter of the batch, then of a half, then whole ones."""
    plain, told = ran()
    each = plain.tokens / plain.steps
    assert [tokens for tokens, _ in told.curve] == [(step + 1) * each for step in range(plain.steps)]
    assert told.decays_from == -(-3 * plain.steps // 4) * each and not told.grows
    work, told = ran("curriculum.ramp={doublings: 2, share: 0.5}")
    first, second = int(0.5 * plain.steps) // 2, int(0.5 * plain.steps)
    sizes = [each / 4] * 4 * first + [each / 2] * 2 * (second - first) + [each] * (plain.steps - second)
    ends = np.cumsum(sizes)
    assert [tokens for tokens, _ in told.curve] == pytest.approx(ends.tolist()) and told.curve[-1][0] == work.tokens
    assert told.decays_from == pytest.approx(ends[-(-3 * work.steps // 4) - 1]) and told.tokens == work.tokens


def test_an_outcome_says_whether_its_model_grows_and_then_its_curve_has_no_seconds() -> None:
    _, told = ran("pretrain.growth={name: staged}")
    assert told.grows and {seconds for _, seconds, _ in curve(told)} == {None}
    assert ran()[1].flops == ()


def test_the_flop_along_the_curve_of_a_model_that_grows_are_those_of_its_layers_so_far() -> None:
    """By hand: a layer for a quarter of the steps, two until half of them, then four."""
    growth = "pretrain.growth={name: staged, stages: [{layers: 1, until: 0.25}, {layers: 2, until: 0.5}]}"
    work, told = ran("pretrain.model.layers=4", growth)
    each = {}
    for layers in (1, 2, 4):
        step = step_of(ran(f"pretrain.model.layers={layers}")[0])
        each[layers] = work.tokens / work.steps * flops_per_token(step.model, step.batch.length)
    begins = [int(work.steps * part) for part in (0.25, 0.5)]
    spent, wanted = 0.0, []
    for number in range(work.steps):
        spent += each[1 if number < begins[0] else 2 if number < begins[1] else 4]
        wanted.append(spent)
    assert told.flops == pytest.approx(wanted, rel=1e-12) and told.flops[-1] == pytest.approx(told.flop, rel=1e-12)
    assert told.flops[begins[0] - 1] < 0.6 * told.flop * begins[0] / work.steps


def test_a_forecast_of_steps_that_grow_is_of_as_many_tokens_and_seconds() -> None:
    plain, grown = (
        works_of(compose(ROOT, "arena", assigned), ["pretrain"])["pretrain"]
        for assigned in ([], ["curriculum.ramp={doublings: 2, share: 0.5}"])
    )
    steps = plain.steps // 2
    assert grown.steps == steps // 2 * 4 + (steps - steps // 2) * 2 + plain.steps - steps
    assert (grown.tokens, grown.full_steps) == (plain.tokens, plain.steps)
    one, other = (forecast_of(work, MACHINES["h100"]) for work in (plain, grown))
    assert (one.seconds, one.flops, one.bytes) == (other.seconds, other.flops, other.bytes)


@pytest.mark.parametrize("preset", presets(ROOT))
def test_what_is_composed_again_is_what_was_composed_first(preset: str) -> None:
    again = Composer(ROOT)
    assert again(preset, ["rl.steps=5", "seed=3"])["rl"]["steps"] == 5
    assert again(preset, ["seed=4"]) == compose(ROOT, preset, ["seed=4"])
    with pytest.raises(ConfigError, match="PRESET: no preset 'nobody'"):
        again("nobody", [])


def test_a_key_does_not_depend_on_the_keys_before_it() -> None:
    """The graph is read again where parameters that dvc.yaml names differ."""
    assignments = ["seed=1"], ["tokenize.method.vocab_size=300"], ["models=[pretrain]"], ["ingest.folder=elsewhere"]
    params = [compose(ROOT, "smoke", list(given)) for given in assignments]
    keys = Checkout(ROOT, Path("nowhere")).keys
    found = [keys.key(each, "evaluate@pretrain", []) for each in params]
    assert found == [Checkout(ROOT, Path("nowhere")).keys.key(each, "evaluate@pretrain", []) for each in params]
    assert len(set(found)) == len(params)


class Arithmetic(TorchDispatchMode):
    """Notes the operators that make meta tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) and each.is_meta for each in tree_leaves(made)):
            self.seen.add(func.__name__.partition(".")[0])
        return made


@pytest.mark.parametrize("preset", ["arena", "gpu-1b"])
def test_a_model_that_is_asked_for_its_counts_alone_computes_nothing_and_counts_the_same(preset: str) -> None:
    """Arithmetic on meta tensors imports torch's compiler."""
    with Arithmetic() as arithmetic:
        work = works_of(compose(ROOT, preset, []), ["pretrain"])["pretrain"]
        step = step_of(work)
    assert arithmetic.seen <= {"empty", "detach", "fill_", "zeros", "ones", "zero_", "view", "alias"}, arithmetic.seen
    with torch.device("meta"):
        plain = work.step()
    for counts in (lambda one: one.model.num_parameters(), lambda one: flops_per_token(one.model, one.batch.length)):
        assert counts(step) == counts(plain)


def test_what_only_runs_and_results_need_is_not_imported_by_a_study_that_begins() -> None:
    begins = [path for path in closure(ROOT / "flows/arena/__main__.py") if path.is_relative_to(ROOT / "flows")]
    for path in begins:
        tree = ast.parse(path.read_text())
        names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.startswith(LATER)], path


def test_claims_that_are_known_are_written_once_and_those_beside_one_that_cannot_be_held_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, held = "{room: a, method: m, source: s, headline: h, ", "study: none, expects: {ratio: 0.9, better: lower}}"
    monkeypatch.setattr(claims, "write", lambda root, rows, *_: written.append(list(rows)))
    monkeypatch.setattr(claims, "unclaimed_methods", lambda *_: {})
    for last, expected in (("cannot: no machine}", ["m0", "m1", "m2"]), (held, ["m0", "m1"])):
        lasts = {2: last}
        text = "".join(f"m{number}: {said}{lasts.get(number, 'cannot: no machine}')}\n" for number in range(3))
        (tmp_path / "claims.yaml").write_text(text)
        written: list[list[str]] = []
        rows, failed = claims.judge_claims(tmp_path, [], 1)
        assert [row["method"] for row in rows] == expected and written == [expected]
        assert ["no such file" in str(error) for error in failed.values()] == [True] * (last == held)


@pytest.mark.parametrize("budget", [{"tokens": 40960}, {"seconds": 41.0}], ids=str)
def test_no_run_is_told_beyond_the_most_that_there_are(
    budget: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a budget of seconds, too, for which each arm has a run that tells how fast it trains. No two arms differ, so that
    every seed is run."""

    class Slots:
        """Every run ends at once; no two differ but by chance."""

        threads = 1

        def __init__(self, *_: Any) -> None:
            self._chance = np.random.default_rng(0)

        def do(self, jobs: Sequence[Job], say: Any) -> list[Outcome]:
            values = self._chance.normal(3.0, 0.1, len(jobs))
            found = [
                Outcome(str(n), job.arm, job.tuned, job.seed, float(value), tokens=1000, seconds=1.0)
                for n, (job, value) in enumerate(zip(jobs, values, strict=True))
            ]
            for job, outcome in zip(jobs, found, strict=True):
                say(job, outcome, False)
            return found

        def clear(self) -> None:
            """There is nothing to clear."""

    monkeypatch.setattr(holding, "Slots", Slots)
    monkeypatch.setattr(holding, "FOLDER", tmp_path)
    asked = Study.model_validate({**study().model_dump(), "budget": budget, "seeds": 3, "looks": 1}, strict=False)
    holding.run_study(ROOT, "test", asked, 1, "a command")
    told = [tuple(map(int, pair)) for pair in re.findall(r"^test (\d+)/(\d+) ", capsys.readouterr().out, re.M)]
    assert len({most for _, most in told}) == 1 and told[-1][0] == told[-1][1]


@pytest.mark.parametrize("count", [3, 4, 5, 6, 9, 10, 40, 201])
@pytest.mark.parametrize("window", [3, 5, 9, 21])
def test_running_medians_are_those_of_each_window_by_itself(count: int, window: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    reach = [min(window // 2, i, count - 1 - i) for i in range(count)]
    medians = [np.median(values[i - r : i + r + 1]) for i, r in enumerate(reach)]
    assert smoothed(values, window)[1:-1].tolist() == medians[1:-1]
