"""The training loop that pretraining, SFT, RL and distillation share: exact when killed, and nothing but a loop."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lm.model import Decoder
from lm.optimizers.base import Optimizer
from lm.training.average import RunningAverage
from lm.training.recipe import Recipe
from lm.training.state import load_state, save_state


class Listener(Protocol):
    """What the loop tells while it runs; a stage's log is one."""

    scratch: Path | None
    stopping: bool

    def __call__(self, step: int, **values: float) -> None: ...
    def rewind(self, step: int) -> None: ...
    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None: ...
    def fact(self, **values: float) -> None: ...
    def stop(self) -> None: ...


def checkpoint_seconds() -> float:
    """Seconds between checkpoints; changes no result. 20 s costs under 1% of a step at every preset measured."""
    return float(os.environ.get("TOKENMILL_CHECKPOINT_SECONDS", "20"))


def train(
    model: Decoder,
    recipe: Recipe,
    steps: int,
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    log: Listener,
    tokens_at: Callable[[int], int],
) -> None:
    """Train the model in place for `steps` updates.

    loss_at(step) gives the scalar to descend and the figures for the curves; it must depend on nothing but the step and
    the weights, so that a run continued from a checkpoint ends in the same bytes. tokens_at(step):
    tokens the step works on, for the rate. Raises FloatingPointError when the loss is not finite.
    """
    path = log.scratch / "state.safetensors" if log.scratch else None
    optimizer: Optimizer = recipe.optimizer.build(trainable(model))
    mean = RunningAverage(recipe.average)
    start = load_state(path, model, optimizer, mean) if path and path.exists() else 0
    log.rewind(start)
    model.train()
    saved = began = time.monotonic()
    tokens = 0
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * recipe.schedule(step, steps)
        optimizer.begin(step)
        loss, figures = loss_at(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}: lower the learning rate or the clip")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        if step + 1 == steps:
            optimizer.finish()
        mean.after(step, steps, model)
        tokens += tokens_at(step)
        height = loss.item()
        log(step, loss=height, gradient_norm=norm.item(), learning_rate=optimizer.param_groups[0]["lr"], **figures)
        rate = tokens / max(time.monotonic() - began, 1e-9)
        log.progress(step + 1, steps, "step", loss=height, tokens_per_second=rate)
        if path and (log.stopping or time.monotonic() - saved >= checkpoint_seconds()):
            save_state(path, step + 1, model, optimizer, mean)
            saved = time.monotonic()
        if log.stopping:
            log.stop()
    mean.put(model)
    if tokens:
        log.fact(tokens_per_second=tokens / (time.monotonic() - began))
    model.eval()


def trainable(model: Decoder) -> list[tuple[str, Any]]:
    """The named parameters an optimizer gets."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
