"""Checkpoints of size L with AdamW's state: how long a save holds the loop up, and what saving costs it over all."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from benchmarks.contest import Arm, Contest, Metric
from benchmarks.subprocess_arm import ROOT, subprocess_arm
from lm.averages import Last
from lm.model import Decoder, ModelConfig
from lm.optimizers import AdamW
from lm.training.average import RunningAverage
from lm.training.checkpoint.checkpoints import Checkpoints
from lm.training.checkpoint.file import read
from lm.training.checkpoint.state import Run, tensors_of
from lm.training.execution import Execution
from lm.training.guard import Guard
from lm.training.parallel.exact import Exact

SIZE_L = ModelConfig(
    vocab_size=16384, width=320, layers=7, heads=5, kv_heads=5, ffn_width=880, context=512, qk_norm=False
)
STEPS, EVERY = 60, 20
SCRATCH = ROOT / ".scratch"
METRICS = (Metric("stall", "ms"), Metric("slowdown", "%"), Metric("peak_memory_bytes", "B"))
NO_CUDA = {"use_pinned_memory": False, "use_async_staging": False, "use_non_blocking_copy": False}

Save = Callable[[int], None]
Arms = tuple[Save, Callable[[], None], Callable[[], dict[str, Tensor]]]  # save, wait until it is on disk, read back


class Training:
    """Model and optimizer after a step, with gradients that never change: what follows is the same for every arm."""

    def __init__(self, shape: ModelConfig = SIZE_L, device: str = "cpu") -> None:
        model = Decoder(shape).to(device)
        parallel = Exact(1)
        self.optimizer = parallel.distribute(model, AdamW())
        self.state = Run(parallel, RunningAverage(Last()), Guard(0.0, 0.0), Execution())
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator).to(device)
        self.optimizer.step()
        self.factor = torch.randn(1024, 1024, generator=generator).to(device)

    def step(self) -> None:
        """Matrix products as of a small batch, then an update of everything that is saved."""
        for _ in range(4):
            torch.mm(self.factor, self.factor)
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        return tensors_of(self.state)


def contests(threads: int) -> Iterator[Contest]:
    """Ours beside torch.save with fsync, and beside DCP's async_save with a thread and with a process. The gate: what is read
    back is what was to be saved, although training went on at once."""
    ours = subprocess_arm("checkpoints", "benchmarks.checkpoint:saving", kind="ours")
    peers = {"torch.save + fsync": "torch", "DCP async thread": "dcp thread", "DCP async process": "dcp process"}
    arms: list[Arm] = [subprocess_arm(name, "benchmarks.checkpoint:saving", kind=kind) for name, kind in peers.items()]
    yield Contest(ours, METRICS, tuple(arms), packages=("torch", "safetensors"))


def saving(kind: str) -> tuple[dict[str, float], str]:
    """Median stall of the saves, slowdown of the loop by them, and a digest of what was read back."""
    run = Training()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        save, wait, load = ARMS[kind](run, Path(folder))
        save(0)  # memory is allocated and processes are started once in a training run
        wait()
        plain, _ = loop(run, None)
        stalled, stalls = loop(run, save)
        wait()
        wanted = digest(run.tensors())
        save(STEPS + 1)
        run.step()
        wait()
        found = digest(load())
    values = {"stall": median(stalls) * 1e3, "slowdown": (stalled / plain - 1) * 100}
    return values, found if found == wanted else f"{kind}: read back something else than was saved"


def loop(run: Training, save: Save | None) -> tuple[float, list[float]]:
    """Seconds of the whole loop, and of each save in it."""
    stalls = []
    began = time.perf_counter()
    for step in range(1, STEPS + 1):
        run.step()
        if save and step % EVERY == 0:
            before = time.perf_counter()
            save(step)
            stalls.append(time.perf_counter() - before)
    return time.perf_counter() - began, stalls


def digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def ours(run: Training, folder: Path) -> Arms:
    checkpoints = Checkpoints(folder)

    def save(step: int) -> None:
        checkpoints.save(step, run.state)

    return save, checkpoints.wait, lambda: read(max(folder.glob("*.safetensors")))[1]


def torch_save(run: Training, folder: Path) -> Arms:
    """torch.save to another name first, as ours, so that there is always a whole one."""
    path = folder / "state.pt"

    def save(step: int) -> None:
        with (folder / "unfinished").open("wb") as file:
            torch.save(run.tensors(), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / "unfinished", path)

    return save, lambda: None, lambda: torch.load(path, weights_only=True)


def dcp_async(run: Training, folder: Path, how: AsyncCheckpointerType) -> Arms:
    """DCP's asynchronous save with one stager for all saves, so that its memory is kept; in shared memory for a process, as its
    documentation says. Files are synced, which is the writer's default. As there, a save waits for the one before."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    stager = DefaultStager(StagingOptions(use_shared_memory=how is AsyncCheckpointerType.PROCESS, **NO_CUDA))
    saves: list[Future[Any]] = []

    def wait() -> None:
        if saves:
            saves[-1].result()

    def save(step: int) -> None:
        wait()
        writer = dcp.FileSystemWriter(folder / "state", overwrite=True)
        saved = dcp.async_save(run.tensors(), storage_writer=writer, async_checkpointer_type=how, async_stager=stager)
        assert isinstance(saved, Future)  # the stager copies before it returns
        saves.append(saved)

    def load() -> dict[str, Tensor]:
        found = {name: torch.empty_like(tensor) for name, tensor in run.tensors().items()}
        dcp.load(found, checkpoint_id=folder / "state")
        return found

    return save, wait, load


ARMS: dict[str, Callable[[Training, Path], Arms]] = {
    "ours": ours,
    "torch": torch_save,
    "dcp thread": partial(dcp_async, how=AsyncCheckpointerType.THREAD),
    "dcp process": partial(dcp_async, how=AsyncCheckpointerType.PROCESS),
}
