"""Dynamic sampling: problems whose answers all earned the same give way to others, so many times and no more."""

import pytest
import torch

from lm.problems.example import Example, Score
from tasks.rl.advantages import Grpo, Remax
from tasks.rl.answers import Verdicts
from tests.rl.toys import Parity, config, learning


class Even(Parity):
    """Problems with an even number are answered alike whatever is said."""

    def score(self, example: Example, text: str) -> Score:
        return Score(0.5) if int(example.id) % 2 == 0 else super().score(example, text)


class Alike(Parity):
    def score(self, example: Example, text: str) -> Score:
        return Score(1.0)


def test_which_problems_teach() -> None:
    rewards = torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.5, 9.0], [1.0, 9.0, 9.0], [torch.nan] * 3])
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert Verdicts([], [], rewards, mask, rewards, [], []).equal_rewards_G().tolist() == [False, True, True, True]


def test_problems_that_teach_nothing_give_way_to_others() -> None:
    given = config(Even(), resample=20, samples=6)
    rollout = learning(given)._rollout(0)
    assert rollout.ids_BN.shape[0] == 24 and rollout.metrics["problems_asked"] > 4 and rollout.metrics["left_out"] > 0
    # every group that is left has answers that differ in what they earned
    assert (rollout.advantages_BT.view(4, 6).abs().sum(1) > 0).all()
    plain = learning(config(Even(), samples=6))._rollout(0)
    assert "left_out" not in plain.metrics and not (plain.advantages_BT.view(4, 6).abs().sum(1) > 0).all()


def test_it_asks_no_more_than_it_may_and_what_is_left_counts_for_nothing() -> None:
    for advantage in (Grpo(), Remax()):
        rollout = learning(config(Alike(), resample=2, advantage=advantage))._rollout(0)
        assert rollout.metrics["problems_asked"] == 12 and rollout.metrics["left_out"] == 1
        assert rollout.ids_BN.shape[0] == 16 and not rollout.mask_BT.any() and not rollout.advantages_BT.any()
        assert rollout.metrics["reward"] == pytest.approx(1.0)


def test_each_draw_has_answers_of_its_own() -> None:
    class Once(Alike):
        def examples(self, split: str) -> list[Example]:
            return super().examples(split)[:1]

    whole = learning(config(Once(), prompts=2))
    first, second = (whole._draw(whole.chooser.choose(0, draw, 2), 0, draw)[0] for draw in (0, 1))
    assert [c.ids for c in first.completions] != [c.ids for c in second.completions]
