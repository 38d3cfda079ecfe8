"""A process that rounds otherwise than its machine did before makes no bytes, and says so."""

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tasks.runner.arithmetic import Arithmetic, digest
from tasks.runner.key import Changed

# of fenv.h on x86-64 and on AArch64
TO_NEAREST, UPWARD = 0, {"x86_64": 0x800, "aarch64": 0x400000}


@contextmanager
def rounding_up() -> Iterator[None]:
    """This thread with another rounding mode, as a library could leave it; the threads of torch keep theirs."""
    import platform

    libm = ctypes.CDLL(None)
    if libm.fesetround(UPWARD[platform.machine()]):
        pytest.skip("this machine has one rounding mode")
    try:
        yield
    finally:
        libm.fesetround(TO_NEAREST)


def test_other_rounding_is_noticed_before_and_after(tmp_path: Path) -> None:
    known = tmp_path / "arithmetic.json"
    plain = Arithmetic("sft", known)
    plain.check()
    with rounding_up():
        assert digest() != plain.found
        with pytest.raises(Changed, match="sft: its arithmetic changed while it ran"):
            plain.check()
        with pytest.raises(
            Changed, match=r"rl: this process computes other numbers than this machine did before \(\w+ -> \w+\)"
        ):
            Arithmetic("rl", known)
    assert Arithmetic("rl", known).found == plain.found == next(iter(json.loads(known.read_text()).values()))


def test_it_follows_from_the_machine_alone(tmp_path: Path) -> None:
    """Neither from torch's generator, nor from autocast, nor from what a stage left: and a torn file is as none."""
    first = digest()
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert digest() == first
    known = tmp_path / "arithmetic.json"
    known.write_text("{")
    assert Arithmetic("sft", known).found == first and list(json.loads(known.read_text()).values()) == [first]
