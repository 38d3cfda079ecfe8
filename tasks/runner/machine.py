"""What of a machine and its settings decides the last bits of what a stage computes there."""

import os
import platform
import sys
from pathlib import Path

from tasks.core.process import threads

# Environment variables that may change the order of sums, or which instructions compute them.
SETTINGS = (
    # instructions that torch, oneDNN (by its new name and its old one), MKL, NumPy and the C library may use
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES",
    # products in less precision than was asked for
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    # threads that TOKENMILL_THREADS does not set
    "OMP_NUM_THREADS", "OMP_DYNAMIC", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG", "TRITON_INTERPRET",
)  # fmt: skip


def hardware() -> dict[str, str]:
    """The processor with its instructions, the GPU with its libraries, the C library, the threads, and the settings that are
    not left as they come."""
    found = {"machine": platform.machine(), "threads": str(threads()), "libc": " ".join(platform.libc_ver())}
    found |= _processor()
    torch = sys.modules.get("torch")
    if torch:
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
        found["fp32 products"] = torch.get_float32_matmul_precision()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return found | {name: os.environ[name] for name in SETTINGS if name in os.environ}


def _processor() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", values.get("Features", ""))
    return {"cpu": values.get("model name", platform.processor()), "flags": " ".join(sorted(flags.split()))}


def machine_differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What differs between two kinds of machine, a line each; of the processor's flags those that one has alone."""
    found = []
    for name in sorted({*one, *other}):
        a, b = one.get(name, "unset"), other.get(name, "unset")
        if name == "flags" and a != b:
            found.append(f"flags: only one has {' '.join(sorted(set(a.split()) ^ set(b.split())))}")
        elif a != b:
            found.append(f"{name} {a} -> {b}")
    return found
