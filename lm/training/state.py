"""What a training run is made of between two steps, as named tensors: model.*, average.* and optimizer.<slot>.*, where the
last part of each is the name of a parameter, so that neither the order nor the grouping of parameters matters; guard.*,
execution.*."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lm.model import Decoder
from lm.optimizers.base import SCALARS, Optimizer
from lm.training.average import RunningAverage
from lm.training.execution import Execution
from lm.training.guard import Guard


class Run(NamedTuple):
    """What a checkpoint holds."""

    model: Decoder
    optimizer: Optimizer
    average: RunningAverage
    guard: Guard
    execution: Execution


def tensors_of(run: Run) -> dict[str, Tensor]:
    """The state now; the tensors are those of the run, not copies."""
    model, optimizer, average, guard, execution = run
    found = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    found |= {f"average.{name}": mean for name, mean in average.mean.items()}
    found |= {f"guard.{name}": values for name, values in guard.state().items()}
    found |= {f"execution.{name}": value for name, value in execution.state().items()}
    for name, weight in model.named_parameters():
        if weight in optimizer.state:
            found |= {f"optimizer.{slot}.{name}": value for slot, value in optimizer.state[weight].items()}
    return found


def difference(found: dict[str, Tensor], run: Run) -> str:
    """The first tensor in which a saved state cannot be one of this run, with both shapes; "" when there is none."""
    wanted = _wanted(found, run)
    known_lists = {f"guard.{name}" for name in run.guard.state()}  # of any length
    for name, tensor in wanted.items():
        if name not in found:
            return f"it has no {name}, here {_described(tensor)}"
        if (found[name].shape, found[name].dtype) != (tensor.shape, tensor.dtype):
            return f"{name} is {_described(found[name])} there and {_described(tensor)} here"
    parameters = dict(run.model.named_parameters())
    for name, tensor in sorted(found.items()):
        kind, _, slotted = name.partition(".")
        # An optimizer may keep more than its slots: 1-bit Adam does for its ranks, and itself drops what does not fit.
        known = kind == "optimizer" and slotted.partition(".")[2] in parameters
        if name not in wanted and name not in known_lists and not known:
            return f"it has {name}, {_described(tensor)}, which is not here"
    return ""


def put(found: dict[str, Tensor], run: Run) -> None:
    """Bring the run to a saved state without a `difference`."""
    model, optimizer, average, guard, execution = run
    guard.load(_under("guard.", found))
    execution.load(_under("execution.", found))
    parameters = dict(model.named_parameters())
    model.load_state_dict(_under("model.", found))
    average.mean = {
        name: found[f"average.{name}"].to(weight.device, copy=True)
        for name, weight in parameters.items()
        if f"average.{name}" in found
    }
    optimizer.state.clear()
    for name, tensor in found.items():
        kind, _, slotted = name.partition(".")
        if kind == "optimizer":
            slot, _, parameter = slotted.partition(".")
            weight = parameters[parameter]
            device = torch.device("cpu") if slot in SCALARS else weight.device
            optimizer.state[weight][slot] = tensor.to(device, copy=True)


def _under(prefix: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def _wanted(names: Iterable[str], run: Run) -> dict[str, Tensor]:
    """Tensors of the shape and dtype of what a state must have. An average is of all parameters or not yet begun; so is the
    optimizer's state of each parameter, since one without a gradient so far has none."""
    model, optimizer = run.model, run.optimizer
    begun = {name.split(".", 2)[2] for name in names if name.startswith("optimizer.") and name.count(".") > 1}
    averaged = any(name.startswith("average.") for name in names)
    wanted = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    wanted |= {f"execution.{name}": value for name, value in run.execution.state().items()}
    slots = {weight: group["slots"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        if averaged:
            wanted[f"average.{name}"] = weight
        for slot in slots.get(weight, ()) if name in begun else ():
            wanted[f"optimizer.{slot}.{name}"] = torch.empty((), dtype=SCALARS[slot]) if slot in SCALARS else weight
    return wanted


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
