"""Online preferences: the loss of pairs by hand and beside the stage preference's, and which answers an update holds."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lm.config import Config, methods_of
from lm.optimizers import AdamW
from tasks.preference.losses import Dpo, Ipo
from tasks.preference.losses.base import Logps
from tasks.rl import losses
from tasks.rl.advantages import BestAndWorst
from tasks.rl.demonstrations import Interleaved
from tasks.rl.losses import OnlineDpo
from tasks.rl.rewards import Overlong
from tests.gradients import equals_finite_differences
from tests.rl.toys import config, learning, policy, trained

PAIRED = [method for method in methods_of(losses) if method.together == 2]
EVERY = pytest.mark.parametrize("method", PAIRED, ids=lambda method: method.__name__)
OBJECTIVES = pytest.mark.parametrize("objective", ["dpo", "ipo"])


def pairs(count: int = 3, longest: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logp_BT, reference_BT, advantages_B1, mask_BT; float64. Answers of 1, 2, 3... tokens; of the second pair the worse
    one stands first."""
    generator = torch.Generator().manual_seed(0)
    logp, reference = (-torch.rand(2 * count, longest, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.arange(longest) <= torch.arange(2 * count)[:, None] % longest).double()
    signs = torch.tensor([[1.0], [-1.0]] * count).double()
    signs[2:4] *= -1
    return logp, reference, signs, mask


def test_by_hand() -> None:
    # Log-ratios to the reference of the answers: better 0.5 (two tokens: 0.2 + 0.3), worse -1; the margin is 1.5 nats.
    logp = torch.tensor([[-2.0, -9.0], [-0.8, -0.7]])
    reference = torch.tensor([[-1.0, 0.0], [-1.0, -1.0]])
    weights = torch.tensor([[0.5, 0.0], [0.25, 0.25]])
    given = logp, logp + 0.4, torch.tensor([[-1.0], [1.0]]), weights, reference
    loss, metrics = OnlineDpo(beta=0.2).compute(*given)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.3)), abs=1e-6)
    assert metrics["margin"].item() == pytest.approx(0.3, abs=1e-6) and metrics["pair_accuracy"] == 1
    loss, metrics = OnlineDpo(objective="ipo", beta=0.2).compute(*given)
    assert loss.item() == pytest.approx((1.5 - 2.5) ** 2, abs=1e-5) and metrics["margin"].item() == pytest.approx(1.5)


@OBJECTIVES
def test_it_is_the_loss_of_the_stage_preference_of_the_same_pairs(objective: str) -> None:
    logp, reference, signs, mask = pairs()
    method = OnlineDpo(objective=objective, beta=0.3)
    loss, metrics = method.compute(logp, logp, signs, method.weights(mask, 9), reference)
    better, worse = [0, 3, 4], [1, 2, 5]
    sums = [(x * mask).sum(1) for x in (logp, reference)]
    tokens = mask.sum(1)
    sides = sums[0][better], sums[0][worse], sums[1][better], sums[1][worse], tokens[better], tokens[worse]
    other = Dpo(beta=0.3) if objective == "dpo" else Ipo(tau=0.3)
    loss_P, margin_P = other(Logps(*sides))
    torch.testing.assert_close(loss, loss_P.mean())
    torch.testing.assert_close(metrics["margin"], margin_P.mean())
    assert metrics["pair_accuracy"].item() == pytest.approx((margin_P > 0).double().mean().item())


