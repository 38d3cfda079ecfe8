"""`python -m kernels.rms_norm.bench_rms_norm`: forward and backward of ours, the plain formula and torch's, at two sizes."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.rms_norm import reference, rms_norm

SHAPES = {"M": (16 * 512, 256), "XS": (16 * 256, 128)}  # rows, width
EPS = 1e-6


def setup(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, and the gradient of the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(shape, generator=generator) for shape in ((rows, width), (width,), (rows, width)))
    return x.to(device).requires_grad_(), weight.to(device).requires_grad_(), dy.to(device)


def arms(rows: int, width: int) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor], Tensor]:
    """The forward of each arm, what gets gradients, and the gradient to send back."""
    x, weight, dy = setup(rows, width)
    return (
        {
            "ours": lambda: rms_norm(x, weight, EPS),
            "reference": lambda: reference.rms_norm(x, weight, EPS),
            "torch": lambda: F.rms_norm(x, weight.shape, weight, EPS),
        },
        [x, weight],
        dy,
    )


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
