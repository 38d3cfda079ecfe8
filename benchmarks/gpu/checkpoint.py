"""Checkpoints: how long a save holds the loop up at 350 million weights with AdamW's state, beside torch.save."""

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.checkpoint import Training
from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import synchronize
from benchmarks.gpu.rollout import SHAPE, SMALL
from lm.training.checkpoint.checkpoints import Checkpoints


def checkpoint(check: Check) -> None:
    """The first save, which may allocate, and the second; until it returns and until it is on disk. Of torch.save, which
    returns when it has written, both as well."""
    training = Training(SMALL if check.tiny else SHAPE, check.device.type)
    size = sum(tensor.nbytes for tensor in training.tensors().values()) / 1e9
    with tempfile.TemporaryDirectory() as name:
        checkpoints = Checkpoints(Path(name))
        for step, turn in enumerate(("first", "second"), 1):
            synchronize(check.device)
            began = time.perf_counter()
            checkpoints.save(step, training.state)
            stall = time.perf_counter() - began
            checkpoints.wait()
            check.say(f"{turn} save: stall", stall * 1e3, "ms", gb=size, gb_a_second=size / stall)
            check.say(f"{turn} save: on disk", time.perf_counter() - began, "s")
        checkpoints.close()
        for turn in ("first", "second"):
            synchronize(check.device)
            began = time.perf_counter()
            torch.save(training.tensors(), Path(name) / "peer.pt")
            check.say(f"{turn} torch.save: stall", (time.perf_counter() - began) * 1e3, "ms")
