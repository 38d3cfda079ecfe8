"""Stages are held to the same bits each time, the compiler too; one that compiles nothing does without importing it."""

import subprocess
import sys

import pytest

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
