"""The state of a training run on disk: weights, optimizer and step in one safetensors file, whole or not there."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.model import Decoder
from lm.training.average import RunningAverage


def save_state(
    path: Path, step: int, model: Decoder, optimizer: torch.optim.Optimizer, average: RunningAverage
) -> None:
    """Write the state after `step` updates; a kill at any instant leaves the old file or the new one."""
    tensors = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    tensors |= {f"average.{name}": mean for name, mean in average.mean.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, unfinished, {"step": str(step)})
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(unfinished, path)


def load_state(path: Path, model: Decoder, optimizer: torch.optim.Optimizer, average: RunningAverage) -> int:
    """Bring model, optimizer and average to the saved state and return the number of updates made.

    Raises ValueError naming the file when it is torn or belongs to another model.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as opened:
            step = int(opened.metadata()["step"])
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole checkpoint ({error}); delete it to start the stage anew") from None
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: a checkpoint of another model: {' '.join(str(error).split())}") from None
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, slot = rest.partition(".")
            slots.setdefault(int(index), {})[slot] = value
        elif kind == "average":
            average.mean[rest] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
