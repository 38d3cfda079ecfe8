"""Stages are held to the same bits each time, the compiler too; one that compiles nothing does without importing it."""

import os
import subprocess
import sys

import pytest
import torch

WITHOUT = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}

PROGRAM = """
import ctypes
import sys
from pathlib import Path
import torch
from lm.model import Decoder, ModelConfig
from tasks.core.process import use_threads

use_threads(False)
torch.ones(64, 64) @ torch.ones(64, 64)
model = Decoder(ModelConfig(vocab_size=8, width=16, layers=1, heads=2, kv_heads=1, ffn_width=16, context=16)).eval()
with torch.inference_mode():
    model(torch.zeros(1, 4, dtype=torch.int64))
print("torch._dynamo" in sys.modules)
for promised in (False, True):
    use_threads(promised)
    model.compile_blocks(True)
    print(torch.are_deterministic_algorithms_enabled(), torch._inductor.config.deterministic)
if torch.backends.mkl.is_available() and sys.platform == "linux":
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
    print(library.mkl_serv_cbwr_get(1), library.mkl_serv_get_dynamic())
"""


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What one process says of all that it takes a new one to ask: importing torch and its compiler takes 5 CPU seconds."""
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=WITHOUT).stdout.splitlines()


def test_what_the_stage_promises_holds_for_the_compiler_once_there_is_one(said: list[str]) -> None:
    assert said[:3] == ["False", "False False", "True True"]


@pytest.mark.skipif(not torch.backends.mkl.is_available() or sys.platform != "linux", reason="torch without MKL")
def test_products_are_promised_to_be_the_same_from_run_to_run(said: list[str]) -> None:
    """2 is MKL_CBWR_AUTO, 1 no promise (mkl_types.h); 0: as many threads as were asked for."""
    assert said[3] == "2 0"
