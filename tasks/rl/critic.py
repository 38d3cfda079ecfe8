"""The critic of PPO: a model beside the policy that learns what an answer will earn from each of its tokens on.

B answers of a rollout, M of them in an update, R read together; T predictions, N = T + 1 tokens, K that count.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.checkpoint import device
from lm.config import ConfigError
from lm.distributed import world_size
from lm.heads import ScalarHeads, heads_of, put_heads, read_scorer
from lm.linears.base import roles_of
from lm.model import Decoder
from lm.optimizers.base import SCALARS
from lm.training.components import Component
from lm.training.data.conversations import hidden_at, places
from lm.training.recipe import Recipe
from lm.transfer import to_device
from tasks.rl.advantages.base import CriticAdvantage, advantages_and_returns
from tasks.rl.rewards.base import StepRewards
from tasks.rl.rollout import Rollout, rows_read


def critic_of(method: CriticAdvantage, policy: Decoder, scorer: Path | None, tokenizer: Any) -> Decoder:
    """The model that the critic begins as. Raises ConfigError where the one in `scorer` is no reward model of this
    tokenizer."""
    if method.start == "policy":
        model = copy.deepcopy(policy)
        heads = ScalarHeads(model.config.width, 1, 0)
        torch.nn.init.zeros_(heads.weight)
        put_heads(model, heads)
        return model
    assert scorer is not None, "no folder of a reward model"
    try:
        model, own = read_scorer(scorer)
    except ValueError as error:
        raise ConfigError(f"rl.advantage: gae: {error}; set rl.scorer: reward, or start: policy") from None
    if own != tokenizer:
        raise ConfigError(
            f"rl.advantage: gae: {scorer} has another tokenizer than the policy: begin both with one model"
        )
    if model.config.context < policy.config.context:
        reads = f"{model.config.context} tokens, the policy {policy.config.context}"
        raise ConfigError(f"rl.advantage: gae: {scorer} reads {reads}: take another scorer")
    return model.to(device())


def rewards_at(rewards_B: Tensor, steps: Sequence[StepRewards], mask_BT: Tensor) -> Tensor:
    """rewards_BT of answers with these rewards: what steps say is earned at the token of that number among those that count,
    and all that is left at the last of them; 0 of an answer of which nothing counts."""
    found_BT = torch.zeros_like(mask_BT)
    for row, (reward, each) in enumerate(zip(rewards_B.tolist(), steps, strict=True)):
        places = mask_BT[row].nonzero()[:, 0].tolist()
        if not places:
            continue
        for number, value in each:
            found_BT[row, places[number]] += value
        found_BT[row, places[-1]] += reward - math.fsum(value for _, value in each)
    return found_BT


def value_loss(values_K: Tensor, old_K: Tensor, returns_K: Tensor, clip: float) -> Tensor:
    """loss_K: half the larger of the squared errors of the value and of the value held within `clip` of the old one, as in
    DeepSpeed-Chat's critic_loss_fn."""
    held_K = old_K + (values_K - old_K).clamp(-clip, clip)
    return torch.maximum((values_K - returns_K).square(), (held_K - returns_K).square()) / 2


