"""Rewards of steps: where they end and what they earn, by hand; in a run, with and without a critic."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.problems.example import Example, Score
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.rl.advantages import Gae, Grpo
from tasks.rl.contracts import contracts
from tasks.rl.rewards import Correct, Process
from tasks.rl.rewards.base import Answer, Models, RewardContext, total_rewards
from tasks.rl.rewards.process import ends_of, shaped
from tasks.rl.stage import run
from tests.project import TINY, digest
from tests.rl.test_scorers import folders
from tests.rl.toys import TOKENIZER, config, scorer

NOW = RewardContext(0.0, 10)
EXAMPLE = Example("1", "1+1=", "2", "2")
quick = settings(deadline=None, max_examples=30, derandomize=True)


def answer(text: str) -> Answer:
    return Answer(EXAMPLE, [*TOKENIZER.encode(text), TOKENIZER.end_id], text, True, Score(1.0))


def opened(tmp_path: Path, part: Process, bias: float = 0.0) -> Process:
    """With a reward model of three heads."""
    part.open(folders(tmp_path, reward=scorer(bias)))
    return part


def test_steps_end_with_what_stands_between_them() -> None:
    ids = [*TOKENIZER.encode("ab\ncd\n\ne"), TOKENIZER.end_id]  # a token a byte
    assert ends_of(ids, TOKENIZER, "\n") == [2, 5, 6, 8]
    assert ends_of(ids, TOKENIZER, "\n\n") == [6, 8]
    # what stands behind the last mark is no step where it is nothing, and no step is bought by an empty line
    assert ends_of([*TOKENIZER.encode("ab\n"), TOKENIZER.end_id], TOKENIZER, "\n") == [2]
    assert ends_of([*TOKENIZER.encode("ab\n \n"), TOKENIZER.end_id], TOKENIZER, "\n") == [2, 4]
    assert ends_of(TOKENIZER.encode("ab"), TOKENIZER, "\n") == [1]
    assert ends_of(TOKENIZER.encode("ab\n"), TOKENIZER, "\n") == [2]


def test_a_step_ends_before_a_token_that_begins_the_next_one() -> None:
    """Tokens of words have the blank before them."""

    class Words:
        def decode(self, ids: list[int]) -> str:
            return "".join(("7+8=15", " 4+3=7", " so", " 77")[place] for place in ids)

    assert ends_of([0, 1, 2, 3], Words(), " ") == [0, 1, 2, 3]
    assert ends_of([0, 1], Words(), " ") == [0, 1]
    assert ends_of([0, 2, 0, 3], Words(), "5 ") == [0, 2, 3]


def test_clip_and_delta_by_hand() -> None:
    scores = [0.9, 0.4, 0.1, 0.7]
    assert shaped(scores, None, False) == scores
    assert shaped(scores, 0.5, False) == pytest.approx([0.0, -0.1, -0.4, 0.0])
    assert shaped(scores, None, True) == pytest.approx([0.5, 0.3, 0.1, 0.0])
    assert shaped(scores, 0.5, True) == pytest.approx([0.1, 0.3, -0.4, 0.0])
    assert shaped([0.3], None, True) == [0.0] and shaped([0.3, 0.8], None, True) == [0.3, 0.0]


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0, 1))
def test_steps_add_up_to_no_more_than_one(scores: list[float], threshold: float) -> None:
    """What the paper's two rules are for: more steps earn no more."""
    assert sum(shaped(scores, threshold, False)) <= 0
    found = sum(shaped(scores, None, True))
    assert found == pytest.approx(scores[0] if len(scores) > 1 else 0.0)


def test_a_step_has_the_score_of_the_answer_up_to_it(tmp_path: Path) -> None:
    part = opened(tmp_path, Process(clip=False, delta=False))
    one = answer("ab\ncd")
    (steps,) = part.step_rewards([one], NOW)
    assert steps is not None and [place for place, _ in steps] == [2, 5]
    model, heads = scorer().eval(), scorer().get_submodule("heads")
    for place, value in steps:
        ids = TOKENIZER.chat(EXAMPLE.prompt) + one.ids[: place + 1]
        with torch.no_grad():
            expected = heads(model.hidden(torch.tensor([ids]))[0, -1:])[0].mean().sigmoid().item()
        assert value == pytest.approx(expected, abs=1e-5)
    assert part([one], NOW) == [pytest.approx(sum(value for _, value in steps))]


