"""PPO's critic: what it makes of a token's worth, by hand and by the formula, and how it learns in a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from lm.config import ConfigError
from lm.heads import heads_of
from lm.optimizers import AdamW
from tasks.about.sections import Sections
from tasks.core.process import Stopped
from tasks.rl.advantages import Gae, Grpo
from tasks.rl.advantages.base import advantages_and_returns
from tasks.rl.contracts import contracts
from tasks.rl.critic import Critic, critic_of, rewards_at, value_loss
from tasks.rl.demonstrations import Hybrid
from tasks.rl.needs import needs
from tasks.rl.stage import run
from tests.project import TINY, digest
from tests.rl.toys import TOKENIZER, Interrupted, Parity, config, learning, policy, scorer, trained

quick = settings(deadline=None, max_examples=40, derandomize=True)


def earned(rewards: list[float], mask: Tensor) -> Tensor:
    """Rewards at each answer's last token that counts."""
    return rewards_at(torch.tensor(rewards), [[]] * len(rewards), mask)


def test_by_hand() -> None:
    # values 0.5, 0.2, 0.4 of an answer that earns 1: errors -0.3, 0.2, 0.6; decay 0.5 adds half of the one behind
    values, mask = torch.tensor([[9.0, 0.5, 0.2, 0.4, 9.0]]), torch.tensor([[0.0, 1, 1, 1, 0]])
    advantages, returns = advantages_and_returns(earned([1.0], mask), values, mask, 1.0, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0, -0.3 + 0.25, 0.2 + 0.3, 0.6, 0]]))
    torch.testing.assert_close(returns, torch.tensor([[0, 0.45, 0.7, 1.0, 0]]))


def by_the_formula(reward: float, values: list[float], discount: float, decay: float) -> list[float]:
    """Equation 16 over an answer's own tokens, the reward for the last of them."""
    T = len(values)
    errors = [
        (reward if t + 1 == T else 0) + discount * (values[t + 1] if t + 1 < T else 0) - values[t] for t in range(T)
    ]
    return [sum((discount * decay) ** (k - t) * errors[k] for k in range(t, T)) for t in range(T)]


