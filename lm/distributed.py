"""What the ranks of torch.distributed tell each other: rank 0's tensors; what each has made; means, whole or in one bit an
entry, and the bytes that they cost."""

import json
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.signs import BLOCK, compress, decompress


def world_size() -> int:
    """How many processes train together; 1 where no process group was made."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def from_rank_0(number: int, tensors: dict[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
    """What rank 0 calls this with, on every rank; the others' arguments do not matter. The tensors are in host memory."""
    if world_size() == 1:
        return number, tensors
    shapes = {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in tensors.items()}
    header = json.dumps([number, shapes]).encode()
    length = torch.tensor(len(header))
    dist.broadcast(length, 0)
    text = torch.zeros(int(length), dtype=torch.uint8)
    if rank() == 0:
        text.copy_(torch.frombuffer(bytearray(header), dtype=torch.uint8))
    dist.broadcast(text, 0)
    number, shapes = json.loads(bytes(text.tolist()))
    found = {}
    for name, (dtype, *shape) in shapes.items():
        mine = tensors[name].contiguous() if rank() == 0 else torch.empty(shape, dtype=getattr(torch, dtype))
        dist.broadcast(mine.flatten().view(torch.uint8), 0)
        found[name] = mine
    return number, found


def shared_out(costs: list[int], parts: int) -> list[int]:
    """Who does each piece of work: the costliest comes first, each goes to who has least so far (Graham 1969,
    https://doi.org/10.1137/0117039: no part gets more than 4/3 of the best that can be), the first of equals."""
    loads, owners = [0] * parts, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


def from_owners(
    mine: list[Tensor | None],
    owners: list[int],
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    """Tensors of these shapes, each as its owner has it, on every rank: `mine` need have but this rank's. One all-gather, of as
    much from every rank as the one has that has most."""
    if world_size() == 1:
        return [tensor for tensor in mine if tensor is not None]
    theirs = [[index for index, owner in enumerate(owners) if owner == each] for each in range(world_size())]
    lengths = [sum(prod(shapes[index]) for index in indices) for indices in theirs]
    flat = torch.zeros(max(lengths), dtype=dtype, device=device)
    torch.cat([flat[:0], *(tensor.flatten() for tensor in mine if tensor is not None)], out=flat[: lengths[rank()]])
    every = flat.new_empty(world_size() * len(flat))
    dist.all_gather_into_tensor(every, flat)
    found: list[Any] = list(mine)
    for each, indices in enumerate(theirs):
        pieces = every[each * len(flat) :][: lengths[each]].split([prod(shapes[index]) for index in indices])
        for index, piece in zip(indices, pieces, strict=True):
            found[index] = piece.view(shapes[index])
    return found


def mean_(tensors: list[Tensor]) -> int:
    """Each tensor becomes its mean over the ranks, in one all-reduce; returns the bytes that a rank sends in a ring."""
    world = world_size()
    if world == 1 or not tensors:
        return 0
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
    return 2 * (world - 1) * flat.nbytes // world


def padded(entries: int) -> int:
    """The length of a vector that every rank gets an equal part of, in whole blocks."""
    whole = BLOCK * world_size()
    return -(-entries // whole) * whole


def mean_of_signs(values_N: Tensor, worker_error_N: Tensor, server_error_M: Tensor) -> tuple[Tensor, int]:
    """(mean over the ranks as far as one bit an entry can say it, bytes that a rank sends); N is padded(), M is N / ranks.

    Each rank sends the signs of what it has, and for its M entries the signs of the mean of what it got; what either
    rounding lost is kept in the errors, changed in place, and added the next time (Tang et al. 2021, arXiv:2102.02888,
    algorithm 1, "compressed allreduce"). Differs from the paper: a scale for each block, not one for all.
    """
    world = world_size()
    corrected = values_N + worker_error_N
    bits, scales = compress(corrected)
    torch.sub(corrected, decompress(bits, scales), out=worker_error_N)
    got_bits, got_scales = torch.empty_like(bits), torch.empty_like(scales)
    dist.all_to_all_single(got_bits, bits)
    dist.all_to_all_single(got_scales, scales)
    mine = decompress(got_bits, got_scales).view(world, -1).mean(0) + server_error_M
    bits, scales = compress(mine)
    torch.sub(mine, decompress(bits, scales), out=server_error_M)
    all_bits, all_scales = torch.empty_like(got_bits), torch.empty_like(got_scales)
    dist.all_gather_into_tensor(all_bits, bits)
    dist.all_gather_into_tensor(all_scales, scales)
    sent = 2 * (world - 1) * (all_bits.nbytes + all_scales.nbytes) // world
    return decompress(all_bits, all_scales), sent
