"""What the benchmarks of kernels share: arms taken in turn, forward and backward, and what a forward keeps."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

Arms = dict[str, Callable[[], Tensor]]


def saved_tensor_bytes(arm: Callable[[], Tensor]) -> int:
    """Bytes that the forward keeps for the backward, its inputs included."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        arm()
    return sum(sizes.values())


def seconds(arm: Callable[[], Tensor], inputs: list[Tensor], grad: Tensor) -> float:
    """One forward and backward."""
    began = time.perf_counter()
    torch.autograd.grad(arm(), inputs, grad)
    if grad.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def report(label: str, every: Arms, inputs: list[Tensor], grad: Tensor, rounds: int) -> None:
    """A line an arm: median time, its ratio to that of the first arm round by round, and bytes kept; a round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in every}
    for turn in range(rounds + 1):
        for name, arm in every.items():
            one = seconds(arm, inputs, grad)
            if turn:
                spent[name].append(one)
    ours = next(iter(spent.values()))
    for name, values in spent.items():
        ratios = [theirs / mine for theirs, mine in zip(values, ours, strict=True)]
        span = f"{median(ratios):.2f} times ours ({min(ratios):.2f} to {max(ratios):.2f})"
        mebibytes = saved_tensor_bytes(every[name]) / 2**20
        print(f"{label:20} {name:27} {median(values) * 1e3:8.2f} ms, {span}, {mebibytes:.1f} MiB kept")
