"""Signs that a run is not worth going on with, and that what is sampled is what is trained."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lm.config import ConfigError
from tasks.rl.rollout import Rollout
from tasks.rl.trust import PolicyMonitor, check_sampler, entropy_of
from tests.rl.toys import Parity, config, learning, policy

SPOILT: dict[str, Callable[[Rollout], Rollout]] = {
    "mask off by one": lambda r: replace(r, mask_BT=r.mask_BT.roll(1, 1)),
    "probabilities of other tokens": lambda r: replace(r, logp_old_BT=r.logp_old_BT.roll(1, 0)),
    "another temperature": lambda r: replace(r, logp_old_BT=r.logp_old_BT * 0.7),
    "no number": lambda r: replace(r, logp_old_BT=r.logp_old_BT * torch.nan),
}


def test_sampler_and_trainer_agree() -> None:
    model = policy()
    check_sampler(model, learning(config(), model)._rollout(0), 0.7, 4)


@pytest.mark.parametrize("what", SPOILT)
def test_a_sampler_that_disagrees_stops_the_run(what: str) -> None:
    model = policy()
    rollout = learning(config(), model)._rollout(0)
    with pytest.raises(ConfigError, match="^rl: log-probabilities of the sampler are .* nats from those of training"):
        check_sampler(model, SPOILT[what](rollout), 0.7, 4)


def test_stale_weights_stop_the_run_before_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler draws from other weights than those that train."""
    from tasks.rl import answers

    other = policy()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.3)
    real = answers.generate
    monkeypatch.setattr(answers, "generate", lambda model, *rest: real(other, *rest))
    with pytest.raises(ConfigError, match="the model samples otherwise than it trains"):
        learning(config()).batch_at(0)


def seen(logp: float, tokens: float, finished: float, advantage: float) -> Rollout:
    """A rollout of eight problems with two answers each, whose tokens have this log-probability."""
    metrics = {"completion_tokens": tokens, "finished": finished}
    given = torch.full((16, 3), logp)
    return Rollout(torch.zeros(16, 4), torch.ones(16, 3), given, torch.full((16,), advantage), metrics)


def test_entropy_is_that_of_the_tokens_that_count() -> None:
    rollout = seen(-2.0, 3, 1, 1.0)
    mask = rollout.mask_BT.clone()
    mask[8:] = 0
    rollout.logp_old_BT[8:] = -9
    assert entropy_of(replace(rollout, mask_BT=mask)) == pytest.approx(2.0)


def test_each_sign_is_said_once_and_of_a_good_run_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch = PolicyMonitor(8)
    watch.observe(0, seen(-2.0, 10, 0.9, 1.0))
    watch.observe(1, seen(-0.5, 30, 0.9, 1.0))  # surer and longer, but ended
    assert capsys.readouterr().err == ""
    for number in (2, 3):
        watch.observe(number, seen(-0.1, 30, 0.3, 0.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rl: rollout 2: to 100% of the problems all answers earned the same, from which nothing is learned",
        "rl: rollout 2: a token has 0.1 nats of entropy left of 2 at first: answers hardly differ",
        "rl: rollout 2: answers grew from 10 to 30 tokens, and 70% are cut off",
    ]


def test_it_compares_with_the_first_rollout_though_it_was_killed(capsys: pytest.CaptureFixture[str]) -> None:
    watch, other = PolicyMonitor(8), PolicyMonitor(8)
    assert watch.state() == {}
    watch.observe(0, seen(-2.0, 10, 0.9, 1.0))
    other.load({name: tensor.clone() for name, tensor in watch.state().items()})
    other.observe(5, seen(-0.1, 10, 0.9, 1.0))
    assert "0.1 nats of entropy left of 2" in capsys.readouterr().err


def test_few_problems_may_be_alike_by_chance(capsys: pytest.CaptureFixture[str]) -> None:
    learning(config(Parity(verdicts=False)))._rollout(0)
    assert capsys.readouterr().err == ""
