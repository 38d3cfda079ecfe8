"""Whether what is sampled is what is trained, and signs that a run no longer learns what it should.

G problems of a rollout, B answers, T predictions.
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from lm.checkpoint import device
from lm.config import ConfigError
from lm.model import Decoder
from lm.training.components import Component
from lm.training.data.conversations import places, token_logps
from lm.transfer import to_device
from tasks.rl.rollout import Rollout, rows_read

# Nats by which log-probabilities of the same tokens may be apart in the mean: where products are of bf16, whose 8 bits leave a
# logit of 10 in steps of 0.06, and else. The wrong temperature, token or weights cost tenths and more.
TOLERANCE = {True: 0.1, False: 0.01}
# What is said, and from when on. Of fewer problems all may be alike by chance.
EQUAL_SHARE, EQUAL_PROBLEMS, ENTROPY_LEFT, LONGER, CUT_OFF = 0.9, 8, 0.1, 2.0, 0.5


@torch.no_grad()
def logps(model: Decoder, rollout: Rollout, temperature: float, rows: int) -> Tensor:
    """logp_BT (nats) that a model gives the tokens that count at the temperature, so many answers at a time, or as many as
    `rows_read` lets; 0 elsewhere."""
    found, rows = [], rows_read(rows, rollout.ids_BN.shape[1])
    for ids_RN, mask_RT in zip(rollout.ids_BN.split(rows), rollout.mask_BT.split(rows), strict=True):
        ids_RN, places_K = to_device([ids_RN, places(mask_RT)], device())
        found.append(token_logps(model, ids_RN, places_K, temperature).float().cpu())
    return torch.cat(found)


def check_sampler(model: Decoder, rollout: Rollout, temperature: float, rows: int) -> None:
    """Raises ConfigError where the log-probabilities under which the sampler drew are not those that the same weights give the
    same tokens in training."""
    mask_BT = rollout.mask_BT
    apart_BT = (logps(model, rollout, temperature, rows) - rollout.logp_old_BT).abs() * mask_BT
    apart = (apart_BT.sum() / mask_BT.sum().clamp(min=1)).item()
    low = torch.is_autocast_enabled(device().type)
    if not apart <= TOLERANCE[low]:
        kind = "bf16" if low else "fp32"
        raise ConfigError(
            f"rl: log-probabilities of the sampler are {apart:.2g} nats from those of training in the mean, of the same tokens "
            f"and weights; {TOLERANCE[low]:g} is the most in {kind}: the model samples otherwise than it trains"
        )


class PolicyMonitor(Component):
    """Entropy that collapses, answers that grow until they are cut off, problems whose answers all earn the same: each is said
    once a process, on stderr. What a rollout is compared with is the first one."""

    name = "watch"

    def __init__(self, problems: int) -> None:
        self._problems = problems
        self._first = torch.empty(0)  # entropy and tokens of an answer
        self._said: set[str] = set()

    def observe(self, number: int, rollout: Rollout) -> None:
        """Say what is new of a rollout, rollouts counted from 0."""
        entropy = entropy_of(rollout)
        if not len(self._first):
            self._first = torch.tensor([entropy, rollout.metrics["completion_tokens"]], dtype=torch.float64)
        for what, line in self._signs(rollout, entropy):
            if what not in self._said:
                self._said.add(what)
                print(f"rl: rollout {number}: {line}", file=sys.stderr)

    def _signs(self, rollout: Rollout, entropy: float) -> Iterator[tuple[str, str]]:
        before, tokens = self._first.tolist()
        equal = (rollout.advantages_BT.view(self._problems, -1) == 0).all(1).double().mean().item()
        if equal >= EQUAL_SHARE and self._problems >= EQUAL_PROBLEMS:
            yield "equal", f"to {equal:.0%} of the problems all answers earned the same, from which nothing is learned"
        if entropy < ENTROPY_LEFT * before:
            yield (
                "entropy",
                f"a token has {entropy:.2g} nats of entropy left of {before:.2g} at first: answers hardly differ",
            )
        length, ended = rollout.metrics["completion_tokens"], rollout.metrics["finished"]
        if length > LONGER * tokens and ended < CUT_OFF:
            yield "length", f"answers grew from {tokens:.0f} to {length:.0f} tokens, and {1 - ended:.0%} are cut off"

    def state(self) -> dict[str, Tensor]:
        return {"first": self._first} if len(self._first) else {}

    def load(self, state: dict[str, Tensor]) -> None:
        self._first = state.get("first", torch.empty(0))


def entropy_of(rollout: Rollout) -> float:
    """Nats of a token: the mean of -log p over tokens that the policy drew, which estimates its entropy without bias."""
    mean = (rollout.logp_old_BT * rollout.mask_BT).sum() / rollout.mask_BT.sum().clamp(min=1)
    return abs(mean.item())
