"""`python -m kernels.rope.bench_rope`: forward and backward of ours and the plain formula, at two sizes."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from kernels.rope import reference, rotate

SHAPES = {"M": (16, 4, 512, 64), "XS": (16, 4, 256, 32)}  # B H T E


def setup(B: int, H: int, T: int, E: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, cos, sin, and the gradient of the result; x and the gradient in the layout that attention has."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(B, T, H, E, generator=generator).to(device).transpose(1, 2) for _ in range(2))
    angles = torch.randn(T, E // 2, generator=generator).to(device)
    return x.requires_grad_(), angles.cos(), angles.sin(), dy


def arms(B: int, H: int, T: int, E: int) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor], Tensor]:
    """The forward of each arm, what gets gradients, and the gradient to send back."""
    x, cos, sin, dy = setup(B, H, T, E)
    return {"ours": lambda: rotate(x, cos, sin), "reference": lambda: reference.rotate(x, cos, sin)}, [x], dy


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
