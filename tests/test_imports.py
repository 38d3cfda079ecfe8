"""Every module imports: the ones that only a command reaches are not forgotten when a name moves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks.process import run_forked
from tests.project import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ("flows", "tasks", "lm", "kernels", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
    if not path.name.startswith("test_")
)


@pytest.mark.parametrize("room", ["flows", "tasks", "lm", "kernels", "benchmarks"])
def test_every_module_of_a_room_imports(tmp_path: Path, room: str) -> None:
    names = [name for name in MODULES if name.partition(".")[0] == room]
    assert names
    (tmp_path / "imports_all.py").write_text(
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    )
    done = run_forked("imports_all", names, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


def test_a_model_costs_no_import_of_the_ranks_tensors() -> None:
    """torch.distributed.tensor is half a second of every process with a model; FSDP2 alone needs it. A process of its own:
    the tests' forks have it."""
    code = "import sys, lm.model, lm.training.loop; raise SystemExit('torch.distributed.tensor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
