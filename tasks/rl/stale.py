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


def changing(model: Decoder) -> Weights:
    """What of the model training may change: weights that learn, and buffers, in which a matrix may be held."""
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return {**learned, **dict(model.named_buffers())}


def kept(model: Decoder) -> Weights:
    """A copy of what may change."""
    return {name: x.detach().to("cpu", copy=True) for name, x in changing(model).items()}


@torch.no_grad()
def put(model: Decoder, weights: Weights) -> None:
    """Give the model these weights."""
    for name, x in changing(model).items():
        x.copy_(weights[name])
    torch.clear_autocast_cache()  # casts of the weights as they were


def apart(logp_BT: Tensor, logp_old_BT: Tensor, mask_BT: Tensor) -> dict[str, float]:
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
        """age: rollouts by which the weights that sample are behind; 1 at least."""
        self._model, self._age = model, age
        self._held: list[Weights] = []  # the oldest first

    @contextmanager
    def sampling(self) -> Iterator[int]:
        """Within it the model has the weights that sample the next rollout, whose age it gives; behind it its own again, to the
        bit. Raises ConfigError where the weights are shared out among ranks."""
        if is_sharded(self._model):
            raise ConfigError(
                "rl.staleness: older weights are copied whole, and TOKENMILL_PARALLEL shares them out: set it to exact or ddp"
            )
        now = kept(self._model)
        held = [*self._held, now][-self._age - 1 :]
        put(self._model, held[0])
        try:
            yield len(held) - 1
        finally:
            put(self._model, now)
        self._held = held[-self._age :]

    def state(self) -> Weights:
        return {f"{place:04}.{name}": x for place, held in enumerate(self._held) for name, x in held.items()}

    def load(self, state: Weights) -> None:
        found: dict[str, Weights] = {}
        for key, x in sorted(state.items()):
            place, _, name = key.partition(".")
            found.setdefault(place, {})[name] = x.to("cpu", copy=True)
        self._held = list(found.values())