class Critic(Component):
    """Values of tokens, and the updates that they are learned by, one with each of the policy's."""

    name = "critic"

    def __init__(
        self, method: CriticAdvantage, model: Decoder, recipe: Recipe, steps: int, rows: int, pad_id: int
    ) -> None:
        """recipe, steps: the stage's. rows: answers that are read together, or as many as `rows_read` lets, which
        changes no more than last bits."""
        self.model = model
        self._method, self._recipe, self._steps, self._rows, self._pad_id = method, recipe, steps, rows, pad_id
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self._named = named
        self._optimizer = recipe.optimizer.build(named, roles_of(model))
        if self._optimizer.exchanges and world_size() > 1:
            raise ConfigError(
                f"rl.advantage: gae: {recipe.optimizer.name} averages over ranks itself: take another optimizer"
            )

    def _values(self, ids_RN: Tensor, mask_RT: Tensor) -> tuple[Tensor, Tensor]:
        """(value_K, before each token that counts is chosen; where those stand)."""
        ids_RN, places_K = to_device([ids_RN, places(mask_RT)], device())
        return heads_of(self.model)(hidden_at(self.model, ids_RN[:, :-1], places_K)).mean(1), places_K

    @torch.no_grad()
    def values(self, ids_BN: Tensor, mask_BT: Tensor) -> Tensor:
        """values_BT, fp32 in host memory; 0 where no token counts."""
        self.model.eval()
        found, rows = [], rows_read(self._rows, ids_BN.shape[1])
        for ids_RN, mask_RT in zip(ids_BN.split(rows), mask_BT.split(rows), strict=True):
            value_K, places_K = self._values(ids_RN, mask_RT)
            found.append(
                value_K.new_zeros(mask_RT.numel()).index_copy(0, places_K, value_K).view_as(mask_RT).float().cpu()
            )
        return torch.cat(found)

    def predict_values(self, prompts: list[list[int]]) -> Tensor:
        """value_G: what the critic holds an answer to each prompt to be worth, before its first token."""
        longest = max(map(len, prompts))
        ids_GN, mask_GT = torch.full((len(prompts), longest + 1), self._pad_id), torch.zeros(len(prompts), longest)
        for row, prompt in enumerate(prompts):
            ids_GN[row, : len(prompt)], mask_GT[row, len(prompt) - 1] = torch.tensor(prompt), 1.0
        return self.values(ids_GN, mask_GT).sum(1)

    def with_advantages(self, rollout: Rollout, rewards_BT: Tensor, instead_B: Tensor) -> Rollout:
        """The rollout with an advantage for each token and what the critic is to learn. rewards_BT: what is earned at each
        token; instead_B: answers that a demonstration is learned from in the place of, which have no advantages. Its figures
        are the mean value and the share of the returns' variance that values explain."""
        values_BT, mask_BT = self.values(rollout.ids_BN, rollout.mask_BT), rollout.mask_BT
        advantages_BT, returns_BT = advantages_and_returns(
            rewards_BT, values_BT, mask_BT, self._method.discount, self._method.decay
        )
        kept_BT = mask_BT > 0
        returns, values = returns_BT[kept_BT].double(), values_BT[kept_BT].double()
        spread = returns.var(correction=0).item() if len(returns) else 0.0
        explained = 1 - (returns - values).var(correction=0).item() / spread if spread else 0.0
        metrics = {"value": values.mean().item() if len(values) else 0.0, "explained_variance": explained}
        advantages_BT = advantages_BT * ~instead_B[:, None]
        metrics = {**rollout.metrics, **metrics}
        return replace(
            rollout, advantages_BT=advantages_BT, values_BT=values_BT, returns_BT=returns_BT, metrics=metrics
        )

    def learn(self, step: int, rollout: Rollout, rows_M: Tensor) -> dict[str, float]:
        """Learn from these rows of a rollout; `value_loss` is the mean over their tokens before the update."""
        assert rollout.values_BT is not None and rollout.returns_BT is not None, "no critic has judged this rollout"
        mask_MT = rollout.mask_BT[rows_M]
        counted = mask_MT.sum().item()
        if not counted:
            return {"value_loss": 0.0}
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * self._method.rate * self._recipe.schedule(step, self._steps)
        self._optimizer.begin(step)
        self._optimizer.zero_grad()
        self.model.train()
        total = torch.zeros((), device=device())
        rows = rows_read(self._rows, rollout.ids_BN.shape[1])
        for first in range(0, len(rows_M), rows):
            some_R = rows_M[first : first + rows]
            mask_RT = rollout.mask_BT[some_R]
            if not mask_RT.any():
                continue
            value_K, places_K = self._values(rollout.ids_BN[some_R], mask_RT)
            old_K, returns_K = (
                x[some_R].flatten().to(device())[places_K] for x in (rollout.values_BT, rollout.returns_BT)
            )
            loss = value_loss(value_K, old_K, returns_K, self._method.clip).sum() / counted
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_([weight for _, weight in self._named], self._recipe.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if step + 1 == self._steps:
            self._optimizer.finish()
        return {"value_loss": total.item()}

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's slots."""
        found = {f"weight.{name}": weight.detach() for name, weight in self._named}
        for name, weight in self._named:
            found |= {f"slot.{slot}.{name}": x for slot, x in self._optimizer.state[weight].items()}
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        slots: dict[str, dict[str, Tensor]] = {name: {} for name, _ in self._named}
        for key, x in state.items():
            kind, _, rest = key.partition(".")
            if kind == "slot":
                slot, _, name = rest.partition(".")
                slots[name][slot] = x
        for name, weight in self._named:
            with torch.no_grad():
                weight.copy_(state[f"weight.{name}"])
            self._optimizer.state[weight] = {
                slot: x.to("cpu" if slot in SCALARS else weight.device, copy=True) for slot, x in slots[name].items()
            }
