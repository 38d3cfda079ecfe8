"""The loss head: logits and cross-entropy of T tokens of width D over a vocabulary of V, forward and backward, fp32.

Extra memory is the most that a forward and backward had resident above what was resident before it, less the two
gradients: measured after a first run (so that compiling, and code loaded late, count for nobody), with the allocator's
free pages given back and the kernel's mark of the peak set anew. What a library keeps for its next call is not in it.
"""

import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.contest import Contest, Metric
from benchmarks.subprocess_arm import PEERS, peak_memory
from benchmarks.turns import Turns, persistent_arm

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
# (T, D, V), and of how many runs a sample is the median: about a second's work.
SHAPES = {(4096, 256, 32768): 1, (2048, 128, 8192): 9}
SOFTCAP = 15.0
# Tokens a chunk of torch's own operator: the fastest of 128, 256, 512 and 1024 at the larger shape.
CHUNK = 256
OURS = Path(sys.executable)
TIME = Metric("time", "ms")
EXTRA = Metric("extra_memory", "MiB")
# An fp32 rounding is 6e-8, and the sums over tokens and vocabulary run in another order.
TOLERANCES = {"loss": 1e-6, "x": 1e-5, "weight": 1e-5}


def contests(threads: int) -> Iterator[Contest]:
    """Ours beside each peer at both shapes, then with a soft-cap beside the peers that have one."""
    for shape, repeats in SHAPES.items():
        for softcap in (0.0, SOFTCAP):
            label = "x".join(map(str, shape)) + (" softcap" if softcap else "")
            with tempfile.TemporaryDirectory() as folder:
                arm = partial(persistent_arm, shape=shape, softcap=softcap, repeats=repeats, folder=folder)
                with arm(f"ours {label}", "benchmarks.loss_head:head", OURS, implementation="ours") as ours:
                    for name, python in peers(softcap).items():
                        with arm(f"{name} {label}", "benchmarks.loss_head:head", python, implementation=name) as peer:
                            yield Contest(ours, (TIME, EXTRA), (peer,), gate, packages=("torch",))


def peers(softcap: float) -> dict[str, Path]:
    """Python of each peer by its name: those that have a soft-cap, where one is asked for, and that there are: torch 2.11 has
    no operator of its own."""
    every = {"plain": OURS, "TRL": PEERS, "CCE torch_compile": PEERS}
    if softcap:
        return every
    return every | ({"torch chunked": OURS} if hasattr(F, "linear_cross_entropy") else {}) | {"litgpt": PEERS}


def gate(ours: str, peer: str) -> str:
    """The gate: loss and gradients of two files, each apart by less than its tolerance, relative to its Frobenius norm."""
    a, b = load_file(ours), load_file(peer)
    apart = {name: float((a[name] - b[name]).norm() / b[name].norm()) for name in TOLERANCES}
    return ", ".join(f"{name} differs by {apart[name]:.2g}" for name in apart if not apart[name] <= TOLERANCES[name])


def head(
    turns: Turns, implementation: str, shape: tuple[int, int, int], softcap: float, repeats: int, folder: str
) -> None:
    """The arm. The answer is the file of loss and gradients."""
    x_TD, weight_VD, targets_T = inputs(*shape)
    loss_of = IMPLEMENTATIONS[implementation](softcap)

    def run() -> tuple[Tensor, ...]:
        loss = loss_of(x_TD, weight_VD, targets_T)
        return loss.detach(), *torch.autograd.grad(loss, (x_TD, weight_VD))

    path = str(Path(folder) / f"{implementation}.safetensors")
    save_file(dict(zip(TOLERANCES, run(), strict=True)), path)
    extra = extra_memory(run, x_TD.nbytes + weight_VD.nbytes)
    while True:
        times = [seconds(run) for _ in range(repeats)]
        turns({TIME.name: median(times) * 1e3, EXTRA.name: extra / 2**20}, path)


def inputs(T: int, D: int, V: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x_TD, weight_VD, targets_T), the same in every arm; logits have a standard deviation of 3, and some reach the cap."""
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(T, D, generator=generator)
    weight_VD = 3 / D**0.5 * torch.randn(V, D, generator=generator)
    targets_T = torch.randint(V, (T,), generator=generator)
    return x_TD.requires_grad_(), weight_VD.requires_grad_(), targets_T


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def extra_memory(run: Callable[[], object], kept: int) -> int:
    """Bytes as the module says; `kept` is what the run returns. Linux with glibc alone can say it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()  # set anew, it is what is resident now
    run()
    return peak_memory() - before - kept


def ours(softcap: float) -> Loss:
    from kernels.linear_cross_entropy import linear_cross_entropy

    return lambda x_TD, weight_VD, targets_T: linear_cross_entropy(x_TD, weight_VD, targets_T, softcap=softcap)[0]


def plain(softcap: float) -> Loss:
    """The reference: all logits in memory, the cap as nanochat's gpt.py has it."""

    def loss(x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
        logits_TV = F.linear(x_TD, weight_VD)
        if softcap:
            logits_TV = softcap * torch.tanh(logits_TV / softcap)
        return F.cross_entropy(logits_TV, targets_T)

    return loss


def torch_chunked(softcap: float) -> Loss:
    return partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK))


def trl(softcap: float) -> Loss:
    """What the head of TRL's SFTTrainer is since 1.16, with its chunk of the vocabulary, and without the figures it logs."""
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    def loss(x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
        settings = (None, targets_T, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, softcap or None, 1.0, ())
        return -_ChunkedLogProbFunction.apply(x_TD, weight_VD, *settings)[0].mean()

    return loss


def cut_cross_entropy(softcap: float) -> Loss:
    """cut-cross-entropy's only implementation for a CPU."""
    from cut_cross_entropy import linear_cross_entropy

    return partial(linear_cross_entropy, softcap=softcap or None, impl="torch_compile")


def litgpt(softcap: float) -> Loss:
    from litgpt.utils import chunked_cross_entropy

    return lambda x_TD, weight_VD, targets_T: chunked_cross_entropy(F.linear(x_TD, weight_VD), targets_T)


IMPLEMENTATIONS = {
    "ours": ours,
    "plain": plain,
    "torch chunked": torch_chunked,
    "TRL": trl,
    "CCE torch_compile": cut_cross_entropy,
    "litgpt": litgpt,
}
