"""The roofs of this machine: what no implementation here can exceed. Denominators of every "percent of roof"."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import Arm, Contest, Metric, Sample

PACKAGES = ("torch", "numpy")
SIDE, GROUP = 4096, 64  # of the packed matrix
GFLOPS = Metric("speed", "GFLOP/s", higher_is_better=True)
GIGABYTES = Metric("rate", "GB/s", higher_is_better=True)
MEGAKEYS = Metric("rate", "Mkeys/s", higher_is_better=True)
MILLISECONDS = Metric("time", "ms")


def seconds_per_call(call: Callable[[], object], at_least: float = 0.1) -> float:
    """Mean over as many calls as `at_least` seconds take."""
    calls, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < at_least:
        call()
        calls += 1
    return spent / calls


def contests(threads: int) -> Iterator[Contest]:
    """Matrix products, memory, sorting, hashing and disk."""
    yield from products(threads)
    yield from packed(threads)
    for size in (2**20, 2**26, 2**30):
        yield from (copying(size, n) for n in sorted({1, threads}))
    yield sorting(10_000_000)
    yield from (hashing(name, bytes(2**26)) for name in ("md5", "sha256", "blake2b"))
    yield from (writing(2**28, synced) for synced in (False, True))


def _roof(name: str, metric: Metric, measure: Callable[[], float], threads: int) -> Contest:
    def sample() -> Sample:
        torch.set_num_threads(threads)
        return Sample({metric.name: measure()})

    return Contest(Arm(name, sample), (metric,), threads=threads, packages=PACKAGES)


def products(threads: int) -> Iterator[Contest]:
    """Square matrix products, 2 n^3 operations each."""
    for dtype in (torch.float32, torch.bfloat16):
        for n in (512, 2048):
            a, b, out = (torch.randn(n, n).to(dtype) for _ in range(3))

            def speed(a: Tensor = a, b: Tensor = b, out: Tensor = out, n: int = n) -> float:
                return 2 * n**3 / seconds_per_call(lambda: torch.mm(a, b, out=out)) / 1e9

            name = f"gemm {str(dtype).removeprefix('torch.')} {n}"
            yield from (_roof(f"{name} t{t}", GFLOPS, speed, t) for t in sorted({1, threads}))


def packed(threads: int) -> Iterator[Contest]:
    """x_MK @ weight_NK.T with the weight in fp32, in int8, and in int4 by groups: torch's packed operators."""
    weight = torch.randn(SIDE, SIDE)
    int8 = torch.randint(-128, 128, (SIDE, SIDE), dtype=torch.int8)
    int4 = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (SIDE, SIDE), dtype=torch.int32), 1)
    for rows in (1, 64):
        x = torch.randn(rows, SIDE)
        plain = _milliseconds(torch.nn.functional.linear, x, weight)
        yield _roof(f"linear fp32 M={rows}", MILLISECONDS, plain, threads)
        for dtype in (torch.float32, torch.bfloat16):
            scales, pairs = torch.ones(SIDE, dtype=dtype), torch.ones(SIDE // GROUP, SIDE, 2, dtype=dtype)
            eight = _milliseconds(torch.ops.aten._weight_int8pack_mm, x.to(dtype), int8, scales)
            four = _milliseconds(torch.ops.aten._weight_int4pack_mm_for_cpu, x.to(dtype), int4, GROUP, pairs)
            label = f"{str(dtype).removeprefix('torch.')} M={rows}"
            yield _roof(f"linear int8 x {label}", MILLISECONDS, eight, threads)
            yield _roof(f"linear int4 x {label}", MILLISECONDS, four, threads)


def _milliseconds(operator: Callable[..., Tensor], *arguments: object) -> Callable[[], float]:
    return lambda: seconds_per_call(lambda: operator(*arguments)) * 1e3


def copying(size: int, threads: int) -> Contest:
    """Bytes read plus bytes written a second."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    name = f"copy {size // 2**20} MiB t{threads}"
    return _roof(name, GIGABYTES, lambda: 2 * size / seconds_per_call(lambda: target.copy_(source)) / 1e9, threads)


def sorting(count: int) -> Contest:
    keys = np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64)
    return _roof("sort uint64", MEGAKEYS, lambda: count / seconds_per_call(lambda: np.sort(keys)) / 1e6, 1)


def hashing(name: str, data: bytes) -> Contest:
    return _roof(name, GIGABYTES, lambda: len(data) / seconds_per_call(lambda: hashlib.new(name, data)) / 1e9, 1)


def writing(size: int, synced: bool) -> Contest:
    """Sequential writes of 4 MiB into a new file beside this one's disk, with and without waiting for the disk."""
    block = os.urandom(2**22)

    def write() -> None:
        with tempfile.NamedTemporaryFile(dir=Path(__file__).parent, prefix=".roofs-") as file:
            for _ in range(size // len(block)):
                file.write(block)
            file.flush()
            if synced:
                os.fsync(file.fileno())

    name = "write + fsync" if synced else "write"
    return _roof(name, GIGABYTES, lambda: size / seconds_per_call(write) / 1e9, 1)
