"""Groups that are kept and come again where a rollout teaches nothing."""

import pytest
import torch

from tasks.rl.replay import Replay
from tasks.rl.rollout import Rollout

PAD = 9


def rollout(advantages: list[list[float]], tokens: int, first: int) -> Rollout:
    """One whose ids count from `first`, with two answers to each problem, the last token of the second one masked."""
    given = torch.tensor(advantages)
    B = given.numel()
    ids = first + torch.arange(B * (tokens + 1)).view(B, tokens + 1)
    mask = torch.ones(B, tokens)
    mask[1::2, -1] = 0
    old = -ids[:, 1:].float()
    return Rollout(ids, mask, old, given.flatten(), {"reward": 0.5}, 2 * old)


def replay(most: int = 4, seed: int = 0) -> Replay:
    return Replay(most, 2, PAD, seed)


def test_a_group_that_teaches_nothing_gives_way_to_one_that_did() -> None:
    kept = replay()
    first = kept.fill_groups(0, rollout([[1.0, -1.0], [0.0, 0.0]], 3, 100))
    assert first.metrics == {"reward": 0.5, "replayed": 0.0}
    assert torch.equal(first.ids_BN, rollout([[1.0, -1.0], [0.0, 0.0]], 3, 100).ids_BN)
    second = kept.fill_groups(1, rollout([[0.0, 0.0], [0.5, -0.5]], 2, 500))
    assert second.metrics["replayed"] == 0.5
    # the first group is the other rollout's, a token longer, with all that belongs to it; the second is filled up
    assert second.ids_BN.tolist() == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [506, 507, 508, PAD],
        [509, 510, 511, PAD],
    ]
    assert second.mask_BT.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert second.advantages_BT.flatten().tolist() == [1.0, -1.0, 0.5, -0.5]
    assert second.logp_old_BT[0].tolist() == [-101, -102, -103] and second.reference_BT[0].tolist() == [
        -202,
        -204,
        -206,
    ]


def test_a_group_of_its_own_rollout_is_no_replay() -> None:
    assert replay().fill_groups(0, rollout([[1.0, -1.0], [0.0, 0.0]], 3, 0)).advantages_BT.flatten().tolist() == [
        1,
        -1,
        0,
        0,
    ]


def test_groups_come_by_their_mean_absolute_advantage_and_once_a_rollout() -> None:
    drawn = []
    for seed in range(60):
        kept = replay(seed=seed)
        kept.fill_groups(0, rollout([[3.0, -3.0], [1.0, -1.0]], 1, 0))
        both = kept.fill_groups(1, rollout([[0.0, 0.0], [0.0, 0.0]], 1, 50))
        assert sorted(both.advantages_BT.flatten().tolist()) == [-3, -1, 1, 3]
        drawn.append(both.advantages_BT[0].item())
    # three of four in the mean; 60 draws lie within 0.15 of it but for one time in 200
    assert drawn.count(3.0) / 60 == pytest.approx(0.75, abs=0.15)


def test_the_oldest_are_forgotten() -> None:
    kept = replay(most=1)
    kept.fill_groups(0, rollout([[1.0, -1.0], [2.0, -2.0]], 1, 0))
    filled = kept.fill_groups(1, rollout([[0.0, 0.0], [0.0, 0.0]], 1, 0))
    assert filled.advantages_BT.flatten().tolist() == [2, -2, 0, 0] and filled.metrics["replayed"] == 0.5


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    whole, parts = replay(), replay()
    for number in range(6):
        idle = [0.0, 0.0] if number % 2 else [0.5, -0.5]
        given = rollout([[number + 1.0, -1.0], idle], 1 + number % 3, 10 * number)
        expected, found = whole.fill_groups(number, given), parts.fill_groups(number, given)
        wanted = expected.tensors()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.tensors().items())
        state = {name: tensor.clone() for name, tensor in parts.state().items()}
        parts = replay()
        parts.load(state)
    assert replay().state() == {}
