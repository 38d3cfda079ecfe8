"""What a training stage's process has in memory before its model is there: Python and the libraries that it imports."""

import importlib
import subprocess
import sys
from functools import cache

from tasks.core.process import peak_memory

TRAINING = ("tasks.core.tables", "lm.model_folder", "lm.sampler", "lm.training.data.plan", "lm.training.loop")


def import_training() -> int:
    """Import what training needs, and return the bytes that this process has had in memory at most: what a stage's has had by
    then, where this is the first that the process does."""
    for module in TRAINING:
        importlib.import_module(module)
    torch = importlib.import_module("torch")
    torch.optim.SGD([torch.ones(1, requires_grad=True)])  # the first optimizer imports torch's compiler
    return peak_memory()


@cache
def imports_bytes() -> int:
    """Bytes that import_training finds in a process of its own, which takes it 2.5 s: pages of libraries count as they are
    mapped, by which two copies of one environment on one machine were 98 MiB apart."""
    code = "from flows.forecast.imports import import_training; print(import_training())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
