"""Whether a process computes what this machine computed before. One whose floating-point state is another, by a library that
left it so or by a fault of the machine, would write other bytes and say nothing."""

import json
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from lm.files import write_json
from tasks.runner.key import Changed
from tasks.runner.machine import hardware
from tasks.runner.timings import read_object

KNOWN = Path(".scratch/arithmetic.json")
# Large enough that every thread has a part of it: 7 ms in all on two cores
SIDE = 384


def digest() -> str:
    """Digest of a product, an exponential, a division and a sum of fixed numbers, by the threads that a stage has. Imports
    torch."""
    import torch

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        a = torch.arange(SIDE * SIDE, dtype=torch.float32).remainder(1013).view(SIDE, SIDE) / 1013 - 0.5
        b = a.t().contiguous() @ a
        made = (b, b.softmax(-1), torch.nn.functional.silu(b) / 3, b.double().cumsum(0), (b * b).sum(1).rsqrt())
        return sha256(b"".join(x.contiguous().numpy().tobytes() for x in made)).hexdigest()[:16]


class Arithmetic:
    """What a stage's process computes, held to what others of this machine have, and at the end to itself. Nothing where the
    stage has no torch: whole numbers decide the data stages' bytes."""

    def __init__(self, address: str, known: Path = KNOWN) -> None:
        """Raises Changed in one line where this machine computed something else before."""
        self._address, self.found = address, digest() if "torch" in sys.modules else ""
        if not self.found:
            return
        kind = sha256(json.dumps([version("torch"), hardware()], sort_keys=True).encode()).hexdigest()[:16]
        before = read_object(known)
        if before.get(kind, self.found) != self.found:
            raise Changed(
                f"{address}: this process computes other numbers than this machine did before "
                f"({before[kind]} -> {self.found}): nothing was run. Run it again; if it stays so, and the system was "
                f"updated, delete {known}",
                spared=True,
            )
        if kind not in before:
            write_json(known, before | {kind: self.found}, shared=True)

    def check(self) -> None:
        """Raise Changed where this process no longer computes what it did when the stage began."""
        if self.found and digest() != self.found:
            raise Changed(
                f"{self._address}: its arithmetic changed while it ran, so what it made is not kept: run it again",
                spared=False,
            )
