"""Stages are held to the same bits each time, the compiler too; one that compiles nothing does without importing it."""

import os
import subprocess
import sys

import pytest
import torch

WITHOUT = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}

PROGRAM = """
import sys
import torch
from lm.model import Decoder, ModelConfig
from tasks.core.process import use_threads

use_threads({promised})
model = Decoder(ModelConfig(vocab_size=8, width=16, layers=1, heads=2, kv_heads=1, ffn_width=16, context=16)).eval()
with torch.inference_mode():
    model(torch.zeros(1, 4, dtype=torch.int64))
print(torch.are_deterministic_algorithms_enabled(), "torch._dynamo" in sys.modules)
model.compile_blocks(True)
print(torch._inductor.config.deterministic)
"""


@pytest.mark.parametrize("promised", [True, False])
def test_what_the_stage_promises_holds_for_the_compiler_once_there_is_one(promised: bool) -> None:
    command = [sys.executable, "-c", PROGRAM.format(promised=promised)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said == [str(promised), "False", str(promised)]


MKL = """
import ctypes
from pathlib import Path
import torch
from tasks.core.process import use_threads

use_threads()
torch.ones(64, 64) @ torch.ones(64, 64)
library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
print(library.mkl_serv_cbwr_get(1), library.mkl_serv_get_dynamic())
"""


@pytest.mark.skipif(not torch.backends.mkl.is_available() or sys.platform != "linux", reason="torch without MKL")
def test_products_are_promised_to_be_the_same_from_run_to_run() -> None:
    """2 is MKL_CBWR_AUTO, 1 no promise (mkl_types.h); 0: as many threads as were asked for."""
    said = subprocess.run([sys.executable, "-c", MKL], check=True, capture_output=True, text=True, env=WITHOUT).stdout
    assert said.split() == ["2", "0"]
