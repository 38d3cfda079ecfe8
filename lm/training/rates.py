"""What the learning rate of a run goes by, step for step, and what a checkpoint holds of a schedule that looks at losses."""

from typing import Any

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.optimizers.base import Optimizer
from lm.schedules.feedback import Feedback
from lm.training.components import Component
from lm.training.parallel.base import Parallel

# What optimizers call the memory of the gradient's mean
MOMENTA = ("beta1", "momentum", "adamw_beta1")
KEPT = "kept."


class Rates(Component):
    """Sets rate and momentum of the optimizer's groups before each step; of trials it takes back what they did.

    Trials go back to the weights and the optimizer's state, to the bit. Both are kept meanwhile in host memory, whole on every
    rank, and in checkpoints. The guard's window and what components of a stage keep go on. Raises ConfigError, in a line, for
    what cannot be taken back, for a run too short for a trial, and for a momentum that the optimizer does not have or that is
    above its own.
    """

    name = "schedule"

    def __init__(self, schedule: Any, steps: int, parallel: Parallel) -> None:
        self._schedule, self._steps, self._parallel = schedule, steps, parallel
        self._follower = schedule.follower(steps) if isinstance(schedule, Feedback) else None
        self._kept: dict[str, Tensor] = {}  # the state that trials go back to, while there are any
        groups = parallel.optimizer.param_groups
        self._momenta: list[dict[str, float]] = [{} for _ in groups]
        if isinstance(schedule, Feedback) and schedule.has_trials:
            parallel.must_move(self.name)
            if parallel.optimizer.own_slots:
                raise ConfigError(
                    f"{self.name}: the optimizer keeps what differs from rank to rank, and trials are taken back"
                )
            if self._follower is not None and not any(map(self._follower.is_trial, range(steps))):
                raise ConfigError(
                    f"{self.name}: {steps} steps leave room for no trial: take more steps, fewer blocks or another schedule"
                )
        elif (peak := getattr(schedule, "peak_momentum", None)) is not None:
            self._momenta = [{key: group[key] for key in MOMENTA if key in group} for group in groups]
            self._check(peak)

    def factor(self, step: int) -> float:
        """Factor of the rate at a step in which the run is."""
        if self._follower is not None:
            return self._follower.factor(step)
        return float(self._schedule(step, self._steps))

    @torch.no_grad()
    def begin(self, step: int) -> None:
        if self._follower is not None:
            if self._follower.goes_back(step):
                self._go_back()
            if not self._follower.is_trial(step):
                self._kept = {}
            elif self._follower.begins_trials(step):
                self._keep()
        factor = self.factor(step)
        for group, momenta in zip(self._parallel.optimizer.param_groups, self._momenta, strict=True):
            group["lr"] = group["base_lr"] * factor
            for key, own in momenta.items():
                group[key] = self._schedule.momentum(step, self._steps, own)

    def after(self, step: int, loss: float, norm: float) -> None:
        if self._follower is not None:
            self._follower.observe(step, loss)

    def state(self) -> dict[str, Tensor]:
        if self._follower is None:
            return {}
        found = {name: torch.tensor(values, dtype=torch.float64) for name, values in self._follower.state().items()}
        return found | {KEPT + name: tensor for name, tensor in self._kept.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        if self._follower is None:
            return
        self._follower.load({name: t.tolist() for name, t in state.items() if not name.startswith(KEPT)})
        self._kept = {
            name.removeprefix(KEPT): tensor.cpu().clone() for name, tensor in state.items() if name.startswith(KEPT)
        }

    def _keep(self) -> None:
        ranks = self._parallel
        weights = {
            f"model.{name}": weight for name, weight in ranks.weights().items() if name not in ranks.frozen_names
        }
        slots = {f"optimizer.{name}": value for name, value in ranks.slots().items()}
        self._kept = {name: tensor.detach().cpu().clone() for name, tensor in (weights | slots).items()}

    def _go_back(self) -> None:
        parted: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for name, tensor in self._kept.items():
            kind, _, own = name.partition(".")
            parted[kind][own] = tensor
        self._parallel.load_model_state(parted["model"])
        self._parallel.load_optimizer_state(parted["optimizer"])
        # casts of the weights as they were
        torch.clear_autocast_cache()
        self._parallel.moved()

    def _check(self, peak: float) -> None:
        optimizer = self._parallel.optimizer
        if not all(self._momenta):
            raise ConfigError(f"{self.name}.peak_momentum: the optimizer has no momentum that could change")
        if type(optimizer).finish is not Optimizer.finish and not optimizer.freezes:
            raise ConfigError(f"{self.name}.peak_momentum: the optimizer's weights hang on its beta1: take another one")
        if peak > (lowest := min(own for momenta in self._momenta for own in momenta.values())):
            raise ConfigError(
                f"{self.name}.peak_momentum: {peak} is above the optimizer's own {lowest}: it falls as the rate rises"
            )
