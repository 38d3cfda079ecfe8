"""Rollouts: answers sampled to some problems and rewarded, as the updates that follow read them.

G problems, S samples of each, B = G x S answers problem by problem, T predictions, N = T + 1 tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lm.training.components import Component
from lm.training.data.conversations import Conversation, collate
from tasks.rl.environments.base import Transcript

# What the names of figures begin with in a checkpoint, which does not keep the order of its tensors, as curves do.
FIGURE = "figure"
# Positions, padding counted, that are read together at most where a rollout is read as a whole, whatever rl.samples is: 170
# answers of the default's length. A constant, since how many rows a product has decides its last bits.
POSITIONS = 8192


@dataclass(frozen=True)
class Rollout:
    """ids_BN; mask_BT, 1 where the predicted token is the model's own, of an answer that counts; logp_old_BT (nats), that of
    each token of an answer when it was sampled; advantages_BT, (B, 1) where all tokens of an answer share one; metrics, such as
    the mean reward, by their names; reference_BT (nats), that of the same tokens by the model that the policy is held to, if it
    is held to one. shown_DN, shown_weights_DT: demonstrations that are learned from beside the answers, and the weight that the
    negative log-likelihood of each of their tokens has in the loss of all updates of a pass, whose mean the policy's loss is;
    None without any. values_BT, returns_BT: what a critic held each token of an answer to be worth when it was sampled, and
    what it should have; None without one."""

    ids_BN: Tensor
    mask_BT: Tensor
    logp_old_BT: Tensor
    advantages_BT: Tensor
    metrics: dict[str, float]
    reference_BT: Tensor | None = None
    shown_DN: Tensor | None = None
    shown_weights_DT: Tensor | None = None
    values_BT: Tensor | None = None
    returns_BT: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors by name, for a checkpoint."""
        parts = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        metrics = {
            f"{FIGURE}.{place:04}.{name}": torch.tensor(value, dtype=torch.float64)
            for place, (name, value) in enumerate(self.metrics.items())
        }
        return {**parts, **metrics}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Rollout":
        """The rollout that `tensors` gave."""
        parts = {name: value for name, value in tensors.items() if not name.startswith(FIGURE)}
        kept = sorted((name, value.item()) for name, value in tensors.items() if name.startswith(FIGURE))
        return cls(**parts, metrics={name.split(".", 2)[2]: value for name, value in kept})


def rows_read(rows: int, length: int) -> int:
    """How many rows of so many positions are read together where `rows` would be: no more than POSITIONS hold, and one."""
    return max(1, min(rows, POSITIONS // length))


def rollout_of(
    prompts: list[list[int]],
    completions: list[Transcript],
    mask_GS: Tensor,
    advantages_GS: Tensor,
    metrics: dict[str, float],
    pad_id: int,
) -> Rollout:
    """What an update reads of the answers; of those whose mask is 0 nothing counts, nor do their lengths in a mean, and of the
    others what the model wrote itself."""
    conversations = [
        Conversation(prompt, written.ids, [float(own) for own in written.own])
        for prompt, written in zip(prompts, completions, strict=True)
    ]
    ids_BN, mask_BT = collate(conversations, pad_id)
    logp_old_BT = torch.zeros_like(mask_BT)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start = len(prompt) - 1
        logp_old_BT[row, start : start + len(completion.ids)] = torch.tensor(completion.logps)
    return Rollout(ids_BN, mask_BT * mask_GS.flatten()[:, None], logp_old_BT, advantages_GS.reshape(-1, 1), metrics)


def with_shown(rollout: Rollout, demonstrations: list[Conversation], share: float, pad_id: int) -> Rollout:
    """The rollout with demonstrations, each of which has this share of the loss, its tokens alike; its figure `demonstrations`
    counts them."""
    rollout = replace(rollout, metrics={**rollout.metrics, "demonstrations": float(len(demonstrations))})
    if not demonstrations:
        return rollout
    shown_DN, mask_DT = collate(demonstrations, pad_id)
    return replace(rollout, shown_DN=shown_DN, shown_weights_DT=share * mask_DT / mask_DT.sum(1, keepdim=True))


class Rollouts(Component):
    """The rollout that is being learned from: made before its first update, and kept for those that follow, in checkpoints too.

    updates: how often each answer is learned from. minibatches: as many updates make one pass over the answers, each of as
    many whole problems, in an order that is new in every pass.
    """

    name = "rollouts"

    def __init__(
        self, make: Callable[[int], Rollout], problems: int, updates: int, minibatches: int, seed: int
    ) -> None:
        self._make, self._problems, self._minibatches, self._seed = make, problems, minibatches, seed
        self.each = updates * minibatches
        self._held: Rollout | None = None

    def at(self, step: int) -> tuple[Rollout, Tensor]:
        """(rollout, rows_M of it that the update is of). Steps must be asked for in their order."""
        number, update = divmod(step, self.each)
        rollout = self._held if update else self._make(number)
        assert rollout is not None, "an update in the middle of a rollout that is not held"
        self._held = rollout if update + 1 < self.each else None
        turn, minibatch = divmod(update, self._minibatches)
        key = [self._seed, number * (self.each // self._minibatches) + turn]
        order = np.random.Generator(np.random.Philox(key=key)).permutation(self._problems)
        size, samples = self._problems // self._minibatches, len(rollout.ids_BN) // self._problems
        chosen_M = torch.from_numpy(np.sort(order[minibatch * size : (minibatch + 1) * size]))
        return rollout, (chosen_M[:, None] * samples + torch.arange(samples)).flatten()

    def turn(self, step: int) -> int:
        """Number of the update that a step is in its pass over the rollout, from 0 on."""
        return step % self.each % self._minibatches

    def state(self) -> dict[str, Tensor]:
        """What the next step needs of the rollout before it; empty where it makes a new one."""
        return self._held.tensors() if self._held else {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._held = Rollout.of(state) if state else None
