"""Tests of a GPU and of kernels are found on a machine that has torch and little else."""

import os
import subprocess
import sys
from pathlib import Path

from tests.gpu_libraries import block_refused
from tests.project import ROOT


def test_what_is_checked_on_a_gpu_imports_no_other_library(tmp_path: Path) -> None:
    """The check itself takes a minute; a reader of files that imported zstandard took a test of quantization from it."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "kernels", "tests/gpu"]
    environment = {**os.environ, **block_refused(tmp_path), "TOKENMILL_TEST_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    command = [sys.executable, "-c", "import benchmarks.gpu.items"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
