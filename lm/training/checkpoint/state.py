"""What a training run is made of between two steps, as named tensors: model.*, average.* and optimizer.<slot>.*, where the
last part of each is the name of a parameter that is trained, so that neither the order nor the grouping of parameters nor the
ranks matter; guard.*, execution.*, and components.<name>.*, what each component keeps between two steps."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from lm.optimizers.base import initial_state
from lm.training.average import RunningAverage
from lm.training.components import Component
from lm.training.execution import Execution
from lm.training.guard import Guard
from lm.training.parallel.base import Parallel


class Run(NamedTuple):
    """What a checkpoint holds; the model and its optimizer are with the ranks."""

    parallel: Parallel
    average: RunningAverage
    guard: Guard
    execution: Execution
    components: tuple[Component, ...] = ()


def tensors_of(run: Run) -> dict[str, Tensor]:
    """The state now, whole; where ranks hold parts of it, all must call. The tensors may be those of the run, not copies."""
    parallel, average, guard, execution, components = run
    kept = {name: weight for name, weight in parallel.weights().items() if name not in parallel.frozen_names}
    found = {f"model.{name}": weight for name, weight in kept.items()}
    found |= {f"average.{name}": parallel.gather(name, mean) for name, mean in average.mean.items()}
    found |= {f"optimizer.{slot}": value for slot, value in parallel.slots().items()}
    found |= {f"guard.{name}": values for name, values in guard.state().items()}
    found |= {f"execution.{name}": value for name, value in execution.state().items()}
    for component in components:
        found |= {f"components.{component.name}.{name}": value for name, value in component.state().items()}
    return found


def bytes_at_most(run: Run, steps: int) -> int:
    """Bytes of the state of a run of so many steps in which all has begun: weights, slots, and the average where it is one of
    more than the last weights. What the guard and the stage keep is not counted."""
    shapes = _shapes(run)
    slots = [initial_state(slot, shapes[name]) for name, names in run.parallel.slot_names.items() for slot in names]
    copies = 2 if run.average.begins(steps) else 1
    return copies * sum(weight.nbytes for weight in shapes.values()) + sum(slot.nbytes for slot in slots)


def difference(found: dict[str, Tensor], run: Run) -> str:
    """The first tensor in which a saved state cannot be one of this run, with both shapes; "" when there is none."""
    wanted = _wanted(found, run)
    known_lists = {f"guard.{name}" for name in run.guard.state()}  # of any length
    components = {component.name for component in run.components}
    for name, tensor in wanted.items():
        if name not in found:
            return f"it has no {name}, here {_described(tensor)}"
        if (found[name].shape, found[name].dtype) != (tensor.shape, tensor.dtype):
            return f"{name} is {_described(found[name])} there and {_described(tensor)} here"
    for name, tensor in sorted(found.items()):
        kind, _, slotted = name.partition(".")
        # An optimizer may keep more than its slots: 1-bit Adam does for its ranks, and itself drops what does not fit.
        known = kind == "optimizer" and slotted.partition(".")[2] in run.parallel.slot_names
        known |= kind == "components" and slotted.partition(".")[0] in components
        if name not in wanted and name not in known_lists and not known:
            return f"it has {name}, {_described(tensor)}, which is not here"
    return ""


def restore(found: dict[str, Tensor], run: Run) -> None:
    """Bring the run to a saved state without a `difference`."""
    parallel, average, guard, execution, components = run
    guard.load(_under("guard.", found))
    execution.load(_under("execution.", found))
    for component in components:
        component.load(_under(f"components.{component.name}.", found))
    parallel.load_model_state(_under("model.", found))
    parallel.load_optimizer_state(_under("optimizer.", found))
    held = parallel.local_parameters()
    average.mean = {
        name: parallel.shard(name, mean).to(held[name].device, copy=True)
        for name, mean in _under("average.", found).items()
    }


def _shapes(run: Run) -> dict[str, Tensor]:
    """Shapes of what changes in the model; other parameters are those that the run begins with, and in no checkpoint."""
    return {name: shape for name, shape in run.parallel.shapes.items() if name not in run.parallel.frozen_names}


def _under(prefix: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def _wanted(names: Iterable[str], run: Run) -> dict[str, Tensor]:
    """Tensors of the shape and dtype of what a state must have. An average is of all parameters or not yet begun; so is the
    optimizer's state of each parameter, since one without a gradient so far has none."""
    shapes, slots = _shapes(run), run.parallel.slot_names
    there = {name.split(".", 2)[2] for name in names if name.startswith("optimizer.") and name.count(".") > 1}
    averaged = any(name.startswith("average.") for name in names)
    wanted = {f"model.{name}": weight for name, weight in shapes.items()}
    wanted |= {f"execution.{name}": value for name, value in run.execution.state().items()}
    for name, shape in shapes.items():
        if averaged:
            wanted[f"average.{name}"] = shape
        for slot in slots.get(name, ()) if name in there else ():
            wanted[f"optimizer.{slot}.{name}"] = initial_state(slot, shape)
    return wanted


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
