"""Answers of a policy that is some rollouts behind the one that learns from them, as where both go on at once: asynchronous
RLHF, Noukhovitch et al. 2024 (arXiv:2410.18252).

In SRL (Mei et al. 2023, arXiv:2306.16688) and its like, workers that sample and workers that learn run beside each other, and
the weights that sample are old by as many rollouts as wait. Differs from both papers: here is the order of such a system
without its overlap, so that a run takes no less time and its bytes depend on no clock. The age is what `rl.staleness` says,
and not at most that; the first rollouts are younger, for nothing is older than the first weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.decoding import is_sharded
from lm.model import Decoder
from lm.training.components import Component

Weights = dict[str, Tensor]  # by name, in host memory


def copy_weights(changing: Weights) -> Weights:
    """A copy of what may change."""
    return {name: x.detach().to("cpu", copy=True) for name, x in changing.items()}


@torch.no_grad()
def load_weights(changing: Weights, weights: Weights) -> None:
    """Give what may change these weights."""
    for name, x in changing.items():
        x.copy_(weights[name])
    torch.clear_autocast_cache()  # casts of the weights as they were


def sampler_divergence(logp_BT: Tensor, logp_old_BT: Tensor, mask_BT: Tensor) -> dict[str, float]:
    """How far the policy that learns is from the one that sampled, over the tokens in the mask: `sampler_kl` (nats a token),
    the mean of ratio - 1 - log ratio, which estimates KL(sampler || learner) without bias, and `sampler_ratio`, the highest
    ratio of the learner's probability of a token to the sampler's; 0 and 1 where no token is in the mask."""
    kept_BT = mask_BT > 0
    log_ratio_K = (logp_BT - logp_old_BT)[kept_BT].double()
    if not len(log_ratio_K):
        return {"sampler_kl": 0.0, "sampler_ratio": 1.0}
    ratio_K = log_ratio_K.exp()
    return {"sampler_kl": (ratio_K - 1 - log_ratio_K).mean().item(), "sampler_ratio": ratio_K.max().item()}


class Stale(Component):
    """The weights that learned from the last rollouts, as they were when each of these was made. They are in the checkpoints,
    so that a run that was killed goes on in the same bytes."""

    name = "stale"

    def __init__(self, model: Decoder, age: int) -> None:
        """model: as it is before training. age: rollouts by which the weights that sample are behind; 1 at least."""
        self._model, self._age = model, age
        self._own = [name for name, _ in model.named_parameters()]
        self._frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        self._held: list[Weights] = []  # the oldest first

    def changing(self) -> Weights:
        """What of the model training may change: all weights but those that were frozen before it and those that stay as the
        matrices are held, and buffers, in which a matrix may be held. Whether a weight has a gradient at a step says neither:
        drop_muon draws that for each, and restarts of relora change matrices that have none."""
        staying = self._frozen | self._model.linear.frozen_parameters(self._own)
        learned = {name: weight for name, weight in self._model.named_parameters() if name not in staying}
        return {**learned, **dict(self._model.named_buffers())}

    @contextmanager
    def sampling(self) -> Iterator[int]:
        """Within it the model has the weights that sample the next rollout, whose age it gives; behind it its own again, to the
        bit. Raises ConfigError where the weights are shared out among ranks."""
        if is_sharded(self._model):
            raise ConfigError(
                "rl.staleness: older weights are copied whole, and TOKENMILL_PARALLEL shares them out: set it to exact or ddp"
            )
        changing = self.changing()
        now = copy_weights(changing)
        held = [*self._held, now][-self._age - 1 :]
        load_weights(changing, held[0])
        try:
            yield len(held) - 1
        finally:
            load_weights(changing, now)
        self._held = held[-self._age :]

    def state(self) -> Weights:
        return {f"{place:04}.{name}": x for place, held in enumerate(self._held) for name, x in held.items()}

    def load(self, state: Weights) -> None:
        found: dict[str, Weights] = {}
        for key, x in sorted(state.items()):
            place, _, name = key.partition(".")
            found.setdefault(place, {})[name] = x.to("cpu", copy=True)
        self._held = list(found.values())
