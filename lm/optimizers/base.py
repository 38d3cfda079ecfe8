"""What every optimizer shares: one multi-tensor update a group, state made of tensors, and two hooks for the loop."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.base import Roles
from lm.optimizers.states import MOMENTS, States, initial_coded_state

Named = list[tuple[str, nn.Parameter]]
State = dict[str, list[Tensor]]
SCALARS = {"step": torch.int64, "rate_sum": torch.float32}
ROWS = {"row_square"}
SIDES = {"left": 0, "left_basis": 0, "right": 1, "right_basis": 1}


def initial_state(slot: str, weight: Tensor) -> Tensor:
    """The state of a weight before its first update: zeros, on the weight's device where they are no single number."""
    if slot in SCALARS:
        return torch.zeros((), dtype=SCALARS[slot])
    if (coded := initial_coded_state(slot, weight)) is not None:
        return coded
    if slot in SIDES:
        return weight.new_zeros(2 * (weight.shape[SIDES[slot]],))
    return weight.new_zeros(weight.shape[0], 1) if slot in ROWS else torch.zeros_like(weight)


class Optimizer(torch.optim.Optimizer, ABC):
    """Calls `update` once a group, with those of its weights that have a gradient.

    group["slots"] names the state of each weight, which begins as zeros: `step`, its updates with this one, and what else
    is in SCALARS are single numbers, what is in ROWS has one for each row of a matrix, as a column, what is in SIDES is a
    square over a matrix's rows (0) or columns (1), and every other slot has the weight's shape. All are tensors, as
    safetensors wants them. Moments may be kept in fewer bits: group["updated"] then names the slots that `update` is given,
    and `slots` those that are kept of them.

    What lm/training/parallel must know: whole_tensors: an update depends on more of a tensor than the entry updated.
    squares: there are slots of SIDES, of which a part of a weight has no part. freezes: `begin` chooses the weights that get a
    gradient. exchanges: the update averages over the ranks of torch.distributed itself, and gets each rank's own gradients.
    own_slots: state that differs from rank to rank. states: how moments are kept.
    """

    whole_tensors = squares = freezes = exchanges = False
    own_slots: tuple[str, ...] = ()
    states: States = States()

    def begin(self, step: int) -> None:
        """Called before the forward pass of a step. What it does must follow from `step` alone, or resuming differs."""

    def finish(self) -> None:
        """Called after the last update: leaves in the weights what the model is to be."""

    def totals(self, weights: list[Tensor], sums: list[Tensor]) -> list[Tensor]:
        """Sums over the entries of whole weights, of which these are the sums over what `update` was given; of one shape. One
        who gives parts of weights puts something else in the place of this."""
        return sums

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if "updated" in group:
                for weight in weights:
                    self._update_coded(weight, group)
            elif weights:
                states = [self._state_of(weight, group["slots"]) for weight in weights]
                gathered = {slot: [state[slot] for state in states] for slot in group["slots"]}
                self.update(weights, [weight.grad for weight in weights], gathered, group)

    def keep_as(self, states: States) -> None:
        """Keep the moments of all groups so, from the first update on."""
        self.states = states
        for group in self.param_groups:
            group["updated"], group["slots"] = group["slots"], states.slots(group["slots"])

    @property
    def is_coded(self) -> bool:
        """Whether moments are kept in fewer bits."""
        return self.states.format != "fp32"

    def bytes_spared(self) -> float:
        """Bytes of memory a weight that its moments take less than in fp32, of the group that spares least."""
        spared = [len(set(group["updated"]) & set(MOMENTS)) for group in self.param_groups if "updated" in group]
        return (4 - self.states.bytes_a_number) * min(spared, default=0)

    def bytes_of_squares(self) -> float:
        """Bytes of memory a weight that its slots of SIDES take, over all of its weights."""
        each = [(group, weight) for group in self.param_groups for weight in group["params"]]
        bytes_ = sum(4 * weight.shape[SIDES[s]] ** 2 for group, weight in each for s in group["slots"] if s in SIDES)
        return bytes_ / max(sum(weight.numel() for _, weight in each), 1)

    def _update_coded(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Update one weight, whose moments are fp32 for as long as this takes."""
        state = self._state_of(weight, group["slots"])
        moments = self.states.decode(state, group["updated"])
        self.update([weight], [weight.grad], {slot: [value] for slot, value in moments.items()}, group)  # type: ignore[list-item]
        self.states.encode_(state, moments)

    def state_of(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """What is kept of a weight of this group, moments in fp32; empty before its first update."""
        state = self.state.get(weight, {})
        return self.states.decode(state, group["updated"]) if state and "updated" in group else state

    def _state_of(self, weight: Tensor, slots: tuple[str, ...]) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            for slot in slots:
                state[slot] = initial_state(slot, weight)
        if "step" in state:
            state["step"].add_(1)
        return state

    @abstractmethod
    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        """Change weights and state in place; the lists are in one order."""


@dataclass(frozen=True)
class Keeping:
    """A method of this room whose optimizer keeps its moments in fewer bits."""

    method: Any
    states: States

    @property
    def name(self) -> str:
        return str(self.method.name)

    def build(self, named_parameters: Named, roles: Roles) -> Optimizer:
        """The method's optimizer. Raises ConfigError for one without moments, and one that exchanges them itself."""
        optimizer: Optimizer = self.method.build(named_parameters, roles)
        if optimizer.exchanges:
            raise ConfigError(f"optimizer_states: {self.name} exchanges its moments among ranks: set format to fp32")
        if not any(set(group["slots"]) & set(MOMENTS) for group in optimizer.param_groups):
            raise ConfigError(f"optimizer_states: {self.name} has no moments to keep in fewer bits: set format to fp32")
        optimizer.keep_as(self.states)
        return optimizer


def take_in_(grads: list[Tensor], means: list[Tensor], squares: list[Tensor], beta1: float, beta2: float) -> None:
    """Bring Adam's two running means, of the gradient and of its square, up to date in place."""
    torch._foreach_lerp_(means, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)


def adam_directions_(
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[int],
    beta1: float,
    beta2: float,
    eps: float,
) -> list[Tensor]:
    """Directions of Adam's update number `steps`, from 1: the mean over the root of the square, each corrected for having begun
    at 0. Both have taken the gradients in, in place."""
    take_in_(grads, means, squares, beta1, beta2)
    updates = torch._foreach_div(means, [1 - beta1**step for step in steps])
    roots = torch._foreach_sqrt(torch._foreach_div(squares, [1 - beta2**step for step in steps]))
    torch._foreach_add_(roots, eps)
    torch._foreach_div_(updates, roots)
    return list(updates)


def with_rates(optimizer: Optimizer, named: Named, rates: dict[str, float]) -> Optimizer:
    """The optimizer, in which the learning rate of the weights that `rates` names is so many times that of their group."""
    if not rates:
        return optimizer
    factors = {weight: rates.get(name, 1.0) for name, weight in named}
    groups = []
    for group in optimizer.param_groups:
        # 1 first: of the first group the rate is told
        for factor in sorted({factors[weight] for weight in group["params"]}, key=lambda one: (one != 1, one)):
            own = {"params": [weight for weight in group["params"] if factors[weight] == factor]}
            groups.append({**group, **own, "base_lr": group["base_lr"] * factor, "lr": group["lr"] * factor})
    optimizer.param_groups = groups
    return optimizer


def decayed_and_plain(named: Named, roles: Roles) -> list[dict[str, Any]]:
    """A group of matrices and tables, and one of vectors, which never decay; each where it has members."""
    decayed = [weight for name, weight in named if roles[name] != "vector"]
    plain = [weight for name, weight in named if roles[name] == "vector"]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
