"""The training loop that pretraining, SFT, RL and distillation share: exact when killed, and nothing but a loop."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lm.model import Decoder
from lm.settings import CHECKPOINT_SECONDS
from lm.training.average import RunningAverage
from lm.training.batch import Batch, with_auxiliary
from lm.training.checkpoint.checkpoints import Checkpoints
from lm.training.checkpoint.state import Run
from lm.training.components import Component
from lm.training.digests import Digests
from lm.training.execution import Execution
from lm.training.forwarding import Forwarding
from lm.training.guard import Guard
from lm.training.looking_ahead import LookingAhead
from lm.training.parallel import make_parallel
from lm.training.parallel.base import Parallel
from lm.training.precision import autocast
from lm.training.rates import Rates
from lm.training.reading import read
from lm.training.recipe import Recipe
from lm.training.reparametrized import ReparametrizedLayers
from lm.training.throughput import Throughput
from lm.training.trunks.trunks import Trunks


class Listener(Protocol):
    """What the loop tells while it runs; a stage's log is one."""

    scratch: Path | None
    stopping: bool

    def __call__(self, step: int, **values: float) -> None: ...
    def digests(self, step: int, values: dict[str, Any]) -> None: ...
    def rewind(self, step: int) -> None: ...
    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None: ...
    def watch(self, step: int, batch: Batch, parallel: Parallel, positions: int) -> None: ...
    def fact(self, **values: float) -> None: ...
    def computed(self, how: dict[str, str]) -> None: ...
    def stop(self) -> None: ...
    def trained(self) -> None: ...


def checkpoint_seconds() -> float:
    """Seconds between checkpoints, at least: where one takes long, more. 0: one after every step. It changes no result. 20 s
    costs under 1% of a step at every preset measured."""
    return CHECKPOINT_SECONDS.read()


def train(
    model: Decoder,
    recipe: Recipe,
    steps: int,
    batch_at: Callable[[int], Batch],
    log: Listener,
    trunks: Trunks | None = None,
    components: Sequence[Component] = (),
) -> None:
    """Train the model in place for `steps` updates. It is dense before and after, however recipe.holding holds it meanwhile.

    batch_at(step) must depend on nothing but the step, the weights and the components' state, so that a run continued from a
    checkpoint ends in the same bytes. Where torch.distributed has ranks, each calls this with
    the same arguments, but that only the log of rank 0 has a scratch folder and trunks. Raises Diverged when a loss is not
    finite or the recipe says to give up.
    """
    device = model.embedding.weight.device
    model.reparametrize(recipe.linear_method)
    parallel = make_parallel(recipe)
    optimizer = parallel.distribute(model, recipe.optimizer_method)
    forwarding = Forwarding(recipe.fast_forward, parallel)
    rates = Rates(recipe.schedule, steps, parallel)
    ahead = LookingAhead(recipe.lookahead, parallel, rates.factor)
    mean, guard, execution = RunningAverage(recipe.average), Guard(recipe.skip_sigmas, recipe.stop_factor), Execution()
    components = (rates, ReparametrizedLayers(model, optimizer, mean), forwarding, ahead, *components)
    for component in components:
        component.join(parallel, mean, steps)
    run = Run(parallel, mean, guard, execution, components)
    checkpoints = Checkpoints(log.scratch, trunks=trunks, every=checkpoint_seconds())
    start = checkpoints.load(run)
    checkpoints.reserve(run, steps)
    log.rewind(start)
    model.train()
    model.low_stream = recipe.stream == "bf16"
    digests, speed = Digests(parallel), Throughput(model, device)
    for step in range(start, steps):
        for component in components:
            component.begin(step)
        parallel.zero_grad()
        with autocast(recipe.precision, device):
            batch = with_auxiliary(parallel.call(partial(batch_at, step)), model)
            digests.begin(step, batch.content)
            if step == start:
                parallel.call(partial(execution.decide, recipe, steps, batch, parallel))
            log.watch(step, batch, parallel, execution.positions)
            # behind the measure of memory, which is kept for the run: an optimizer may hold weights back for a step
            optimizer.begin(step)
            forwarded = forwarding.stage(batch, execution.positions)
            loss, metrics = parallel.backward(batch, execution.positions)
            execution.note_batch(batch, recipe)
        norm = parallel.clip(recipe.clip)
        # The host's one wait for the device in a step: before the update, which the guard may refuse
        values, traces = read(
            {"loss": loss, "norm": norm, **forwarded, **batch.metrics, **metrics}, batch.traces(), device
        )
        loss_value, gradient_norm = values.pop("loss"), values.pop("norm")
        batch.after(traces)
        if guard.accept(step, loss_value, gradient_norm):
            forwarding.before_update()
            parallel.step()
        else:
            values["skipped"] = 1.0
        for component in components:
            component.after(step, loss_value, gradient_norm)
        if step + 1 == steps:
            optimizer.finish()
        mean.after(step, steps, parallel.trainable_parameters())
        log.digests(step, digests.logged())
        log(step, loss=loss_value, gradient_norm=gradient_norm, learning_rate=optimizer.param_groups[0]["lr"], **values)
        speed.add(batch)
        log.progress(step + 1, steps, "step", loss=loss_value, tokens_per_second=speed.tokens_per_second)
        parting = trunks is not None and trunks.due(step + 1, run)
        stopping, due, parting = parallel.any(log.stopping, checkpoints.due(), parting)
        if parting:
            checkpoints.keep_trunk(step + 1, run)
        if stopping or due:
            checkpoints.save(step + 1, run)
        speed.skip_pause()
        if stopping:
            checkpoints.close()
            log.stop()
    checkpoints.close()
    mean.copy_to(parallel.local_parameters())
    parallel.finish()
    model.merge()
    log.computed(execution.described(recipe, device))
    log.fact(**speed.run_stats(), **(trunks.run_stats() if trunks else {}))
    log.trained()
