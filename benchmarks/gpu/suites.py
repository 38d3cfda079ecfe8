"""The tests that need the device: of the kernels, and of what a stage does with them."""

import os
import subprocess
import sys
from importlib.util import find_spec

from benchmarks.gpu.check import Check
from benchmarks.subprocess_arm import ROOT


def kernel_tests(check: Check) -> None:
    """kernels/: on a CPU only one operator's, since all are among the project's tests there."""
    suite(check, "kernel_tests", 12, "kernels/rope" if check.tiny else "kernels")


def device_tests(check: Check) -> None:
    """tests/gpu: on a CPU without those that compile, which take a minute there."""
    suite(check, "device_tests", 6, "tests/gpu", *(["-k", "not compiled"] if check.tiny else []))


def suite(check: Check, name: str, workers: int, *arguments: str) -> None:
    """A row for each test that failed and one for all, the output beside the rows; by several processes where pytest-xdist is
    there and a GPU makes it worth their imports."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "--durations=10",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    if check.on_gpu and find_spec("xdist"):
        command += ["-n", str(min(workers, os.cpu_count() or 1))]
    path = check.out / f"{name}.txt"
    with path.open("w") as file:
        device = {"TOKENMILL_TEST_DEVICE": check.device.type}
        subprocess.run(command, cwd=ROOT, env=os.environ | device, stdout=file, stderr=subprocess.STDOUT, check=False)
    lines = path.read_text().splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            check.say("failed", line[:300])
    check.say("tests", lines[-1] if lines else "no output")
