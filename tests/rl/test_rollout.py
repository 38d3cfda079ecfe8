"""Rollouts: what an update reads of the answers, and in which order."""

import torch

from tasks.rl.environments.base import Transcript
from tasks.rl.rollout import Rollout, Rollouts, rollout_of


def test_an_update_reads_what_was_sampled() -> None:
    """Tokens of answers with a verdict, each with its own log-probability; neither prompts, nor padding, nor results, nor the
    others."""
    prompts = [[1, 2, 3], [4], [1, 2]]
    completions = [
        Transcript([5, 6], [-0.5, -0.25], True, [True, True]),
        Transcript([7], [-2.0], False, [True]),
        Transcript([8, 9], [-1.0, -3.0], True, [True, True]),
    ]
    mask, advantages = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.25, -0.25, 0.0]])
    got = rollout_of(prompts, completions, mask, advantages, {"reward": 0.75}, 0)
    assert got.ids_BN.tolist() == [[1, 2, 3, 5, 6], [4, 7, 0, 0, 0], [1, 2, 8, 9, 0]]
    assert got.mask_BT.tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert (got.logp_old_BT * got.mask_BT).tolist() == [[0, 0, -0.5, -0.25], [-2, 0, 0, 0], [0, 0, 0, 0]]
    assert got.advantages_BT.flatten().tolist() == [0.25, -0.25, 0]
    assert got.metrics == {"reward": 0.75} and got.reference_BT is None
    called = Transcript([5, 7, 7, 6], [-0.5, 0.0, 0.0, -0.25], True, [True, False, False, True])
    (mask_T,) = rollout_of(prompts[:1], [called], torch.ones(1, 1), torch.ones(1, 1), {}, 0).mask_BT.tolist()
    assert mask_T == [0, 0, 1, 0, 0, 1]


def _rollout(problems: int, samples: int = 2) -> Rollout:
    B = problems * samples
    numbers = torch.arange(B * 3.0).view(B, 3)
    mask = torch.ones(B, 3)
    mask[1] = 0
    return Rollout(
        torch.arange(B * 4).view(B, 4),
        mask,
        -numbers,
        numbers[:, 0],
        {"reward": 0.1, "a second": 0.2},
        -2 * numbers,
    )


def test_a_pass_is_over_every_answer_once_in_whole_problems() -> None:
    rollouts = Rollouts(lambda number: _rollout(6), 6, updates=2, minibatches=3, seed=0)
    orders = []
    for turn in range(4):
        rows = [rollouts.at(3 * turn + part)[1] for part in range(3)]
        assert sorted(torch.cat(rows).tolist()) == list(range(12))
        assert all((part.view(2, 2)[:, 0] % 2 == 0).all() and (part.view(2, 2).diff() == 1).all() for part in rows)
        orders.append(torch.cat(rows).tolist())
    assert len(set(map(tuple, orders))) > 1


def test_a_rollout_is_made_once_and_carried_over() -> None:
    made: list[int] = []

    def make(number: int) -> Rollout:
        made.append(number)
        return _rollout(4 + number, 2)

    whole, parts = (Rollouts(make, 4, updates=2, minibatches=2, seed=0) for _ in range(2))
    expected = [whole.at(step) for step in range(4)]
    assert made == [0] and not whole.state()
    for step in range(4):
        found, rows = parts.at(step)
        wanted = expected[step][0].tensors()
        assert all(torch.equal(tensor, wanted.pop(name)) for name, tensor in found.tensors().items()) and not wanted
        assert list(found.metrics.items()) == [("reward", 0.1), ("a second", 0.2)]
        assert torch.equal(rows, expected[step][1])
        state = {name: tensor.clone() for name, tensor in sorted(parts.state().items())}
        assert bool(state) == (step < 3)
        parts = Rollouts(make, 4, updates=2, minibatches=2, seed=0)
        parts.load(state)
    assert made == [0, 0]
