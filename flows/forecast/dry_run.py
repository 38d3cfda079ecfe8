"""A training step without its numbers: the operators of the real step on torch's fake tensors, which have shape, dtype and
device but no memory. What would be allocated and let go is counted."""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flows.forecast import fake_gpu
from flows.forecast.tiled import Tiled, buckets_in
from lm.decoding import Rows
from lm.optimizers.base import Optimizer
from lm.prompts.base import put_prompt
from lm.sampler import LOOK_EVERY, capacity_of, prompts_at_once, whole_pieces
from lm.training.average import RunningAverage
from lm.training.batch import backward, equal_parts, rows_at_once, with_auxiliary
from lm.training.execution import set_recomputation
from lm.training.flops import mean_flops_per_token
from lm.training.forwarding import Forwarding
from lm.training.growing import Growing
from lm.training.looking_ahead import LookingAhead
from lm.training.memory import positions_at_once, positions_in
from lm.training.parallel.base import Parallel
from lm.training.parallel.exact import Exact
from lm.training.prompted import Prompted
from lm.training.rates import Rates
from lm.training.recipe import Recipe
from lm.training.recomputing import selective_of
from lm.training.reparametrized import ReparametrizedLayers
from lm.training.v_cycle import saved_weight_bytes
from tasks.about.work import Sampling, Step

# glibc gives a block of 32 MiB a mapping of its own, which goes when the block goes. Smaller ones share a heap with holes:
# at 1.9 million weights and 4, 16 and 48 rows they took 1.20, 1.28 and 1.18 times their bytes, at 28 million 1.25;
# 1.00 times with MALLOC_MMAP_THRESHOLD_=65536, which gives each a mapping.
MAPPED, HOLES = 2**25, 1.23
LOOKED_AT = 64


@dataclass(frozen=True)
class DryRunResult:
    """positions: that a backward holds at once, 0 where not even a row fits. Bytes at most: in the step, while sampling, and of
    the state that a checkpoint copies; and, of a GPU, in the memory of its host: older weights that sample, and what trials of
    rates go back to. flops: of a token, with the matrices held as they are. forward_again: whether the backward makes the
    products of the forward anew."""

    positions: int
    step_bytes: float
    sampling_bytes: float
    state_bytes: float
    host_bytes: float
    flops: float
    forward_again: bool


class Live(TorchDispatchMode):
    """Bytes of the storages that operators made since it was entered and that are still held: now, and at most. holes: what a
    block that shares a heap takes, by its bytes. within: bytes that an operator holds at most while it works, of one that does
    not show them."""

    def __init__(self, holes: float) -> None:
        super().__init__()
        self.now = self.peak = 0.0
        self.within: Callable[[Any, tuple[Any, ...]], float] = lambda func, args: 0.0
        self.holes = holes
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, self.now + self.within(func, args))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        taken = size if size >= MAPPED else size * self.holes

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= taken

        self._known[key] = weakref.ref(storage, gone)
        self.now += taken
        self.peak = max(self.peak, self.now)

    def since(self) -> float:
        """The peak since this was last asked."""
        peak, self.peak = self.peak, self.now
        return peak


