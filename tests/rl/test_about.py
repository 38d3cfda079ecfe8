"""What the stage says before it runs: what its parameters ask for, what they take, and what of its inputs is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.params.compose import compose
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.preference.contracts import contracts as preference_contracts
from tasks.rl.contracts import contracts
from tasks.rl.inputs import inputs
from tasks.rl.needs import needs
from tests.project import ROOT


def sections(*changes: str) -> Sections:
    return Sections(compose(ROOT, "laptop", list(changes)))


def step(*changes: str) -> Any:
    work = needs(sections(*changes)).work
    assert work
    return work.step()


def test_the_reference_is_a_frozen_model_of_the_forecast() -> None:
    assert step().frozen == ()
    held = step("rl.loss={name: cispo, kl: 0.1}")
    (reference,) = held.frozen
    assert reference.num_parameters() == held.model.num_parameters() and not any(
        weight.requires_grad for weight in reference.parameters()
    )
    loss, metrics = held.batch.loss(slice(0, 2))
    assert loss.requires_grad and "reference_kl" in metrics


def test_hints_make_prompts_longer_in_the_forecast() -> None:
    # the longest demonstration beside the longest prompt: of 99+99= it is worked out column by column
    plain, hinted = step().sampling[0].prompt, step("rl.curriculum={name: hints}").sampling[0].prompt
    assert plain < hinted <= plain + 60


def test_demonstrations_are_rows_of_the_forecast() -> None:
    plain = step().batch
    hybrid = step("rl.demonstrations={name: hybrid}").batch
    gathered = step("rl.demonstrations={name: interleaved, batch: 9}").batch
    # 32 problems and two updates a rollout: 16 demonstrations at most in each, and of 9 the half that is larger
    assert hybrid.rows - plain.rows == 16 and gathered.rows - plain.rows == 5
    assert hybrid.length == gathered.length >= plain.length
    loss, _ = hybrid.loss(slice(0, 2))
    assert loss.requires_grad


def test_texts_that_are_read_are_rows_of_the_forecast() -> None:
    """One a problem; what is shown of each is its prompt, and no answer."""
    plain, read = step().batch, step("rl.demonstrations={name: next_token}").batch
    assert read.rows - plain.rows == 16 and read.length == step("rl.demonstrations={name: hybrid}").batch.length
    loss, _ = read.loss(slice(0, 2))
    assert loss.requires_grad


def test_rollouts_that_are_kept_take_disk() -> None:
    plain, kept = (needs(sections(*changes)) for changes in ([], ["rl.keep_rollouts=true"]))
    # 60 rollouts of 256 answers with up to 32 tokens
    assert 60 * 256 * 32 * 8 < kept.output - plain.output == kept.scratch - plain.scratch < 10e6


def test_results_of_an_environment_take_room_disk_and_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    called = "rl.environment={name: calculator, turns: 2, result_tokens: 10}"
    plain, longer = step(), step(called)
    assert longer.batch.length == plain.batch.length + 20 and longer.sampling[0].prompt == plain.sampling[0].prompt
    kept = [needs(sections("rl.keep_rollouts=true", *more)).output for more in ([], [called])]
    # 60 rollouts of 256 answers: 20 tokens more of 9 bytes, and one byte more of each of the 32
    assert kept[1] - kept[0] == 60 * 256 * (20 * 9 + 32)
    (found,) = contracts(sections("rl.environment={name: python}"))  # four results of 128 tokens in a context of 256
    assert found.where == "params.yaml: rl.max_new_tokens" and "less 544" in found.what

    def none() -> str:
        raise ConfigError("sandbox: there is none")

    monkeypatch.setattr("tasks.rl.inputs.mode", none)
    (found,) = inputs(sections("rl.environment={name: python}"))
    assert (found.where, found.what) == ("params.yaml: rl.environment", "sandbox: there is none")
    assert list(inputs(sections(called))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"feed_forward": {"name": "experts", "router": "expert_choice", "normalised": False}},
        {"feed_forward": {"name": "experts", "router": "dense"}},
        {"pattern": [{}, {"depths": {}}]},
        {"pattern": [{}, {"feed_forward": {"name": "experts", "router": "dense"}}]},
    ],
)
def test_likelihoods_are_those_that_answers_were_written_with(changes: dict[str, Any]) -> None:
    def given(changes: dict[str, Any]) -> list[str]:
        return [f"pretrain.model.{key}={json.dumps(value)}" for key, value in changes.items()]

    (found,) = contracts(sections(*given(changes)))
    assert found.where == "params.yaml: rl.model" and "pretrain.model.feed_forward" in found.remedy
    assert list(preference_contracts(sections(*given(changes)))) == [
        replace(found, where="params.yaml: preference.model")
    ]
    alike = {"feed_forward": {"name": "experts", "router": "dense", "experts": 2}, "pattern": [{}, {}]}
    assert list(contracts(sections(*given(alike)))) == []


def test_a_bandit_asks_for_levels(tmp_path: Path) -> None:
    rows = [{"question": f"what is {i}?", "answer": f"#### {i}"} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = f"problems={{name: gsm8k, folder: {tmp_path}}}"
    (found,) = contracts(sections("rl.curriculum={name: bandit}", files))
    assert found.where == "params.yaml: rl.curriculum" and "none or one" in found.what
    assert list(contracts(sections("rl.curriculum={name: bandit}"))) == []
    assert list(contracts(sections(files))) == []


def test_a_reward_function_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sections("rl.rewards=[{name: correct},{name: function,file: data/rewards/mine.py}]")
    monkeypatch.chdir(tmp_path)
    (found,) = inputs(asked)
    assert str(found).startswith("params.yaml: rl.rewards.1.file: data/rewards/mine.py: cannot be read")
    (tmp_path / "data/rewards").mkdir(parents=True)
    (tmp_path / "data/rewards/mine.py").write_text("def reward(completions, **_): ...\n")
    assert list(inputs(asked)) == []


def test_something_is_left_to_ask() -> None:
    (found,) = contracts(sections("rl.held_out=1000000"))
    assert found.where == "params.yaml: rl.held_out" and "problems leave none to ask" in str(found)
    assert list(contracts(sections("rl.held_out=16"))) == []


def test_pairs_are_two_of_each_problem_and_a_reference_is_kept() -> None:
    """Of a step of online preferences, beside one of single answers."""
    pairs, plain = step("rl.advantage={name: best_and_worst}", "rl.loss={name: online_dpo}"), step()
    assert pairs.batch.together == 2 and plain.batch.rows == 4 * pairs.batch.rows
    assert len(pairs.frozen) == 1 + len(plain.frozen)