@pytest.mark.parametrize(
    ("text", "wanted"), [("ab\ncd", [2, 5]), ("ab\ncd\n", [2, 5]), ("ab\ncd\n \n", [2, 5, 7]), ("ab\n", [2])]
)
def test_a_step_earns_at_its_own_last_token(text: str, wanted: list[int], tmp_path: Path) -> None:
    """Whether the answer's own last token, its end, is one of a step or stands behind the last mark; also where its beginning,
    two characters, was given."""
    part = opened(tmp_path, Process(clip=False, delta=False))
    (steps,) = part.step_rewards([answer(text)], NOW)
    assert steps is not None and [place for place, _ in steps] == wanted
    begun = Answer(EXAMPLE, [*TOKENIZER.encode(text), TOKENIZER.end_id], f"x\n{text}", True, Score(1.0))
    (steps,) = part.step_rewards([begun], NOW)
    assert steps is not None and [place for place, _ in steps] == [0, *wanted]


def test_what_does_not_fit_is_invalid_and_a_beginning_counts_for_nobody(tmp_path: Path) -> None:
    part = opened(tmp_path, Process(clip=False, delta=False))
    assert math.isnan(part([answer("2" * 60)], NOW)[0]) and part.step_rewards([answer("2" * 60)], NOW) == [None]
    begun = Answer(EXAMPLE, [*TOKENIZER.encode("d\ne"), TOKENIZER.end_id], "ab\ncd\ne", True, Score(1.0))
    (steps,) = part.step_rewards([begun], NOW)
    # the first step ended before the model began; it stands at its first token
    assert steps is not None and [place for place, _ in steps] == [0, 1, 3]


def test_parts_add_up_and_steps_stand_before_the_last_token(tmp_path: Path) -> None:
    part = opened(tmp_path, Process(clip=False, delta=False, weight=0.5))
    answers = [answer("ab\ncd"), answer("ab")]
    found = total_rewards([Correct(), part], answers, NOW)
    (first, last), (only,) = part.step_rewards(answers, NOW)
    assert found.steps == [[(2, pytest.approx(0.5 * first[1]))], []]
    assert found.each == pytest.approx([1 + 0.5 * (first[1] + last[1]), 1 + 0.5 * only[1]])


def test_every_parameter_changes_what_is_earned(tmp_path: Path) -> None:
    answers = [answer("ab\ncdx\nexf\ng")]
    arms = [
        Process(),
        Process(delta=False),
        Process(clip=False),
        Process(clip=False, delta=False),
        Process(threshold=0.9),
        Process(mark="x"),
        Process(bound="lowest"),
        Process(bound="spread"),
        Process(bound="spread", penalty=2.0),
    ]
    found = [
        opened(tmp_path / str(place), part, bias=-3.0).step_rewards(answers, NOW) for place, part in enumerate(arms)
    ]
    assert all(found.count(each) == 1 for each in found)


def test_rl_learns_it_with_a_critic_and_without(tmp_path: Path) -> None:
    found = set()
    part = Process(clip=False, delta=False)
    for place, (rewards, advantage) in enumerate(product([[Correct()], [Correct(), part]], [Gae(), Grpo()])):
        folders(tmp_path / str(place))
        run(config(rewards=rewards, scorer="reward", advantage=advantage), tmp_path / str(place), Log())
        found.add(digest(tmp_path / str(place) / "rl"))
    assert len(found) == 4


def test_it_asks_for_a_reward_model_and_for_answers_of_the_model_alone() -> None:
    def said(**changes: object) -> list[str]:
        section = {**TINY["rl"], "rewards": [{"name": "correct"}, {"name": "process"}], **changes}
        return [finding.where for finding in contracts(Sections({**TINY, "rl": section}))]

    assert said() == ["params.yaml: rl.scorer"] and said(scorer="reward") == []
    where = said(scorer="reward", environment={"name": "calculator", "turns": 1, "result_tokens": 4})
    assert "params.yaml: rl.rewards" in where


def test_models_are_read_by_its_base(tmp_path: Path) -> None:
    models = folders(tmp_path)
    assert isinstance(models, Models) and opened(tmp_path, Process()).models[0].num_parameters()