@quick
@given(
    seed=st.integers(0, 1000), discount=st.sampled_from([1.0, 0.9]), decay=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    answers=st.integers(1, 4), longest=st.integers(1, 9),
)  # fmt: skip
def test_by_the_formula_over_the_tokens_that_the_model_wrote(
    seed: int, discount: float, decay: float, answers: int, longest: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, rewards = torch.randn(answers, longest, generator=generator), torch.randn(answers, generator=generator)
    mask = (torch.rand(answers, longest, generator=generator) < 0.6).float()
    advantages, returns = advantages_and_returns(
        rewards_at(rewards, [[]] * answers, mask), values, mask, discount, decay
    )
    assert not advantages[mask == 0].any() and not returns[mask == 0].any()
    torch.testing.assert_close((advantages + values)[mask > 0], returns[mask > 0])
    for row in range(answers):
        own = mask[row] > 0
        expected = by_the_formula(rewards[row].item(), values[row][own].tolist(), discount, decay)
        # a sum of nine products of numbers about 1 in fp32
        torch.testing.assert_close(advantages[row][own], torch.tensor(expected), rtol=0, atol=1e-5)


def test_without_decay_of_its_trust_in_rewards_it_is_the_reward_less_the_value() -> None:
    values, mask = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5)
    advantages, returns = advantages_and_returns(earned([1.0, 0.0, 0.5], mask), values, mask, 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[1.0], [0.0], [0.5]]).expand(3, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(advantages, returns - values)


def test_what_is_earned_on_the_way_stands_where_it_is() -> None:
    """Of an answer of three tokens and one of an environment; a second one without a token."""
    mask = torch.tensor([[0.0, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
    found = rewards_at(torch.tensor([1.0, 5.0]), [[(0, 0.25), (1, -0.5)], [(0, 1.0)]], mask)
    assert found.tolist() == [[0, 0.25, 0, -0.5, 1.25], [0] * 5]
    # without a critic's word and without decay a token's advantage is all that comes from it on
    advantages, _ = advantages_and_returns(found, torch.zeros(2, 5), mask, 1.0, 1.0)
    assert advantages.tolist() == [[0, 1.0, 0, 0.75, 1.25], [0] * 5]


def test_the_loss_of_a_value_by_hand() -> None:
    # from 0 to 0.5 where 1 is due: held at 0.2, an error of 0.8 counts; past what is due nothing is held that helps
    found = value_loss(torch.tensor([0.5, 0.1, 2.0]), torch.zeros(3), torch.tensor([1.0, 1.0, 0.1]), 0.2)
    torch.testing.assert_close(found, torch.tensor([0.64 / 2, 0.81 / 2, 1.9**2 / 2]))


def value_gradient(value: float) -> float:
    x = torch.tensor([value], requires_grad=True)
    value_loss(x, torch.zeros(1), torch.ones(1), 0.2).sum().backward()
    assert x.grad is not None
    return x.grad.item()


def test_a_value_that_has_gone_far_enough_is_pulled_no_further() -> None:
    assert value_gradient(0.1) < 0 and value_gradient(0.5) == 0


class Lettered(Parity):
    """An answer earns what its problem's first number says, whatever it is."""

    def score(self, example: Any, text: str) -> Any:
        return super().score(example, text).__class__(float(int(example.id) % 2))


def critic(method: Gae) -> Critic:
    return Critic(method, critic_of(method, policy(), None, TOKENIZER), config(), 60, 4, TOKENIZER.pad_id)


def test_it_learns_what_answers_earn() -> None:
    """Rewards that follow from the problem alone: what is left to explain falls, and no advantage stays."""
    given = config(Lettered(), advantage=Gae(), optimizer=AdamW(lr=0.01, weight_decay=0.0), steps=60, prompts=12)
    learned = learning(given)
    assert learned.critic is not None
    losses, explained = [], []
    for step in range(given.steps):
        batch = learned.batch_at(step)
        losses.append(batch.metrics["value_loss"])
        explained.append(batch.metrics["explained_variance"])
    assert explained[0] == 0 and batch.metrics["value"] == pytest.approx(0.5, abs=0.1)
    assert sum(losses[-8:]) < 0.2 * sum(losses[:8]) and explained[-1] > 0.8
    prompts = [TOKENIZER.chat(example.prompt) for example in given.problems.examples("rl")]
    apart = learned.critic.predict_values(prompts) - torch.arange(12) % 2
    assert apart.abs().mean() < 0.2


def test_values_are_of_tokens_before_they_are_chosen() -> None:
    """A value follows from what stands before a token, and from nothing behind it."""
    judge = critic(Gae())
    torch.nn.init.normal_(judge.model.get_submodule("heads").weight, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 8)
    mask[:, 3:] = 1
    values = judge.values(ids, mask)
    changed = ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 40
    after = judge.values(changed, mask)
    assert torch.equal(values[:, :6], after[:, :6]) and not torch.isclose(values[:, 6:], after[:, 6:]).any()
    assert not values[:, :3].any()
    expected = judge.predict_values([ids[0, :4].tolist(), ids[1, :4].tolist()])
    torch.testing.assert_close(expected, values[:, 3], rtol=0, atol=1e-5)  # sums of other lengths of rows


def test_answers_that_all_earn_the_same_teach_a_policy_with_a_critic() -> None:
    """A baseline from outside of the group tells that a problem's answers are all good."""
    learned = learning(config(Lettered(), advantage=Gae()))
    rollout, _ = learned.rollouts.at(0)
    assert (rollout.advantages_BT != 0).any() and rollout.returns_BT is not None
    assert not learning(config(Lettered(), advantage=Grpo())).rollouts.at(0)[0].advantages_BT.any()


def test_a_demonstration_stands_in_the_place_of_answers_with_a_critic_too() -> None:
    """Of right ones too: where some of a problem's answers are right, they earn more than a critic without weights expects."""

    class Mixed(Parity):
        def score(self, example: Any, text: str) -> Any:
            return super().score(example, text).__class__(float(sum(text.encode()) % 2))

    given = config(Mixed(), advantage=Gae(), demonstrations=Hybrid(gate=0.99))
    rollout, _ = learning(given).rollouts.at(0)
    assert rollout.shown_DN is not None and rollout.values_BT is not None and rollout.returns_BT is not None
    right_GS = rollout.returns_BT.any(1).view(-1, given.samples)
    some_G = right_GS.any(1) & ~right_GS.all(1)
    assert some_G.any() and not rollout.advantages_BT[some_G.repeat_interleave(given.samples)].any()


def test_the_same_bits_after_a_kill_and_from_its_state(tmp_path: Path) -> None:
    given = config(advantage=Gae())
    whole, said = trained(tmp_path / "whole", given)
    assert whole != trained(tmp_path / "grpo", config())[0]
    assert {"value", "value_loss", "explained_variance"} <= said[0].keys()
    folder = tmp_path / "killed"
    first, _ = trained(folder, given.model_copy(update={"steps": 1}))
    log = Interrupted(tmp_path / "scratch")
    log.scratch.mkdir()
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            run(given, folder, log)
    log.stopping = False
    run(given, folder, log)
    assert digest(folder / "rl") == whole != first


def test_it_may_begin_as_a_reward_model(tmp_path: Path) -> None:
    method = Gae(start="scorer")
    trained(tmp_path / "a", config(advantage=method))
    begun = critic_of(method, policy(), tmp_path / "a" / "checkpoint", TOKENIZER)
    assert begun.get_submodule("heads").out_features == scorer().get_submodule("heads").out_features
    with pytest.raises(ConfigError, match=r"no heads that score; set rl.scorer: reward, or start: policy"):
        critic_of(method, policy(), tmp_path / "a" / "sft", TOKENIZER)


def sections(*changes: dict[str, Any]) -> Sections:
    params = {**TINY, "rl": {**TINY["rl"], **{k: v for change in changes for k, v in change.items()}}}
    return Sections(params)


def test_what_it_takes_and_what_it_asks_for() -> None:
    plain, judged = (needs(sections({"advantage": {"name": name}})).work for name in ("grpo", "gae"))
    assert plain is not None and judged is not None
    assert len(judged.step().frozen) - len(plain.step().frozen) == 3
    (found,) = contracts(sections({"advantage": {"name": "gae", "start": "scorer"}, "samples": 4}))
    assert found.where == "params.yaml: rl.scorer"
    with pytest.raises(ValidationError, match="set replay to 0"):
        config(advantage=Gae(), replay=4)


def test_how_far_values_go_is_bounded_in_a_run(tmp_path: Path) -> None:
    """Where they go far: at a rate of ten times the policy's."""
    digests = {
        trained(tmp_path / str(clip), config(advantage=Gae(rate=10.0, clip=clip)))[0] for clip in (0.05, 0.2, 10.0)
    }
    assert len(digests) == 3


def test_memory_does_not_grow_with_the_answers_to_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A critic reads no more positions at once than it is let, whatever rl.samples is, and comes to the same values and the same
    weights to rounding."""
    from tasks.rl import critic as room
    from tasks.rl import rollout as held

    given = config(advantage=Gae(), samples=32, updates=1)
    read, real = list[int](), room.hidden_at

    def counted(model: torch.nn.Module, ids_RT: Tensor, places_K: Tensor) -> Tensor:
        read.append(ids_RT.shape[0] * (ids_RT.shape[1] + 1))
        return real(model, ids_RT, places_K)

    monkeypatch.setattr(room, "hidden_at", counted)
    found = []
    for most in (held.POSITIONS, 100, 1):
        monkeypatch.setattr(held, "POSITIONS", most)
        read.clear()
        learner = learning(given)
        assert learner.critic
        torch.nn.init.ones_(heads_of(learner.critic.model).weight)  # it begins as zeros, of which all values are
        rollout = learner._rollout(0)
        loss = learner.critic.learn(0, rollout, torch.arange(len(rollout.ids_BN)))
        longest = rollout.ids_BN.shape[1]
        assert rollout.values_BT is not None and rollout.values_BT.std() > 0.1
        assert max(read) <= max(most, longest) and (most > 1000 or max(read) < 32 * longest)
        found.append((rollout.values_BT, loss["value_loss"], learner.critic.state()))
    for values_BT, loss, state in found[1:]:
        torch.testing.assert_close(values_BT, found[0][0], rtol=1e-4, atol=1e-6)
        assert loss == pytest.approx(found[0][1], rel=1e-5)
        means = [name for name in state if name.startswith("slot.exp_avg.")]
        assert means
        for name in means:  # of gradients, sums in another order; an update has the sign of one that is near 0, too
            torch.testing.assert_close(state[name], found[0][2][name], rtol=1e-3, atol=1e-6)
