"""`python -m kernels.swiglu.bench_swiglu`: forward and backward of ours and the plain formula; on a CPU they are one."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from kernels.swiglu import reference, swiglu

SHAPES = {"M": (16 * 512, 704), "XS": (16 * 256, 344)}  # rows, width


def setup(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up, and the gradient of the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    gate, up, dy = (torch.randn(rows, width, generator=generator).to(device) for _ in range(3))
    return gate.requires_grad_(), up.requires_grad_(), dy


def arms(rows: int, width: int) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor], Tensor]:
    """The forward of each arm, what gets gradients, and the gradient to send back."""
    gate, up, dy = setup(rows, width)
    return {"ours": lambda: swiglu(gate, up), "reference": lambda: reference.swiglu(gate, up)}, [gate, up], dy


def kept(arm: Callable[[], Tensor]) -> int:
    """Bytes that the forward keeps for the backward, its inputs included."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        arm()
    return sum(sizes.values())


def seconds(arm: Callable[[], Tensor], inputs: list[Tensor], dy: Tensor) -> float:
    """One forward and backward."""
    began = time.perf_counter()
    torch.autograd.grad(arm(), inputs, dy)
    if dy.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(rounds: int = 30) -> None:
    for size, shape in SHAPES.items():
        every, inputs, dy = arms(*shape)
        spent: dict[str, list[float]] = {name: [] for name in every}
        for turn in range(rounds + 1):
            for name, arm in every.items():
                one = seconds(arm, inputs, dy)
                if turn:  # the first warms up
                    spent[name].append(one)
        for name, values in spent.items():
            print(f"{size:3} {name:10} {median(values) * 1e3:8.2f} ms {kept(every[name]) / 2**20:8.1f} MiB kept")


if __name__ == "__main__":
    main()
