"""Other tiles of the kernels than those chosen, each timed, so that a card can be given its own: those of
kernels/attention/tiles.py, and the constants of the kernels that norm, rotate and gate."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.check import Check
from benchmarks.gpu.documents import SHAPES, TINY, bounds_of
from benchmarks.gpu.kernel_speed import EPS
from benchmarks.gpu.measure import milliseconds
from kernels.attention.documents import documents_of
from kernels.attention.tiles import Tile, tiles_of

# Queries, keys, warps and stages of the forward, of dq, and of dk and dv
CHOICES = {
    "forward": [(128, 64, 8, 3), (128, 64, 4, 3), (128, 128, 8, 2), (64, 64, 4, 3), (128, 32, 8, 3), (64, 128, 4, 2)],
    "dq": [(128, 64, 8, 2), (64, 64, 4, 3), (128, 32, 8, 2), (128, 64, 8, 3), (64, 32, 4, 3)],
    "dk, dv": [(64, 128, 8, 2), (64, 64, 4, 3), (32, 128, 8, 2), (32, 64, 4, 3), (32, 128, 8, 3), (64, 64, 8, 2)],
}
# Entries of a tile and programs of a backward, times what is chosen
FACTORS = [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.5), (1.0, 2.0), (0.5, 2.0)]


def tiles(check: Check) -> None:
    """Milliseconds of each; `chosen` marks the one that is taken, and what a card cannot hold says so."""
    if not check.on_gpu:
        check.say("tiles", None, "ms")  # under the interpreter a tile is as good as another
        return
    for shape in TINY if check.tiny else SHAPES:
        attention_tiles(check, *shape)
    pointwise_tiles(check, 128 if check.tiny else 65536)


def attention_tiles(check: Check, B: int, T: int, H: int, E: int) -> None:
    """Attention within documents of B rows of T tokens, H heads of width E, bf16. A row of dq, or of dk and dv, times both
    kernels of the backward, of which that one has the tile."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(B * T, H, E, generator=generator).to(check.device, torch.bfloat16) for _ in range(4))
    documents = documents_of(bounds_of(B, T, generator), B, T, check.device)
    chosen = tiles_of(torch.cuda.get_device_capability(check.device), E, q.element_size())
    for (kernel, choices), mine in zip(CHOICES.items(), chosen, strict=True):
        for choice in dict.fromkeys([tuple(mine), *choices]):
            label = f"attention, {E} wide, {kernel}: {choice[0]} x {choice[1]}, {choice[2]} warps, {choice[3]} stages"
            with_tile = [Tile(*choice) if name == kernel else tile for name, tile in zip(CHOICES, chosen, strict=True)]
            tell(check, label, partial(attend, kernel, with_tile, (q, k, v, grad), documents), choice == tuple(mine))


def attend(kernel: str, choice: list[Tile], tensors: tuple[Tensor, ...], documents: Any) -> Callable[[], object]:
    """The call of the forward, or of both kernels of the backward, with these tiles."""
    from kernels.attention import triton

    q, k, v, grad = tensors
    starts, ends = documents

    def tiled(_: Tensor) -> tuple[Tile, ...]:
        return tuple(choice)

    def call() -> object:
        before, triton._tiles = triton._tiles, tiled  # type: ignore[assignment]
        try:
            if kernel == "forward":
                return triton.forward(q, k, v, starts, ends)
            return triton.backward(grad, q, k, v, starts, ends, *made)
        finally:
            triton._tiles = before

    made = triton.forward(q, k, v, starts, ends)
    return call


def pointwise_tiles(check: Check, tokens: int) -> None:
    """Forward and backward of gpu-124m's: the residual sum with its norm, heads with their rotation, SwiGLU."""
    from kernels.add_norm import triton as add_norm
    from kernels.norm_rope import triton as norm_rope
    from kernels.rms_norm import triton as rms_norm
    from kernels.swiglu import triton as swiglu

    x, more, weight = randn(check, (tokens, 768), torch.float32), randn(check, (tokens, 768)), randn(check, (768,))
    heads, scale = randn(check, (tokens // 64, 64, 6, 128)), randn(check, (128,))
    turns = [torch.randn(64, 64, device=check.device) for _ in range(2)]
    gate, up = randn(check, (tokens, 2048)), randn(check, (tokens, 2048))
    cases: dict[str, tuple[Callable[[], Any], tuple[Tensor, ...], list[tuple[Any, str, str]]]] = {
        "add_norm": (
            lambda: add_norm.add_norm(x, more, weight, EPS, torch.bfloat16), (x, more, weight),
            [(rms_norm, "TILE", "tile"), (add_norm, "PROGRAMS", "programs")],
        ),
        "norm_rope": (
            lambda: norm_rope.norm_rotate(heads, scale, turns[0], turns[1], EPS), (heads, scale),
            [(norm_rope, "TILE", "tile"), (norm_rope, "PROGRAMS", "programs")],
        ),
        "swiglu": (lambda: swiglu.swiglu(gate, up), (gate, up), [(swiglu, "BLOCK", "tile")]),
    }  # fmt: skip
    for name, (operator, learned, constants) in cases.items():
        for label, chosen in each_choice(constants):
            for direction in ("forward", "backward"):
                tell(check, f"{name} {direction}: {label}", partial(once, direction, operator, learned), chosen)


def each_choice(constants: list[tuple[Any, str, str]]) -> Iterator[tuple[str, bool]]:
    """(label, whether it is what is chosen) of each choice of these constants, which hold until the next is asked for."""
    before = [getattr(module, name) for module, name, _ in constants]
    try:
        for factors in dict.fromkeys(pair[: len(constants)] for pair in FACTORS):
            values = [int(value * factor) for value, factor in zip(before, factors, strict=True)]
            for (module, name, _), value in zip(constants, values, strict=True):
                setattr(module, name, value)
            label = ", ".join(f"{what} {value}" for (_, _, what), value in zip(constants, values, strict=True))
            yield label, values == before
    finally:
        for (module, name, _), value in zip(constants, before, strict=True):
            setattr(module, name, value)


def once(direction: str, operator: Callable[[], Any], learned: tuple[Tensor, ...]) -> Callable[[], object]:
    """The call of one direction."""
    if direction == "forward":
        return operator
    made = operator()
    results = made if isinstance(made, tuple) else (made,)
    grads = [torch.randn_like(result) for result in results]
    return lambda: torch.autograd.grad(results, learned, grads, retain_graph=True)


def randn(check: Check, shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=check.device).to(dtype).requires_grad_()


def tell(check: Check, label: str, made: Callable[[], Callable[[], object]], chosen: bool) -> None:
    """Say the time of the call; Triton raises where a tile takes more than the card has."""
    from triton.runtime.errors import OutOfResources

    try:
        check.say(label, milliseconds(made(), check.device, 7, 2), "ms", chosen=chosen)
    except OutOfResources as error:
        check.say(label, f"not on this card: {str(error)[:80]}", chosen=chosen)
