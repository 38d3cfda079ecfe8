"""What the card can do at most: the square product and the copy; and the products of our own shapes, which do less."""

import time

import torch

from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import milliseconds
from kernels.newton_schulz import newton_schulz

BF16 = torch.bfloat16
# (M, N, K) of x_MK @ weight_NK.T: a micro-batch of 64 rows of 1024 in gpu-124m, a chunk of its head, the gate of gpu-1b
PRODUCTS = {
    "query, output": (65536, 768, 768),
    "query, key, value as one": (65536, 2304, 768),
    "gate, up": (65536, 2048, 768),
    "gate and up as one": (65536, 4096, 768),
    "down": (65536, 768, 2048),
    "logits of a chunk": (8192, 32768, 768),
    "head gradient of a chunk": (32768, 768, 8192),
    "gate of gpu-1b": (16384, 5632, 2048),
}
# Hidden matrices of gpu-124m: four square ones a layer, and three of the feed-forward
MATRICES = [(768, 768)] * 48 + [(2048, 768)] * 36


def roofs(check: Check) -> None:
    """Products, Newton-Schulz of all hidden matrices, a copy on the card, and copies to and from the host."""
    side = 256 if check.tiny else 8192
    for name, (m, n, k) in {"square": (side, side, side), **PRODUCTS}.items():
        if check.tiny:
            m, n, k = min(m, 256), min(n, 256), min(k, 256)
        a, b = (torch.randn(rows, k, device=check.device, dtype=BF16) for rows in (m, n))
        time_ms = milliseconds(lambda a=a, b=b: a @ b.T, check.device)  # type: ignore[misc]
        check.say(f"bf16 product, {name}", 2 * m * n * k / time_ms / 1e9, "TFLOP/s", shape=[m, n, k])
    half = side // 2
    a, b = (torch.randn(half, half, device=check.device) for _ in range(2))
    check.say("fp32 product, TF32 off", 2 * half**3 / milliseconds(lambda: a @ b, check.device) / 1e9, "TFLOP/s")
    shapes = [(32, 32), (48, 32)] if check.tiny else MATRICES
    matrices = [torch.randn(shape, device=check.device) for shape in shapes]
    # the loop waits for the gradients before the update, so that the host's part is seen
    taken = milliseconds(lambda: newton_schulz(matrices, 5), check.device, 5, 2, host=True)
    check.say("Newton-Schulz of gpu-124m", taken, "ms")
    small = torch.zeros(1, device=check.device)
    taken = milliseconds(lambda: [small.add_(1) for _ in range(100)], check.device, host=True)
    check.say("launch of an operator", 10 * taken, "us")
    copies(check)


def copies(check: Check) -> None:
    """Bytes read plus written on the card; bytes moved between card and host, from pinned memory and from other."""
    size = 2**20 if check.tiny else 2**32
    source = torch.empty(size, dtype=torch.uint8, device=check.device).random_()
    target = torch.empty_like(source)
    check.say("copy on the device", 2 * size / milliseconds(lambda: target.copy_(source), check.device) / 1e6, "GB/s")
    names = ("pinning", "pinned to host", "pinned to device", "pageable to host")
    if not check.on_gpu:
        for name in names:
            check.say(name, None, "GB/s")
        return
    size = 2**31
    began = time.perf_counter()
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    spent = time.perf_counter() - began
    pageable = torch.ones(2**28, dtype=torch.uint8)
    times = [
        spent * 1e3,
        milliseconds(lambda: pinned.copy_(source[:size], non_blocking=True), check.device, 5),
        milliseconds(lambda: target[:size].copy_(pinned, non_blocking=True), check.device, 5),
        milliseconds(lambda: pageable.copy_(source[: 2**28]), check.device, 3, 1) * size / 2**28,
    ]
    for name, time_ms in zip(names, times, strict=True):
        check.say(name, size / time_ms / 1e6, "GB/s")