class Valueless(TorchFunctionMode):
    """What asks for values that fake tensors have not: a condition holds, and a mask keeps every row."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__:
            return True
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            return args[0].flatten(0, args[1].ndim - 1).clone()
        return func(*args, **(kwargs or {}))


def dry_run_step(
    step_of: Callable[[], Step], recipe: Recipe, steps: int, memory: int | None, on_gpu: bool
) -> DryRunResult:
    """A step in the middle of a run of `steps`: optimizer and average have their state, which is made from gradients of zero.

    memory: bytes of the device, from which the positions follow; None: this machine decides, as its training would. Blocks
    are traced as they run uncompiled, and of a batch two parts: from the second on, gradients are there before it. The update
    is made again as each that the optimizer makes otherwise. Differs from the loop: nothing is logged, skipped or written.
    Raises ConfigError, that begins with the key of the recipe, for parts of it that training refuses beside each other.
    """
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), Live(1.0 if on_gpu else HOLES)
    low = recipe.precision == "bf16" or (on_gpu and recipe.precision == "auto")
    cast = torch.autocast("cpu", torch.bfloat16, enabled=low)
    # not made of the last weights alone, which are copied when all is done
    averaged = any(recipe.average(step, steps) for step in range(steps - 1))
    mean = RunningAverage(lambda step, total: float(averaged))
    with ExitStack() as modes:
        if on_gpu:
            modes.enter_context(fake_gpu.on_gpu())
        modes.enter_context(Valueless())
        modes.enter_context(live)
        with fake:
            step = step_of()
            step.model.train()
            step.model.low_stream = recipe.stream == "bf16"
            if isinstance(recipe, Prompted):
                put_prompt(step.model, recipe.soft_prompt)
            step.model.reparametrize(recipe.linear_method)
            live.within = Tiled(buckets_in(step.model), partial(Live, live.holes))
            before = live.since()  # what is held in fewer bytes than a dense matrix is made of one
            ReparametrizedLayers(step.model).begin(0)
            for weight in step.model.parameters():
                weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        parallel = Exact(recipe.shards)
        optimizer = parallel.distribute(step.model, recipe.optimizer_method)
        refuse(step, recipe, steps, parallel)
        optimizer.begin(0)
        optimizer.step()  # outside the fake mode its counters are numbers
        optimizer.zero_grad(set_to_none=True)
        set_recomputation(step.model, recipe, 1)
        with fake, cast:
            mean.after(0, steps, parallel.trainable_parameters())
            positions = (
                positions_in(memory, step.model, step.batch, parallel.bytes_a_weight, parallel.bytes_a_frozen_weight)
                if memory
                else positions_at_once(parallel, step.batch, torch.device("cpu"))
            )
        set_recomputation(step.model, recipe, positions)
        shard = -(-step.batch.rows // recipe.shards)  # no backward takes rows of two
        parts = equal_parts(slice(0, shard), rows_at_once(step.batch, positions), step.batch.together)
        largest = max(part.stop - part.start for part in parts)
        batch = with_auxiliary(replace(step.batch, rows=min(step.batch.rows, 2 * largest)), step.model)
        live.since()
        optimizer.begin(whole_step(optimizer, steps))
        with fake, cast:
            for each in step.sampling:
                sample(each)
            sampled = live.since()
            backward(batch, min(positions, largest * batch.length))
        parallel.clip(recipe.clip)
        parallel.step()
        for number in other_updates(recipe.optimizer, steps):
            for slots in optimizer.state.values():
                if "step" in slots:
                    slots["step"].fill_(number - 1)
            parallel.step()
        with fake:
            mean.after(1, steps, parallel.trainable_parameters())
        weights = [weight for name, weight in step.model.named_parameters() if name not in parallel.frozen_names]
        slots_of = [value for slots in optimizer.state.values() for value in slots.values()]
        state = [*weights, *mean.mean.values(), *slots_of]
        grown = [weight for weight in weights if step.growth and weight in set(step.model.blocks.parameters())]
        copies = sum(w.nbytes + sum(slot.nbytes for slot in optimizer.state[w].values()) for w in grown)
        copies += averaged * sum(weight.nbytes for weight in grown)
        aside = saved_weight_bytes(step.model, step.growth, steps)
    trained = 4 * step.model.num_trained()
    # the gradients of a shard, and the sums that wait for it
    tree = trained * recipe.shards.bit_length() if recipe.shards > 1 else 0
    # weights before the last update, and while it is repeated those after it and itself
    repeated = 3 * trained if recipe.fast_forward.every else 0
    # the mean movement, the weights before a step, and their difference
    ahead = 3 * trained if recipe.lookahead.share else 0
    # older weights that sample, which are in host memory, and while they do the newest
    older, copy = recipe.older_weights, trained + sum(buffer.nbytes for buffer in step.model.buffers())
    # what trials of rates go back to, in host memory too
    back = sum(tensor.nbytes for tensor in [*weights, *slots_of]) if recipe.has_trials else 0
    sampling = older * copy + copy if older else 0
    host = back + sampling if on_gpu else 0
    sampled += 0 if on_gpu else back * bool(sampled) + sampling
    held = 0 if on_gpu else older * copy + back
    at_most = max(
        before, live.peak + tree + repeated + ahead + held + aside, copies + sum(tensor.nbytes for tensor in state)
    )
    flops = mean_flops_per_token(step.model, step.batch.length, step.growth, steps)
    # with what trials go back to, the weights before an update and the mean movement
    saved = sum(tensor.nbytes for tensor in state) + older * copy + back + aside
    saved += trained * (bool(recipe.fast_forward.every) + bool(recipe.lookahead.share))
    again = step.model.recompute and selective_of(step.model) is None
    return DryRunResult(positions, at_most, sampled, float(saved), float(host), flops, again)


def refuse(step: Step, recipe: Recipe, steps: int, parallel: Parallel) -> None:
    """Raises ConfigError where the loop would, before its first step: what is built there beside the optimizer is built."""
    mean = RunningAverage(recipe.average)
    ReparametrizedLayers(step.model, parallel.optimizer, mean)
    Forwarding(recipe.fast_forward, parallel)
    rates = Rates(recipe.schedule, steps, parallel)
    LookingAhead(recipe.lookahead, parallel, rates.factor)
    if step.growth:
        Growing(step.growth).join(parallel, mean, steps)


def whole_step(optimizer: Optimizer, steps: int) -> int:
    """The step, after the first, in which most weights get a gradient, of LOOKED_AT; 1 where all get one in every step."""
    numbers = range(1, min(steps, LOOKED_AT)) if optimizer.freezes else ()

    def learned(number: int) -> int:
        optimizer.begin(number)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        return sum(weight.numel() for weight in weights if weight.requires_grad)

    return max(numbers, key=learned, default=1)


def other_updates(method: Any, steps: int) -> list[int]:
    """Numbers of updates, from 1, that an optimizer may make otherwise than its second: those that whole numbers among its
    parameters name, as in `every`, and those behind them, as in `freeze_after`."""
    whole = [value for value in dict(method).values() if type(value) is int]
    return sorted({number for value in whole for number in (value, value + 1) if 2 < number <= steps})


@torch.no_grad()
def sample(sampling: Sampling) -> None:
    """What lm.sampler.generate holds at most: its buffers, prompts being read, and then tokens being picked."""
    model, context = sampling.model, sampling.model.config.context
    gpu = model.embedding.weight.is_cuda
    capacity = capacity_of(sampling.prompt, sampling.new_tokens, context, gpu)
    rows = Rows(model, sampling.rows, capacity, LOOK_EVERY["cuda" if gpu else "cpu"], None)
    together, every = prompts_at_once(sampling.rows), list(range(sampling.rows))
    length, which = whole_pieces(sampling.prompt, context), [row % together for row in every]
    rows.read([[0] * sampling.prompt] * together, length, every, which)
    for _ in range(2):
        rows.pick(0, 1.0, torch.zeros(sampling.rows, dtype=torch.float64))
        rows.advance()
