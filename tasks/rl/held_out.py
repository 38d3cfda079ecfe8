"""Whether a policy gets better at problems that it is not asked: a few that are held out, answered greedily now and then.

K problems, R readings.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.problems.example import Example, unit_hash
from lm.training.components import Component

# Readings of which the mean is compared with that of as many before them. Fewer are noise, more are late: three and three of
# every fourth rollout are 24 of the default run's 60.
WINDOW = 3
# Standard errors by which the accuracy must be lower: what one reading in forty is by chance where nothing changes.
ERRORS = 2.0


def key_in(problems: Any, example: Example) -> str:
    """What tells a problem from others: the set's own key, by which it divides sft, rl and test, else the prompt."""
    key: Callable[[Example], str] | None = getattr(problems, "key", None)
    return example.prompt if key is None else key(example)


def split_held_out(
    examples: Sequence[Example], count: int, problems: Any = None
) -> tuple[list[Example], list[Example]]:
    """(those that the policy is asked, those that are held out), each in the order in which they came: so many, by a hash of
    their keys in this problem set, and any that have the same as one of them, such as all of one text. Raises ConfigError where
    none is left to ask."""
    hashes = [unit_hash(f"rl.held_out:{key_in(problems, example)}") for example in examples]
    limit = sorted(hashes)[count - 1] if 0 < count <= len(hashes) else float(count) - 1
    asked = [example for example, point in zip(examples, hashes, strict=True) if point > limit]
    if not asked:
        whole = ", as one text or question is never divided" if count < len(examples) else ""
        raise ConfigError(f"rl.held_out: {count} of {len(examples)} problems leave none to ask{whole}: hold fewer out")
    return asked, [example for example, point in zip(examples, hashes, strict=True) if point <= limit]


def halves(values: Sequence[float]) -> tuple[float, float]:
    """(mean of the WINDOW values before the last WINDOW, mean of those)."""
    last = values[-2 * WINDOW :]
    return sum(last[:WINDOW]) / WINDOW, sum(last[WINDOW:]) / WINDOW


def parted_ways(rewards: Sequence[float], accuracies: Sequence[float], problems: int) -> bool:
    """Whether over the last WINDOW readings, beside as many before them, the mean reward is higher while the mean accuracy is
    lower by more than ERRORS standard errors of a difference between two shares of WINDOW * problems answers each."""
    if len(accuracies) < 2 * WINDOW:
        return False
    (reward_before, reward), (before, now) = halves(rewards), halves(accuracies)
    share = (before + now) / 2
    error = math.sqrt(2 * share * (1 - share) / (WINDOW * problems))
    return reward > reward_before and before - now > ERRORS * error


class HeldOut(Component):
    """Readings of the accuracy on held-out problems, each beside the mean reward of the rollouts since the one before it. That
    the two part ways is said once a process, on stderr."""

    name = "held_out"

    def __init__(self, accuracy: Callable[[], float], problems: int, every: int) -> None:
        """accuracy(): the share of so many problems that the policy answers right as it is now, greedily; NaN where the
        verifier failed on all. every: rollouts from one reading to the next."""
        self._accuracy, self._problems, self._every = accuracy, problems, every
        self._readings_R2 = torch.empty(0, 2, dtype=torch.float64)  # mean reward, accuracy
        self._since = torch.zeros(2, dtype=torch.float64)  # sum of rewards and rollouts since the last one
        self._said = False

    def observe(self, number: int, reward: float) -> dict[str, float]:
        """The figure of a rollout, rollouts counted from 0, that earned this reward in the mean: the last accuracy that was
        read, which is that of the weights that learn from this rollout where there is a reading at it."""
        self._since += torch.tensor([reward, 1.0], dtype=torch.float64)
        if number % self._every == 0:
            mean = self._since[0] / self._since[1]
            reading = torch.stack((mean, torch.tensor(self._accuracy(), dtype=torch.float64)))
            self._readings_R2 = torch.cat((self._readings_R2, reading[None]))[-2 * WINDOW :]
            self._since.zero_()
            self._say(number)
        return {"held_out_accuracy": self._readings_R2[-1, 1].item()}

    def _say(self, number: int) -> None:
        rewards, accuracies = self._readings_R2.T.tolist()
        if not self._said and parted_ways(rewards, accuracies, self._problems):
            self._said = True
            (reward_before, reward), (before, now) = halves(rewards), halves(accuracies)
            print(
                f"rl: rollout {number}: the reward rose from {reward_before:.2g} to {reward:.2g}, while {now:.0%} of the "
                f"problems held out are right and not {before:.0%} (means of {WINDOW} readings): "
                "what earns is no longer what is asked",
                file=sys.stderr,
            )

    def state(self) -> dict[str, Tensor]:
        return {"readings": self._readings_R2, "since": self._since.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._readings_R2, self._since = state["readings"], state["since"].clone()
