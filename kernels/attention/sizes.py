"""`python -m kernels.attention.sizes`: what each Triton kernel takes of an H100, compiled here, where none need be.

Registers and spilled bytes of a thread by ptxas, shared memory of a program by Triton.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention import triton as attention
from kernels.attention.tiles import Tile, tiles_of

HEADS = 8
KERNELS = attention._attention_forward, attention._attention_backward_queries, attention._attention_backward_keys


def size(kernel: Any, capability: tuple[int, int], width: int, dtype: torch.dtype, tile: Tile) -> dict[str, int]:
    """{registers, spilled, shared}, bytes but for the registers, of one kernel with 8 heads of this width."""
    example = torch.empty(1, HEADS, width, dtype=dtype, device="meta")
    constants = attention.options(example, example, tile)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    number = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
    kinds = {"N": "i32", "starts_ptr": "*i32", "ends_ptr": "*i32", "logsumexp_ptr": "*fp32", "dots_ptr": "*fp32"}
    signature = {n: "constexpr" if n in constants else kinds.get(n, f"*{number}") for n in kernel.arg_names}
    # as at a launch: what torch allocates is aligned to 16 bytes
    aligned = {(at,): [["tt.divisibility", 16]] for at, kind in enumerate(signature.values()) if kind.startswith("*")}
    architecture = 10 * capability[0] + capability[1]
    target = GPUTarget("cuda", architecture, 32)
    made = triton.compile(ASTSource(kernel, signature, constants, aligned), target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        assembly = Path(folder) / "kernel.ptx"
        assembly.write_text(made.asm["ptx"])
        command = [
            knobs.nvidia.ptxas.path,
            "-v",
            f"--gpu-name=sm_{architecture}{'a' * (architecture >= 90)}",
            assembly,
            "-o",
            "/dev/null",
        ]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers, spilled = (int(re.findall(rf"(\d+) {what}", told)[0]) for what in ("registers", "bytes spill stores"))
    return {"registers": registers, "spilled": spilled, "shared": made.metadata.shared}


def table(capability: tuple[int, int]) -> Iterator[str]:
    """A line for each dtype, width and kernel."""
    for dtype in (torch.bfloat16, torch.float32):
        for width in (64, 128, 256):
            for kernel, tile in zip(KERNELS, tiles_of(capability, width, dtype.itemsize), strict=True):
                told = " ".join(f"{what} {n}" for what, n in size(kernel, capability, width, dtype, tile).items())
                yield f"{str(dtype)[6:]} {width} {kernel.__name__} {tuple(tile)}: {told}"


if __name__ == "__main__":
    for line in table((9, 0)):
        print(line, flush=True)
