"""Rewards that score with a model: a reward model's, and a judge's votes; each by hand, in a run, and where its model does not do."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lm.averages import Last
from lm.checkpoint import save_model
from lm.config import ConfigError
from lm.heads import save_scorer
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.problems.example import Example, Score
from lm.sampler import Completion
from lm.schedules import Cosine
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.reward.stage import RewardConfig
from tasks.reward.stage import run as train_reward
from tasks.rl.checkpoint import reads
from tasks.rl.compose import composed
from tasks.rl.contracts import contracts
from tasks.rl.needs import needs
from tasks.rl.rewards import Correct, Judge, Model, judge
from tasks.rl.rewards.base import Answer, Models, RewardContext
from tasks.rl.rewards.judge import mean_vote
from tasks.rl.rewards.model import answer_ids, bounded
from tasks.rl.stage import run
from tests.preference.made import write_rows
from tests.project import TINY, digest
from tests.rl.toys import TOKENIZER, Interrupted, Said, config, policy, scorer, trained

NOW = RewardContext(0.0, 10)
EXAMPLE = Example("1", "1+1=", "2", "2")


def answer(text: str, finished: bool = True, example: Example = EXAMPLE) -> Answer:
    ids = TOKENIZER.encode(text) + [TOKENIZER.end_id] * finished
    return Answer(example, ids, text, finished, Score(1.0))


def folders(data: Path, **models: Decoder) -> Models:
    """data/sft with a policy, and data/reward with a reward model."""
    for name in ("sft", "reward", "rl"):
        (data / name).mkdir(parents=True, exist_ok=True)
    save_model(data / "sft", models.get("sft", policy()), TOKENIZER)
    save_scorer(data / "reward", models.get("reward", scorer()), TOKENIZER)
    return Models(data / "sft", data / "reward", TOKENIZER)


def test_bounds_by_hand() -> None:
    scores_NM = torch.tensor([[1.0, 3.0], [4.0, 2.0]])
    assert bounded(scores_NM, "mean", 9.0).tolist() == [2, 3]
    assert bounded(scores_NM, "lowest", 9.0).tolist() == [1, 2]
    assert bounded(scores_NM, "spread", 0.5).tolist() == [1.5, 2.5]
    assert bounded(scores_NM[:, :1], "spread", 0.5).tolist() == [1, 4]


def test_a_value_is_the_score_behind_the_last_token_whatever_stands_beside_it(tmp_path: Path) -> None:
    part = Model()
    part.open(folders(tmp_path))
    answers = [
        answer("2"),
        answer("no, 3"),
        answer("22", finished=False),
        answer("7", example=replace(EXAMPLE, prompt="xy")),
    ]
    values = part(answers, NOW)
    assert values == [part([one], NOW)[0] for one in answers] and len(set(values)) == 4
    model, heads = scorer().eval(), scorer().get_submodule("heads")
    for one, value in zip(answers, values, strict=True):
        ids = TOKENIZER.chat(one.example.prompt) + one.ids
        with torch.no_grad():
            expected = heads(model.hidden(torch.tensor([ids]))[0, -1:])[0].mean().item()
        assert value == pytest.approx(expected, abs=1e-4)
    assert part.models[0].num_parameters() and Model().models == []


def test_an_answer_that_was_given_a_beginning_is_read_whole() -> None:
    begun = Answer(EXAMPLE, [*TOKENIZER.encode("3"), TOKENIZER.end_id], "1+2=3", True, Score(1.0))
    assert answer_ids(begun, TOKENIZER) == [*TOKENIZER.encode("1+2=3"), TOKENIZER.end_id]
    assert answer_ids(replace(begun, finished=False), TOKENIZER) == TOKENIZER.encode("1+2=3")
    assert answer_ids(answer("3"), TOKENIZER) == answer("3").ids


def test_what_does_not_fit_the_reward_model_is_invalid(tmp_path: Path) -> None:
    part = Model()
    part.open(folders(tmp_path))
    values = part([answer("2" * 60), answer("2")], NOW)
    assert math.isnan(values[0]) and math.isfinite(values[1])


def test_a_model_that_does_not_do_is_said(tmp_path: Path) -> None:
    models = folders(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^rl.rewards: model: .*/sft/heads.safetensors: no such file: .*; set rl.scorer"
    ):
        Model().open(replace(models, scorer=models.start))
    with pytest.raises(ConfigError, match=r"^rl.rewards: judge: .*/none/config.json: no such file"):
        Judge(by="scorer").open(replace(models, scorer=tmp_path / "none"))
    chain = Sections({**TINY, "rl": {**TINY["rl"], "rewards": [{"name": "model"}]}})
    assert [str(finding) for finding in contracts(chain)] == [
        "params.yaml: rl.scorer: checkpoint is no reward model, by which rl.rewards model scores; set it to reward"
    ]


def test_what_a_run_may_score_with_is_forecast_and_an_edge() -> None:
    section = {**TINY["rl"], "scorer": "reward", "rewards": [{"name": "correct"}, {"name": "model"}, {"name": "judge"}]}
    sections = Sections({**TINY, "rl": section})
    assert list(contracts(sections)) == []
    work = needs(sections).work
    assert work and len(work.step().frozen) == 2
    assert composed({"steps": 1}) == {"steps": 1, "scorer": "checkpoint"} and composed(section) == section
    of_checkpoint = {"rewards": [{"name": "judge", "by": "scorer"}], "scorer": "checkpoint"}
    assert [reads(given) for given in (section, {}, of_checkpoint)] == ["", "", "model"]


def test_rl_learns_what_the_reward_model_likes(tmp_path: Path) -> None:
    """Another reward model, another bound or penalty, other weights; a constant added to all scores is none."""
    found = {}
    arms: dict[str, tuple[Decoder, Model]] = {
        "mean": (scorer(), Model()),
        "lowest": (scorer(), Model(bound="lowest")),
        "spread": (scorer(), Model(bound="spread")),
        "penalty": (scorer(), Model(bound="spread", penalty=2.0)),
        "one": (scorer(members=1), Model()),
    }
    for name, (model, part) in arms.items():
        folders(tmp_path / name, reward=model)
        run(config(rewards=[part], scorer="reward"), tmp_path / name, Log())
        found[name] = digest(tmp_path / name / "rl")
    assert len(set(found.values())) == len(arms)
    base, _ = trained(tmp_path / "correct", config())
    assert base not in found.values()


def test_stopped_after_every_update_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    given = config(
        rewards=[Correct(), Model(bound="spread"), Judge(votes=2, max_new_tokens=4, pattern="(.)")], scorer="reward"
    )
    for name in ("whole", "parts"):
        folders(tmp_path / name)
    run(given, tmp_path / "whole", Log())
    (tmp_path / "scratch").mkdir()
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            run(given, tmp_path / "parts", Interrupted(tmp_path / "scratch"))
    run(given, tmp_path / "parts", Interrupted(tmp_path / "scratch"))
    assert digest(tmp_path / "parts/rl") == digest(tmp_path / "whole/rl")


def test_a_reward_model_is_trained_and_the_policy_learns_what_it_prefers(tmp_path: Path) -> None:
    """From files of pairs to a policy: of two answers that end alike the one that begins with a vowel is preferred."""
    folders(tmp_path)
    shown = [
        {"prompt": "x" * (1 + n % 3) + str(n), "chosen": "aeiou"[n % 5] + "abcde"[n % 4], "rejected": "bcdfg"[n % 5] + "abcde"[n % 4]}
        for n in range(60)
    ]  # fmt: skip
    recipe: dict[str, Any] = {"optimizer": AdamW(lr=0.003), "schedule": Cosine(), "average": Last(), "seed": 0}
    section = {"model": "sft", "steps": 60, "batch": 16, "loss": {"name": "bradley_terry"}, **recipe}
    section |= {
        "pairs": [{"name": "files"}],
        "folder": str(write_rows(tmp_path / "in", shown)),
        "held_out_fraction": 0.2,
    }
    section |= {"problems": {"name": "arithmetic"}}
    metrics = train_reward(RewardConfig.model_validate(section), tmp_path, Log())
    assert metrics["held_out_accuracy"] == 1 and metrics["held_out_calibration_error"] < 0.2
    part, said = Model(), Said()
    part.open(Models(tmp_path / "sft", tmp_path / "reward", TOKENIZER))
    vowel, other = part([answer("ic"), answer("fc")], NOW)
    assert vowel > other
    given = config(
        rewards=[Model()], scorer="reward", steps=40, prompts=8, samples=8, updates=2, optimizer=AdamW(lr=0.01)
    )
    run(given, tmp_path, said)
    rewards = [step["reward"] for step in said.steps]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 1


def test_votes_by_hand() -> None:
    assert mean_vote([1.0, 10.0, 5.5], 1.0, 10.0) == 0.5 and mean_vote([3.0], 2.0, 4.0) == 0.5
    assert math.isnan(mean_vote([], 1.0, 10.0))


@pytest.mark.parametrize(
    ("verdict", "score"),
    [
        ("Needs a number. Score: 7", 7.0),
        ("Score: 3, no: Score: 9.5\n", 9.5),
        ("Score: 11", None),
        ("Score: 0", None),
        ("good", None),
        ("", None),
    ],
)
def test_a_verdict_counts_by_its_last_score_on_the_scale(verdict: str, score: float | None) -> None:
    assert Judge().score(verdict) == score
    assert Judge(pattern="(x)|Score").score("Score: x Score") is None


def test_the_mean_is_of_the_verdicts_that_have_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter(["Score: 10", "?", "Score: 4", "?", "?", "?"])
    asked: list[list[int]] = []

    def generate(model: Decoder, prompts: list[list[int]], *rest: Any) -> list[Completion]:
        asked.extend(prompts)
        return [Completion(TOKENIZER.encode(next(said))) for _ in prompts]

    monkeypatch.setattr(judge, "generate", generate)
    part = Judge(votes=3, prompt="{question} {answer} {question}", max_new_tokens=4)
    part.open(folders(tmp_path))
    values = part([answer("{question}2"), answer("5")], NOW)
    assert values[0] == pytest.approx((7 - 1) / 9) and math.isnan(values[1])
    assert TOKENIZER.decode(asked[0]) == "1+1= {question}2 1+1=" and asked[0] == asked[2] != asked[3]
    assert "rl.rewards: judge: no vote on 1 of 2 answers" in capsys.readouterr().err


def test_an_answer_gets_the_same_verdicts_whatever_stands_beside_it_and_each_vote_is_its_own(tmp_path: Path) -> None:
    part = Judge(votes=4, prompt="{question}{answer}", max_new_tokens=6)
    part.open(folders(tmp_path))
    answers = [answer("2"), answer("no"), answer("4"), answer("y" * 44)]
    judge_of = part._judge
    assert judge_of is not None
    whole = part._verdicts(answers, *judge_of)
    assert {place for place, _ in whole} == {0, 1, 2}  # the last leaves no room for a verdict
    for place in range(3):
        mine = [text for at, text in whole if at == place]
        assert mine == [text for _, text in part._verdicts([answers[place]], *judge_of)] and len(set(mine)) > 1


def test_every_parameter_of_a_judge_counts(tmp_path: Path) -> None:
    models = folders(tmp_path, reward=scorer(bias=1.0))
    base: dict[str, Any] = {
        "votes": 4,
        "prompt": "{question}{answer}",
        "max_new_tokens": 6,
        "pattern": "([0-9])",
        "lowest": 0.0,
        "highest": 9.0,
    }
    changes: list[dict[str, Any]] = [
        {}, {"by": "scorer"}, {"votes": 6}, {"prompt": "{answer}{question}"}, {"max_new_tokens": 12}, {"temperature": 0.5},
        {"lowest": -1.0}, {"highest": 12.0}, {"pattern": "([1-9])"},
    ]  # fmt: skip
    assert {name for change in changes for name in change} | {"name", "weight"} == set(Judge.model_fields)
    answers = [answer(f"{number}") for number in range(30)]
    found = []
    for change in changes:
        part = Judge(**{**base, **change})
        part.open(models)
        found.append([None if math.isnan(value) else value for value in part(answers, NOW)])
    assert any(value is not None for value in found[0])
    assert all(one != other for place, one in enumerate(found) for other in found[:place])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "{question}"}, r"must have \{answer\} in it"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "Score"}, "has no group"),
        ({"lowest": 5.0, "highest": 5.0}, r"lowest must be below highest \(got 5 and 5\)"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Judge.model_validate(changes)
