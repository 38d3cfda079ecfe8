"""Which card, driver and libraries the rows are of."""

import importlib
import importlib.util
import os
import subprocess
import sys

import torch
import torch.nn.functional as F

from benchmarks.gpu.check import Check
from lm.training.flops import peak_flops

QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"


def environment(check: Check) -> None:
    """Versions of what decides numbers and speed, and which operators of torch are there to compare with."""
    check.say("python", sys.version.split()[0])
    check.say("torch", torch.__version__, cuda=torch.version.cuda)
    for name in ("triton", "transformers"):
        check.say(name, version_of(name))
    check.say("cores", float(os.cpu_count() or 0))
    check.say(
        "device", torch.cuda.get_device_name() if check.on_gpu else None, smi=smi(), peak=peak_flops(check.device)
    )
    check.say("torch.nn.attention.varlen", str(bool(importlib.util.find_spec("torch.nn.attention.varlen"))))
    check.say("F.linear_cross_entropy", str(hasattr(F, "linear_cross_entropy")))


def version_of(name: str) -> str:
    try:
        return importlib.import_module(name).__version__
    except ImportError:
        return "none"


def smi() -> str:
    """What nvidia-smi says of the GPUs; "" where there is no such command."""
    try:
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
