"""Tensors copied into host memory in the order of a safetensors file, so that training may go on while they are written."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

# the names that the format has for torch's dtypes: https://huggingface.co/docs/safetensors
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Entry(TypedDict):
    """What a safetensors header says of a tensor; the offsets are where its bytes begin and end after the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def layout(tensors: dict[str, Tensor]) -> dict[str, Entry]:
    """A place for each tensor, without gaps: wide dtypes first, so that all are aligned to their size, then by name.

    Names that share memory, as tied weights do, get a copy each. Raises ValueError for a dtype the format has not.
    """
    entries: dict[str, Entry] = {}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}, which safetensors has no name for: keep it in another dtype")
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": (start, end),
        }
    return entries


# torch rounds what it pins up to a power of two (torch 2.13, CachingHostAllocator): 8.6 GB in one piece would take 16 GiB
PIECE = 2**26


def on_gpu(tensors: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is on a GPU."""
    return any(tensor.is_cuda for tensor in tensors)


def memory(size: int, pinned: bool) -> Tensor:
    """Tensor of `size` bytes of the host; pinned: which a GPU can copy to by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)


def size_of(data: Iterable[memoryview]) -> int:
    """Bytes of all pieces."""
    return sum(map(len, data))


def within(entry: Entry, pieces: Sequence[Any]) -> Iterator[Any]:
    """The parts of the pieces, which are bytes one after the other and all as long as the first but for the last, that a
    tensor's bytes are in."""
    start, end = entry["data_offsets"]
    length = len(pieces[0]) if pieces else 0
    for number in range(start // length, -(-end // length)) if start < end else ():
        before = number * length
        yield pieces[number][max(start - before, 0) : end - before]


class Snapshot:
    """Host memory that holds one copy at a time and is kept for the next; pinned where the tensors are on a GPU. It is in
    pieces of so many bytes, but for the last."""

    def __init__(self, piece: int = PIECE) -> None:
        self._piece = piece
        self._pieces: list[Tensor] = []

    def reserve(self, size: int, pinned: bool) -> None:
        """Have room for so many bytes. Pinned ones are taken from the system at once: seconds where they are many GB."""
        missing = size - sum(map(len, self._pieces))
        if missing > 0 and self._pieces and len(self._pieces[-1]) < self._piece:
            missing += len(self._pieces.pop())
        while missing > 0:
            self._pieces.append(memory(min(missing, self._piece), pinned))
            missing -= len(self._pieces[-1])

    def take(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Entry], list[memoryview]]:
        """Copy the tensors; (their layout, their bytes in pieces), valid until the next call. When it returns they may
        change."""
        found = self.begin(tensors)
        if on_gpu(tensors.values()):
            torch.cuda.current_stream().synchronize()
        return found

    def begin(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Entry], list[memoryview]]:
        """Copy the tensors as `take` does, but a GPU copies in the order of its work: the bytes are there once the host has
        waited for something that was queued later."""
        entries = layout(tensors)
        size = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        self.reserve(size, on_gpu(tensors.values()))
        for name, entry in entries.items():
            raw, start = tensors[name].detach().contiguous().flatten().view(torch.uint8), 0
            for part in within(entry, self._pieces):
                source = raw[start : start + len(part)]
                start += len(part)
                if on_gpu([raw]):
                    part.copy_(source, non_blocking=True)
                else:
                    # One thread is as fast as torch's two, 31 ms for 168 MB, and waits for none: beside other work, torch's
                    # copy took 211 ms as a median and up to 2.5 s.
                    part.numpy()[:] = source.numpy()
        pieces = [piece.numpy().data for piece in self._pieces]
        return entries, list(within({"dtype": "U8", "shape": [size], "data_offsets": (0, size)}, pieces))