@EVERY
@OBJECTIVES
def test_what_a_loss_of_pairs_must_do(method: type[Config], objective: str) -> None:
    """Its gradient is that of finite differences; parts add up; what is outside of the mask does not matter; pairs without a
    weight have no gradient; of the policy that sampled the better answer becomes likelier and the worse one less likely."""
    logp, reference, signs, mask = pairs()
    loss_of = method(objective=objective)
    weights = loss_of.weights(mask, 9)
    assert weights.sum().item() == pytest.approx(1)
    equals_finite_differences(lambda x: loss_of.compute(x, logp, signs, weights, reference)[0], logp, loss_of.holds)
    whole, metrics = loss_of.compute(logp, logp, signs, weights, reference)
    parts = [loss_of.compute(logp[s], logp[s], signs[s], weights[s], reference[s]) for s in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(whole, sum(loss for loss, _ in parts))
    for name, figure in metrics.items():
        torch.testing.assert_close(figure, sum(more[name] for _, more in parts))
    spoiled = torch.where(mask > 0, logp, -torch.inf).requires_grad_()
    dirty, _ = loss_of.compute(spoiled, logp, signs, weights, torch.where(mask > 0, reference, torch.nan))
    assert dirty == whole
    dirty.backward()
    assert torch.isfinite(spoiled.grad).all() and not spoiled.grad[mask == 0].any()
    assert (spoiled.grad * signs)[mask > 0].lt(0).all()
    nothing = logp.clone().requires_grad_()
    loss_of.compute(nothing, logp, 0 * signs, 0 * weights, reference)[0].backward()
    assert not nothing.grad.any()
    with pytest.raises(ValueError, match="needs reference_BT"):
        loss_of.compute(logp, logp, signs, weights)


@pytest.mark.parametrize("shards", [1, 2])
def test_an_update_holds_the_pairs_side_by_side_and_is_their_mean(shards: int) -> None:
    """Its gradient is that of the formula over all pairs of the update, from log-probabilities of whole rows."""
    given = config(loss=OnlineDpo(), advantage=BestAndWorst(), shards=shards, prompts=6, updates=1, replay=4)
    model, plain = policy(), policy()
    batch = learning(given, model).batch_at(0)
    assert batch.together == 2 and batch.rows % (2 * shards) == 0
    rollout, rows_M = learning(given, policy()).rollouts.at(0)
    signs = rollout.advantages_BT[rows_M, 0]
    chosen, rejected = rows_M[signs > 0], rows_M[signs < 0]
    assert 0 < len(chosen) == len(rejected) and len(chosen) < len(rows_M) // given.samples + 1

    def ratios(rows: Tensor) -> Tensor:
        ids = rollout.ids_BN[rows]
        logps = (plain(ids[:, :-1]) / given.temperature).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return ((logps - rollout.reference_BT[rows]) * rollout.mask_BT[rows]).sum(1)

    margin = 0.1 * (ratios(chosen) - ratios(rejected))
    wanted = -torch.nn.functional.logsigmoid(margin).mean()
    wanted.backward()
    loss, metrics = batch.loss(slice(0, batch.rows))
    loss.backward()
    torch.testing.assert_close(loss, wanted)
    assert abs(metrics["margin"]) < 1e-5  # the policy is the start model: rounding alone
    for got, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, other.grad, rtol=1e-4, atol=1e-6)  # sums in another order, fp32


def test_demonstrations_stand_behind_whole_pairs() -> None:
    given = config(loss=OnlineDpo(), advantage=BestAndWorst(), demonstrations=Interleaved(batch=1), prompts=6)
    learner = learning(given)
    rollout = learner._rollout(0)
    shown = torch.ones(3, 9, dtype=torch.int64), torch.ones(3, 8) / 8
    learner.rollouts._make = lambda number: replace(rollout, shown_DN=shown[0], shown_weights_DT=shown[1])
    batch = learner.batch_at(0)
    signs = batch.content[3][:, 0].view(-1, 2)
    assert batch.rows % 2 == 0 and not signs.sum(1).any() and signs.any()
    assert torch.isfinite(batch.loss(slice(0, batch.rows))[0])


def test_pairs_are_asked_of_an_advantage_that_makes_them() -> None:
    with pytest.raises(ValidationError, match="set advantage to {name: best_and_worst}"):
        config(loss=OnlineDpo())


def test_a_policy_learns_from_its_own_pairs(tmp_path: Path) -> None:
    """Shorter answers earn more: -1 of the longest of six tokens, -1/6 of a single one."""
    given = config(
        loss=OnlineDpo(), advantage=BestAndWorst(), rewards=[Overlong(buffer=1.0)], optimizer=AdamW(lr=0.003),
        steps=10, prompts=6, updates=1, minibatches=1,
    )  # fmt: skip
    _, steps = trained(tmp_path, given)
    assert steps[-1]["reward"] > steps[0]["reward"] + 0.1
    assert abs(steps[0]["margin"]) < 1e-5 and max(said["margin"] for said in steps) > 0.01
