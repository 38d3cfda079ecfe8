"""Every module imports: the ones that only a command reaches are not forgotten when a name moves."""

import subprocess
import sys

import pytest

from tests.project import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ("flows", "tasks", "lm", "kernels", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
    if not path.name.startswith("test_")
)


@pytest.mark.parametrize("room", ["flows", "tasks", "lm", "kernels", "benchmarks"])
def test_every_module_of_a_room_imports(room: str) -> None:
    names = [name for name in MODULES if name.partition(".")[0] == room]
    assert names
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
